//! Sources, order, optional ones, errors, bounds.

use std::sync::Arc;

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::object::{ServiceFacts, ServicePortFacts};
use crate::{argv, normalise_secret};

fn objects() -> Objects {
    let map = |value| Arc::new(serde_json::from_value(value).unwrap());
    let mut secret = serde_json::from_value(json!({
        "data": {"bytes": "/w==", "word": "aHVudGVyMg=="}, "stringData": {"text": "s"}}))
    .unwrap();
    normalise_secret(&mut secret);
    let mut plain = secret.clone();
    plain.data.as_mut().unwrap().remove("bytes");
    Objects {
        config_maps: [
            ("settings", json!({"data": {"A": "1", "b.c": "2"}, "binaryData": {"bin": "AA=="}})),
            ("more", json!({"data": {"A": "3", "NUL": "a\0b"}})),
            ("empty", json!({})),
        ]
        .map(|(name, value)| (name.to_owned(), map(value)))
        .into(),
        secrets: [("mixed", secret), ("plain", plain)]
            .map(|(name, secret)| (name.to_owned(), Arc::new(secret)))
            .into(),
        services: vec![
            service("default", "kubernetes", "10.0.0.1"),
            service("ns", "db", "10.0.0.2"),
        ],
        ..Objects::default()
    }
}

fn service(namespace: &str, name: &str, ip: &str) -> Arc<ServiceFacts> {
    let port = ServicePortFacts { port: 80, ..ServicePortFacts::default() };
    Arc::new(ServiceFacts {
        namespace: namespace.to_owned(),
        name: name.to_owned(),
        cluster_ip: ip.to_owned(),
        ports: vec![port],
    })
}

fn facts() -> Facts {
    Facts { node_name: "node".to_owned(), allocatable_cpu_millis: 2500, ..Facts::default() }
}

fn run(container: Value) -> Result<Vec<(String, String)>, String> {
    let objects = Objects { services: Vec::new(), ..objects() };
    run_with(container, &objects, Some(true))
}

fn run_with(
    container: Value,
    objects: &Objects,
    links: Option<bool>,
) -> Result<Vec<(String, String)>, String> {
    let container: Container = serde_json::from_value(container).unwrap();
    let pod: Pod = serde_json::from_value(json!({
        "metadata": {"name": "p", "namespace": "ns", "labels": {"app": "web"}},
        "spec": {"containers": [container.clone()], "enableServiceLinks": links}}))
    .unwrap();
    let files = [(("v".to_owned(), "env".to_owned()), "K='from file'\nE=''\nbad\n".to_owned())];
    environment(&pod, &container, objects, &facts(), &files.into()).map_err(|e| e.to_string())
}

fn shown(container: Value) -> String {
    match run(container) {
        Ok(env) => {
            env.iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join(" ")
        }
        Err(error) => format!("error: {error}"),
    }
}

#[test]
fn all_of_an_object_in_order_and_then_the_variables() {
    let from = json!([
        {"prefix": "X_", "configMapRef": {"name": "settings"}},
        {"configMapRef": {"name": "settings"}},
        {"secretRef": {"name": "plain"}},
        {"configMapRef": {"name": "none", "optional": true}},
        {"secretRef": {"name": "none", "optional": true}},
        {"configMapRef": {"name": "empty"}}]);
    let env = json!([{"name": "A", "value": "$(A)$(X_A)$(text)$(LATER)"}, {"name": "LATER", "value": "4"}]);
    assert_eq!(
        shown(json!({"name": "c", "envFrom": from, "env": env})),
        "X_A=1 X_b.c=2 A=11s$(LATER) b.c=2 text=s word=hunter2 LATER=4"
    );
}

#[test]
fn every_kind_of_source() {
    for (source, expected) in [
        (json!({"fieldRef": {"fieldPath": "metadata.labels['app']"}}), "V=web"),
        (json!({"fieldRef": {"fieldPath": "spec.nodeName"}}), "V=node"),
        (json!({"resourceFieldRef": {"resource": "limits.cpu"}}), "V=3"),
        (
            json!({"resourceFieldRef": {"resource": "limits.cpu", "containerName": "x"}}),
            "error: container x not found",
        ),
        (json!({"fieldRef": {"fieldPath": "x"}}), "error: field label not supported: x"),
        (json!({"configMapKeyRef": {"name": "settings", "key": "b.c"}}), "V=2"),
        (
            json!({"configMapKeyRef": {"name": "settings", "key": "bin"}}),
            "error: couldn't find key bin in ConfigMap ns/settings",
        ),
        (json!({"configMapKeyRef": {"name": "settings", "key": "z", "optional": true}}), ""),
        (
            json!({"configMapKeyRef": {"name": "none", "key": "z"}}),
            "error: configmap \"none\" not found",
        ),
        (json!({"configMapKeyRef": {"name": "none", "key": "z", "optional": true}}), ""),
        (
            json!({"configMapKeyRef": {"name": "more", "key": "NUL"}}),
            "error: environment variable \"V\": its value contains a NUL byte",
        ),
        (json!({"secretKeyRef": {"name": "mixed", "key": "word"}}), "V=hunter2"),
        (
            json!({"secretKeyRef": {"name": "mixed", "key": "bytes"}}),
            "error: the value of key bytes in Secret ns/mixed is not UTF-8, so no environment \
             variable",
        ),
        (
            json!({"secretKeyRef": {"name": "mixed", "key": "z"}}),
            "error: couldn't find key z in Secret ns/mixed",
        ),
        (json!({"secretKeyRef": {"name": "mixed", "key": "z", "optional": true}}), ""),
        (json!({"secretKeyRef": {"name": "none", "key": "z"}}), "error: secret \"none\" not found"),
        (json!({"secretKeyRef": {"name": "none", "key": "z", "optional": true}}), ""),
        (json!({"fileKeyRef": {"volumeName": "v", "path": "env", "key": "K"}}), "V=from file"),
        (
            json!({"fileKeyRef": {"volumeName": "v", "path": "env", "key": "E"}}),
            "error: environment variable key \"E\" not found in file \"env\"",
        ),
        (
            json!({"fileKeyRef": {"volumeName": "v", "path": "env", "key": "Z"}}),
            "error: couldn't parse env file \"env\": invalid environment variable format at line \
             3: missing '='",
        ),
        (
            json!({"fileKeyRef": {"volumeName": "v", "path": "gone", "key": "K"}}),
            "error: environment variable key \"K\" not found in file \"gone\"",
        ),
        (
            json!({"fileKeyRef": {"volumeName": "v", "path": "gone", "key": "K", "optional": true}}),
            "",
        ),
    ] {
        let found = shown(json!({"name": "c", "env": [{"name": "V", "valueFrom": source}]}));
        assert_eq!(found, expected, "{source}");
    }
    for (from, expected) in [
        (json!({"configMapRef": {"name": "none"}}), "error: configmap \"none\" not found"),
        (json!({"secretRef": {"name": "none"}}), "error: secret \"none\" not found"),
    ] {
        assert_eq!(shown(json!({"name": "c", "envFrom": [from]})), expected);
    }
}

#[test]
fn an_optional_source_that_is_missing_leaves_what_was_before() {
    let missing = json!({"configMapKeyRef": {"name": "none", "key": "z", "optional": true}});
    let env = json!([{"name": "A", "valueFrom": missing}]);
    let from = json!([{"configMapRef": {"name": "settings"}}]);
    assert_eq!(shown(json!({"name": "c", "envFrom": from, "env": env})), "A=1 b.c=2");
}

#[test]
fn services_are_told_of_after_the_pods_own_variables() {
    let container = json!({"name": "c", "envFrom": [{"configMapRef": {"name": "settings"}}], "env": [
        {"name": "URL", "value": "$(DB_SERVICE_HOST):$(DB_SERVICE_PORT) $(NO_SERVICE_HOST)"},
        {"name": "DB_SERVICE_PORT", "value": "own"},
        {"name": "AGAIN", "value": "$(DB_SERVICE_PORT)"}]});
    let names = |links| {
        let env = run_with(container.clone(), &objects(), links)?;
        let hosts = env.iter().filter(|(name, _)| !name.contains("_PORT"));
        Ok(hosts.map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>())
    };
    let own = "A=1 b.c=2 URL=10.0.0.2:80 $(NO_SERVICE_HOST) AGAIN=own";
    assert_eq!(
        names(Some(true)).map(|all| all.join(" ")),
        Ok(format!("{own} DB_SERVICE_HOST=10.0.0.2 KUBERNETES_SERVICE_HOST=10.0.0.1"))
    );
    assert_eq!(
        names(Some(false)).map(|all| all.join(" ")),
        Ok("A=1 b.c=2 URL=$(DB_SERVICE_HOST):$(DB_SERVICE_PORT) $(NO_SERVICE_HOST) AGAIN=own \
            KUBERNETES_SERVICE_HOST=10.0.0.1"
            .to_owned())
    );
    let env = run_with(container.clone(), &objects(), Some(true)).unwrap();
    let own = env.iter().filter(|(name, _)| name == "DB_SERVICE_PORT").collect::<Vec<_>>();
    assert_eq!(own, [&("DB_SERVICE_PORT".to_owned(), "own".to_owned())], "once");
    let (_, args) = argv(
        &serde_json::from_value(json!({"name": "c", "args": ["$(DB_PORT_80_TCP)"]})).unwrap(),
        &env,
    );
    assert_eq!(args, ["tcp://10.0.0.2:80"], "arguments may use them");
    let error: Result<Vec<String>, String> = names(None);
    assert_eq!(
        error,
        Err("nil pod.spec.enableServiceLinks encountered, cannot construct envvars".to_owned())
    );
}

#[test]
fn files_are_named_once() {
    let of = |path: &str, key: &str| {
        let file = json!({"volumeName": "v", "path": path, "key": key});
        json!({"name": key, "valueFrom": {"fileKeyRef": file}})
    };
    let env = json!([of("b", "1"), of("a", "2"), of("b", "3"), {"name": "plain"}]);
    let container = serde_json::from_value(json!({"name": "c", "env": env})).unwrap();
    let file = |path: &str| ("v".to_owned(), path.to_owned());
    assert_eq!(env_files(&container), [file("a"), file("b")]);
}

#[test]
fn a_bomb_of_variables_or_arguments_is_an_error() {
    let line =
        |i: u32| json!({"name": format!("V{i}"), "value": format!("$(V{})", i - 1).repeat(9)});
    let first = json!({"name": "V0", "value": "0123456789"});
    let bomb: Vec<Value> = std::iter::once(first.clone()).chain((1..30).map(line)).collect();
    let arguments = vec!["$(V3)"; 1000];
    let short: Vec<Value> = std::iter::once(first).chain((1..5).map(line)).collect();
    for container in
        [json!({"name": "c", "env": bomb}), json!({"name": "c", "env": short, "args": arguments})]
    {
        assert_eq!(
            shown(container),
            "error: environment, command and arguments are more than 2097152 bytes once their \
             $(VAR) references are expanded"
        );
    }
}

#[test]
fn the_bound_is_of_what_is_left_in_the_end() {
    let of = |bytes: usize| json!({"name": "V", "value": "x".repeat(bytes)});
    // A name of a byte.
    let most = MAX_EXPANDED_BYTES - 1;
    let env = json!([of(most), of(most), of(0), of(most)]);
    assert_eq!(run(json!({"name": "c", "env": env})).unwrap()[0].1.len(), most);
    assert!(run(json!({"name": "c", "env": [of(most + 1)]})).is_err());
}

proptest! {
    /// No panic, no name twice, and never more than the bound.
    #[test]
    fn any_variables_give_a_bounded_environment(
        lines in proptest::collection::vec(("[AB]{1,2}|X_A|", "([$()AB_X]|\\PC){0,8}", 0..9_usize), 0..8),
        args in proptest::collection::vec("[$()AB]{0,9}", 0..4),
    ) {
        let from = |i: usize| match i {
            0 => json!({"fieldRef": {"fieldPath": "metadata.name"}}),
            1 => json!({"configMapKeyRef": {"name": "more", "key": "A"}}),
            2 => json!({"secretKeyRef": {"name": "plain", "key": "text", "optional": true}}),
            3 => json!({"fileKeyRef": {"volumeName": "v", "path": "env", "key": "K"}}),
            _ => Value::Null,
        };
        let env: Vec<Value> = lines
            .iter()
            .map(|(name, value, i)| json!({"name": name, "value": value, "valueFrom": from(*i)}))
            .collect();
        let container = json!({"name": "c", "env": env, "args": args,
            "envFrom": [{"prefix": "X_", "configMapRef": {"name": "settings"}}]});
        let built = run(container.clone()).unwrap();
        let mut names: Vec<&String> = built.iter().map(|(name, _)| name).collect();
        names.sort();
        names.dedup();
        prop_assert_eq!(names.len(), built.len());
        let container: Container = serde_json::from_value(container).unwrap();
        let (_, args) = argv(&container, &built);
        let size = built.iter().map(|(n, v)| n.len() + v.len()).sum::<usize>()
            + args.iter().map(String::len).sum::<usize>();
        prop_assert!(size <= MAX_EXPANDED_BYTES);
    }
}
