//! What a runtime at a socket is told of a pod's resources, and what is made of its answers.

use std::convert::Infallible;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use copepod_cri::UpdatePodSandboxResourcesRequest;
use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper::{HeaderMap, Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo};
use prost::Message;
use tokio::net::UnixListener;
use tonic::Code;

use super::super::table::{Sandbox, Table};
use super::*;
use crate::telemetry::chain;

/// What a runtime was told: the method, and the request.
type Told = Arc<Mutex<Vec<(String, UpdatePodSandboxResourcesRequest)>>>;

/// Serves a runtime that answers each call so; what it was told.
fn serve(socket: &Path, code: Code, text: &'static str) -> Told {
    let (told, listener) = (Told::default(), UnixListener::bind(socket).unwrap());
    let kept = Arc::clone(&told);
    tokio::spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        let answer = service_fn(move |request: Request<Incoming>| {
            let told = Arc::clone(&kept);
            async move {
                let method = request.uri().path().rsplit('/').next().unwrap().to_owned();
                let body = request.into_body().collect().await.unwrap().to_bytes();
                // One byte that says whether it is compressed, four of the length.
                let message = UpdatePodSandboxResourcesRequest::decode(&body[5..]).unwrap();
                told.lock().unwrap().push((method, message));
                let mut end = HeaderMap::new();
                end.insert("grpc-status", i32::from(code).into());
                end.insert("grpc-message", text.parse().unwrap());
                let body = Full::new(Bytes::from_static(&[0; 5]));
                let mut response =
                    Response::new(body.with_trailers(std::future::ready(Some(Ok(end)))));
                let kind = "application/grpc".parse().unwrap();
                response.headers_mut().insert("content-type", kind);
                Ok::<_, Infallible>(response)
            }
        });
        let server = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
        let _ = server.serve_connection(TokioIo::new(stream), answer).await;
    });
    told
}

#[tokio::test]
async fn a_runtime_is_told_and_may_refuse() {
    let resources = SandboxResources {
        overhead: LinuxContainerResources { cpu_shares: 7, ..Default::default() },
        containers: LinuxContainerResources { memory_limit_in_bytes: 9, ..Default::default() },
    };
    let refused = |text: &str| {
        Some(format!("updatePodSandboxResources failed for sanboxID \"box\": rpc error: {text}"))
    };
    for (code, text, failure) in [
        (Code::Ok, "", None),
        (Code::Unimplemented, "unknown method", None),
        (Code::Unknown, "method UpdatePodSandboxResources not implemented yet", None),
        (Code::Unknown, "no room", refused("code = Unknown desc = no room")),
        (Code::Internal, "not implemented", refused("code = Internal desc = not implemented")),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("cri.sock");
        let told = serve(&socket, code, text);
        let endpoint = format!("unix://{}", socket.display());
        let client = Client::new(&endpoint, None, Duration::from_secs(30)).unwrap();
        let answer = tell(&client, "box".into(), resources.clone()).await;
        assert_eq!(answer.err().map(|error| chain(&error)), failure, "{code} {text}");
        let request = UpdatePodSandboxResourcesRequest {
            pod_sandbox_id: "box".into(),
            overhead: Some(resources.overhead.clone()),
            resources: Some(resources.containers.clone()),
        };
        let method = "UpdatePodSandboxResources".to_owned();
        assert_eq!(*told.lock().unwrap(), [(method, request)]);
    }
}

#[test]
fn it_is_the_pods_sandbox_that_stands() {
    let table = Table::default();
    for (id, pod, generation, ready, stopped) in [
        ("old", "pod", 0, true, false),
        ("new", "pod", 1, true, false),
        ("dead", "pod", 2, false, false),
        ("ends", "pod", 3, true, true),
        ("of-another", "other", 4, true, false),
    ] {
        let pod_uid = pod.to_owned();
        let sandbox = Sandbox { pod_uid, generation, ready, created_at: 0, stopped, changed: 0 };
        table.lock().set_sandbox(id, sandbox);
    }
    assert_eq!(table.lock().standing("pod").as_deref(), Some("new"));
    assert_eq!(table.lock().standing("none"), None);
}
