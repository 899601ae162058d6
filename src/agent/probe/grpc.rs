//! A probe by gRPC's health protocol (`grpc.health.v1.Health/Check`), in plain text.

use std::time::Duration;

use copepod_pod::ProbeOutcome;
use futures_util::FutureExt;
use hyper::client::conn::http2;
use hyper::header::{HeaderValue, USER_AGENT};
use hyper::http::uri::PathAndQuery;
use hyper::{Request, Uri};
use hyper_util::rt::{TokioExecutor, TokioIo};
use k8s_openapi::api::core::v1::GRPCAction;
use tokio::time::{Instant, sleep, timeout_at};
use tonic::client::Grpc;
use tonic::{Code, Status};
use tonic_prost::ProstCodec;
use tower::service_fn;

use super::dial::dial;
use super::heard::{Head, Heard};
use super::{Target, VERSION, text};
use crate::runtime::cri::images::go_text;

/// The method.
const CHECK: &str = "/grpc.health.v1.Health/Check";
/// What lies between two connections that are tried (gRPC's first back-off).
const AGAIN: Duration = Duration::from_secs(1);
/// Bytes of an answer: one number.
const ANSWER_MAX: usize = 1 << 10;
/// Bytes of a HTTP/2 frame's head, and where its kind stands.
const FRAME: (usize, usize) = (9, 3);
/// The kind of a frame of settings, which is what a server says first.
const SETTINGS: u8 = 4;

/// `grpc.health.v1.HealthCheckRequest`.
#[derive(Clone, PartialEq, prost::Message)]
struct CheckRequest {
    #[prost(string, tag = "1")]
    service: String,
}

/// `grpc.health.v1.HealthCheckResponse`.
#[derive(Clone, PartialEq, prost::Message)]
struct CheckResponse {
    #[prost(enumeration = "ServingStatus", tag = "1")]
    status: i32,
}

/// `grpc.health.v1.HealthCheckResponse.ServingStatus`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, prost::Enumeration)]
#[repr(i32)]
enum ServingStatus {
    Unknown = 0,
    Serving = 1,
    NotServing = 2,
    ServiceUnknown = 3,
}

/// Asks a service how it is.
pub(super) async fn probe(
    action: &GRPCAction,
    target: Target<'_>,
    within: Duration,
) -> ProbeOutcome {
    let Some(ip) = target.ip else {
        return ProbeOutcome::Error("the pod has no address yet".into());
    };
    let Some(port) = u16::try_from(action.port).ok().filter(|port| *port > 0) else {
        return ProbeOutcome::Error(format!("invalid port number: {}", action.port));
    };
    let address = std::net::SocketAddr::new(ip, port);
    let (host, service) = (ip.to_string(), action.service.clone().unwrap_or_default());
    let deadline = Instant::now() + within;
    let took = copepod_pod::go_duration(within);
    loop {
        let head = Head::default();
        let checked = check(&host, port, &service, deadline, &head);
        match timeout_at(deadline, checked).await {
            Ok(Checked::Answer(Ok(answer))) => return served(answer.status()),
            Ok(Checked::Answer(Err(status))) => {
                return ProbeOutcome::Failure(refused(&status, &took));
            }
            // Upstream's client goes on trying, whatever the reason.
            Ok(Checked::NoConnection) if Instant::now() + AGAIN < deadline => sleep(AGAIN).await,
            Ok(Checked::NoConnection) => tokio::time::sleep_until(deadline).await,
            Err(_) if is_http2(&head) => return ProbeOutcome::Failure(late(&took)),
            Err(_) => {}
        }
        if Instant::now() >= deadline {
            return ProbeOutcome::Failure(format!(
                "timeout: failed to connect service \"{address}\" within {took}: context deadline \
                 exceeded"
            ));
        }
    }
}

/// What became of one connection.
enum Checked {
    Answer(Result<CheckResponse, Status>),
    NoConnection,
}

async fn check(host: &str, port: u16, service: &str, deadline: Instant, head: &Head) -> Checked {
    let Ok(tcp) = dial(host, port).await else { return Checked::NoConnection };
    let stream = TokioIo::new(Heard::new(tcp, head));
    let shaken = http2::handshake(TokioExecutor::new(), stream).await;
    let Ok((sender, connection)) = shaken else { return Checked::NoConnection };
    let send = service_fn(move |mut request: Request<tonic::body::Body>| {
        let agent = HeaderValue::try_from(format!("kube-probe/{VERSION}"));
        request.headers_mut().insert(USER_AGENT, agent.unwrap_or(HeaderValue::from_static("")));
        let mut sender = sender.clone();
        async move { sender.send_request(request).await }
    });
    let origin = Uri::builder().scheme("http").authority(text::joined(host, port));
    let Ok(origin) = origin.path_and_query("/").build() else { return Checked::NoConnection };
    let mut client = Grpc::with_origin(send, origin).max_decoding_message_size(ANSWER_MAX);
    let mut request = tonic::Request::new(CheckRequest { service: service.to_owned() });
    // Said to the server: how long is waited is up to the caller.
    request.set_timeout(deadline.saturating_duration_since(Instant::now()));
    let codec = ProstCodec::<CheckRequest, CheckResponse>::default();
    let call = client.unary(request, PathAndQuery::from_static(CHECK), codec);
    let connection = connection.fuse();
    tokio::pin!(call, connection);
    let answer = loop {
        tokio::select! {
            biased;
            answer = &mut call => break answer,
            // What became of it is told by the call.
            _ = &mut connection => {}
        }
    };
    match answer {
        Err(_) if !is_http2(head) => Checked::NoConnection,
        answer => Checked::Answer(answer.map(tonic::Response::into_inner)),
    }
}

/// Whether the peer speaks HTTP/2, which makes it connected for gRPC.
fn is_http2(head: &Head) -> bool {
    let bytes = head.bytes();
    bytes.len() >= FRAME.0 && bytes[FRAME.1] == SETTINGS
}

fn served(status: ServingStatus) -> ProbeOutcome {
    let name = match status {
        ServingStatus::Serving => return ProbeOutcome::Success,
        ServingStatus::Unknown => "UNKNOWN",
        ServingStatus::NotServing => "NOT_SERVING",
        ServingStatus::ServiceUnknown => "SERVICE_UNKNOWN",
    };
    ProbeOutcome::Failure(format!("service unhealthy (responded with {name:?})"))
}

fn late(took: &str) -> String {
    format!("timeout: health rpc did not complete within {took}")
}

/// `took`: what the probe may take, for a server that has found it to be over.
fn refused(status: &Status, took: &str) -> String {
    if status.code() == Code::DeadlineExceeded {
        return late(took);
    }
    if status.code() == Code::Unimplemented {
        return format!(
            "error: this server does not implement the grpc health protocol \
             (grpc.health.v1.Health): {}",
            status.message()
        );
    }
    format!("error: health rpc probe failed: {}", go_text(status))
}

#[cfg(test)]
#[path = "grpc_test.rs"]
mod tests;
