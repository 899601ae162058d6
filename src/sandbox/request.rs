//! One request: a fresh instance of the guest, its response, and its failure.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use copepod_wasm::state::Exit;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::header::{CONNECTION, CONTENT_TYPE, HeaderValue};
use hyper::{Request, Response, StatusCode};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use wasmtime_wasi_http::WasiHttpView;
use wasmtime_wasi_http::p2::bindings::ProxyPre;
use wasmtime_wasi_http::p2::bindings::http::types::{ErrorCode, Scheme};
use wasmtime_wasi_http::p2::body::HyperOutgoingBody;

use crate::exit;
use crate::guest::{ComponentState, Template};
use crate::log::Log;

/// What the client is told; what happened is in the container's log, not for everybody.
const FAILED: &str = "the guest failed\n";
/// What a client is told whose request no guest can be given.
const MALFORMED: &str = "the request has no valid host\n";

type Outcome = Result<Response<HyperOutgoingBody>, ErrorCode>;

/// What all requests share.
pub(crate) struct Handler {
    pre: ProxyPre<ComponentState>,
    template: Template,
    log: Log,
    failed: mpsc::Sender<Exit>,
}

impl Handler {
    /// `failed` is told when the guest has failed for want of memory.
    pub(crate) fn new(
        pre: ProxyPre<ComponentState>,
        template: Template,
        log: Log,
        failed: mpsc::Sender<Exit>,
    ) -> Self {
        Self { pre, template, log, failed }
    }

    /// Answers one request. Never fails: a guest that does is a response 500 and a line in the
    /// log. The guest works on in a task of its own, under a permit of `requests`, since it may
    /// stream its body or do more after it.
    pub(crate) async fn handle(
        self: Arc<Self>,
        request: Request<Incoming>,
        requests: Arc<Semaphore>,
        stopping: Arc<AtomicBool>,
    ) -> wasmtime::Result<Response<HyperOutgoingBody>> {
        let permit = requests.acquire_owned().await?;
        let mut response = self.answer(request, permit).await;
        if stopping.load(Ordering::Relaxed) {
            response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        }
        Ok(response)
    }

    async fn answer(
        self: Arc<Self>,
        request: Request<Incoming>,
        permit: OwnedSemaphorePermit,
    ) -> Response<HyperOutgoingBody> {
        let (sender, receiver) = oneshot::channel();
        let what = format!("{} {}", request.method(), request.uri().path());
        let mut store = self.template.component_store(self.pre.engine());
        let Ok(request) = store.data_mut().http().new_incoming_request(Scheme::Http, request)
        else {
            return text(StatusCode::BAD_REQUEST, MALFORMED);
        };
        let handler = self.clone();
        let guest = async move {
            let result = async {
                let out = store.data_mut().http().new_response_outparam(sender)?;
                let proxy = handler.pre.instantiate_async(&mut store).await?;
                proxy.wasi_http_incoming_handler().call_handle(&mut store, request, out).await
            };
            if let Err(e) = result.await {
                handler.failed(&what, &e, store.data());
            }
            drop(permit);
        };
        tokio::spawn(guest);
        match receiver.await {
            Ok(outcome) => self.response(outcome),
            // The guest ended without an answer; if it was by a trap, that is in the log already.
            Err(_) => text(StatusCode::INTERNAL_SERVER_ERROR, FAILED),
        }
    }

    fn response(&self, outcome: Outcome) -> Response<HyperOutgoingBody> {
        outcome.unwrap_or_else(|code| {
            self.log.note(&format!("copepod: the guest answered with the error {code:?}"));
            text(StatusCode::INTERNAL_SERVER_ERROR, FAILED)
        })
    }

    /// Tells of a run that ended with an error; for want of memory, the container ends.
    fn failed(&self, what: &str, error: &wasmtime::Error, state: &ComponentState) {
        let trap = exit::trap_text(error);
        self.log.note(&format!("copepod: {what}: the guest failed: {trap}"));
        if let Some(refused) = state.limiter.refused() {
            // Full means that another request has told it first.
            let _ = self.failed.try_send(exit::out_of_memory(refused, &trap));
        }
    }
}

fn text(status: StatusCode, text: &'static str) -> Response<HyperOutgoingBody> {
    let body = Full::new(Bytes::from_static(text.as_bytes())).map_err(|never| match never {});
    let mut response = Response::new(body.boxed_unsync());
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain"));
    response
}
