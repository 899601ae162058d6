use k8s_openapi::api::core::v1::{
    ContainerState, ContainerStateRunning, ContainerStatus, HostIP, PodCondition, PodIP,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use proptest::option;
use proptest::prelude::*;

use super::*;

/// A strategic merge, as far as a pod's status needs it (upstream: `strategicpatch`).
fn merge(have: &mut Fields, patch: &Fields) {
    for (name, change) in patch {
        let key = match name.as_str() {
            "conditions" => Some("type"),
            "hostIPs" | "podIPs" => Some("ip"),
            _ => None,
        };
        match (key, change) {
            (_, Value::Null) => {
                have.remove(name);
            }
            (Some(key), Value::Array(items)) => {
                let list = have.entry(name).or_insert_with(|| json!([])).as_array_mut().unwrap();
                merge_list(list, items, key);
            }
            (_, Value::Object(fields)) if fields.get("$patch") == Some(&"replace".into()) => {
                let mut fields = fields.clone();
                fields.remove("$patch");
                have.insert(name.clone(), fields.into());
            }
            (_, Value::Object(fields)) => {
                let inner = have.entry(name).or_insert_with(|| json!({}));
                merge(inner.as_object_mut().unwrap(), fields);
            }
            (_, other) => {
                have.insert(name.clone(), other.clone());
            }
        }
    }
}

fn merge_list(list: &mut Vec<Value>, items: &[Value], key: &str) {
    if items.iter().any(|item| item.get("$patch") == Some(&"replace".into())) {
        list.clear();
    }
    for item in items {
        let is_same = |other: &Value| other[key] == item[key];
        match item.get("$patch").and_then(Value::as_str) {
            Some("delete") => list.retain(|other| !is_same(other)),
            Some(_) => {}
            None => match list.iter_mut().find(|other| is_same(other)) {
                Some(other) => {
                    merge(other.as_object_mut().unwrap(), item.as_object().unwrap());
                }
                None => list.push(item.clone()),
            },
        }
    }
}

/// What the API has once it took the patch.
fn patched(have: &PodStatus, patch: &Value) -> PodStatus {
    let mut fields = serde_json::to_value(have).unwrap();
    merge(fields.as_object_mut().unwrap(), patch["status"].as_object().unwrap());
    serde_json::from_value(fields).unwrap()
}

fn patch(have: &PodStatus, want: &PodStatus) -> Option<Value> {
    status_patch("u1", Some(have), want).map(|patch| patch["status"].clone())
}

fn time(text: &str) -> Option<Time> {
    Some(Time(text.parse().unwrap()))
}

fn condition(kind: &str, status: &str) -> PodCondition {
    PodCondition {
        type_: kind.into(),
        status: status.into(),
        last_transition_time: time("2026-01-01T00:00:00Z"),
        ..PodCondition::default()
    }
}

fn with(conditions: Vec<PodCondition>) -> PodStatus {
    PodStatus { conditions: Some(conditions), ..PodStatus::default() }
}

fn phase(phase: &str) -> PodStatus {
    PodStatus { phase: Some(phase.into()), ..PodStatus::default() }
}

#[test]
fn a_first_status_is_sent_whole_with_the_uid() {
    let want = PodStatus { pod_ip: Some("10.0.0.7".into()), ..phase("Running") };
    assert_eq!(
        status_patch("u1", None, &want).unwrap(),
        json!({"metadata": {"uid": "u1"}, "status": {"phase": "Running", "podIP": "10.0.0.7"}})
    );
    assert_eq!(status_patch("u1", Some(&want), &want), None);
    assert_eq!(status_patch("u1", None, &PodStatus::default()), None);
}

#[test]
fn what_says_the_same_in_another_form_is_no_change() {
    let have: PodStatus = serde_json::from_value(json!({
        "phase": "Running", "reason": "", "startTime": "2026-01-01T00:00:05Z",
        "conditions": [{"type": "Ready", "status": "True", "lastProbeTime": null,
            "lastTransitionTime": "2026-01-01T00:00:05Z"}],
        "containerStatuses": [{"name": "a", "image": "", "imageID": "", "ready": true,
            "restartCount": 0, "lastState": {}, "state": {"running": {}},
            "allocatedResources": {"cpu": "1"}, "resources": {"limits": {"memory": "1Gi"}}}],
    }))
    .unwrap();
    let want: PodStatus = serde_json::from_value(json!({
        "phase": "Running", "startTime": "2026-01-01T00:00:05.999999999Z", "hostIPs": [],
        "conditions": [{"type": "Ready", "status": "True", "message": "",
            "lastTransitionTime": "2026-01-01T00:00:05.1Z"}],
        "containerStatuses": [{"name": "a", "image": "", "imageID": "", "ready": true,
            "restartCount": 0, "state": {"running": {"startedAt": null}},
            "allocatedResources": {"cpu": "1000m"}, "resources": {"limits": {"memory": "1024Mi"}}}],
    }))
    .unwrap();
    assert_eq!(patch(&have, &want), None);
}

#[test]
fn a_running_container_of_which_no_more_is_known_is_not_lost() {
    let running = ContainerState {
        running: Some(ContainerStateRunning::default()),
        ..ContainerState::default()
    };
    let one = ContainerStatus { name: "a".into(), state: Some(running), ..Default::default() };
    let want = PodStatus { container_statuses: Some(vec![one]), ..PodStatus::default() };
    let sent = patch(&PodStatus::default(), &want).unwrap();
    assert_eq!(sent["containerStatuses"][0]["state"], json!({"running": {}}));
}

#[test]
fn of_conditions_only_what_changed_is_sent_and_others_are_left_alone() {
    let gate = condition("example.com/gate", "True");
    let have = with(vec![
        gate,
        PodCondition { message: Some("m".into()), ..condition("Ready", "False") },
        condition("PodScheduled", "True"),
        condition("PodResizePending", "True"),
        condition("DisruptionTarget", "True"),
    ]);
    let want = with(vec![
        // A copy of before.
        condition("example.com/gate", "False"),
        PodCondition {
            last_transition_time: time("2026-01-02T00:00:00.5Z"),
            ..condition("Ready", "True")
        },
        condition("PodScheduled", "True"),
        condition("Initialized", "True"),
    ]);
    assert_eq!(
        patch(&have, &want).unwrap(),
        json!({"conditions": [
            {"type": "Ready", "status": "True", "message": null,
             "lastTransitionTime": "2026-01-02T00:00:00Z"},
            {"type": "Initialized", "status": "True",
             "lastTransitionTime": "2026-01-01T00:00:00Z"},
            {"type": "PodResizePending", "$patch": "delete"},
        ]})
    );
}

#[test]
fn a_pod_that_was_refused_keeps_no_condition_of_ours() {
    let have = PodStatus {
        phase: Some("Pending".into()),
        ..with(vec![condition("PodScheduled", "True"), condition("example.com/gate", "True")])
    };
    assert_eq!(
        patch(&have, &phase("Failed")).unwrap(),
        json!({"phase": "Failed", "conditions": [{"type": "PodScheduled", "$patch": "delete"}]})
    );
}

#[test]
fn a_disruption_is_sent_if_it_is_ours() {
    let disruption = |reason: &str| {
        let reason = Some(reason.to_owned());
        with(vec![PodCondition { reason, ..condition("DisruptionTarget", "True") }])
    };
    let none = PodStatus::default();
    assert_eq!(patch(&none, &disruption("EvictionByEvictionAPI")), None);
    assert!(patch(&none, &disruption("TerminationByKubelet")).is_some());
}

#[test]
fn addresses_are_replaced_and_stay_when_nothing_is_known_of_them() {
    let ips = |ips: &[&str]| PodStatus {
        pod_ips: Some(ips.iter().map(|ip| PodIP { ip: (*ip).into() }).collect()),
        host_ips: Some(vec![HostIP { ip: "10.1.1.1".into() }]),
        ..PodStatus::default()
    };
    let sent = patch(&ips(&["10.0.0.1", "fd00::1"]), &ips(&["10.0.0.2"])).unwrap();
    assert_eq!(sent, json!({"podIPs": [{"$patch": "replace"}, {"ip": "10.0.0.2"}]}));
    assert_eq!(patch(&ips(&["10.0.0.1"]), &PodStatus::default()), None);
}

#[test]
fn what_is_wanted_no_more_is_taken_back_but_not_what_others_wrote() {
    let have = PodStatus {
        reason: Some("r".into()),
        message: Some("m".into()),
        nominated_node_name: Some("n".into()),
        start_time: time("2026-01-01T00:00:00Z"),
        qos_class: Some("Burstable".into()),
        ..phase("Pending")
    };
    let want = PodStatus { qos_class: Some("BestEffort".into()), ..phase("Running") };
    assert_eq!(
        patch(&have, &want).unwrap(),
        json!({"phase": "Running", "reason": null, "message": null})
    );
}

#[test]
fn a_terminal_phase_is_never_left() {
    for end in ["Succeeded", "Failed"] {
        assert!(is_terminal(Some(&phase(end))));
        assert_eq!(patch(&phase(end), &phase("Running")), None);
        assert_eq!(patch(&phase(end), &PodStatus::default()), None);
    }
    let want = PodStatus { message: Some("m".into()), ..phase("Succeeded") };
    assert_eq!(patch(&phase("Failed"), &want).unwrap(), json!({"message": "m"}));
    assert_eq!(patch(&phase("Running"), &phase("Failed")).unwrap(), json!({"phase": "Failed"}));
    assert!(!is_terminal(Some(&phase("Running"))) && !is_terminal(None));
}

#[test]
fn generations_only_rise() {
    let seen = |generation| PodStatus {
        observed_generation: Some(generation),
        conditions: Some(vec![PodCondition {
            observed_generation: Some(generation),
            ..condition("Ready", "True")
        }]),
        ..PodStatus::default()
    };
    assert_eq!(patch(&seen(3), &seen(2)), None);
    assert_eq!(
        patch(&seen(2), &seen(3)).unwrap(),
        json!({"observedGeneration": 3, "conditions": [{"type": "Ready", "observedGeneration": 3}]})
    );
}

fn any_condition() -> impl Strategy<Value = PodCondition> {
    let kinds = ["Ready", "Initialized", "PodResizePending", "example.com/a", "example.com/b"];
    let reason = prop::sample::select(vec!["A", "B", ""]);
    (prop::sample::select(kinds.to_vec()), any::<bool>(), option::of(reason), 0..3_i64, 0..3_i64)
        .prop_map(|(kind, holds, reason, millis, generation)| PodCondition {
            type_: kind.into(),
            status: if holds { "True" } else { "False" }.into(),
            reason: reason.map(str::to_owned),
            last_transition_time: Some(Time(
                Timestamp::from_millisecond(1_700_000_000_000 + millis * 700).unwrap(),
            )),
            observed_generation: Some(generation).filter(|generation| *generation > 0),
            ..PodCondition::default()
        })
}

fn any_status() -> impl Strategy<Value = PodStatus> {
    let phases = prop::sample::select(vec!["Pending", "Running", "Succeeded", "Failed"]);
    let ips = option::of(prop::collection::vec(prop::sample::select(vec!["1", "2", "3"]), 0..3));
    let conditions = prop::collection::vec(any_condition(), 0..5);
    let containers = prop::collection::vec((any::<bool>(), 0..2_i32), 0..3);
    (
        option::of(phases),
        option::of(prop::sample::select(vec!["r", ""])),
        ips,
        conditions,
        containers,
        option::of(1..4_i64),
        option::of(Just("node")),
    )
        .prop_map(|(phase, reason, ips, conditions, containers, generation, nominated)| {
            let mut kinds = std::collections::HashSet::new();
            let unique = conditions.into_iter().filter(|c| kinds.insert(c.type_.clone()));
            let container = |(ready, restart_count)| ContainerStatus {
                name: "c".into(),
                ready,
                restart_count,
                state: Some(ContainerState::default()),
                ..ContainerStatus::default()
            };
            let mut addresses = std::collections::BTreeSet::new();
            PodStatus {
                phase: phase.map(str::to_owned),
                reason: reason.map(str::to_owned),
                pod_ips: ips.map(|ips| {
                    let unique = ips.into_iter().filter(|ip| addresses.insert(*ip));
                    unique.map(|ip| PodIP { ip: ip.to_owned() }).collect()
                }),
                conditions: Some(unique.collect()),
                container_statuses: Some(containers.into_iter().map(container).collect()),
                observed_generation: generation,
                nominated_node_name: nominated.map(str::to_owned),
                ..PodStatus::default()
            }
        })
}

fn is_foreign(condition: &PodCondition) -> bool {
    !CONDITIONS.contains(&condition.type_.as_str())
}

proptest! {
    /// A patch that is applied leaves nothing to patch; it leaves others' parts as they were, and
    /// the rest is what was wanted.
    #[test]
    fn an_applied_patch_gives_what_was_wanted(have in any_status(), want in any_status()) {
        let Some(patch) = status_patch("u", Some(&have), &want) else {
            return Ok(());
        };
        let new = patched(&have, &patch);
        prop_assert_eq!(status_patch("u", Some(&new), &want), None);
        prop_assert_eq!(&new.nominated_node_name, &have.nominated_node_name);
        prop_assert!(new.observed_generation >= have.observed_generation);
        let foreign = |of: &PodStatus| {
            let all = of.conditions.iter().flatten();
            let conditions = all.filter(|condition| is_foreign(condition)).cloned().collect();
            fields(&with(conditions))
        };
        prop_assert_eq!(foreign(&new), foreign(&have));
        if is_terminal(Some(&have)) {
            prop_assert_eq!(&new.phase, &have.phase);
        }
        let normal = |of: &PodStatus, name: &str| fields(of).unwrap().get(name).cloned();
        for name in ["reason", "containerStatuses"] {
            prop_assert_eq!(normal(&new, name), normal(&want, name));
        }
        if normal(&want, "podIPs").is_some() {
            prop_assert_eq!(normal(&new, "podIPs"), normal(&want, "podIPs"));
        }
        let ours = |of: &PodStatus| {
            let all = of.conditions.iter().flatten().filter(|condition| !is_foreign(condition));
            all.map(|condition| condition.type_.clone()).collect::<std::collections::BTreeSet<_>>()
        };
        prop_assert_eq!(ours(&new), ours(&want));
        for wanted in want.conditions.iter().flatten().filter(|c| !is_foreign(c)) {
            let mut all = new.conditions.iter().flatten();
            let found = all.find(|condition| condition.type_ == wanted.type_).unwrap();
            prop_assert_eq!(&found.status, &wanted.status);
            prop_assert!(found.observed_generation >= wanted.observed_generation);
        }
    }
}
