//! What is answered at each path.

use copepod_pod::{ProbeKind, ProbeOutcome};
use futures_util::StreamExt;
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;

use super::*;

#[tokio::test]
async fn each_path_is_upstreams() {
    let node = Node::start().await;
    let admin = node.admin();
    let (code, text) = admin.ask("/pods").await;
    let list: List<Pod> = serde_json::from_str(&text).expect("a list");
    assert_eq!((code, list.items.len()), (200, 1));
    assert!(text.contains(r#""kind":"PodList""#), "{text}");
    let status = list.items[0].status.clone().expect("a status");
    assert_eq!(status.phase.as_deref(), Some("Running"));
    let (_, text) = admin.ask("/runningpods/").await;
    let list: List<Pod> = serde_json::from_str(&text).expect("a list");
    let spec = list.items[0].spec.clone().expect("a spec");
    assert_eq!(spec.containers[0].image.as_deref(), Some("registry.example/c:1"));
    assert_eq!(list.items[0].metadata.uid.as_deref(), Some("uid-1"));

    for path in ["/metrics", "/stats/summary", "/attach/ns/p", "/portForward/ns", "/x", "/"] {
        assert_eq!(admin.ask(path).await.0, 404, "{path}");
    }
    let url = |path: &str| format!("{}{path}", admin.base);
    let stop = answered(admin.client.delete(url("/pods/ns/p"))).await;
    assert_eq!(stop.0, 404, "a pod is not stopped from here");
    assert_eq!(answered(admin.client.post(url("/pods"))).await.0, 405);
    let body = admin.client.post(url("/exec/ns/p/c?command=x&output=1")).body(vec![0; 1 << 20]);
    assert_eq!(answered(body).await.0, 413);
    assert_eq!(admin.ask("/pods").await.0, 200, "another connection");
}

#[tokio::test]
async fn what_probes_came_to_is_told_to_who_may_read_figures() {
    let node = Node::start().await;
    let pod = node.pods.0.served.pod.clone();
    let probes = node.metrics.of_pod(&pod);
    let took = Duration::from_millis(3);
    probes.count("c", ProbeKind::Readiness, &ProbeOutcome::Success, took);
    let answer = node.admin().client.get(format!("{}/metrics/probes", node.admin().base));
    let answer = answer.send().await.expect("answers");
    let kind = answer.headers()["content-type"].to_str().expect("text").to_owned();
    assert_eq!(kind, "text/plain; version=0.0.4; charset=utf-8");
    let text = answer.text().await.expect("a page");
    let series = "prober_probe_total{container=\"c\",namespace=\"ns\",pod=\"p\",\
                  pod_uid=\"uid-1\",probe_type=\"Readiness\",result=\"successful\"} 1";
    assert!(text.lines().any(|line| line == series), "{text}");
    let stranger = node.client(None, false).ask("/metrics/probes").await;
    assert_eq!(stranger, (401, "Unauthorized".into()));
    assert_eq!(node.admin().ask("/metrics/x").await.0, 404);
}

#[tokio::test]
async fn health_is_upstreams_on_both_ports() {
    let node = Node::start().await;
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("binds");
    let base = format!("http://{}", listener.local_addr().expect("a port"));
    let _health = Server::serve_health(listener, node.pods.clone());
    let client = node.client(None, false).client;
    let plain = Client { client, base };
    assert_eq!(plain.ask("/pods").await.0, 404);
    for client in [node.admin(), plain] {
        for path in ["", "/", "/ping", "/log", "/syncloop", "?exclude=log"] {
            let path = format!("/healthz{path}");
            assert_eq!(client.ask(&path).await, (200, "ok".into()), "{path}");
        }
        let text = "[+]ping ok\n[+]log ok\n[+]syncloop ok\nhealthz check passed\n";
        assert_eq!(client.ask("/healthz?verbose").await, (200, text.into()));
        let text = "[+]ping ok\n[+]log excluded: ok\n[+]syncloop ok\n\
            warn: some health checks cannot be excluded: no matches for \"x\"\n\
            healthz check passed\n";
        assert_eq!(
            client.ask("/healthz?verbose=1&exclude=log&exclude=x").await,
            (200, text.into())
        );
        *node.pods.0.trouble.lock().expect("whole") = Some("it is stuck".into());
        let text = "[+]ping ok\n[+]log ok\n[-]syncloop failed: reason withheld\n\
            healthz check failed\n";
        assert_eq!(client.ask("/healthz").await, (500, text.into()));
        let text = "internal server error: it is stuck\n";
        assert_eq!(client.ask("/healthz/syncloop").await, (500, text.into()));
        assert_eq!(client.ask("/healthz/ping").await, (200, "ok".into()));
        *node.pods.0.trouble.lock().expect("whole") = None;
    }
}

#[tokio::test]
async fn without_debugging_handlers_the_rest_is_served() {
    let node = Node::start_with(|_, options| options.debugging_handlers = false).await;
    let admin = node.admin();
    for path in ["/exec/ns/p/c", "/containerLogs/ns/p/c", "/run/x", "/runningpods/", "/logs/"] {
        let refused = (405, "Debug endpoints are disabled.\n".to_owned());
        assert_eq!(admin.ask(path).await, refused, "{path}");
    }
    assert_eq!(admin.ask("/pods").await.0, 200);
    assert_eq!(node.client(None, true).ask("/logs/").await.0, 401);
}

#[tokio::test]
async fn logs_are_followed_until_their_container_ends() {
    let node = Node::start().await;
    node.pods.log("one");
    for http2 in [false, true] {
        let admin = node.client(Some(node.clients.sign("admin", "m", LATER)), http2);
        let path = "/containerLogs/ns/p/c?follow=true&tailLines=1&timestamps=true";
        let answer = admin.get(path).send().await.expect("an answer");
        assert_eq!(answer.headers()["content-type"], "text/plain; charset=utf-8");
        let mut lines = answer.bytes_stream();
        let next = async |lines: &mut (dyn futures_core::Stream<Item = _> + Unpin)| {
            loop {
                let next: Option<Result<bytes::Bytes, reqwest::Error>> =
                    timeout(SOON, lines.next()).await.expect("in time");
                let bytes = next?.expect("bytes");
                if !bytes.is_empty() {
                    return Some(String::from_utf8(bytes.to_vec()).expect("UTF-8"));
                }
            }
        };
        let time = "2026-11-25T00:00:00.000000000Z";
        assert_eq!(next(&mut lines).await, Some(format!("{time} one\n")));
        if !http2 {
            continue;
        }
        node.pods.log("two");
        assert_eq!(next(&mut lines).await, Some(format!("{time} two\n")));
        node.pods.log("last");
        node.pods.end();
        assert_eq!(next(&mut lines).await, Some(format!("{time} last\n")));
        assert_eq!(next(&mut lines).await, None);
    }
    let admin = node.admin();
    let logs = admin.ask("/containerLogs/ns/p/c?limitBytes=5").await;
    assert_eq!(logs, (200, "one\nt".into()), "of what has ended");
    for (path, code, text) in [
        ("ns/x/c", 404, r#"pod "x" does not exist"#),
        ("ns/p/x", 404, r#"container "x" not found in pod "p""#),
        ("ns/p/w", 400, r#"container "w" in pod "p" is waiting to start: ContainerCreating"#),
        ("ns/p/c?previous=1", 400, r#"previous terminated container "c" in pod "p" not found"#),
        ("ns/p/c?tailLines=x", 400, r#"{"message": "Unable to decode query."}"#),
        ("ns/p/c?tailLines=-1", 422, r#"{"message": "Invalid request."}"#),
    ] {
        let answer = admin.ask(&format!("/containerLogs/{path}")).await;
        assert_eq!(answer, (code, text.to_owned()), "{path}");
    }
}

#[tokio::test]
async fn a_command_runs_over_a_websocket() {
    let node = Node::start().await;
    let identity = node.clients.sign("admin", "m", LATER);
    let config = node.config(Some(identity), &["http/1.1"]);
    let stream = node.connect([127, 0, 0, 1], config).await;
    let path = "exec/ns/p/uid-1/c?command=echo&command=hi&output=1";
    let mut request = format!("wss://{}/{path}", node.address()).into_client_request().expect("ok");
    let protocol = hyper::header::HeaderValue::from_static("v4.channel.k8s.io");
    request.headers_mut().insert("sec-websocket-protocol", protocol);
    let (mut socket, _) =
        tokio_tungstenite::client_async(request, stream).await.expect("a WebSocket");
    let mut said = Vec::new();
    let ended = async {
        while let Some(Ok(message)) = socket.next().await {
            said.push(String::from_utf8(message.into_data().to_vec()).expect("UTF-8"));
        }
    };
    timeout(SOON, ended).await.expect("ends");
    // The sign that it is made, which says nothing.
    said.retain(|text| text.len() > 1);
    assert_eq!(said[0], "\u{1}c: echo hi\n");
    assert!(said[1].starts_with("\u{3}{") && said[1].contains(r#""message":"3""#), "{said:?}");
    let _ = socket.close(None).await;

    let admin = node.client(Some(node.clients.sign("admin", "m", LATER)), false);
    for (path, code, text) in [
        ("ns/x/c?command=x&output=1", 404, "pod does not exist"),
        ("ns/p/x?command=x&output=1", 500, r#"container not found ("x")"#),
        ("ns/p/uid-2/c?command=x&output=1", 500, r#"container not found ("c")"#),
        ("ns/p/c?command=x", 400, "you must specify at least 1 of stdin, stdout, stderr"),
        ("ns/p/c?command=x&output=1", 400, "Upgrade request required\n"),
    ] {
        let answer = admin.ask(&format!("/exec/{path}")).await;
        assert_eq!(answer, (code, text.to_owned()), "{path}");
    }
}
