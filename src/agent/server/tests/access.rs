//! Who is let in, and what over TLS.

use http_body_util::BodyExt;

use super::*;

#[tokio::test]
async fn certificates_and_tokens_decide_over_http_1_and_2() {
    let node = Node::start().await;
    let other = Ca::new("clients");
    for http2 in [false, true] {
        let client = |identity| node.client(identity, http2);
        let unauthorized = (401, "Unauthorized".to_owned());
        assert_eq!(client(None).ask("/pods").await, unauthorized, "no certificate");
        let wrong = client(Some(other.sign("admin", "masters", LATER)));
        assert_eq!(wrong.ask("/pods").await, unauthorized, "another authority's");
        let expired = client(Some(node.clients.sign("admin", "masters", 2021)));
        assert_eq!(expired.ask("/pods").await, unauthorized, "an expired one");
        let nameless = client(Some(node.clients.sign("", "masters", LATER)));
        assert_eq!(nameless.ask("/pods").await, unauthorized, "one without a name");
        let stranger = client(Some(node.clients.sign("eve", "masters", LATER)));
        let text = "Forbidden (user=eve, verb=get, resource=nodes, subresource(s)=[pods proxy])\n";
        assert_eq!(stranger.ask("/pods").await, (403, text.into()), "another user's");

        let admin = client(Some(node.clients.sign("admin", "masters", LATER)));
        let answer = admin.get("/pods").send().await.expect("an answer");
        let version = if http2 { reqwest::Version::HTTP_2 } else { reqwest::Version::HTTP_11 };
        assert_eq!((answer.status().as_u16(), answer.version()), (200, version));
        for client in [client(None), wrong] {
            let good = client.get("/pods").bearer_auth("good");
            assert_eq!(answered(good).await.0, 200, "a token beside any certificate");
            let bad = client.get("/pods").bearer_auth("bad");
            assert_eq!(answered(bad).await, unauthorized);
        }
    }
    // The certificate's owner must have its key.
    let (certificate, _) = node.clients.sign("admin", "masters", LATER);
    let (_, key) = node.clients.sign("admin", "masters", LATER);
    let chain = vec![CertificateDer::from_pem_slice(certificate.as_bytes()).expect("PEM")];
    let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).expect("PEM");
    let signer = ring::default_provider().key_provider.load_private_key(key).expect("a key");
    let stolen = rustls::sign::CertifiedKey::new(chain, signer);
    let mut config = node.config(None, &["http/1.1"]);
    config.client_auth_cert_resolver = Arc::new(rustls::sign::SingleCertAndKey::from(stolen));
    let client = reqwest::Client::builder().tls_backend_preconfigured(config).build().expect("ok");
    let answer = client.get(format!("https://{}/pods", node.address())).send().await;
    assert!(answer.is_err(), "{answer:?}");
}

#[tokio::test]
async fn an_unknown_clients_connection_is_closed() {
    let node = Node::start().await;
    for http2 in [false, true] {
        let alpn = if http2 { "h2" } else { "http/1.1" };
        let stream = node.connect([127, 0, 0, 1], node.config(None, &[alpn])).await;
        let stream = hyper_util::rt::TokioIo::new(stream);
        let request = Request::builder()
            .uri(format!("https://{}/pods", node.address()))
            .header("host", NODE)
            .body(http_body_util::Empty::<bytes::Bytes>::new())
            .expect("a request");
        let ended = async {
            if http2 {
                let executor = hyper_util::rt::TokioExecutor::new();
                let (mut to, connection) =
                    hyper::client::conn::http2::handshake(executor, stream).await.expect("ok");
                let connection = tokio::spawn(connection);
                let answer = to.send_request(request).await.expect("an answer");
                assert_eq!(answer.status(), 401);
                answer.into_body().collect().await.expect("a body");
                let _ = connection.await;
            } else {
                let (mut to, connection) =
                    hyper::client::conn::http1::handshake(stream).await.expect("ok");
                let connection = tokio::spawn(connection);
                let answer = to.send_request(request).await.expect("an answer");
                assert_eq!(
                    (answer.status().as_u16(), answer.headers()["connection"].as_bytes()),
                    (401, &b"close"[..])
                );
                answer.into_body().collect().await.expect("a body");
                let _ = connection.await;
            }
        };
        assert!(tokio::time::timeout(SOON, ended).await.is_ok(), "{alpn} is not closed");
    }
}

#[tokio::test]
async fn changed_files_hold_for_the_next_connection() {
    let serving = Ca::new("serving");
    let (first, key) = serving.sign("first", "", LATER);
    let put = |dir: &Path, name: &str, text: &str| {
        let new = dir.join("new");
        fs::write(&new, text).expect("writes");
        fs::rename(new, dir.join(name)).expect("renames");
    };
    let node = Node::start_with(|dir, options| {
        put(dir, "serving-ca.crt", &serving.pem);
        put(dir, "tls.crt", &first);
        put(dir, "tls.key", &key);
        options.tls.certificate = ServingCertificate::Files {
            certificate: dir.join("tls.crt"),
            key: dir.join("tls.key"),
        };
    })
    .await;
    let shown = async || {
        let stream = TcpStream::connect(node.address()).await.expect("connects");
        let name = ServerName::try_from(NODE).expect("a name");
        let config = Arc::new(node.config(None, &[]));
        let stream = TlsConnector::from(config).connect(name, stream).await.expect("a handshake");
        let shown = stream.get_ref().1.peer_certificates().expect("shown")[0].clone().into_owned();
        CertificateDer::from_pem_slice(first.as_bytes()).expect("PEM") == shown
    };
    assert!(shown().await);
    let (second, second_key) = serving.sign("second", "", LATER);
    put(node.dir.path(), "tls.crt", &second);
    assert!(shown().await, "not without its key");
    put(node.dir.path(), "tls.key", &second_key);
    assert!(!shown().await);

    let ask = async |clients: &Ca| {
        let mut config = node.config(Some(clients.sign("admin", "m", LATER)), &["http/1.1"]);
        config.enable_sni = true;
        let client = reqwest::Client::builder()
            .tls_backend_preconfigured(config)
            .resolve(NODE, node.address())
            .build()
            .expect("a client");
        let url = format!("https://{NODE}:{}/pods", node.address().port());
        client.get(url).send().await.expect("an answer").status().as_u16()
    };
    let others = Ca::new("others");
    assert_eq!((ask(&node.clients).await, ask(&others).await), (200, 401));
    put(node.dir.path(), "clients.crt", &format!("{}{}", node.clients.pem, others.pem));
    assert_eq!((ask(&node.clients).await, ask(&others).await), (200, 200));
    put(node.dir.path(), "clients.crt", &others.pem);
    assert_eq!((ask(&node.clients).await, ask(&others).await), (401, 200));
    put(node.dir.path(), "clients.crt", "nothing");
    assert_eq!(ask(&others).await, 200, "the last good one");
}

#[tokio::test]
async fn tls_is_as_old_as_it_may_be() {
    let versions = |old: bool| {
        let versions: &[_] =
            if old { &[&rustls::version::TLS12] } else { &[&rustls::version::TLS13] };
        ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_protocol_versions(versions)
            .expect("versions")
    };
    for (min_version, suites, expected) in [
        (TlsVersion::V12, &[][..], [true, true]),
        (TlsVersion::V13, &[], [false, true]),
        (TlsVersion::V12, &["TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256"], [true, true]),
        (TlsVersion::V12, &["TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256"], [false, true]),
    ] {
        let node = Node::start_with(|_, options| {
            options.tls.min_version = min_version;
            options.tls.cipher_suites = suites.iter().map(|suite| (*suite).to_owned()).collect();
        })
        .await;
        for (old, expected) in [true, false].into_iter().zip(expected) {
            let config = versions(old).with_root_certificates(node.roots.clone());
            let config = Arc::new(config.with_no_client_auth());
            let stream = TcpStream::connect(node.address()).await.expect("connects");
            let name = ServerName::try_from(NODE).expect("a name");
            let connected = TlsConnector::from(config).connect(name, stream).await;
            assert_eq!(connected.is_ok(), expected, "{min_version:?} {suites:?} {old}");
        }
    }
}

#[tokio::test]
async fn what_cannot_be_is_said_at_the_start() {
    let dir = tempfile::tempdir().expect("a directory");
    let start = async |change: Box<dyn Fn(&mut ServerOptions)>, address: SocketAddr| {
        let mut options = ServerOptions {
            node_name: NODE.into(),
            tls: TlsOptions {
                certificate: ServingCertificate::SelfSigned {
                    dir: dir.path().join("pki"),
                    host: NODE.into(),
                    addresses: Vec::new(),
                },
                min_version: TlsVersion::V13,
                cipher_suites: Vec::new(),
            },
            authentication: AuthenticationOptions {
                anonymous: false,
                token_ttl: None,
                client_ca_file: None,
            },
            authorization: AuthorizationMode::AlwaysAllow,
            debugging_handlers: true,
            stream_idle: STREAM_IDLE,
        };
        change(&mut options);
        let pods = Fake::new(dir.path());
        let metrics = Metrics::new().expect("figures");
        let started = Server::start_tls(address, pods, Arc::new(Script), options, metrics).await;
        started.map(drop).map_err(|e| crate::telemetry::chain(&e))
    };
    let any = || (Ipv4Addr::LOCALHOST, 0).into();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("binds");
    let address = taken.local_addr().expect("an address");
    let error = start(Box::new(|_| {}), address).await.expect_err("taken");
    assert!(error.starts_with(&format!("cannot listen on {address}: ")), "{error}");
    assert_eq!(start(Box::new(|_| {}), any()).await, Ok(()));
    let missing = dir.path().join("none");
    let error = start(
        Box::new(move |options| options.authentication.client_ca_file = Some(missing.clone())),
        any(),
    );
    let error = error.await.expect_err("no file");
    assert!(error.contains("/none: No such file"), "{error}");
    fs::write(dir.path().join("empty"), "").expect("writes");
    let empty = dir.path().join("empty");
    let error = start(
        Box::new(move |options| options.authentication.client_ca_file = Some(empty.clone())),
        any(),
    );
    let error = error.await.expect_err("an empty file");
    assert!(error.ends_with("/empty: it holds no certificate"), "{error}");
    let error =
        start(Box::new(move |options| options.tls.cipher_suites = vec!["TLS_X".into()]), any());
    let error = error.await.expect_err("an unknown suite");
    assert!(error.ends_with("none of the cipher suites is supported: TLS_X"), "{error}");
    let big = dir.path().join("big");
    fs::write(&big, vec![b' '; 2 << 20]).expect("writes");
    let files = ServingCertificate::Files { certificate: big.clone(), key: big.clone() };
    let error = start(Box::new(move |options| options.tls.certificate = files.clone()), any());
    let error = error.await.expect_err("a file too large");
    assert!(error.ends_with("it is larger than 1048576 bytes"), "{error}");
}
