//! The tasks against an API server of a few lines: what is asked of it in which order, and what
//! becomes of its refusals. `tests` has them against a real one.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::{Method, Request, Response, StatusCode};
use kube::client::Body;
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tower::service_fn;

use super::*;

/// An API server: objects by path, and every request that came.
#[derive(Clone, Default)]
struct Api {
    objects: Arc<Mutex<BTreeMap<String, Value>>>,
    version: Arc<AtomicUsize>,
    /// The node was put there.
    changed: Arc<Notify>,
    /// Answers that go before the true ones: method and path with a status.
    refusals: Arc<Mutex<Vec<Refusal>>>,
}

/// Far longer than anything here takes, on a machine with other work too.
const SOON: Duration = Duration::from_secs(60);

type Refusal = (Method, &'static str, StatusCode);

const NODE: &str = "/api/v1/nodes/n1";
const LEASE: &str = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases/n1";

impl Api {
    /// A client, and all requests that are answered with success.
    fn client(&self) -> (kube::Client, mpsc::UnboundedReceiver<(Method, String)>) {
        let (log, requests) = mpsc::unbounded_channel();
        let api = self.clone();
        let service = service_fn(move |request: Request<Body>| {
            let (api, log) = (api.clone(), log.clone());
            async move {
                let (parts, body) = request.into_parts();
                let body = body.collect().await.expect("a body").to_bytes();
                let path = parts.uri.path().to_owned();
                if parts.uri.query().is_some_and(|query| query.contains("watch=true")) {
                    std::future::pending::<()>().await;
                }
                // Instead of a watch: the list comes once there is something in it.
                while path == "/api/v1/nodes" && parts.method == Method::GET && !api.has(NODE) {
                    api.changed.notified().await;
                }
                let (status, answer) = api.answer(&parts.method, &path, &body);
                api.changed.notify_one();
                if status.is_success() {
                    let _ = log.send((parts.method, path));
                }
                let answer = Full::new(Bytes::from(answer.to_string()));
                Ok::<_, std::convert::Infallible>(
                    Response::builder().status(status).body(answer).expect("an answer"),
                )
            }
        });
        (kube::Client::new(service, "default"), requests)
    }

    fn answer(&self, method: &Method, path: &str, body: &[u8]) -> (StatusCode, Value) {
        let refuse = |status: StatusCode, reason: &str| {
            let answer = json!({"kind": "Status", "status": "Failure", "message": reason,
                "reason": reason, "code": status.as_u16()});
            (status, answer)
        };
        let mut refusals = self.refusals.lock().expect("no panic");
        if let Some(at) = refusals.iter().position(|(m, p, _)| m == method && path.starts_with(p)) {
            return refuse(refusals.remove(at).2, "Refused");
        }
        let mut objects = self.objects.lock().expect("no panic");
        let body = serde_json::from_slice::<Value>(body).unwrap_or_default();
        let name = body["metadata"]["name"].as_str().unwrap_or_default();
        let path = path.trim_end_matches("/status");
        match *method {
            Method::POST if objects.contains_key(&format!("{path}/{name}")) => {
                refuse(StatusCode::CONFLICT, "AlreadyExists")
            }
            Method::POST => {
                let object = self.versioned(body.clone());
                objects.insert(format!("{path}/{name}"), object.clone());
                (StatusCode::CREATED, object)
            }
            Method::GET if path == "/api/v1/nodes" => {
                let items: Vec<_> = objects.get(NODE).into_iter().cloned().collect();
                let list = json!({"kind": "NodeList", "apiVersion": "v1",
                    "metadata": {"resourceVersion": "1"}, "items": items});
                (StatusCode::OK, list)
            }
            _ if !objects.contains_key(path) => refuse(StatusCode::NOT_FOUND, "NotFound"),
            Method::PUT => {
                let version = |object: &Value| object["metadata"]["resourceVersion"].clone();
                if version(&objects[path]) != version(&body) {
                    return refuse(StatusCode::CONFLICT, "Conflict");
                }
                objects.insert(path.into(), self.versioned(body));
                (StatusCode::OK, objects[path].clone())
            }
            Method::PATCH => {
                let mut object = objects[path].clone();
                merge(&mut object, &body);
                objects.insert(path.into(), self.versioned(object));
                (StatusCode::OK, objects[path].clone())
            }
            _ => (StatusCode::OK, objects[path].clone()),
        }
    }

    fn versioned(&self, mut object: Value) -> Value {
        let version = self.version.fetch_add(1, Ordering::Relaxed) + 10;
        object["metadata"]["resourceVersion"] = json!(version.to_string());
        if object["metadata"]["uid"].is_null() {
            object["metadata"]["uid"] = json!(format!("uid-{version}"));
        }
        object
    }

    fn has(&self, path: &str) -> bool {
        self.objects.lock().expect("no panic").contains_key(path)
    }

    fn object(&self, path: &str) -> Value {
        self.objects.lock().expect("no panic").get(path).cloned().unwrap_or_default()
    }

    fn refuse(&self, method: Method, path: &'static str, status: StatusCode) {
        self.refusals.lock().expect("no panic").push((method, path, status));
    }
}

/// A merge patch, with conditions by their type.
fn merge(object: &mut Value, patch: &Value) {
    let Some(patch) = patch.as_object() else { return };
    for (key, value) in patch {
        match (key.as_str(), value) {
            ("conditions", Value::Array(changes)) => {
                for change in changes {
                    let all = object[key].as_array_mut().expect("a list");
                    match all.iter_mut().find(|other| other["type"] == change["type"]) {
                        Some(one) => merge(one, change),
                        None => all.push(change.clone()),
                    }
                }
            }
            (_, Value::Object(_)) if object[key].is_object() => merge(&mut object[key], value),
            (_, value) => object[key] = value.clone(),
        }
    }
}

/// A node whose status is computed each 20 ms.
fn start_node(
    client: kube::Client,
) -> (NodeHandle, mpsc::Receiver<k8s_openapi::api::core::v1::Event>) {
    let (recorder, events) = Recorder::for_test();
    let mut options = NodeOptions::new("n1".into(), "/".into());
    options.update_every = Duration::from_millis(20);
    options.lease_seconds = 1;
    (start(client, options, recorder), events)
}

type Requests = mpsc::UnboundedReceiver<(Method, String)>;

/// The next of what comes.
async fn next<T>(what: &str, coming: impl Future<Output = Option<T>>) -> T {
    tokio::time::timeout(SOON, coming).await.ok().flatten().unwrap_or_else(|| panic!("no {what}"))
}

/// Waits for a request to this path.
async fn until(requests: &mut Requests, method: Method, path: &str) {
    let what = format!("{method} {path}");
    let wanted = Some((method, path.to_owned()));
    let wait = async {
        loop {
            match requests.recv().await {
                request if request == wanted => return request,
                Some(_) => {}
                None => return None,
            }
        }
    };
    next(&what, wait).await;
}

fn ready(node: &Value) -> String {
    let conditions = node["status"]["conditions"].as_array().cloned().unwrap_or_default();
    let ready = conditions.into_iter().find(|condition| condition["type"] == "Ready");
    ready.map(|ready| ready["status"].as_str().unwrap_or_default().to_owned()).unwrap_or_default()
}

#[tokio::test]
async fn a_node_is_registered_gets_ready_and_comes_back_once_deleted() {
    let api = Api::default();
    api.refuse(Method::POST, "/api/v1/nodes", StatusCode::INTERNAL_SERVER_ERROR);
    let (client, mut requests) = api.client();
    let (node, mut events) = start_node(client);
    until(&mut requests, Method::POST, "/api/v1/nodes").await;
    assert_eq!(ready(&api.object(NODE)), "False");
    node.set_problems(Vec::new());
    until(&mut requests, Method::PATCH, "/api/v1/nodes/n1/status").await;
    assert_eq!(ready(&api.object(NODE)), "True");
    let mut said = Vec::new();
    while said.last().is_none_or(|last| last != "NodeReady") {
        said.push(next("event", events.recv()).await.reason.expect("a reason"));
    }
    assert_eq!(
        said,
        [
            "Starting",
            "NodeHasSufficientMemory",
            "NodeHasNoDiskPressure",
            "NodeHasSufficientPID",
            "NodeReady",
        ]
    );
    node.set_problems(vec!["node is shutting down".into()]);
    until(&mut requests, Method::PATCH, "/api/v1/nodes/n1/status").await;
    assert_eq!(ready(&api.object(NODE)), "False");
    api.objects.lock().expect("no panic").remove(NODE);
    node.set_problems(Vec::new());
    until(&mut requests, Method::POST, "/api/v1/nodes").await;
    assert_eq!(ready(&api.object(NODE)), "True", "what is known goes into the new one at once");
}

#[tokio::test]
async fn a_status_that_says_nothing_new_is_not_written() {
    let api = Api::default();
    let (client, mut requests) = api.client();
    let (node, _events) = start_node(client);
    node.set_problems(Vec::new());
    until(&mut requests, Method::POST, "/api/v1/nodes").await;
    // Five renewals of the lease (1.3 s, some ten statuses) are enough for one status at most: the
    // first one after a start, unless the registration has just said the same.
    let mut patches = 0;
    for _ in 0..5 {
        loop {
            let (method, path) = next("request", requests.recv()).await;
            if (&method, path.as_str()) == (&Method::PUT, LEASE) {
                break;
            }
            patches += usize::from(method == Method::PATCH);
        }
    }
    assert!(patches <= 1, "{patches} statuses were written");
    node.set_images(vec![ContainerImage { names: None, size_bytes: Some(7) }]);
    until(&mut requests, Method::PATCH, "/api/v1/nodes/n1/status").await;
    assert_eq!(api.object(NODE)["status"]["images"], json!([{"sizeBytes": 7}]));
}

#[tokio::test]
async fn the_lease_has_one_owner_and_survives_conflict_and_removal() {
    let api = Api::default();
    let (client, mut requests) = api.client();
    let (_node, _events) = start_node(client);
    let leases = LEASE.trim_end_matches("/n1");
    until(&mut requests, Method::POST, leases).await;
    let lease = api.object(LEASE);
    let node_uid = api.object(NODE)["metadata"]["uid"].clone();
    assert_eq!(
        lease["metadata"]["ownerReferences"],
        json!([{"apiVersion": "v1", "kind": "Node", "name": "n1", "uid": node_uid}])
    );
    assert_eq!(lease["spec"]["holderIdentity"], "n1");
    assert_eq!(lease["spec"]["leaseDurationSeconds"], 1);
    let micro = lease["spec"]["renewTime"].as_str().expect("a time").len();
    assert_eq!(micro, "2026-01-01T00:00:00.000000Z".len());
    until(&mut requests, Method::PUT, LEASE).await;
    let foreign = json!({"metadata": {"name": "n1", "resourceVersion": "1"}, "spec": {}});
    api.objects.lock().expect("no panic").insert(LEASE.into(), foreign);
    until(&mut requests, Method::GET, LEASE).await;
    until(&mut requests, Method::PUT, LEASE).await;
    assert_eq!(api.object(LEASE)["metadata"]["ownerReferences"][0]["kind"], "Node");
    api.objects.lock().expect("no panic").remove(LEASE);
    until(&mut requests, Method::POST, leases).await;
    api.refuse(Method::PUT, LEASE, StatusCode::SERVICE_UNAVAILABLE);
    until(&mut requests, Method::PUT, LEASE).await;
}

#[test]
fn pauses_grow_up_to_seven_seconds() {
    let mut back_off = BackOff::new();
    let pauses: Vec<_> = (0..9).map(|_| back_off.next().as_millis()).collect();
    assert_eq!(pauses, [100, 200, 400, 800, 1600, 3200, 6400, 7000, 7000]);
}
