//! The API server as a test asks it: objects by kind, namespace and name, as JSON.

use std::io::{BufRead, BufReader};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::cluster::metrics::Metrics;
use crate::https::{Answer, Client};

/// One user's view of the API server.
#[derive(Clone, Debug)]
pub struct Api(pub(super) Client);

/// Where the objects of a kind are: the group's path and whether they lie in namespaces.
fn group(kind: &str) -> (&'static str, bool) {
    match kind {
        "nodes" | "namespaces" => ("/api/v1", false),
        "pods" | "configmaps" | "secrets" | "services" | "events" | "serviceaccounts"
        | "endpoints" => ("/api/v1", true),
        "deployments" | "replicasets" | "daemonsets" => ("/apis/apps/v1", true),
        "jobs" => ("/apis/batch/v1", true),
        "leases" => ("/apis/coordination.k8s.io/v1", true),
        "runtimeclasses" => ("/apis/node.k8s.io/v1", false),
        "priorityclasses" => ("/apis/scheduling.k8s.io/v1", false),
        "clusterroles" | "clusterrolebindings" => ("/apis/rbac.authorization.k8s.io/v1", false),
        "roles" | "rolebindings" => ("/apis/rbac.authorization.k8s.io/v1", true),
        other => panic!("{other:?}: add its group to tests/cluster/api.rs"),
    }
}

/// The path of the objects of a kind: of one namespace, or of all if none is named.
pub fn path(kind: &str, namespace: &str) -> String {
    let (group, namespaced) = group(kind);
    if namespaced && !namespace.is_empty() {
        format!("{group}/namespaces/{namespace}/{kind}")
    } else {
        format!("{group}/{kind}")
    }
}

impl Api {
    /// The connection's own kind of request, for what has no name here.
    pub fn client(&self) -> &Client {
        &self.0
    }

    /// A request with JSON: the status code and the answer's JSON (or text).
    #[track_caller]
    pub fn request(&self, method: &str, path: &str, body: Option<&Value>) -> (u16, Value) {
        let kind = match (body, method) {
            (None, _) => "",
            (Some(_), "PATCH") => "application/strategic-merge-patch+json",
            (Some(_), _) => "application/json",
        };
        let bytes = body.map(|value| value.to_string().into_bytes()).unwrap_or_default();
        let (code, bytes) = self
            .0
            .request(method, path, kind, &bytes)
            .unwrap_or_else(|error| panic!("{method} {path}: {error}"));
        let value = serde_json::from_slice(&bytes)
            .unwrap_or_else(|_| Value::String(String::from_utf8_lossy(&bytes).into_owned()));
        (code, value)
    }

    #[track_caller]
    fn done(&self, method: &str, path: &str, body: Option<&Value>) -> Value {
        let (code, value) = self.request(method, path, body);
        assert!((200..300).contains(&code), "{method} {path}: {code} {value}");
        value
    }

    /// An object; none where there is none.
    #[track_caller]
    pub fn get(&self, kind: &str, namespace: &str, name: &str) -> Option<Value> {
        let path = format!("{}/{name}", path(kind, namespace));
        let (code, value) = self.request("GET", &path, None);
        assert!(code == 200 || code == 404, "GET {path}: {code} {value}");
        (code == 200).then_some(value)
    }

    /// All objects of a kind, of one namespace or (`""`) of all.
    #[track_caller]
    pub fn list(&self, kind: &str, namespace: &str) -> Vec<Value> {
        self.select(kind, namespace, "")
    }

    /// The same, with a query such as `fieldSelector=spec.nodeName%3Dn`.
    #[track_caller]
    pub fn select(&self, kind: &str, namespace: &str, query: &str) -> Vec<Value> {
        let path = format!("{}?{query}", path(kind, namespace));
        let mut list = self.done("GET", &path, None);
        // A list of nothing may have none.
        list["items"].as_array_mut().map(std::mem::take).unwrap_or_default()
    }

    /// Makes an object and gives it as it was stored.
    #[track_caller]
    pub fn create(&self, kind: &str, namespace: &str, object: &Value) -> Value {
        self.done("POST", &path(kind, namespace), Some(object))
    }

    /// Merges into an object, strategically.
    #[track_caller]
    pub fn patch(&self, kind: &str, namespace: &str, name: &str, patch: &Value) -> Value {
        self.done("PATCH", &format!("{}/{name}", path(kind, namespace)), Some(patch))
    }

    /// Asks for the end of an object; one that is gone already is no failure.
    #[track_caller]
    pub fn delete(&self, kind: &str, namespace: &str, name: &str) {
        let path = format!("{}/{name}", path(kind, namespace));
        let (code, value) = self.request("DELETE", &path, None);
        assert!((200..300).contains(&code) || code == 404, "DELETE {path}: {code} {value}");
    }

    /// Asks for the end of all objects of a kind in a namespace.
    #[track_caller]
    pub fn delete_all(&self, kind: &str, namespace: &str) {
        assert!(!namespace.is_empty(), "of one namespace");
        self.done("DELETE", &path(kind, namespace), None);
    }

    /// The figures of the API server.
    #[track_caller]
    pub fn metrics(&self) -> Metrics {
        let (code, text) = self.0.get("/metrics").expect("the API server answers");
        assert_eq!(code, 200, "{text}");
        Metrics::parse(&text)
    }

    /// The changes of a kind's objects from now on, each as it comes.
    #[track_caller]
    pub fn watch(&self, kind: &str, namespace: &str) -> Watch {
        let path = path(kind, namespace);
        let list = self.done("GET", &format!("{path}?limit=1"), None);
        let version = list["metadata"]["resourceVersion"].as_str().expect("a list has one");
        let query = format!("{path}?watch=1&allowWatchBookmarks=true&resourceVersion={version}");
        let answer = self.0.open("GET", &query, "", &[]).expect("the API server answers");
        assert_eq!(answer.code, 200, "{query}");
        Watch(BufReader::new(answer))
    }
}

/// A stream of changes.
#[derive(Debug)]
pub struct Watch(BufReader<Answer>);

impl Watch {
    /// Its connection: shut down, the watch ends for who reads it.
    pub fn connection(&self) -> std::net::TcpStream {
        self.0.get_ref().connection().expect("a descriptor")
    }

    /// The next change (`ADDED`, `MODIFIED`, `DELETED`) and its object, with the moment it was
    /// read; none if none comes within the time.
    ///
    /// After a time that is over, the stream may stand in the middle of a change: it is for the
    /// end of a test, not to be gone on with.
    #[track_caller]
    pub fn next(&mut self, within: Duration) -> Option<(String, Value, Instant)> {
        let end = Instant::now() + within;
        loop {
            let left = end.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
            self.0.get_ref().set_silence(left).expect("the connection is there");
            let mut line = Vec::new();
            match self.0.read_until(b'\n', &mut line) {
                Ok(0) | Err(_) => return None,
                Ok(_) => {}
            }
            let read = Instant::now();
            let mut change: Value = serde_json::from_slice(&line).expect("a change is JSON");
            match change["type"].as_str() {
                Some("BOOKMARK") => {}
                Some("ERROR") | None => panic!("the watch failed: {change}"),
                Some(kind) => return Some((kind.to_owned(), change["object"].take(), read)),
            }
        }
    }
}
