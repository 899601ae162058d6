//! Commands, attached containers and forwarded ports over SPDY and WebSockets.

use std::collections::HashMap;

use futures_util::{SinkExt, StreamExt};
use hyper::header::HeaderValue;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;

use super::*;
use crate::server::stream::spdy::client_test::{Heard, TestClient};

type Streams = HashMap<u32, Heard>;

/// More than all buffers on the way hold.
const MUCH: usize = 4 << 20;

impl Node {
    async fn stream(&self) -> TlsStream<TcpStream> {
        let identity = self.clients.sign("admin", "m", LATER);
        self.connect([127, 0, 0, 1], self.config(Some(identity), &["http/1.1"])).await
    }

    /// The answer's head to an upgrade to SPDY, and the connection.
    async fn upgrade(
        &self,
        path: &str,
        protocol: &str,
    ) -> (String, TestClient<TlsStream<TcpStream>>) {
        let mut stream = self.stream().await;
        let head = format!(
            "POST {path} HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: SPDY/3.1\r\n\
             X-Stream-Protocol-Version: {protocol}\r\nContent-Length: 0\r\n\r\n"
        );
        stream.write_all(head.as_bytes()).await.expect("is sent");
        let (head, rest) = head_of(&mut stream).await;
        (head, TestClient::new(stream, &rest))
    }

    async fn websocket(
        &self,
        path: &str,
        protocol: &'static str,
    ) -> tokio_tungstenite::WebSocketStream<TlsStream<TcpStream>> {
        let url = format!("wss://{}{path}", self.address());
        let mut request = url.into_client_request().expect("ok");
        if !protocol.is_empty() {
            let protocol = HeaderValue::from_static(protocol);
            request.headers_mut().insert("sec-websocket-protocol", protocol);
        }
        let stream = self.stream().await;
        tokio_tungstenite::client_async(request, stream).await.expect("a WebSocket").0
    }
}

/// Reads an answer's head, and what came with it.
async fn head_of(stream: &mut (impl AsyncRead + Unpin)) -> (String, Vec<u8>) {
    let mut bytes = Vec::new();
    loop {
        let end = bytes.windows(4).position(|four| four == b"\r\n\r\n");
        if let Some(end) = end {
            let rest = bytes.split_off(end + 4);
            return (String::from_utf8(bytes).expect("UTF-8").to_lowercase(), rest);
        }
        let len = timeout(SOON, stream.read_buf(&mut bytes)).await.expect("in time");
        assert!(len.expect("is read") > 0, "{}", String::from_utf8_lossy(&bytes));
    }
}

async fn opened<S: AsyncRead + AsyncWrite + Unpin>(
    client: &mut TestClient<S>,
    kinds: &[&'static str],
) -> HashMap<&'static str, u32> {
    let mut ids = HashMap::new();
    for &kind in kinds {
        ids.insert(kind, client.open(&[("streamtype", kind)]).await);
    }
    ids
}

#[tokio::test]
async fn a_command_over_spdy_gets_and_gives_all() {
    let node = Node::start().await;
    let path = "/exec/ns/p/c?command=cat&input=1&output=1";
    let (head, mut client) = node.upgrade(path, "v9.channel.k8s.io, v4.channel.k8s.io").await;
    assert!(head.starts_with("http/1.1 101 "), "{head}");
    assert!(head.contains("x-stream-protocol-version: v4.channel.k8s.io"), "{head}");
    let ids = opened(&mut client, &["error", "stdin", "stdout"]).await;
    let sent: Vec<u8> = (0..MUCH).map(|i| (i % 251) as u8).collect();
    let mut half = MUCH / 2;
    // What comes back is heard meanwhile, as clients do.
    for piece in sent.chunks(20_000) {
        client.send(ids["stdin"], piece, false).await;
        let so_far = client.heard.get(&ids["stdout"]).map_or(0, |heard| heard.bytes.len());
        half = half.saturating_sub(so_far);
        let _ = timeout(Duration::ZERO, client.hear(|_| false)).await;
    }
    client.send(ids["stdin"], b"", true).await;
    let whole = client.hear(|heard| heard.get(&ids["error"]).is_some_and(|e| e.over.is_some()));
    assert!(timeout(SOON, whole).await.expect("in time"));
    assert!(client.heard[&ids["stdout"]].bytes == sent, "something else came back");
    assert_eq!(client.heard[&ids["stdout"]].over, Some("end"));
    let status = String::from_utf8_lossy(&client.heard[&ids["error"]].bytes).into_owned();
    assert_eq!(status, r#"{"apiVersion":"v1","kind":"Status","metadata":{},"status":"Success"}"#);
    assert!(!timeout(SOON, client.hear(|_| false)).await.expect("it ends"));
    assert!(client.gone_away);
}

#[tokio::test]
async fn each_version_tells_an_end_its_own_way() {
    let node = Node::start().await;
    for (version, command, said) in [
        (
            "v4.channel.k8s.io",
            "echo",
            r#""details":{"causes":[{"message":"3","reason":"ExitCode"}]}"#,
        ),
        ("v3.channel.k8s.io", "echo", "command terminated with non-zero exit code: exit status 3"),
        ("v2.channel.k8s.io", "cat", ""),
        (
            "channel.k8s.io",
            "none",
            "Internal error occurred: error executing command in container: container not running (c)",
        ),
    ] {
        let path = format!("/exec/ns/p/c?command={command}&output=1");
        let (_, mut client) = node.upgrade(&path, version).await;
        let ids = opened(&mut client, &["error", "stdout"]).await;
        assert!(!timeout(SOON, client.hear(|_| false)).await.expect("it ends"), "{version}");
        let error = String::from_utf8_lossy(&client.heard[&ids["error"]].bytes).into_owned();
        let fits = if said.is_empty() { error.is_empty() } else { error.contains(said) };
        assert!(fits, "{version}: {error}");
    }
    let path = "/exec/ns/p/c?command=x&output=1";
    let (head, _) = node.upgrade(path, "v9.channel.k8s.io").await;
    assert!(head.starts_with("http/1.1 403 "), "{head}");
    assert_eq!(head.matches("x-accepted-stream-protocol-versions: ").count(), 4, "{head}");
}

#[tokio::test]
async fn a_terminal_echoes_and_interrupts() {
    let node = Node::start().await;
    let path = "/exec/ns/p/c?command=cat&input=1&output=1&error=1&tty=1";
    let (_, mut client) = node.upgrade(path, "v4.channel.k8s.io").await;
    let ids = opened(&mut client, &["error", "stdin", "stdout", "resize"]).await;
    client.send(ids["resize"], br#"{"Width":80,"Height":24}"#, false).await;
    client.send(ids["stdin"], b"hello\r", false).await;
    let echoed = |text: &'static str| {
        let stdout = ids["stdout"];
        move |heard: &std::collections::HashMap<
            u32,
            crate::server::stream::spdy::client_test::Heard,
        >| { heard.get(&stdout).is_some_and(|h| h.bytes == text.as_bytes()) }
    };
    assert!(timeout(SOON, client.hear(echoed("hello\r\nhello\r\n"))).await.expect("in time"));
    client.send(ids["stdin"], b"\x03", false).await;
    assert!(!timeout(SOON, client.hear(|_| false)).await.expect("it ends"));
    let error = String::from_utf8_lossy(&client.heard[&ids["error"]].bytes).into_owned();
    assert!(error.contains(r#"{"message":"130","reason":"ExitCode"}"#), "{error}");
}

#[tokio::test]
async fn an_attached_container_is_heard_and_told() {
    let node = Node::start().await;
    for (container, back) in [("c", "attached\nhi\n"), ("t", "attached\r\nhi\r\nhi\r\n")] {
        let path = format!("/attach/ns/p/uid-1/{container}?input=1&output=1");
        let (_, mut client) = node.upgrade(&path, "v4.channel.k8s.io").await;
        let ids = opened(&mut client, &["error", "stdin", "stdout"]).await;
        let first = |heard: &Streams| heard.contains_key(&ids["stdout"]);
        assert!(timeout(SOON, client.hear(first)).await.expect("in time"));
        client.send(ids["stdin"], b"hi\n", true).await;
        assert!(!timeout(SOON, client.hear(|_| false)).await.expect("it ends"), "{container}");
        let out = String::from_utf8_lossy(&client.heard[&ids["stdout"]].bytes).into_owned();
        assert_eq!(out, back, "{container}");
        let error = String::from_utf8_lossy(&client.heard[&ids["error"]].bytes).into_owned();
        assert!(error.contains("Success"), "{error}");
    }
    let refused = answered(node.admin().get("/attach/ns/p/x?output=1")).await;
    assert_eq!(refused, (500, "container x not found in pod p_ns".into()));
}

#[tokio::test]
async fn every_websocket_protocol_has_its_form() {
    let node = Node::start().await;
    for (protocol, text, ends) in [
        ("", false, false),
        ("channel.k8s.io", false, false),
        ("base64.channel.k8s.io", true, false),
        ("v4.channel.k8s.io", false, true),
        ("v4.base64.channel.k8s.io", true, true),
        ("v5.channel.k8s.io", false, true),
    ] {
        let path = "/exec/ns/p/c?command=echo&output=1";
        let mut socket = node.websocket(path, protocol).await;
        let mut said = Vec::new();
        let ended = async {
            while let Some(Ok(message)) = socket.next().await {
                if !matches!(message, Message::Ping(_) | Message::Close(_)) {
                    assert_eq!(message.is_text(), text, "{protocol}");
                    said.push(message.into_data());
                }
            }
        };
        timeout(SOON, ended).await.expect("ends");
        let expected: &[&[u8]] =
            if text { &[b"1", b"1YzogZWNobwo="] } else { &[b"\x01", b"\x01c: echo\n"] };
        assert_eq!(said[..2], *expected, "{protocol}");
        let end = String::from_utf8_lossy(&said[2]).into_owned();
        let status = if text { "3eyJhcGlWZXJzaW9uIjoi" } else { "\u{3}{\"apiVersion\":\"" };
        assert_eq!(end.starts_with(status), ends, "{protocol}: {end}");
    }
    // What v5 alone has: an end of what is sent.
    let mut socket =
        node.websocket("/exec/ns/p/c?command=cat&input=1&output=1", "v5.channel.k8s.io").await;
    for message in [&b"\x00hi"[..], b"\xff\x00"] {
        socket.send(Message::binary(message.to_vec())).await.expect("is sent");
    }
    let mut all = Vec::new();
    while let Ok(Some(Ok(message))) = timeout(SOON, socket.next()).await {
        all.push(message.into_data());
    }
    assert!(all.iter().any(|message| **message == *b"\x01hi"), "{all:?}");
}

#[tokio::test]
async fn a_command_whose_client_goes_is_dropped() {
    let node = Node::start().await;
    let (_, mut client) =
        node.upgrade("/exec/ns/p/c?command=wait&output=1", "v4.channel.k8s.io").await;
    opened(&mut client, &["error", "stdout"]).await;
    drop(client);
    // Its stream is given back, which the server's end waits for.
    timeout(SOON, node.server.end()).await.expect("it ends");
}

/// Says back what it is told, in capitals, and ends as the client does.
async fn shouting() -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("binds");
    let port = listener.local_addr().expect("a port").port();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut bytes = vec![0; 4096];
                while let Ok(len @ 1..) = stream.read(&mut bytes).await {
                    bytes[..len].make_ascii_uppercase();
                    if stream.write_all(&bytes[..len]).await.is_err() {
                        return;
                    }
                }
            });
        }
    });
    port
}

#[tokio::test]
async fn ports_are_forwarded_over_spdy() {
    let node = Node::start().await;
    let port = shouting().await.to_string();
    let (head, mut client) = node.upgrade("/portForward/ns/p/uid-1", "portforward.k8s.io").await;
    assert!(head.starts_with("http/1.1 101 "), "{head}");
    let mut pairs = Vec::new();
    for (request, port) in [("0", &*port), ("1", &*port), ("2", "1")] {
        let of = |kind| [("streamtype", kind), ("port", port), ("requestid", request)];
        let error = client.open(&of("error")).await;
        client.send(error, b"", true).await;
        pairs.push((error, client.open(&of("data")).await));
    }
    for (_, data) in &pairs[..2] {
        client.send(*data, format!("stream {data}").as_bytes(), true).await;
    }
    let over = |heard: &std::collections::HashMap<
        u32,
        crate::server::stream::spdy::client_test::Heard,
    >| {
        pairs
            .iter()
            .all(|(e, d)| [e, d].iter().all(|id| heard.get(id).is_some_and(|h| h.over.is_some())))
    };
    assert!(timeout(SOON, client.hear(over)).await.expect("in time"));
    for (error, data) in &pairs[..2] {
        let (error, back) = (&client.heard[error], &client.heard[data]);
        assert_eq!(String::from_utf8_lossy(&back.bytes), format!("STREAM {data}"));
        assert_eq!((&*error.bytes, back.over), (&b""[..], Some("end")));
    }
    let (error, data) = pairs[2];
    let text = String::from_utf8_lossy(&client.heard[&error].bytes).into_owned();
    assert_eq!(text, "error forwarding port 1 to pod p, uid uid-1: refused");
    assert_eq!(client.heard[&data].over, Some("reset"));
    for bad in
        [&[("streamtype", "data")][..], &[("port", "80")], &[("streamtype", "x"), ("port", "1")]]
    {
        let id = client.open(bad).await;
        assert!(
            timeout(SOON, client.hear(|heard| heard.contains_key(&id))).await.expect("in time")
        );
        assert_eq!(client.heard[&id].over, Some("reset"));
    }
    // One that the client lets go of ends, though the pod would go on.
    let of = |kind| [("streamtype", kind), ("port", &*port), ("requestid", "3")];
    let (error, data) = (client.open(&of("error")).await, client.open(&of("data")).await);
    client.send(data, b"x", false).await;
    let back = |heard: &Streams| heard.get(&data).is_some_and(|heard| heard.bytes == b"X");
    assert!(timeout(SOON, client.hear(back)).await.expect("in time"));
    client.reset(data).await;
    let over = |heard: &Streams| heard.get(&error).is_some_and(|heard| heard.over == Some("end"));
    assert!(timeout(SOON, client.hear(over)).await.expect("in time"));
    let (head, _) = node.upgrade("/portForward/ns/p/uid-2", "portforward.k8s.io").await;
    assert!(head.starts_with("http/1.1 404 "), "{head}");
}

#[tokio::test]
async fn ports_are_forwarded_over_a_websocket() {
    let node = Node::start().await;
    let port = shouting().await;
    let path = format!("/portForward/ns/p?port={port},1");
    let mut socket = node.websocket(&path, "v4.channel.k8s.io").await;
    let names: Vec<u8> = port.to_le_bytes().to_vec();
    socket.send(Message::binary(b"\x00hi".to_vec())).await.expect("is sent");
    let mut said: Vec<Vec<u8>> = Vec::new();
    while said.len() < 6 {
        let message = timeout(SOON, socket.next()).await.expect("in time").expect("more");
        let message = message.expect("a message");
        if message.is_binary() {
            said.push(message.into_data().to_vec());
        }
    }
    for channel in [0, 1] {
        assert!(said.contains(&[&[channel], &*names].concat()), "{said:?}");
    }
    assert!(said.contains(&b"\x02\x01\x00".to_vec()) && said.contains(&b"\x00HI".to_vec()));
    assert!(
        said.iter().any(|m| m.starts_with(b"\x03error forwarding port 1 to pod p")),
        "{said:?}"
    );
}

#[tokio::test]
async fn what_another_runtime_streams_is_passed_on_as_it_is() {
    let node = Node::start().await;
    let (head, _) = node.upgrade("/exec/ns/p/o?command=x&output=1", "v4.channel.k8s.io").await;
    assert!(head.starts_with("http/1.1 429 "), "{head}");
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("binds");
    let url = format!("http://{}/exec/TOKEN", listener.local_addr().expect("a port"));
    *node.pods.0.runtime.lock().expect("whole") = Some(url);
    let runtime = async {
        let (mut stream, _) = listener.accept().await.expect("a connection");
        let (head, _) = head_of(&mut stream).await;
        stream
            .write_all(b"HTTP/1.1 404 Not Found\r\nContent-Length: 5\r\n\r\nstale")
            .await
            .expect("says");
        let (mut stream, _) = listener.accept().await.expect("a connection");
        head_of(&mut stream).await;
        let switch = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\n\
            Upgrade: SPDY/3.1\r\nX-Stream-Protocol-Version: v4.channel.k8s.io\r\n\r\nat once";
        stream.write_all(switch.as_bytes()).await.expect("says");
        let mut came = vec![0; MUCH];
        stream.read_exact(&mut came).await.expect("all comes");
        stream.write_all(&came).await.expect("says");
        head
    };
    let path = "/exec/ns/p/o?command=x&output=1";
    let client = async {
        let mut stream = node.stream().await;
        let head = format!(
            "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: SPDY/3.1\r\n\
             X-Stream-Protocol-Version: v4.channel.k8s.io\r\nAuthorization: Bearer good\r\n\r\n"
        );
        stream.write_all(head.as_bytes()).await.expect("is sent");
        let (refused, _) = head_of(&mut stream).await;
        assert!(refused.starts_with("http/1.1 404 "), "{refused}");
        let mut stream = node.stream().await;
        stream.write_all(head.as_bytes()).await.expect("is sent");
        let (head, mut rest) = head_of(&mut stream).await;
        assert!(head.starts_with("http/1.1 101 "), "{head}");
        let sent: Vec<u8> = (0..MUCH).map(|i| (i % 249) as u8).collect();
        stream.write_all(&sent).await.expect("is sent");
        stream.read_to_end(&mut rest).await.expect("all comes back");
        assert!(rest.starts_with(b"at once") && rest[7..] == sent, "something else came back");
    };
    let (head, ()) = timeout(SOON, async { tokio::join!(runtime, client) }).await.expect("in time");
    assert!(head.starts_with("get /exec/token http/1.1"), "{head}");
    assert!(head.contains("x-stream-protocol-version: v4.channel.k8s.io"), "{head}");
    assert!(!head.contains("authorization"), "what is for us is not for it: {head}");
}

#[tokio::test]
async fn a_command_without_streams_is_run_and_answered() {
    let node = Node::start().await;
    let admin = node.admin();
    let url = |path: &str| format!("{}{path}", admin.base);
    let run = answered(admin.client.post(url("/run/ns/p/c?cmd=a%20b"))).await;
    assert_eq!(run, (200, "a,b!".into()));
    let failed = answered(admin.client.post(url("/run/ns/p/uid-1/c?cmd=fail"))).await;
    assert_eq!(failed, (500, "command 'fail' exited with 1: !".into()));
    let none = answered(admin.client.post(url("/run/ns/p/x?cmd=a"))).await;
    assert_eq!(none, (500, r#"container not found ("x")"#.into()));
}
