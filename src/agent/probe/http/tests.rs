use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex};

use copepod_pod::ProbeOutcome;
use hyper::Response;
use hyper::body::Incoming;
use hyper::header::{HeaderName, HeaderValue};
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use crate::probe::test_server::{ClosedPort, Does, FullPort, Server, answer, probe, self_signed};

fn failure(text: impl Into<String>) -> ProbeOutcome {
    ProbeOutcome::Failure(text.into())
}

/// Longer than any answer takes that comes.
const LONG: u32 = 60;
/// For one that does not come, in seconds.
const LATE: u32 = 1;
/// For the rest of one whose head must have come.
const LATE_IN_ITS_BODY: u32 = 3;

async fn get(port: u16, more: Value) -> ProbeOutcome {
    get_within(LONG, port, more).await
}

async fn get_within(seconds: u32, port: u16, more: Value) -> ProbeOutcome {
    let mut action = json!({"port": port, "path": "/healthz", "scheme": "HTTP"});
    action.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    probe(json!({"httpGet": action, "timeoutSeconds": seconds})).await
}

#[tokio::test]
async fn the_status_is_the_answer() {
    for (status, outcome) in [
        ("200 OK", ProbeOutcome::Success),
        ("204 No Content", ProbeOutcome::Success),
        ("399 Odd", ProbeOutcome::Warning("Probe terminated redirects, Response body: b".into())),
        (
            "304 Not Modified",
            ProbeOutcome::Warning("Probe terminated redirects, Response body: ".into()),
        ),
        ("400 Bad Request", failure("HTTP probe failed with statuscode: 400")),
        ("500 Internal Server Error", failure("HTTP probe failed with statuscode: 500")),
    ] {
        let body = if status.starts_with("20") || status.starts_with("304") { "" } else { "b" };
        let server = Server::start(vec![answer(status, &[], body)]).await;
        assert_eq!(get(server.address.port(), json!({})).await, outcome, "{status}");
    }
}

#[tokio::test]
async fn the_request_is_upstreams_and_headers_change_it() {
    let server = Server::start(vec![answer("200 OK", &[], "")]).await;
    let port = server.address.port();
    let header = |name: &str, value: &str| json!({"name": name, "value": value});
    for headers in [
        json!([]),
        json!([header("x-b", "1"), header("X-A", "2"), header("x-b", "3")]),
        json!([header("Host", "example.org"), header("user-agent", "me"), header("ACCEPT", "a/b")]),
        json!([header("User-Agent", ""), header("Accept", "")]),
        json!([header("Content-Length", "7"), header("Transfer-Encoding", "chunked")]),
    ] {
        let more = json!({"httpHeaders": headers, "path": "/a?b=c"});
        assert_eq!(get(port, more).await, ProbeOutcome::Success, "{headers}");
    }
    let common = "User-Agent: kube-probe/1.36\r\n";
    let own = format!("Host: 127.0.0.1:{port}\r\n");
    let expected = [
        format!("{own}{common}Accept: */*\r\n"),
        format!("{own}{common}Accept: */*\r\nX-A: 2\r\nX-B: 1\r\nX-B: 3\r\n"),
        "Host: example.org\r\nUser-Agent: me\r\nAccept: a/b\r\n".to_owned(),
        own.clone(),
        format!("{own}{common}Accept: */*\r\n"),
    ];
    let expected = expected.map(|h| format!("GET /a?b=c HTTP/1.1\r\n{h}Connection: close\r\n\r\n"));
    assert_eq!(server.heard(), expected);
}

#[tokio::test]
async fn a_name_is_looked_up_and_a_port_may_have_one() {
    let server = Server::start(vec![answer("200 OK", &[], "")]).await;
    let port = server.address.port();
    assert_eq!(get(port, json!({"host": "localhost"})).await, ProbeOutcome::Success);
    let nowhere = get_within(LATE, port, json!({"host": "nobody.invalid"})).await;
    let begin = format!("Get \"http://nobody.invalid:{port}/healthz\": ");
    let ProbeOutcome::Failure(text) = nowhere else { panic!("{nowhere:?}") };
    // Without a name server that answers, the deadline comes first.
    assert!(text.starts_with(&begin), "{text}");
    let named = probe(json!({"httpGet": {"port": "nothing"}})).await;
    let text = "strconv.Atoi: parsing \"nothing\": invalid syntax";
    assert_eq!(named, ProbeOutcome::Error(text.into()));
}

#[tokio::test]
async fn what_does_not_answer_is_told_in_gos_words() {
    let closed = ClosedPort::new();
    let refused = closed.address;
    let text = format!(
        "Get \"http://{refused}/healthz\": dial tcp {refused}: connect: connection refused"
    );
    assert_eq!(get(refused.port(), json!({})).await, failure(text));

    let late = "context deadline exceeded (Client.Timeout exceeded while awaiting headers)";
    let full = FullPort::new().await;
    let text = format!("Get \"http://{}/healthz\": {late}", full.address);
    assert_eq!(get_within(LATE, full.address.port(), json!({})).await, failure(text));

    for said in ["", "HTTP/1.1 200 OK\r\nA: "] {
        let server = Server::start(vec![Does::Stalls(said.into())]).await;
        let text = format!("Get \"http://{}/healthz\": {late}", server.address);
        let outcome = get_within(LATE, server.address.port(), json!({})).await;
        assert_eq!(outcome, failure(text), "{said:?}");
    }

    for (does, said) in [
        (Does::Says(String::new()), "EOF"),
        (
            Does::Says("HTTP/1.1 200 OK\r\nA: ".into()),
            "net/http: HTTP/1.x transport connection broken: unexpected EOF",
        ),
        (
            Does::Says("HTTP/1.1 abc\r\n\r\n".into()),
            "net/http: HTTP/1.x transport connection broken: malformed HTTP status code \"abc\"",
        ),
        (
            Does::Says("SSH-2.0-x\r\n".into()),
            "net/http: HTTP/1.x transport connection broken: malformed HTTP response \"SSH-2.0-x\"",
        ),
    ] {
        let server = Server::start(vec![does.clone()]).await;
        let text = format!("Get \"http://{}/healthz\": {said}", server.address);
        assert_eq!(get(server.address.port(), json!({})).await, failure(text), "{does:?}");
    }

    let server = Server::start(vec![Does::Resets]).await;
    let reset = get(server.address.port(), json!({})).await;
    let ProbeOutcome::Failure(text) = reset else { panic!("{reset:?}") };
    let end = format!("->{}: read: connection reset by peer", server.address);
    assert!(text.contains("\": read tcp 127.0.0.1:") && text.ends_with(&end), "{text}");
}

#[tokio::test]
async fn a_body_is_read_so_far_and_in_time() {
    let long = "x".repeat(20 << 10);
    let warning = answer("300 Multiple Choices", &[], &long);
    let server = Server::start(vec![warning]).await;
    let text = format!("Probe terminated redirects, Response body: {}", &long[..10 << 10]);
    assert_eq!(get(server.address.port(), json!({})).await, ProbeOutcome::Warning(text));

    // An error, so it is tried three times.
    let slow = "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc";
    for (does, seconds, said) in [
        (
            Does::Stalls(slow.into()),
            LATE_IN_ITS_BODY,
            "context deadline exceeded (Client.Timeout or context cancellation while reading body)",
        ),
        (Does::Says(slow.into()), LONG, "unexpected EOF"),
    ] {
        let server = Server::start(vec![does]).await;
        let outcome = get_within(seconds, server.address.port(), json!({})).await;
        assert_eq!(outcome, ProbeOutcome::Broken(said.into()));
        assert_eq!(server.heard().len(), 3, "{said}");
    }
}

#[tokio::test]
async fn redirects_are_followed_on_the_same_host() {
    let to = |location: &str| answer("302 Found", &[&format!("Location: {location}")], "there");
    let other = Server::start(vec![answer("200 OK", &[], "")]).await;
    let elsewhere = format!("http://localhost:{}/", other.address.port());
    let same = format!("http://{}/x", other.address);
    let done = answer("200 OK", &[], "");
    let warning = ProbeOutcome::Warning("Probe terminated redirects, Response body: there".into());
    for (does, outcome, requests) in [
        (vec![to("/next"), done.clone()], ProbeOutcome::Success, 2),
        (vec![to(&same)], ProbeOutcome::Success, 1),
        (vec![to(&elsewhere)], warning.clone(), 1),
        (vec![to("")], warning, 1),
        (
            vec![to("/b"), answer("500 No", &[], "")],
            failure("HTTP probe failed with statuscode: 500"),
            2,
        ),
        (vec![to("/again")], failure("Get \"/again\": stopped after 10 redirects"), 10),
    ] {
        let server = Server::start(does.clone()).await;
        assert_eq!(get(server.address.port(), json!({})).await, outcome, "{does:?}");
        assert_eq!(server.heard().len(), requests, "{does:?}");
    }
    let server = Server::start(vec![to("/next?a"), done]).await;
    let host = json!({"httpHeaders": [{"name": "Host", "value": "me"}]});
    assert_eq!(get(server.address.port(), host).await, ProbeOutcome::Success);
    let second = &server.heard()[1];
    assert!(second.starts_with("GET /next?a HTTP/1.1\r\nHost: me\r\n"), "{second}");
    let referer = format!("Referer: http://{}/healthz\r\n", server.address);
    assert!(second.contains(&referer), "{second}");
}

#[tokio::test]
async fn https_asks_for_no_known_certificate_and_for_tls() {
    let tls = json!({"scheme": "HTTPS"});
    let server = Server::tls(vec![answer("200 OK", &[], "")]).await;
    assert_eq!(get(server.address.port(), tls.clone()).await, ProbeOutcome::Success);
    let plain = Server::start(vec![answer("400 Bad Request", &[], "")]).await;
    let text = format!(
        "Get \"https://{}/healthz\": http: server gave HTTP response to HTTPS client",
        plain.address
    );
    assert_eq!(get(plain.address.port(), tls).await, failure(text));
    for (does, said) in [
        (Does::Says("garbage\r\n".into()), "tls: first record does not look like a TLS handshake"),
        (Does::Says(String::new()), "EOF"),
    ] {
        let server = Server::start(vec![does]).await;
        let text = format!("Get \"https://{}/healthz\": {said}", server.address);
        let outcome = get(server.address.port(), json!({"scheme": "HTTPS"})).await;
        assert_eq!(outcome, failure(text));
    }
    // The other way round.
    let outcome = get(server.address.port(), json!({})).await;
    let ProbeOutcome::Failure(text) = outcome else { panic!("{outcome:?}") };
    assert!(text.contains("malformed HTTP response \"\\x15\\x03"), "{text}");
}

/// A server that speaks HTTP/2 alone, and the heads of its requests.
async fn http2(status: u16) -> (u16, Arc<Mutex<Vec<String>>>) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let heard: Arc<Mutex<Vec<String>>> = Arc::default();
    let told = Arc::clone(&heard);
    tokio::spawn(async move {
        let acceptor = TlsAcceptor::from(Arc::new(self_signed(&["h2"])));
        while let Ok((stream, _)) = listener.accept().await {
            let stream = acceptor.accept(stream).await.unwrap();
            let told = Arc::clone(&told);
            let answer = service_fn(move |request: hyper::Request<Incoming>| {
                let text = |(name, value): (&HeaderName, &HeaderValue)| {
                    format!("{name}: {}", value.to_str().unwrap())
                };
                let mut head: Vec<String> = request.headers().iter().map(text).collect();
                head.sort();
                told.lock().unwrap().push(format!("{} {}", request.uri(), head.join(", ")));
                let answer = Response::builder().status(status).body("body".to_owned());
                std::future::ready(answer)
            });
            let connection = http2::Builder::new(TokioExecutor::new());
            // A client that leaves is not this test's affair.
            let _ = connection.serve_connection(TokioIo::new(stream), answer).await;
        }
    });
    (port, heard)
}

#[tokio::test]
async fn a_server_may_choose_http2_for_a_probe() {
    for (status, outcome) in [
        (200, ProbeOutcome::Success),
        (300, ProbeOutcome::Warning("Probe terminated redirects, Response body: body".into())),
        (503, failure("HTTP probe failed with statuscode: 503")),
    ] {
        let (port, heard) = http2(status).await;
        let header = json!([{"name": "Host", "value": "example.org"}]);
        let more = json!({"scheme": "HTTPS", "path": "/a?b", "httpHeaders": header});
        assert_eq!(get(port, more).await, outcome);
        let heads = heard.lock().unwrap().clone();
        let head = "https://example.org/a?b accept: */*, user-agent: kube-probe/1.36";
        assert_eq!(heads, [head]);
    }
    // One that speaks both chooses.
    let both = self_signed(&["http/1.1", "h2"]);
    let server = Server::tls_as(vec![answer("200 OK", &[], "")], both).await;
    let outcome = get(server.address.port(), json!({"scheme": "HTTPS"})).await;
    assert_eq!(outcome, ProbeOutcome::Success);
}

#[tokio::test]
async fn what_cannot_be_written_is_not_sent() {
    let header = json!({"httpHeaders": [{"name": "X", "value": "a\nb"}]});
    let text = "Get \"http://127.0.0.1:9/healthz\": net/http: invalid header field value for \"X\"";
    assert_eq!(get(9, header).await, failure(text));
}

#[tokio::test]
async fn an_answer_may_have_many_headers() {
    let many: Vec<String> = (0..900).map(|i| format!("X-{i}: {i}")).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    let server = Server::start(vec![answer("200 OK", &many, "")]).await;
    assert_eq!(get(server.address.port(), json!({})).await, ProbeOutcome::Success);
}
