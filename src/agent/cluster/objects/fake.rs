//! An API server that a test is in charge of, behind the edge of `kube::Client`.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use futures_util::{StreamExt, stream};
use http_body_util::{BodyExt, Full, StreamBody, combinators::UnsyncBoxBody};
use hyper::body::Frame;
use hyper::{Method, Request, Response};
use kube::client::Body;
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tower::BoxError;

use super::changes::lock;

type Answer = Response<UnsyncBoxBody<Bytes, BoxError>>;

/// The server.
#[derive(Clone, Default)]
pub(super) struct Fake(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    /// By path.
    objects: BTreeMap<String, Value>,
    version: u64,
    /// Path of the list, name or nothing, and where events go.
    watches: Vec<(String, String, mpsc::UnboundedSender<Value>)>,
    /// `METHOD PATH?QUERY`.
    requests: Vec<String>,
    /// Answers to the next requests instead of the proper ones: status, kind and message.
    refusals: VecDeque<(u16, &'static str, String)>,
    is_down: bool,
    token_seconds: i64,
    /// Bodies of token requests.
    token_requests: Vec<Value>,
}

impl Fake {
    pub(super) fn new() -> Self {
        let fake = Self::default();
        lock(&fake.0).token_seconds = 3600;
        fake
    }

    pub(super) fn client(&self) -> kube::Client {
        let fake = self.clone();
        let service = tower::service_fn(move |request: Request<Body>| {
            let fake = fake.clone();
            async move { fake.answer(request).await }
        });
        kube::Client::new(service, "default")
    }

    /// Makes or changes the object at `path`; watches see it.
    pub(super) fn put(&self, path: &str, mut object: Value) {
        let mut state = lock(&self.0);
        state.version += 1;
        let parts: Vec<&str> = path.split('/').collect();
        object["metadata"]["name"] = json!(parts.last());
        object["metadata"]["namespace"] = json!(parts.get(4));
        object["metadata"]["resourceVersion"] = json!(state.version.to_string());
        let event = if state.objects.contains_key(path) { "MODIFIED" } else { "ADDED" };
        state.objects.insert(path.into(), object.clone());
        state.tell(path, json!({"type": event, "object": object}));
    }

    pub(super) fn delete(&self, path: &str) {
        let mut state = lock(&self.0);
        state.version += 1;
        let mut object = state.objects.remove(path).expect("is there");
        object["metadata"]["resourceVersion"] = json!(state.version.to_string());
        state.tell(path, json!({"type": "DELETED", "object": object}));
    }

    /// Sends this on all watches.
    pub(super) fn send(&self, event: &Value) {
        let state = lock(&self.0);
        state.watches.iter().for_each(|(.., events)| drop(events.send(event.clone())));
    }

    /// Refuses the next requests, as many as `times`.
    pub(super) fn refuse(&self, times: usize, code: u16, kind: &'static str, message: &str) {
        let refusal = (code, kind, message.to_owned());
        lock(&self.0).refusals.extend(std::iter::repeat_n(refusal, times));
    }

    /// Cannot be reached any more, or again; all watches break.
    pub(super) fn set_down(&self, is_down: bool) {
        let mut state = lock(&self.0);
        (state.is_down, state.watches) = (is_down, Vec::new());
    }

    pub(super) fn set_token_seconds(&self, seconds: i64) {
        lock(&self.0).token_seconds = seconds;
    }

    /// Open watches on the object at `path`.
    pub(super) fn watches(&self, path: &str) -> usize {
        let mut state = lock(&self.0);
        state.watches.retain(|(.., events)| !events.is_closed());
        let same = |(of, name, _): &&(String, String, _)| format!("{of}/{name}") == path;
        state.watches.iter().filter(same).count()
    }

    /// Requests that start so.
    pub(super) fn requests(&self, start: &str) -> Vec<String> {
        let state = lock(&self.0);
        state.requests.iter().filter(|one| one.starts_with(start)).cloned().collect()
    }

    pub(super) fn token_requests(&self) -> Vec<Value> {
        lock(&self.0).token_requests.clone()
    }

    async fn answer(&self, request: Request<Body>) -> Result<Answer, BoxError> {
        let (head, body) = request.into_parts();
        let body = body.collect().await?.to_bytes();
        let mut state = lock(&self.0);
        state.requests.push(format!("{} {}", head.method, head.uri));
        if state.is_down {
            return Err("connection refused".into());
        }
        if let Some((code, kind, message)) = state.refusals.pop_front() {
            return Ok(status(code, kind, &message));
        }
        let path = head.uri.path().to_owned();
        if head.method == Method::POST {
            return Ok(state.token(&body));
        }
        let query = head.uri.query().unwrap_or_default();
        if !query.contains("fieldSelector=") {
            return Ok(match state.objects.get(&path) {
                Some(object) => whole(200, object),
                None => status(404, "", &format!("{path} not found")),
            });
        }
        let name = query.split('&').find_map(|part| part.strip_prefix("fieldSelector="));
        let name = name.and_then(|selector| selector.strip_prefix("metadata.name%3D"));
        let name = name.unwrap_or_default().to_owned();
        Ok(if query.contains("watch=true") {
            state.watch(path, name)
        } else {
            state.list(&path, &name)
        })
    }
}

impl State {
    fn tell(&mut self, path: &str, event: Value) {
        for (of, name, events) in &self.watches {
            let one = format!("{of}/{name}");
            // Services of all namespaces are watched at once.
            if one == path || (name.is_empty() && path.contains("/services/")) {
                let _ = events.send(event.clone());
            }
        }
    }

    fn list(&self, path: &str, name: &str) -> Answer {
        let is_in = |at: &str| match name {
            "" => at.contains("/services/"),
            name => at == format!("{path}/{name}"),
        };
        let items: Vec<&Value> =
            self.objects.iter().filter(|(at, _)| is_in(at)).map(|(_, object)| object).collect();
        let version = self.version.to_string();
        whole(200, &json!({"metadata": {"resourceVersion": version}, "items": items}))
    }

    fn watch(&mut self, path: String, name: String) -> Answer {
        let (events, incoming) = mpsc::unbounded_channel();
        self.watches.push((path, name, events));
        let lines = stream::unfold(incoming, |mut incoming| async move {
            let event: Value = incoming.recv().await?;
            Some((event.to_string() + "\n", incoming))
        });
        // Each line comes in two pieces.
        let pieces = lines.flat_map(|line| {
            let (one, two) = line.split_at(line.len() / 2);
            stream::iter([one.to_owned(), two.to_owned()])
        });
        let frames = pieces.map(|piece| Ok(Frame::data(Bytes::from(piece))));
        Response::new(StreamBody::new(frames).boxed_unsync())
    }

    fn token(&mut self, body: &[u8]) -> Answer {
        let request: Value = serde_json::from_slice(body).expect("JSON");
        self.token_requests.push(request.clone());
        let life = jiff::SignedDuration::from_secs(self.token_seconds);
        let expires = jiff::Timestamp::now() + life;
        let token = format!("token {}", self.token_requests.len());
        let mut answer = request;
        answer["spec"]["expirationSeconds"] = json!(self.token_seconds);
        answer["status"] = json!({"token": token, "expirationTimestamp": expires.to_string()});
        whole(201, &answer)
    }
}

fn whole(code: u16, object: &Value) -> Answer {
    let body = Full::new(Bytes::from(object.to_string())).map_err(|never| match never {});
    Response::builder().status(code).body(body.boxed_unsync()).expect("an answer")
}

fn status(code: u16, kind: &str, message: &str) -> Answer {
    let details = json!({"kind": kind});
    whole(
        code,
        &json!({"kind": "Status", "status": "Failure", "code": code, "message": message,
            "details": details}),
    )
}
