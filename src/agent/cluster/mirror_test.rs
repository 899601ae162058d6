use std::sync::atomic::{AtomicU16, Ordering};

use copepod_pod::{Origin, static_pod};
use serde_json::{Value, json};
use tokio::time::timeout;

use super::*;
use crate::cluster::test_server::{Asked, NODE, PATIENCE, Reply, Server, patient};

const QUICK: Times = Times {
    first: Duration::from_millis(1),
    unreached: Duration::from_millis(20),
    refused: Duration::from_millis(20),
};
const PODS: &str = "/api/v1/namespaces/default/pods";

fn web(image: &str) -> Arc<Pod> {
    let pod = json!({"metadata": {"name": "web"}, "spec": {"containers": [{"name": "c", "image": image}]}});
    let pod = serde_json::from_value(pod).expect("a pod");
    Arc::new(static_pod(pod, Origin::File("/m/web.yaml"), NODE).expect("a static pod"))
}

/// The mirror as the API server has it.
fn shown(pod: &Pod, uid: &str, version: u64) -> Arc<Pod> {
    let mut mirror = mirror_of(pod, NODE, "node-uid");
    mirror.metadata.uid = Some(uid.into());
    mirror.metadata.resource_version = Some(version.to_string());
    Arc::new(mirror)
}

fn object(pod: &Pod) -> Value {
    serde_json::to_value(pod).expect("JSON")
}

fn refusal(code: u16, reason: &str) -> Reply {
    let status = json!({"kind": "Status", "status": "Failure", "code": code, "reason": reason,
        "message": reason});
    Reply::Json(code, status)
}

fn node() -> Arc<Node> {
    let node = json!({"metadata": {"name": NODE, "uid": "node-uid"}});
    Arc::new(serde_json::from_value(node).expect("a node"))
}

/// Answers a POST with what was sent, as the API server has it then, and a DELETE with a word.
fn obliging(asked: &Asked) -> Reply {
    match asked.method.as_str() {
        "POST" => {
            let mut made = asked.body.clone();
            made["metadata"]["uid"] = "made".into();
            made["metadata"]["resourceVersion"] = "100".into();
            Reply::Json(201, made)
        }
        _ => Reply::Json(200, json!({"kind": "Status", "status": "Success"})),
    }
}

struct Bench {
    server: Server,
    mirrors: Mirrors,
    node: watch::Sender<Option<Arc<Node>>>,
}

impl Bench {
    async fn start(handler: impl Fn(&Asked) -> Reply + Send + Sync + 'static) -> Self {
        let server = Server::start(handler).await;
        let (node, seen) = watch::channel(Some(node()));
        let client = server.client(patient());
        Self { mirrors: Mirrors::start(client, seen, QUICK), server, node }
    }

    /// The requests, once there are so many.
    async fn lines(&mut self, count: usize) -> Vec<String> {
        let lines: Vec<String> = self.server.wait(count).await.iter().map(Asked::line).collect();
        assert_eq!(lines.len(), count, "{lines:?}");
        lines
    }

    /// All that was to be done has been done.
    async fn rests(&self) {
        let rests = async {
            loop {
                let next = self.mirrors.shared.table().next(Instant::now());
                if matches!(next, Err(None)) {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        timeout(PATIENCE, rests).await.expect("in time");
    }
}

#[tokio::test]
async fn a_mirror_is_made_once_the_pods_and_the_node_are_known() {
    let mut bench = Bench::start(obliging).await;
    bench.node.send_replace(None);
    let pod = web("a");
    bench.mirrors.want(&pod, Life::Unknown);
    bench.mirrors.synced(&[]);
    bench.node.send_replace(Some(node()));
    assert_eq!(bench.lines(1).await, [format!("POST {PODS}?")]);
    let asked = bench.server.asked.borrow()[0].clone();
    assert_eq!(asked.body["metadata"]["ownerReferences"][0]["uid"], "node-uid");
    bench.rests().await;
    // What the watch shows of it is no news; the same wish is none, either.
    bench.mirrors.seen(&shown(&pod, "made", 100));
    bench.mirrors.want(&pod, Life::Runs);
    bench.rests().await;
    assert_eq!(bench.server.asked.borrow().len(), 1);
}

#[tokio::test]
async fn one_of_another_pod_or_one_that_is_deleted_is_made_anew() {
    let mut bench = Bench::start(obliging).await;
    let (old, new) = (web("a"), web("b"));
    bench.mirrors.want(&new, Life::Unknown);
    bench.mirrors.synced(&[shown(&old, "m1", 5)]);
    let name = format!("web-{NODE}");
    let lines = bench.lines(2).await;
    assert_eq!(lines, [format!("DELETE {PODS}/{name}?"), format!("POST {PODS}?")]);
    let delete = bench.server.asked.borrow()[0].body.clone();
    assert_eq!(delete["gracePeriodSeconds"], 0);
    assert_eq!(delete["preconditions"]["uid"], "m1");
    bench.rests().await;
    let mut leaving = Pod::clone(&shown(&new, "made", 101));
    leaving.metadata.deletion_timestamp =
        serde_json::from_value(json!("2026-01-01T00:00:00Z")).expect("a time");
    bench.mirrors.seen(&Arc::new(leaving));
    assert_eq!(bench.lines(4).await[2..], lines);
    // Gone by somebody's hand: it comes back.
    bench.rests().await;
    bench.mirrors.gone(&shown(&new, "made", 102));
    assert_eq!(bench.lines(5).await[4], lines[1]);
}

#[tokio::test]
async fn orphans_go_once_their_source_is_known() {
    let mut bench = Bench::start(obliging).await;
    let pod = web("a");
    bench.mirrors.synced(&[shown(&pod, "m1", 5)]);
    bench.rests().await;
    assert_eq!(bench.server.asked.borrow().len(), 0);
    bench.mirrors.want(&pod, Life::Runs);
    bench.mirrors.know(Source::Http);
    bench.rests().await;
    bench.mirrors.know(Source::File);
    bench.rests().await;
    assert_eq!(bench.server.asked.borrow().len(), 0, "it is wanted");
    bench.mirrors.end(&pod);
    bench.mirrors.end(&web("b"));
    bench.rests().await;
    assert_eq!(bench.server.asked.borrow().len(), 0, "it ends, and is shown");
    // Another pod of its name is over: that says nothing of this one.
    bench.mirrors.unwant(&web("b"));
    bench.rests().await;
    bench.mirrors.unwant(&pod);
    assert_eq!(bench.lines(1).await, [format!("DELETE {PODS}/web-{NODE}?")]);
    bench.rests().await;
    assert!(bench.mirrors.shared.table().entries.is_empty());
}

#[tokio::test]
async fn failures_are_tried_again_until_they_pass() {
    let count = AtomicU16::new(0);
    let mut bench = Bench::start(move |asked| match count.fetch_add(1, Ordering::Relaxed) {
        0 => refusal(500, "InternalError"),
        1 => refusal(404, "NotFound"),
        2 => refusal(403, "Forbidden"),
        _ => obliging(asked),
    })
    .await;
    bench.mirrors.want(&web("a"), Life::Unknown);
    bench.mirrors.synced(&[]);
    assert_eq!(bench.lines(4).await, vec![format!("POST {PODS}?"); 4]);
    bench.rests().await;
}

#[tokio::test]
async fn a_name_that_is_taken_is_looked_at() {
    let (old, new) = (web("a"), web("b"));
    let count = AtomicU16::new(0);
    let mut stranger = object(&new);
    stranger["metadata"]["uid"] = "stranger".into();
    let old = object(&shown(&old, "m1", 7));
    let mut bench = Bench::start(move |asked| match count.fetch_add(1, Ordering::Relaxed) {
        0 | 2 => refusal(409, "AlreadyExists"),
        // An ordinary pod: it is left alone, and tried again later. A mirror of before, which the
        // watch has not shown, goes.
        1 => Reply::Json(200, stranger.clone()),
        3 => Reply::Json(200, old.clone()),
        _ => obliging(asked),
    })
    .await;
    bench.mirrors.want(&new, Life::Unknown);
    bench.mirrors.synced(&[]);
    let (post, at) = (format!("POST {PODS}?"), format!("{PODS}/web-{NODE}"));
    let get = format!("GET {at}");
    let all = [&post, &get, &post, &get, &format!("DELETE {at}?"), &post];
    assert_eq!(bench.lines(6).await.iter().collect::<Vec<_>>(), all);
    bench.rests().await;
}
