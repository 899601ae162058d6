use std::convert::Infallible;
use std::net::{Ipv4Addr, SocketAddr};

use bytes::Bytes;
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn as serve;
use hyper::{HeaderMap, Response};
use prost::Message;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::task::JoinSet;

use super::*;
use crate::probe::test_server::{ClosedPort, Does, Server, answer, probe as made};

/// Far longer than a close takes, or an answer that comes.
const SOON: Duration = Duration::from_secs(60);
/// For an answer that does not come, in seconds; but a connection does in this time.
const LATE: u64 = 3;

type Answer = Response<BoxBody<Bytes, Infallible>>;

/// A health service: each service's name says how it is.
async fn check(request: Request<Incoming>) -> Result<Answer, Infallible> {
    let (head, body) = request.into_parts();
    assert_eq!(head.uri.path(), CHECK);
    assert_eq!(head.headers["user-agent"], "kube-probe/1.36");
    assert_eq!(head.headers["te"], "trailers");
    // `59999123u`: what is left of a minute at most.
    let left = head.headers["grpc-timeout"].to_str().unwrap();
    let micros: u64 = left.strip_suffix('u').unwrap().parse().unwrap();
    assert!((1..=60_000_000).contains(&micros), "{left}");
    let body = body.collect().await.unwrap().to_bytes();
    let asked = CheckRequest::decode(&body[5..]).unwrap().service;
    let code: &str = match &*asked {
        "hangs" => std::future::pending().await,
        "late" => "4",
        "none" => "5",
        "other" => "12",
        _ => "0",
    };
    let status = match &*asked {
        "bad" => ServingStatus::NotServing,
        "unknown" => ServingStatus::ServiceUnknown,
        _ => ServingStatus::Serving,
    };
    let message = CheckResponse { status: status.into() }.encode_to_vec();
    let length = u32::try_from(message.len()).unwrap().to_be_bytes();
    let frame = if code == "0" { [&[0], &length[..], &message].concat() } else { Vec::new() };
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", code.parse().unwrap());
    trailers.insert("grpc-message", "why%20not".parse().unwrap());
    let trailers = async move { Some(Ok(trailers)) };
    let body = Full::new(Bytes::from(frame)).with_trailers(trailers).boxed();
    let answer = Response::builder().header("content-type", "application/grpc");
    Ok(answer.body(body).unwrap())
}

async fn health() -> (SocketAddr, JoinSet<()>) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    let mut task = JoinSet::new();
    task.spawn(async move {
        let mut open = JoinSet::new();
        while let Ok((stream, _)) = listener.accept().await {
            open.spawn(async move {
                let server = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
                // A client that leaves is not this test's affair.
                let _ = server.serve_connection(TokioIo::new(stream), serve(check)).await;
            });
        }
    });
    (address, task)
}

async fn ask(port: u16, service: &str, seconds: u64) -> ProbeOutcome {
    made(json!({"grpc": {"port": port, "service": service}, "timeoutSeconds": seconds})).await
}

#[tokio::test]
async fn a_service_says_how_it_is() {
    let (address, _task) = health().await;
    let port = address.port();
    let of_all = json!({"grpc": {"port": port}, "timeoutSeconds": SOON.as_secs()});
    assert_eq!(made(of_all).await, ProbeOutcome::Success);
    for (service, text) in [
        ("bad", "service unhealthy (responded with \"NOT_SERVING\")"),
        ("unknown", "service unhealthy (responded with \"SERVICE_UNKNOWN\")"),
        ("none", "error: health rpc probe failed: rpc error: code = NotFound desc = why not"),
        (
            "other",
            "error: this server does not implement the grpc health protocol \
             (grpc.health.v1.Health): why not",
        ),
    ] {
        let outcome = ask(port, service, SOON.as_secs()).await;
        assert_eq!(outcome, ProbeOutcome::Failure(text.into()), "{service}");
    }
    let text = format!("timeout: health rpc did not complete within {LATE}s");
    assert_eq!(ask(port, "hangs", LATE).await, ProbeOutcome::Failure(text));
}

#[tokio::test]
async fn what_is_no_service_is_tried_until_the_deadline() {
    let late = |at: SocketAddr| {
        ProbeOutcome::Failure(format!(
            "timeout: failed to connect service \"{at}\" within {LATE}s: context deadline exceeded"
        ))
    };
    let closed = ClosedPort::new();
    let started = std::time::Instant::now();
    assert_eq!(ask(closed.address.port(), "", LATE).await, late(closed.address));
    assert!(started.elapsed() >= Duration::from_secs(LATE), "{:?}", started.elapsed());
    let web = Server::start(vec![answer("400 Bad Request", &[], "")]).await;
    assert_eq!(ask(web.address.port(), "", LATE).await, late(web.address));
    let silent = Server::start(vec![Does::Stalls(String::new())]).await;
    assert_eq!(ask(silent.address.port(), "", LATE).await, late(silent.address));
}

#[tokio::test]
async fn a_service_that_comes_up_in_time_is_healthy() {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let server = async {
        // The first connection is closed at once, the next one is served.
        drop(listener.accept().await.unwrap());
        let (stream, _) = listener.accept().await.unwrap();
        let server = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
        let _ = server.serve_connection(TokioIo::new(stream), serve(check)).await;
    };
    let outcome = tokio::select! {
        outcome = ask(port, "", SOON.as_secs()) => outcome,
        () = async { server.await; std::future::pending().await } => unreachable!(),
    };
    assert_eq!(outcome, ProbeOutcome::Success);
}

#[tokio::test]
async fn nothing_is_left_of_a_connection_that_took_too_long() {
    let settings = [0, 0, 0, SETTINGS, 0, 0, 0, 0, 0];
    for (said, text) in [
        (&[][..], "timeout: failed to connect service \"AT\" within 3s: context deadline exceeded"),
        (&settings, "timeout: health rpc did not complete within 3s"),
    ] {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let accept = async {
            let (mut stream, _) = listener.accept().await.unwrap();
            stream.write_all(said).await.unwrap();
            stream
        };
        let (outcome, mut stream) = tokio::join!(ask(address.port(), "", LATE), accept);
        let text = text.replace("AT", &address.to_string());
        assert_eq!(outcome, ProbeOutcome::Failure(text));
        // All that was sent, and its end, in whatever way.
        let mut nothing = Vec::new();
        let rest = tokio::time::timeout(SOON, stream.read_to_end(&mut nothing));
        rest.await.expect("the connection is closed").unwrap_or_default();
    }
}

#[tokio::test]
async fn a_server_that_finds_it_is_too_late_is_late() {
    let (address, _task) = health().await;
    let text = "timeout: health rpc did not complete within 1m0s";
    assert_eq!(ask(address.port(), "late", 60).await, ProbeOutcome::Failure(text.into()));
}
