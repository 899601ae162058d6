use std::collections::VecDeque;
use std::sync::Mutex;

use bytes::Bytes;
use serde_json::{Value, json};
use tokio::sync::mpsc::UnboundedSender;
use tokio::time::timeout;

use super::*;
use crate::cluster::test_server::{Asked, NODE, PATIENCE, Reply, Server, patient};

const QUICK: Times = Times {
    first: Duration::from_millis(1),
    max: Duration::from_millis(20),
    silence: PATIENCE,
    watch: Duration::from_secs(300),
};
/// Of the one watch that is to be too silent; those that say something must not be.
const SILENCE: Duration = Duration::from_secs(3);

fn pod(name: &str, version: u64) -> Value {
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {
        "name": name, "namespace": "default", "uid": format!("uid-{name}"),
        "resourceVersion": version.to_string(),
        "managedFields": [{"manager": "kubectl", "fieldsV1": {"f:spec": {}}}],
    }})
}

fn list(version: u64, items: Value) -> Reply {
    let metadata = json!({"resourceVersion": version.to_string()});
    Reply::Json(200, json!({"kind": "PodList", "metadata": metadata, "items": items}))
}

fn line(kind: &str, object: Value) -> Bytes {
    format!("{}\n", json!({"type": kind, "object": object})).into()
}

fn bookmark(version: u64) -> Bytes {
    let metadata = json!({"resourceVersion": version.to_string()});
    line("BOOKMARK", json!({"apiVersion": "v1", "kind": "Pod", "metadata": metadata}))
}

/// A stream and who feeds it.
fn stream() -> (UnboundedSender<Bytes>, Reply) {
    let (sender, receiver) = mpsc::unbounded_channel();
    (sender, Reply::Stream(receiver))
}

/// A stream with these lines, which then ends.
fn ended(lines: impl IntoIterator<Item = Bytes>) -> Reply {
    let (sender, reply) = stream();
    for line in lines {
        sender.send(line).unwrap();
    }
    reply
}

/// A server that gives these answers in turn.
async fn server(replies: impl IntoIterator<Item = Reply>) -> Server {
    let replies = Mutex::new(replies.into_iter().collect::<VecDeque<_>>());
    Server::start(move |_: &Asked| replies.lock().unwrap().pop_front().unwrap_or(Reply::Never))
        .await
}

/// The next change, in short.
async fn next(changes: &mut mpsc::Receiver<PodChange>) -> String {
    let change = timeout(PATIENCE, changes.recv()).await.expect("a change").unwrap();
    let text = |pod: &Arc<Pod>| {
        assert_eq!(pod.metadata.managed_fields, None);
        format!("{}@{}", pod.name_any(), pod.resource_version().unwrap())
    };
    match change {
        PodChange::Synced(pods) => {
            format!("all {}", pods.iter().map(text).collect::<Vec<_>>().join(" "))
        }
        PodChange::Set(pod) => format!("set {}", text(&pod)),
        PodChange::Gone { uid, pod } => format!("gone {uid} {}", text(&pod)),
    }
}

fn lines(asked: &[Asked]) -> Vec<String> {
    let line = |asked: &Asked| {
        let line = asked.line();
        let line = line.strip_prefix("GET /api/v1/pods?fieldSelector=spec.nodeName%3Dedge-1");
        line.unwrap().trim_start_matches('&').split("&timeoutSeconds").next().unwrap().to_owned()
    };
    asked.iter().map(line).collect()
}

const WATCH: &str = "watch=true&allowWatchBookmarks=true&resourceVersion=";

#[tokio::test]
async fn a_list_and_then_each_change_without_what_nobody_reads() {
    let (feed, watch) = stream();
    let mut server = server([list(5, json!([pod("a", 3), pod("b", 4)])), watch]).await;
    let mut changes = super::watch(server.client(patient()), NODE, QUICK);
    assert_eq!(next(&mut changes).await, "all a@3 b@4");
    feed.send(line("ADDED", pod("c", 6))).unwrap();
    assert_eq!(next(&mut changes).await, "set c@6");
    feed.send(line("MODIFIED", pod("a", 7))).unwrap();
    feed.send(line("DELETED", pod("b", 8))).unwrap();
    assert_eq!(next(&mut changes).await, "set a@7");
    assert_eq!(next(&mut changes).await, "gone uid-b b@8");
    let asked = server.wait(2).await;
    assert_eq!(lines(&asked), ["resourceVersion=0".to_owned(), format!("{WATCH}5")]);
    let seconds = asked[1].uri.query().unwrap().rsplit_once('=').unwrap().1;
    assert!((300..=600).contains(&seconds.parse().unwrap()), "{seconds}");
    // Nobody wants to know more.
    drop(changes);
    timeout(PATIENCE, feed.closed()).await.expect("the watch ends");
}

#[tokio::test]
async fn a_watch_that_ends_or_is_silent_goes_on_where_it_was() {
    let (silent, watch) = stream();
    let (_feed, last) = stream();
    let replies = [
        list(5, json!([])),
        ended([line("ADDED", pod("a", 6)), bookmark(9)]),
        ended([]),
        watch,
        ended([line("ADDED", pod("b", 11))]),
        last,
    ];
    let mut server = server(replies).await;
    let times = Times { silence: SILENCE, ..QUICK };
    let mut changes = super::watch(server.client(patient()), NODE, times);
    assert_eq!(next(&mut changes).await, "all ");
    assert_eq!(next(&mut changes).await, "set a@6");
    silent.send(bookmark(10)).unwrap();
    assert_eq!(next(&mut changes).await, "set b@11");
    let asked = server.wait(6).await;
    let versions = [5, 9, 9, 10, 11].map(|version| format!("{WATCH}{version}"));
    assert_eq!(lines(&asked)[1..6], versions);
}

#[tokio::test]
async fn what_is_too_old_is_listed_again() {
    let gone = json!({"kind": "Status", "status": "Failure", "code": 410, "reason": "Expired",
        "message": "too old resource version: 5 (90)"});
    let replies = [
        list(5, json!([pod("a", 3)])),
        ended([line("ERROR", gone.clone())]),
        list(91, json!([pod("b", 90)])),
        Reply::Json(410, gone),
        list(92, json!([])),
        stream().1,
    ];
    let mut server = server(replies).await;
    let mut changes = super::watch(server.client(patient()), NODE, QUICK);
    assert_eq!(next(&mut changes).await, "all a@3");
    assert_eq!(next(&mut changes).await, "all b@90");
    assert_eq!(next(&mut changes).await, "all ");
    let asked = server.wait(6).await;
    let relist = |version| format!("resourceVersion={version}&resourceVersionMatch=NotOlderThan");
    assert_eq!(lines(&asked)[2], relist(5));
    assert_eq!(lines(&asked)[4], relist(91));
}

#[tokio::test]
async fn refusals_are_waited_out() {
    let broken = || Reply::Json(500, json!({"kind": "Status", "code": 500, "message": "no"}));
    let late = json!({"kind": "Status", "code": 504, "message": "Too large resource version"});
    let replies = [
        Reply::Json(504, late),
        Reply::Busy(429, "0", "Too many requests"),
        list(5, json!([pod("a", 3)])),
        broken(),
        broken(),
        ended([line("ADDED", pod("b", 6))]),
        broken(),
        broken(),
        broken(),
        broken(),
        list(7, json!([])),
        stream().1,
    ];
    let mut server = server(replies).await;
    let mut changes = super::watch(server.client(patient()), NODE, QUICK);
    assert_eq!(next(&mut changes).await, "all a@3");
    assert_eq!(next(&mut changes).await, "set b@6");
    // After some failures in a row it may be our place in time.
    assert_eq!(next(&mut changes).await, "all ");
    let asked = server.wait(12).await;
    assert!(!lines(&asked)[2].contains("resourceVersion"), "the newest after a failed list");
}

#[tokio::test]
async fn one_pod_that_cannot_be_read_hides_no_other() {
    let wrong = json!({"metadata": {"name": "w", "uid": "w"}, "spec": {"containers": 7}});
    let (feed, watch) = stream();
    let server = server([list(5, json!([wrong.clone(), pod("a", 3)])), watch]).await;
    let mut changes = super::watch(server.client(patient()), NODE, QUICK);
    assert_eq!(next(&mut changes).await, "all a@3");
    feed.send(line("ADDED", wrong)).unwrap();
    feed.send("no json\n".into()).unwrap();
    // In pieces.
    let whole = line("ADDED", pod("b", 7));
    let (first, second) = whole.split_at(20);
    feed.send(Bytes::copy_from_slice(first)).unwrap();
    feed.send(Bytes::copy_from_slice(second)).unwrap();
    assert_eq!(next(&mut changes).await, "set b@7");
}

#[tokio::test]
async fn a_line_without_end_is_not_kept() {
    let (feed, watch) = stream();
    let server = server([list(5, json!([])), watch, ended([line("ADDED", pod("a", 6))])]).await;
    let mut changes = super::watch(server.client(patient()), NODE, QUICK);
    assert_eq!(next(&mut changes).await, "all ");
    for _ in 0..9 {
        feed.send(vec![b'x'; 1 << 20].into()).unwrap();
    }
    assert_eq!(next(&mut changes).await, "set a@6");
}
