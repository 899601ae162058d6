//! From a record to what is compared: of each *track* (the phase, a condition, a container, the
//! deletion) the values that it took one after the other, without what names this run and
//! without times; and the events, each once, in the order of their first telling.

use std::fmt::Write as _;

use serde_json::{Map, Value, json};

use crate::record::Record;
use crate::scenario::{Scenario, Wanted, strings};

/// Fields that are times.
const LEFT_OUT: [&str; 5] =
    ["startedAt", "finishedAt", "startTime", "lastTransitionTime", "lastProbeTime"];
/// Fields that say which node or runtime it is: whether they are there is compared.
const THERE: [&str; 7] = ["containerID", "imageID", "user", "podIP", "podIPs", "hostIP", "hostIPs"];
/// The lists of a status that have an element for each container.
const LISTS: [&str; 3] =
    ["initContainerStatuses", "containerStatuses", "ephemeralContainerStatuses"];
/// Of a probe that met the end of its container.
const GONE: &str = "probe errored and resulted in unknown state: rpc error";
/// The memory limit of a control group that has none.
const NO_LIMIT: &str = "9007199254740988Ki";
/// Letters of a hexadecimal number that is an id.
const ID: usize = 32;

/// What names the run.
pub(crate) struct Names {
    pub(crate) node: String,
    pub(crate) namespace: String,
    pub(crate) registry: String,
}

/// When something was last told that was not told before, in milliseconds of the record.
pub(crate) fn last_news(record: &Record) -> Option<u64> {
    let mut last = record.gone;
    let mut before = Value::Null;
    for (at, pod) in &record.changes {
        let mut status = pod["status"].clone();
        without(&mut status);
        if before != status {
            last = last.max(Some(*at));
            before = status;
        }
    }
    let mut told: Vec<(&Value, &Value)> = Vec::new();
    for (at, event) in &record.events {
        let text = (&event["reason"], &event["message"]);
        if !told.contains(&text) {
            last = last.max(Some(*at));
            told.push(text);
        }
    }
    last
}

/// What is kept of a run: the record, what named it, and whether it came to its end.
pub(crate) fn kept(record: &Record, names: &Names, settled: bool) -> Value {
    json!({
        "settled": settled,
        "names": [names.node, names.namespace, names.registry],
        "record": record.to_value(),
    })
}

/// Takes out of a record what was told after these have held, one after the other.
fn cut(record: &mut Record, wanted: &[Wanted]) {
    let mut wanted = wanted.iter().peekable();
    let mut times: Vec<u64> = record.changes.iter().map(|(at, _)| *at).collect();
    times.extend(record.events.iter().map(|(at, _)| *at));
    times.sort_unstable();
    for now in times {
        let pods = record.changes.iter().take_while(|(at, _)| *at <= now);
        let pod = pods.last().map_or(&Value::Null, |(_, pod)| pod);
        let told = record.events.iter().take_while(|(at, _)| *at <= now);
        let told: Vec<&str> = told.filter_map(|(_, event)| event["reason"].as_str()).collect();
        let gone = record.gone.is_some_and(|at| at <= now);
        while wanted.peek().is_some_and(|wanted| wanted.holds(pod, gone, &told)) {
            wanted.next();
        }
        if wanted.peek().is_none() {
            record.changes.retain(|(at, _)| *at <= now);
            record.events.retain(|(at, _)| *at <= now);
            return;
        }
    }
}

/// The shape of what was kept of a scenario.
pub(crate) fn of(scenario: &Scenario, kept: &Value) -> Value {
    let mut record = Record::from_value(&kept["record"]);
    if let Some(wanted) = scenario.cut() {
        cut(&mut record, &wanted);
    }
    let name = |index: usize| kept["names"][index].as_str().unwrap_or_default().to_owned();
    let names = Names { node: name(0), namespace: name(1), registry: name(2) };
    let Some((start, first)) = record.changes.first() else { return json!({"settled": false}) };
    let mut tracks: Map<String, Value> = Map::new();
    let mut last = Value::Null;
    // What only a later object tells of the pod, its address, is in events before.
    let named = record.changes.iter().rev().find(|(_, pod)| pod["status"]["podIP"].is_string());
    let named = named.map_or(first, |(_, pod)| pod);
    for (at, pod) in &record.changes {
        let pod = normal(pod, named, &names);
        for (track, value) in of_pod(&pod) {
            add(&mut tracks, &track, at - start, value);
        }
        last = pod;
    }
    if let Some(gone) = record.gone {
        add(&mut tracks, "deletion", gone - start, json!("gone"));
    }
    for (track, value) in rest(&last) {
        add(&mut tracks, &track, 0, value);
    }
    let mut events: Vec<Value> = Vec::new();
    for (at, event) in &record.events {
        // What a runtime says when it is to run a command in a container that has just ended.
        if event["message"].as_str().is_some_and(|text| text.contains(GONE)) {
            continue;
        }
        let text = texts(Value::from(event_text(event)), named, &names);
        if events.iter().all(|event| event[1] != text) {
            events.push(json!([at.saturating_sub(*start), text]));
        }
    }
    json!({"settled": kept["settled"], "tracks": tracks, "events": events})
}

fn add(tracks: &mut Map<String, Value>, track: &str, at: u64, value: Value) {
    let track = tracks.entry(track).or_insert(json!([]));
    let values = track.as_array_mut().expect("made as one");
    if values.last().is_none_or(|last| last[1] != value) {
        values.push(json!([at, value]));
    }
}

/// The tracks of a pod's object.
fn of_pod(pod: &Value) -> Vec<(String, Value)> {
    let status = &pod["status"];
    let mut tracks = vec![("phase".to_owned(), some(status, &["phase", "reason", "message"]))];
    let observed = some(status, &["observedGeneration"]);
    tracks.push(("generation".to_owned(), observed));
    for condition in status["conditions"].as_array().into_iter().flatten() {
        let kind = condition["type"].as_str().unwrap_or_default();
        let fields = some(condition, &["status", "reason", "message"]);
        tracks.push((format!("condition {kind}"), fields));
    }
    for list in LISTS {
        for container in status[list].as_array().into_iter().flatten() {
            let name = container["name"].as_str().unwrap_or_default();
            let fields = ["state", "lastState", "ready", "started", "restartCount"];
            tracks.push((format!("container {name}"), some(container, &fields)));
        }
    }
    let grace = &pod["metadata"]["deletionGracePeriodSeconds"];
    if !grace.is_null() {
        tracks.push(("deletion".to_owned(), grace.clone()));
    }
    tracks
}

/// These fields of an object, those that are there.
fn some(of: &Value, fields: &[&str]) -> Value {
    let there =
        fields.iter().filter_map(|field| Some(((*field).to_owned(), of.get(field)?.clone())));
    Value::Object(there.collect())
}

/// What is in no track, as it is in the end: a track `field NAME` for each, those of containers by
/// their names.
fn rest(pod: &Value) -> Vec<(String, Value)> {
    const TRACKED: [&str; 5] = ["phase", "reason", "message", "observedGeneration", "conditions"];
    const OF_CONTAINER: [&str; 6] =
        ["name", "state", "lastState", "ready", "started", "restartCount"];
    let mut fields: Map<String, Value> = Map::new();
    for (name, value) in pod["status"].as_object().into_iter().flatten() {
        if !TRACKED.contains(&name.as_str()) && !LISTS.contains(&name.as_str()) {
            fields.insert(format!("field {name}"), value.clone());
        }
    }
    // What a kubelet has read of the pod's control group, if it has by then.
    if let Some(resources) = fields.get_mut("field resources")
        && resources["limits"]["memory"] == NO_LIMIT
    {
        *resources = json!({});
    }
    for container in LISTS.iter().filter_map(|list| pod["status"][*list].as_array()).flatten() {
        let about = container["name"].as_str().unwrap_or_default();
        for (name, value) in container.as_object().into_iter().flatten() {
            if !OF_CONTAINER.contains(&name.as_str()) {
                let track = format!("field container.{name}");
                fields.entry(track).or_insert(json!({}))[about] = value.clone();
            }
        }
    }
    fields.into_iter().collect()
}

fn event_text(event: &Value) -> String {
    let field = |name: &str| event[name].as_str().unwrap_or_default();
    let about = event["involvedObject"]["fieldPath"].as_str().unwrap_or_default();
    let about = if about.is_empty() { String::new() } else { format!(" [{about}]") };
    format!("{} {}{about}: {}", field("type"), field("reason"), field("message"))
}

/// A pod's object without times and names.
fn normal(pod: &Value, named: &Value, names: &Names) -> Value {
    let mut value = json!({"metadata": some(&pod["metadata"], &["deletionGracePeriodSeconds"])});
    value["status"] = pod["status"].clone();
    without(&mut value["status"]);
    texts(value, named, names)
}

/// Takes out what is a time, and of what is an id all but that it is there.
fn without(value: &mut Value) {
    match value {
        Value::Object(object) => {
            object.retain(|name, _| !LEFT_OUT.contains(&name.as_str()));
            for (name, value) in object {
                if THERE.contains(&name.as_str()) {
                    *value = json!(!value.is_null() && *value != "");
                } else {
                    without(value);
                }
            }
        }
        Value::Array(all) => all.iter_mut().for_each(without),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

/// Replaces what names the run in all texts.
fn texts(mut value: Value, pod: &Value, names: &Names) -> Value {
    let uid = pod["metadata"]["uid"].as_str().unwrap_or_default();
    let hash = pod["metadata"]["annotations"]["kubernetes.io/config.hash"].as_str();
    let addresses: Vec<&str> = [&pod["status"]["podIP"], &pod["status"]["hostIP"]]
        .iter()
        .filter_map(|ip| ip.as_str())
        .collect();
    strings(&mut value, &mut |text| {
        let mut new = text.clone();
        for (kind, id) in [("UID", Some(uid)), ("UID", hash)] {
            if let Some(id) = id.filter(|id| !id.is_empty()) {
                new = new.replace(id, kind);
            }
        }
        for kind in ["o", "w"] {
            new = new.replace(&format!("{}/{kind}-", names.registry), "REGISTRY/");
        }
        new = new.replace(&names.registry, "REGISTRY");
        new = new.replace(&names.namespace, "NAMESPACE");
        for address in &addresses {
            new = new.replace(address, "ADDRESS");
        }
        new = new.replace(&format!("-{}", names.node), "-NODE");
        *text = took(&private(&ids(&new)));
    });
    value
}

/// Addresses of pods' networks are `10.128.0.0/9`'s: an event may come before its pod is known by it.
fn private(text: &str) -> String {
    let mut new = String::new();
    let mut left = text;
    while let Some(at) = left.find("10.") {
        let (before, from) = left.split_at(at);
        let end = from.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(from.len());
        let address = from[..end].trim_end_matches('.');
        new.push_str(before);
        match address.parse::<std::net::Ipv4Addr>() {
            Ok(_) => new.push_str("ADDRESS"),
            Err(_) => new.push_str(address),
        }
        left = &from[address.len()..];
    }
    new + left
}

/// Long hexadecimal numbers become `ID`, with the runtime's name before them.
fn ids(text: &str) -> String {
    let text = text.replace("wasm://", "").replace("containerd://", "");
    let mut new = String::new();
    let mut word = String::new();
    for letter in text.chars().chain(std::iter::once('\n')) {
        if letter.is_ascii_hexdigit() {
            word.push(letter);
            continue;
        }
        new.push_str(if word.len() >= ID { "ID" } else { &word });
        word.clear();
        new.push(letter);
    }
    new.pop();
    new
}

/// The times and the size of a pull.
fn took(text: &str) -> String {
    const PULLED: &str = "Successfully pulled image ";
    match (text.find(PULLED), text.find(" in ")) {
        (Some(_), Some(end)) => format!("{} in TIME", &text[..end]),
        _ => text.to_owned(),
    }
}

/// For people: all of it, a line for each value.
pub(crate) fn text(shape: &Value) -> String {
    let mut text = String::new();
    let mut line = |at: &Value, what: &str, value: &Value| {
        let at = at.as_u64().unwrap_or_default();
        let _ = writeln!(text, "  {:>7.2} {what}: {value}", at as f64 / 1000.0);
    };
    for (track, values) in shape["tracks"].as_object().into_iter().flatten() {
        for value in values.as_array().into_iter().flatten() {
            line(&value[0], track, &value[1]);
        }
    }
    for event in shape["events"].as_array().into_iter().flatten() {
        line(&event[0], "event", &event[1]);
    }
    if shape["settled"] != true {
        text.push_str("  NOT SETTLED\n");
    }
    text
}
