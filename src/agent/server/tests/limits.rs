//! Clients that mean no good, and that others do not notice them.

use std::io;

use futures_util::future::join_all;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

use super::*;

/// Reads until the other side closes.
async fn closed(stream: &mut (impl AsyncReadExt + Unpin)) -> bool {
    let mut bytes = [0; 1024];
    let ended = async {
        loop {
            match stream.read(&mut bytes).await {
                Ok(0) | Err(_) => return,
                Ok(_) => {}
            }
        }
    };
    timeout(SOON, ended).await.is_ok()
}

#[tokio::test]
async fn a_slow_client_holds_up_nobody_and_is_let_go() {
    // Long enough for whoever does not dawdle on a busy machine.
    let limit = Duration::from_secs(10);
    let times = Times { handshake: limit, head: limit, ..TIMES };
    let node = Node::start_in(times, |_, _| {}).await;
    let mut silent = Vec::new();
    for _ in 0..40 {
        silent.push(connect(node.address(), [127, 0, 0, 1]).await);
    }
    let mut slow = Vec::new();
    for alpn in ["http/1.1", "h2"].repeat(10) {
        let mut stream = node.connect([127, 0, 0, 1], node.config(None, &[alpn])).await;
        let part: &[u8] = if alpn == "h2" {
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0"
        } else {
            b"GET /pods HTTP/1.1\r\nHost: x\r\nX-Slow: "
        };
        stream.write_all(part).await.expect("writes");
        slow.push(stream);
    }
    // One that follows a log and takes none of it.
    for _ in 0..100 {
        node.pods.log(&"x".repeat(50_000));
    }
    let config = node.config(Some(node.clients.sign("admin", "m", LATER)), &["http/1.1"]);
    let mut stalled = node.connect([127, 0, 0, 1], config).await;
    let request = b"GET /containerLogs/ns/p/c?follow=true HTTP/1.1\r\nHost: x\r\n\r\n";
    stalled.write_all(request).await.expect("writes");
    let admin = node.admin();
    for _ in 0..10 {
        let answer = timeout(SOON, admin.ask("/pods")).await;
        assert_eq!(answer.expect("in time").0, 200);
    }
    assert!(join_all(silent.iter_mut().map(closed)).await.into_iter().all(|closed| closed));
    assert!(join_all(slow.iter_mut().map(closed)).await.into_iter().all(|closed| closed));
    let again = node.admin();
    assert_eq!(again.ask("/pods").await.0, 200);
}

#[tokio::test]
async fn five_hundred_connections_of_two_peers_leave_room_for_a_third() {
    // Both ends of them are this process's.
    let most = getrlimit(Resource::Nofile).maximum;
    setrlimit(Resource::Nofile, Rlimit { current: most, maximum: most }).expect("may");
    let node = Node::start().await;
    let mut open = Vec::new();
    for from in [[127, 0, 0, 2], [127, 0, 0, 3]] {
        for _ in 0..250 {
            open.push(connect(node.address(), from).await);
        }
    }
    let admin = node.admin();
    assert_eq!(admin.ask("/pods").await.0, 200);
    for _ in 0..6 {
        open.push(connect(node.address(), [127, 0, 0, 2]).await);
    }
    let mut one_more = connect(node.address(), [127, 0, 0, 2]).await;
    assert!(timeout(SOON, closed(&mut one_more)).await.expect("at once"), "one too many of a peer");
    assert_eq!(node.admin().ask("/pods").await.0, 200, "another peer");
    for stream in &mut open {
        // Some are closed already.
        let _ = stream.shutdown().await;
    }
    assert!(join_all(open.iter_mut().map(closed)).await.into_iter().all(|closed| closed));
    let identity = node.clients.sign("admin", "m", LATER);
    let clients: Vec<Client> =
        (0..100).map(|n| node.client(Some(identity.clone()), n % 2 == 0)).collect();
    let answers = join_all(clients.iter().map(|client| client.ask("/pods"))).await;
    assert!(answers.iter().all(|(code, _)| *code == 200), "a hundred at once");
}

#[tokio::test]
async fn a_large_head_is_refused() {
    let node = Node::start().await;
    let identity = node.clients.sign("admin", "m", LATER);
    for http2 in [false, true] {
        let client = node.client(Some(identity.clone()), http2);
        let large = client.get("/pods").header("x-large", "x".repeat(100 << 10));
        assert_eq!(answered(large).await.0, 200, "within the bound");
        let larger = client.get("/pods").header("x-large", "x".repeat(1 << 20));
        match larger.send().await {
            Ok(answer) => assert_eq!(answer.status().as_u16(), 431),
            // Closed before all of it was sent.
            Err(error) => assert!(!error.is_timeout(), "{error:?}"),
        }
        assert_eq!(client.ask("/pods").await.0, 200, "and the next is served");
    }
}

#[tokio::test]
async fn no_noise_ends_the_server() {
    let node = Node::start().await;
    for noise in [&b"GET /pods HTTP/1.1\r\n\r\n"[..], b"\x16\x03\x01\xff\xff", b"\0", &[0xff; 5000]]
    {
        let mut stream = connect(node.address(), [127, 0, 0, 1]).await;
        stream.write_all(noise).await.expect("writes");
        stream.shutdown().await.expect("ends");
        assert!(timeout(SOON, closed(&mut stream)).await.expect("is closed"));
    }
    for noise in
        [&b"\0\0\0\0"[..], b"GET / HTTP/9\r\n\r\n", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\nnoise-noise"]
    {
        let mut stream = node.connect([127, 0, 0, 1], node.config(None, &[])).await;
        stream.write_all(noise).await.expect("writes");
        let _: io::Result<()> = stream.shutdown().await;
        assert!(timeout(SOON, closed(&mut stream)).await.expect("is closed"));
    }
    assert_eq!(node.admin().ask("/pods").await.0, 200);
}

#[tokio::test]
async fn the_servers_end_waits_for_no_stream() {
    let node = Node::start().await;
    node.pods.log("one");
    let admin = node.admin();
    let mut log = admin.get("/containerLogs/ns/p/c?follow=true").send().await.expect("an answer");
    assert_eq!(log.chunk().await.expect("a line").as_deref(), Some(&b"one\n"[..]));
    let address = node.address();
    timeout(Duration::from_secs(10), node.server.end()).await.expect("ends");
    assert!(!matches!(timeout(SOON, log.chunk()).await.expect("ends"), Ok(Some(_))));
    assert!(TcpStream::connect(address).await.is_err(), "nobody listens");
}
