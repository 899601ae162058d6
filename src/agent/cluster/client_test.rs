use std::time::Duration;

use http_body_util::BodyExt;
use hyper::{Request, StatusCode};
use kube::client::Body;
use serde_json::json;
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::*;
use crate::cluster::test_server::{Asked, Link, PATIENCE, Reply, Server, patient};
use crate::telemetry::chain;

/// For a call that is to be late. One that is not may be too, on a busy machine, and is repeated.
const CALL: Duration = Duration::from_millis(400);
/// For a connection that does not come about: all who wait for it have asked for it by then.
const CONNECT: Duration = Duration::from_secs(2);
/// Between pings, and for their answers, which one is to miss and no other.
const PINGS: [Duration; 2] = [Duration::from_millis(200), Duration::from_secs(4)];

/// Only calls are late soon.
fn hasty() -> Options {
    Options { call_time: CALL, ..patient() }
}

fn ok(_: &Asked) -> Reply {
    Reply::Json(200, json!({"ok": true}))
}

fn get(path: &str) -> Request<Body> {
    Request::get(path).body(Body::empty()).unwrap()
}

async fn text(client: &kube::Client, path: &str) -> Result<String, kube::Error> {
    client.request_text(Request::get(path).body(Vec::new()).unwrap()).await
}

async fn until_ok(client: &kube::Client) {
    let asking = async {
        while text(client, "/x").await.is_err() {
            tokio::task::yield_now().await;
        }
    };
    timeout(PATIENCE, asking).await.expect("an answer in the end");
}

#[tokio::test]
async fn calls_share_one_connection_and_say_who_we_are() {
    let mut server = Server::start(ok).await;
    let client = server.client(patient());
    let calls = (0..20).map(|n| {
        let client = client.clone();
        async move { text(&client, &format!("/api/v1/nodes/{n}?a=b")).await }
    });
    for answer in futures_util::future::join_all(calls).await {
        assert_eq!(answer.unwrap(), r#"{"ok":true}"#);
    }
    let asked = server.wait(20).await;
    assert!(asked.iter().all(|asked| asked.connection == 0));
    let first = &asked[0];
    assert_eq!(first.uri.to_string(), format!("https://{}/api/v1/nodes/0?a=b", server.address));
    let agent = first.headers["user-agent"].to_str().unwrap();
    let ours = format!("copepod/{} (linux/", env!("CARGO_PKG_VERSION"));
    assert!(agent.starts_with(&ours), "{agent}");
    assert!(!first.headers.contains_key("authorization"));
}

#[tokio::test]
async fn watches_have_connections_of_their_own_with_90_streams_each() {
    let (keep, _) = mpsc::unbounded_channel();
    let keep = std::sync::Mutex::new(vec![keep]);
    let mut server = Server::start(move |asked: &Asked| match asked.is_watch() {
        true => {
            let (sender, receiver) = mpsc::unbounded_channel();
            keep.lock().unwrap().push(sender);
            Reply::Stream(receiver)
        }
        false => ok(asked),
    })
    .await;
    let client = server.client(patient());
    let start = (0..200).map(|_| client.send(get("/api/v1/pods?watch=true")));
    let mut watches = futures_util::future::try_join_all(start).await.unwrap();
    text(&client, "/lease").await.unwrap();
    let asked = server.wait(201).await;
    let on = |number: usize| asked.iter().filter(|one| one.connection == number).count();
    assert_eq!([on(0), on(1), on(2), on(3)], [90, 90, 20, 1]);
    // A stream is free again when its body is dropped; what is spare goes.
    watches.truncate(10);
    watches.push(client.send(get("/api/v1/pods?watch=1")).await.unwrap());
    let asked = server.wait(202).await;
    assert_eq!(asked[201].connection, 0);
}

#[tokio::test]
async fn after_the_server_was_gone_the_next_request_connects_again() {
    let server = Server::start(ok).await;
    let client = server.client(patient());
    text(&client, "/x").await.unwrap();
    let (address, authority) = server.stop().await;
    let error = chain(&text(&client, "/x").await.unwrap_err());
    assert!(error.contains("connect") || error.contains("no answer"), "{error}");
    let mut server = Server::start_at(&address.to_string(), authority, ok).await;
    // The certificates are new ones of the same authority.
    until_ok(&client).await;
    server.wait(1).await;
}

#[tokio::test]
async fn many_who_wait_for_a_connection_share_its_failure() {
    let server = Server::start(ok).await;
    let link = Link::to(server.address).await;
    link.cut();
    let options = Options { connect_time: CONNECT, ..patient() };
    let client = server.client_at(link.address, options);
    let calls = (0..30).map(|_| text(&client, "/x"));
    for answer in futures_util::future::join_all(calls).await {
        let error = chain(&answer.unwrap_err());
        assert!(error.contains("no answer within 2 s"), "{error}");
    }
    assert_eq!(link.accepted(), 1, "it is tried once for all");
}

#[tokio::test]
async fn a_connection_whose_other_side_is_gone_dies_by_its_pings() {
    let (hold, held) = mpsc::unbounded_channel();
    let held = std::sync::Mutex::new(Some(held));
    let server = Server::start(move |asked: &Asked| match asked.is_watch() {
        true => Reply::Stream(held.lock().unwrap().take().unwrap()),
        false => ok(asked),
    })
    .await;
    let link = Link::to(server.address).await;
    let [ping_interval, ping_time] = PINGS;
    let options = Options { ping_interval, ping_time, ..patient() };
    let client = server.client_at(link.address, options);
    text(&client, "/x").await.unwrap();
    let mut watch = client.send(get("/x?watch=true")).await.unwrap().into_body();
    hold.send("a line\n".into()).unwrap();
    let line = timeout(PATIENCE, watch.frame()).await.expect("a line comes");
    assert!(line.unwrap().is_ok());
    link.cut();
    let ended = timeout(PATIENCE, watch.frame()).await.expect("the watch ends");
    let error = chain(&ended.unwrap().unwrap_err());
    assert!(error.contains("answer cut off"), "{error}");
    link.mend();
    until_ok(&client).await;
}

#[tokio::test]
async fn a_call_without_answer_ends_and_leaves_its_connection() {
    let server = Server::start(|asked: &Asked| match asked.uri.path() {
        "/never" => Reply::Never,
        _ => ok(asked),
    })
    .await;
    let client = server.client(hasty());
    until_ok(&client).await;
    let error = chain(&text(&client, "/never?q=1").await.unwrap_err());
    assert!(error.contains("GET /never: no answer within 0.4 s"), "{error}");
    until_ok(&client).await;
    let asked = server.asked.borrow();
    assert!(asked.iter().all(|one| one.connection == asked[0].connection), "{asked:?}");
}

#[tokio::test]
async fn a_body_that_stops_ends_the_call() {
    let held = std::sync::Mutex::new(Vec::new());
    let server = Server::start(move |_: &Asked| {
        let (hold, answer) = mpsc::unbounded_channel();
        hold.send("half".into()).unwrap();
        held.lock().unwrap().push(hold);
        Reply::Stream(answer)
    })
    .await;
    let client = server.client(hasty());
    let with_a_head = async {
        loop {
            let error = chain(&text(&client, "/x").await.unwrap_err());
            if !error.contains("GET /x: no answer within 0.4 s") {
                return error;
            }
        }
    };
    let error = timeout(PATIENCE, with_a_head).await.expect("half of an answer in the end");
    assert!(error.contains("no more of the answer within 0.4 s"), "{error}");
}

#[tokio::test]
async fn retry_after_reaches_the_caller() {
    let server = Server::start(|asked: &Asked| match asked.uri.path() {
        "/text" => Reply::Busy(429, "3", "Too many requests, please try again later.\n"),
        "/status" => Reply::Busy(
            503,
            "4",
            r#"{"kind":"Status","status":"Failure","message":"m","reason":"r","code":503,
                "details":{"kind":"pods"}}"#,
        ),
        "/own" => Reply::Json(
            429,
            json!({"status":"Failure","message":"m","reason":"r","code":429,
            "details":{"retryAfterSeconds":5}}),
        ),
        "/date" => Reply::Busy(429, "Thu, 01 Jan 2099 00:00:00 GMT", "no"),
        _ => ok(asked),
    })
    .await;
    let client = server.client(patient());
    let cases = [("/text", 429, Some(3)), ("/status", 503, Some(4)), ("/own", 429, Some(5))];
    for (path, code, seconds) in cases.into_iter().chain([("/date", 429, None)]) {
        let error = text(&client, path).await.unwrap_err();
        assert_eq!(retry_after(&error), seconds.map(Duration::from_secs), "{path}");
        let kube::Error::Api(status) = error else { panic!("{path}: {error}") };
        assert_eq!(status.code, code);
    }
}

#[tokio::test]
async fn a_server_of_another_authority_is_refused() {
    let server = Server::start(ok).await;
    let other = Server::start(ok).await;
    let client = other.client_at(server.address, patient());
    let error = chain(&text(&client, "/x").await.unwrap_err());
    assert!(error.contains("no TLS with 127.0.0.1:"), "{error}");
    assert!(error.contains("invalid peer certificate"), "{error}");
}

#[tokio::test]
async fn names_are_found_without_getaddrinfo() {
    let server = Server::start(ok).await;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("kubeconfig");
    let address = format!("localhost:{}/prefix/", server.address.port());
    let authority = &server.authority;
    let text =
        crate::cluster::test_server::kubeconfig(&address, &authority.pem(), &authority.node());
    std::fs::write(&path, text.to_string()).unwrap();
    let node = crate::cluster::test_server::NODE;
    let read = crate::cluster::kubeconfig::Kubeconfig::read(&path, node, jiff::Timestamp::now());
    let client = connect(&read.unwrap(), patient());
    let answer = client.send(get("/api")).await.unwrap();
    assert_eq!(answer.status(), StatusCode::OK);
    assert_eq!(server.asked.borrow()[0].uri.path(), "/prefix/api");
}
