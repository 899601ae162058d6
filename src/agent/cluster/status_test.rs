use k8s_openapi::api::core::v1::PodCondition;
use serde_json::{Value, json};
use tokio::time::{sleep, timeout};

use super::*;
use crate::cluster::test_server::{Asked, PATIENCE, Reply, Server, in_turn, patient};

const QUICK: Times = Times {
    first: Duration::from_millis(1),
    max: Duration::from_millis(20),
    settle: Duration::ZERO,
    reconcile: Duration::from_millis(50),
};
const SLOW: Times = Times { reconcile: Duration::from_secs(3600), ..QUICK };

fn pod(name: &str, version: u64, more: Value) -> Arc<Pod> {
    let mut object = json!({"metadata": {"name": name, "namespace": "ns",
        "uid": format!("uid-{name}"), "resourceVersion": version.to_string()}});
    for (key, value) in more.as_object().unwrap() {
        match key.as_str() {
            "status" => object["status"] = value.clone(),
            key => object["metadata"][key] = value.clone(),
        }
    }
    Arc::new(serde_json::from_value(object).unwrap())
}

fn phase(phase: &str, message: &str) -> PodStatus {
    let message = Some(message.to_owned()).filter(|message| !message.is_empty());
    PodStatus { phase: Some(phase.into()), message, ..PodStatus::default() }
}

/// A pod as the API answers a patch of it: what was sent, and a version.
fn answer(asked: &Asked, version: u64, more: Value) -> Reply {
    let name = asked.uri.path().split('/').nth(6).unwrap().to_owned();
    let status = asked.body["status"].clone();
    let mut more = more;
    more["status"] = status;
    Reply::Json(200, serde_json::to_value(&*pod(&name, version, more)).unwrap())
}

fn refusal(code: u16) -> Reply {
    Reply::Json(code, json!({"kind": "Status", "status": "Failure", "code": code, "message": "x"}))
}

async fn all_sent(writer: &StatusWriter) {
    let sent = async {
        while writer.unsent() > 0 {
            sleep(Duration::from_millis(1)).await;
        }
    };
    timeout(PATIENCE, sent).await.expect("all sent");
}

fn deleting() -> Value {
    json!({"deletionTimestamp": "2026-01-01T00:00:00Z"})
}

#[tokio::test]
async fn one_patch_for_a_change_and_none_for_the_same_again() {
    let server = Server::start(|asked: &Asked| answer(asked, 2, json!({}))).await;
    let writer = StatusWriter::start(server.client(patient()), SLOW);
    let pod = pod("a", 1, json!({}));
    writer.set(&pod, phase("Running", ""), false);
    assert_eq!(writer.unsent(), 1);
    all_sent(&writer).await;
    writer.set(&pod, phase("Running", ""), false);
    // What the watch shows of it late is no news.
    writer.seen(&pod);
    writer.set(&pod, phase("Running", "more"), false);
    all_sent(&writer).await;
    let asked = server.asked.borrow().clone();
    let path = "PATCH /api/v1/namespaces/ns/pods/a/status?";
    assert!(asked[0].line().starts_with(path), "{}", asked[0].line());
    assert_eq!(
        asked[0].headers["content-type"].to_str().unwrap(),
        "application/strategic-merge-patch+json"
    );
    let bodies: Vec<_> = asked.iter().map(|asked| asked.body["status"].clone()).collect();
    assert_eq!(bodies, [json!({"phase": "Running"}), json!({"message": "more"})]);
    assert_eq!(asked[0].body["metadata"], json!({"uid": "uid-a"}));
}

#[tokio::test]
async fn the_latest_wins_and_one_request_of_a_pod_is_on_its_way_at_a_time() {
    let server = Server::start(|asked: &Asked| {
        let version: u64 = asked.body["status"]["message"].as_str().unwrap_or("0").parse().unwrap();
        answer(asked, 10 + version, json!({}))
    })
    .await;
    let writer = StatusWriter::start(server.client(patient()), SLOW);
    for round in 0..50 {
        for name in ["a", "b", "c"] {
            writer.set(&pod(name, 1, json!({})), phase("Running", &round.to_string()), false);
        }
        tokio::task::yield_now().await;
    }
    all_sent(&writer).await;
    let asked = server.asked.borrow().clone();
    for name in ["a", "b", "c"] {
        let of: Vec<u32> = asked
            .iter()
            .filter(|asked| asked.uri.path().ends_with(&format!("/{name}/status")))
            .map(|asked| asked.body["status"]["message"].as_str().unwrap().parse().unwrap())
            .collect();
        assert!(of.is_sorted() && of.last() == Some(&49), "{name}: {of:?}");
    }
}

#[tokio::test]
async fn what_nobody_waits_for_goes_with_what_comes_next() {
    let server = Server::start(|asked: &Asked| answer(asked, 2, json!({}))).await;
    // Never by itself within this test.
    let times = Times { settle: Duration::from_secs(3600), ..SLOW };
    let writer = StatusWriter::start(server.client(patient()), times);
    let pod = pod("a", 1, json!({"status": {"phase": "Pending"}}));
    writer.set(&pod, phase("Pending", "is set up"), false);
    writer.set(&pod, phase("Pending", "is started"), false);
    assert_eq!(writer.unsent(), 1, "and it is not forgotten");
    writer.set(&pod, phase("Running", "runs"), false);
    all_sent(&writer).await;
    let asked = server.asked.borrow().clone();
    let bodies: Vec<_> = asked.iter().map(|asked| asked.body["status"].clone()).collect();
    assert_eq!(bodies, [json!({"phase": "Running", "message": "runs"})]);

    let times = Times { settle: Duration::from_millis(1), ..SLOW };
    let writer = StatusWriter::start(server.client(patient()), times);
    writer.set(&pod, phase("Pending", "waits"), false);
    all_sent(&writer).await;
    assert_eq!(server.asked.borrow().len(), 2, "it goes by itself");
}

#[tokio::test]
async fn failures_are_repeated_until_it_is_there() {
    let turn = in_turn(vec![500, 429, 403, 503, 200]);
    let server = Server::start(move |asked: &Asked| match turn() {
        200 => answer(asked, 2, json!({})),
        429 => Reply::Busy(429, "0", "Too many requests"),
        code => refusal(code),
    })
    .await;
    let writer = StatusWriter::start(server.client(patient()), SLOW);
    writer.set(&pod("a", 1, json!({})), phase("Running", ""), false);
    all_sent(&writer).await;
    assert_eq!(server.asked.borrow().len(), 5);
}

#[tokio::test]
async fn statuses_outlive_the_server() {
    let server = Server::start(|asked: &Asked| answer(asked, 2, json!({}))).await;
    let writer = StatusWriter::start(server.client(patient()), SLOW);
    let (address, authority) = server.stop().await;
    for n in 0..40 {
        writer.set(&pod(&format!("p{n}"), 1, json!({})), phase("Running", ""), false);
    }
    let server = Server::start_at(&address.to_string(), authority, |asked: &Asked| {
        answer(asked, 2, json!({}))
    })
    .await;
    all_sent(&writer).await;
    assert_eq!(server.asked.borrow().len(), 40);
}

#[tokio::test]
async fn what_is_gone_or_a_namesake_is_dropped() {
    for code in [404, 409, 422] {
        let server = Server::start(move |asked: &Asked| match asked.method.as_str() {
            "GET" => {
                let other = pod("a", 9, json!({"uid": "another"}));
                Reply::Json(200, serde_json::to_value(&*other).unwrap())
            }
            _ => refusal(code),
        })
        .await;
        let writer = StatusWriter::start(server.client(patient()), SLOW);
        writer.set(&pod("a", 1, json!({})), phase("Running", ""), false);
        all_sent(&writer).await;
        assert!(writer.shared.table().pods.is_empty());
    }
}

#[tokio::test]
async fn a_conflict_of_the_same_pod_is_tried_against_the_newest() {
    let turn = in_turn(vec![409, 200]);
    let server = Server::start(move |asked: &Asked| match asked.method.as_str() {
        "GET" => {
            let newest = pod("a", 9, json!({"status": {"phase": "Running", "message": "old"}}));
            Reply::Json(200, serde_json::to_value(&*newest).unwrap())
        }
        _ if turn() == 409 => refusal(409),
        _ => answer(asked, 10, json!({})),
    })
    .await;
    let writer = StatusWriter::start(server.client(patient()), SLOW);
    writer.set(&pod("a", 1, json!({})), phase("Running", "new"), false);
    all_sent(&writer).await;
    let asked = server.asked.borrow().clone();
    assert_eq!(asked[2].body["status"], json!({"message": "new"}));
}

#[tokio::test]
async fn a_pod_is_deleted_after_its_terminal_phase_is_there_and_not_before() {
    let mut server = Server::start(|asked: &Asked| match asked.method.as_str() {
        "DELETE" => Reply::Json(200, json!({"kind": "Status", "status": "Success"})),
        _ => answer(asked, 5, deleting()),
    })
    .await;
    let writer = StatusWriter::start(server.client(patient()), QUICK);
    let dying = pod("a", 1, deleting());
    // Over here, but its phase says otherwise.
    writer.set(&dying, phase("Running", ""), true);
    all_sent(&writer).await;
    writer.set(&dying, phase("Failed", ""), true);
    all_sent(&writer).await;
    // Ended, and deleted later.
    let ended = pod("b", 1, json!({"status": {"phase": "Succeeded"}}));
    writer.set(&ended, phase("Succeeded", ""), true);
    all_sent(&writer).await;
    let mut object = deleting();
    object["status"] = json!({"phase": "Succeeded"});
    writer.seen(&pod("b", 6, object.clone()));
    // A mirror is its owner's.
    object["annotations"] = json!({"kubernetes.io/config.mirror": "h"});
    writer.set(&pod("m", 1, object), phase("Succeeded", ""), true);
    all_sent(&writer).await;
    let asked = server.wait(4).await;
    let lines: Vec<String> =
        asked.iter().map(|asked| format!("{} {}", asked.method, asked.uri.path())).collect();
    let at = "/api/v1/namespaces/ns/pods";
    let expected = [
        format!("PATCH {at}/a/status"),
        format!("PATCH {at}/a/status"),
        format!("DELETE {at}/a"),
        format!("DELETE {at}/b"),
    ];
    assert_eq!(lines, expected);
    assert_eq!(asked[2].body["gracePeriodSeconds"], 0);
    assert_eq!(asked[2].body["preconditions"]["uid"], "uid-a");
}

#[tokio::test]
async fn what_others_overwrite_is_written_again_by_the_reconcile() {
    let mut server = Server::start(|asked: &Asked| answer(asked, 2, json!({}))).await;
    let writer = StatusWriter::start(server.client(patient()), QUICK);
    let ready = |status: &str| {
        let condition = PodCondition {
            type_: "Ready".into(),
            status: status.into(),
            ..PodCondition::default()
        };
        PodStatus { conditions: Some(vec![condition]), ..phase("Running", "") }
    };
    writer.set(&pod("a", 1, json!({})), ready("True"), false);
    all_sent(&writer).await;
    let theirs = serde_json::to_value(ready("False")).unwrap();
    writer.seen(&pod("a", 3, json!({"status": theirs})));
    let asked = server.wait(2).await;
    assert_eq!(
        asked[1].body["status"],
        json!({"conditions": [{"type": "Ready", "status": "True"}]})
    );
}

#[tokio::test]
async fn what_the_server_makes_of_a_status_is_not_fought() {
    // It drops the message each time.
    let server = Server::start(|asked: &Asked| {
        let version = 2;
        let mut asked = asked.clone();
        asked.body["status"].as_object_mut().unwrap().remove("message");
        answer(&asked, version, json!({}))
    })
    .await;
    let writer = StatusWriter::start(server.client(patient()), QUICK);
    writer.set(&pod("a", 1, json!({})), phase("Running", "dropped"), false);
    all_sent(&writer).await;
    writer.seen(&pod("a", 2, json!({"status": {"phase": "Running"}})));
    writer.set(&pod("b", 1, json!({})), phase("Running", ""), false);
    all_sent(&writer).await;
    let to_a = |asked: &&Asked| asked.uri.path().ends_with("/a/status");
    assert_eq!(server.asked.borrow().iter().filter(to_a).count(), 1);
}

#[tokio::test]
async fn a_pod_that_is_forgotten_has_nothing_to_send() {
    let server = Server::start(|_: &Asked| refusal(500)).await;
    let writer = StatusWriter::start(server.client(patient()), SLOW);
    writer.set(&pod("a", 1, json!({})), phase("Running", ""), false);
    writer.forget("uid-a");
    all_sent(&writer).await;
    let weak = Arc::downgrade(&writer.shared);
    drop(writer);
    let ended = async {
        while weak.strong_count() > 0 {
            tokio::task::yield_now().await;
        }
    };
    timeout(PATIENCE, ended).await.expect("the task ends with the last writer");
}
