//! Good files, and the exact texts for bad ones.

use std::time::{Duration, Instant};

use proptest::prelude::*;

use super::*;

/// A good pod; line 8 is its image's.
const POD: &str = "\
apiVersion: v1
kind: Pod
metadata:
  name: a
spec:
  containers:
  - name: c
    image: ./c.wasm
";

/// The longest that a hostile file may take; a good one takes milliseconds.
const QUICK: Duration = Duration::from_secs(30);

fn source() -> Source {
    Source { name: "pods.yaml".into(), base: "/srv".into() }
}

fn good(text: &str) -> Vec<LoadedPod> {
    parse(&source(), text).unwrap_or_else(|e| panic!("{e}")).pods
}

fn error(text: &str) -> String {
    parse(&source(), text).map(|all| format!("{} objects", all.len())).unwrap_err().to_string()
}

#[test]
fn pods_of_documents_and_lists() {
    let b = POD.replace("name: a", "name: b");
    let item = |pod: &str| {
        pod.lines()
            .enumerate()
            .map(|(i, line)| format!("{} {line}\n", if i == 0 { "-" } else { " " }))
            .collect::<String>()
    };
    let list =
        format!("apiVersion: v1\nkind: List\nmetadata: {{}}\nitems:\n{}{}", item(POD), item(&b));
    let untyped = POD.replace("apiVersion: v1\nkind: Pod\n", "");
    let typed = format!("apiVersion: v1\nkind: PodList\nitems:\n{}", item(&untyped));
    let json = serde_json::json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a",
        "annotations": {"smile": "\u{1f600}/\"\\"}}, "spec": {"containers": []}});
    let cases = [
        (POD.to_owned(), vec![("a", "pods.yaml")]),
        (format!("\u{feff}# comment\n---\n{POD}---\n"), vec![("a", "pods.yaml")]),
        (
            format!("---\n{POD}---\n# nothing\n---\n{b}..."),
            vec![("a", "pods.yaml, document 1"), ("b", "pods.yaml, document 2")],
        ),
        (list, vec![("a", "pods.yaml, item 1"), ("b", "pods.yaml, item 2")]),
        (typed, vec![("a", "pods.yaml, item 1")]),
        (json.to_string(), vec![("a", "pods.yaml")]),
        (
            serde_json::to_string_pretty(&json).unwrap().replace("  ", "\t"),
            vec![("a", "pods.yaml")],
        ),
        (json.to_string().replace('\u{1f600}', "\\ud83d\\ude00"), vec![("a", "pods.yaml")]),
        (POD.replace('\n', "\r\n"), vec![("a", "pods.yaml")]),
    ];
    for (text, expected) in cases {
        let text = text.strip_prefix('\u{feff}').unwrap_or(&text);
        let pods = good(text);
        let found: Vec<_> = pods
            .iter()
            .map(|p| (p.pod.metadata.name.as_deref().unwrap(), p.source.as_str()))
            .collect();
        assert_eq!(found, expected, "{text}");
        assert!(pods.iter().all(|pod| pod.base == Path::new("/srv")));
        if let Some(annotations) = &pods[0].pod.metadata.annotations {
            assert_eq!(annotations["smile"], "\u{1f600}/\"\\");
        }
    }
}

#[test]
fn values_are_read_as_upstream_does() {
    let pods = good(&format!(
        "{POD}    resources: {{limits: {{cpu: 0.5, memory: 1024, x/y: '1'}}}}
    ports: [{{containerPort: 80}}]
    env: &env
    - {{name: A, value: \"yes\"}}
    livenessProbe: {{httpGet: {{port: http}}}}
    readinessProbe: {{httpGet: {{port: 8080}}}}
  - name: d
    image:
    env: *env
  hostNetwork: yes
  volumes: [{{name: v, configMap: {{defaultMode: 0644}}}}]
"
    ));
    let spec = serde_json::to_value(pods[0].pod.spec.as_ref().unwrap()).unwrap();
    for (pointer, expected) in [
        ("/containers/0/resources/limits/cpu", serde_json::json!("0.5")),
        ("/containers/0/resources/limits/memory", serde_json::json!("1024")),
        ("/containers/0/livenessProbe/httpGet/port", serde_json::json!("http")),
        ("/containers/0/readinessProbe/httpGet/port", serde_json::json!(8080)),
        ("/containers/1/env/0/value", serde_json::json!("yes")),
        ("/hostNetwork", serde_json::json!(true)),
        ("/volumes/0/configMap/defaultMode", serde_json::json!(420)),
    ] {
        assert_eq!(spec.pointer(pointer), Some(&expected), "{pointer}");
    }
    assert_eq!(spec.pointer("/containers/1/image"), None, "null is missing");
}

/// The good pod with `from` made `to`, and how its error goes on after the file's name; one that
/// ends in `: ` only begins so.
fn each_is_wrong(cases: &[(&str, &str, &str)]) {
    for (from, to, expected) in cases {
        let text = POD.replacen(from, to, 1);
        assert_ne!(text, POD);
        let (found, expected) = (error(&text), format!("pods.yaml, {expected}"));
        assert!(found.starts_with(&expected), "{found}");
        assert!(expected.ends_with(": ") || found == expected, "{found}");
    }
}

#[test]
fn unknown_and_duplicate_fields_are_named_with_path_and_line() {
    each_is_wrong(&[
        (
            "    image:",
            "    imagee:",
            "line 8: unknown field \"spec.containers[0].imagee\", did you mean \"image\"?",
        ),
        ("spec:", "Spec:", "line 6: unknown field \"Spec\", did you mean \"spec\"?"),
        ("  containers:", "  zzz: 1\n  containers:", "line 6: unknown field \"spec.zzz\""),
        (
            "    image: ./c.wasm",
            "    image: ./c.wasm\n    image: ./d.wasm",
            "line 9: duplicate field \"spec.containers[0].image\"",
        ),
    ]);
}

#[test]
fn wrong_types_are_named_with_path_and_line() {
    each_is_wrong(&[
        (
            "    image: ./c.wasm",
            "    image: ./c.wasm\n    ports: [{containerPort: http}]",
            "line 9: spec.containers[0].ports[0].containerPort: expected an integer, found a \
             string \"http\"",
        ),
        (
            "    image: ./c.wasm",
            "    image: ./c.wasm\n    ports: [{containerPort: 99999999999}]",
            "line 9: spec.containers[0].ports[0].containerPort: expected an integer of 32 bits, \
             found the number 99999999999",
        ),
        (
            "    image: ./c.wasm",
            "    image: 5",
            "line 8: spec.containers[0].image: expected a string, found the number 5",
        ),
        (
            "    image: ./c.wasm",
            "    env: [{name: A, value: yes}]",
            "line 8: spec.containers[0].env[0].value: expected a string, found the boolean true",
        ),
        (
            "    image: ./c.wasm",
            "    args: echo hello",
            "line 8: spec.containers[0].args: expected a list, found a string \"echo hello\"",
        ),
        (
            "    image: ./c.wasm",
            "    args: [a, {b: c}]",
            "line 8: spec.containers[0].args[1]: expected a string, found an object",
        ),
        (
            "    image: ./c.wasm",
            "    resources: {limits: {cpu: [1]}}",
            "line 8: spec.containers[0].resources.limits.cpu: expected a quantity (a string or a \
             number), found a list",
        ),
        (
            "  - name: c\n    image: ./c.wasm",
            "  - ",
            "line 7: spec.containers[0]: expected an object (Container), found null",
        ),
        (
            "  - name: c\n    image: ./c.wasm",
            "    name: c\n    image: ./c.wasm",
            "line 7: spec.containers: expected a list, found an object",
        ),
        (
            "  name: a",
            "  name: a\n  creationTimestamp: then",
            "line 5: metadata.creationTimestamp: ",
        ),
    ]);
}

#[test]
fn everything_wrong_comes_at_once() {
    let bad = POD
        .replace("  name: a", "  name: [a]\n  labels: {x: 1, y: true}")
        .replace("    image:", "    img: x\n    ports: 80\n    image: a\n    image:");
    assert_eq!(
        error(&format!("{POD}---\n{bad}---\nkind: Service\napiVersion: v1\n---\n- 1\n")),
        "\
pods.yaml, document 2, line 13: metadata.name: expected a string, found a list
pods.yaml, document 2, line 14: metadata.labels.x: expected a string, found the number 1
pods.yaml, document 2, line 14: metadata.labels.y: expected a string, found the boolean true
pods.yaml, document 2, line 18: unknown field \"spec.containers[0].img\", did you \
mean \"image\"?
pods.yaml, document 2, line 19: spec.containers[0].ports: expected a list, found the number 80
pods.yaml, document 2, line 21: duplicate field \"spec.containers[0].image\"
pods.yaml, document 3, line 23: found apiVersion \"v1\" and kind \"Service\": expected an object \
of apiVersion \"v1\" and kind \"Pod\", \"ConfigMap\" or \"Secret\" (or a List of them)
pods.yaml, document 4, line 26: expected an object of apiVersion \"v1\" and kind \"Pod\", \
\"ConfigMap\" or \"Secret\" (or a List of them)"
    );
}

#[test]
fn what_is_no_pod() {
    let expected = EXPECTED;
    for (text, message) in [
        ("", "pods.yaml: no pod in it".to_owned()),
        ("---\n# nothing\n---\n~\n", "pods.yaml: no pod in it".into()),
        ("apiVersion: v1\nkind: List\nitems: []\n", "pods.yaml: no pod in it".into()),
        (
            "apiVersion: apps/v1\nkind: Deployment\n",
            format!(
                "pods.yaml, line 1: found apiVersion \"apps/v1\" and kind \"Deployment\": {expected}"
            ),
        ),
        (
            "kind: Pod\n",
            format!("pods.yaml, line 1: found apiVersion \"\" and kind \"Pod\": {expected}"),
        ),
        ("apiVersion: v1\n", format!("pods.yaml, line 1: kind is missing: {expected}")),
        ("hello\n", format!("pods.yaml, line 1: {expected}")),
        (
            "apiVersion: v1\nkind: List\nitems: 1\n",
            "pods.yaml, line 1: items: expected a list of objects".into(),
        ),
        (
            "apiVersion: v1\nkind: List\nitemz: []\n",
            "pods.yaml, line 3: unknown field \"itemz\"".into(),
        ),
        (
            "apiVersion: v1\nkind: List\nitems: [{apiVersion: v1, kind: Node}]\n",
            format!(
                "pods.yaml, item 1, line 3: found apiVersion \"v1\" and kind \"Node\": {expected}"
            ),
        ),
    ] {
        assert_eq!(error(text), message, "{text}");
    }
    let found = error("a: [1\nb: {");
    assert!(
        found.starts_with("pods.yaml: not usable as YAML: ") && found.contains("line 2"),
        "{found}"
    );
}

#[test]
fn config_maps_and_secrets_stand_beside_pods() {
    let text = format!(
        "{POD}---
apiVersion: v1
kind: ConfigMap
metadata: {{name: c, namespace: other}}
immutable: true
data: {{a: text, b: ''}}
binaryData:
  c: |
    AAE
    C/w==
---
apiVersion: v1
kind: SecretList
items:
- metadata: {{name: s}}
  type: Opaque
  data: {{a: c2VjcmV0}}
  stringData: {{b: plain}}
"
    );
    let all = parse(&source(), &text).unwrap();
    assert_eq!((all.pods.len(), all.config_maps.len(), all.secrets.len()), (1, 1, 1));
    let map = &all.config_maps[0];
    assert_eq!(map.source, "pods.yaml, document 2");
    assert_eq!(map.object.data.as_ref().unwrap()["a"], "text");
    assert_eq!(map.object.binary_data.as_ref().unwrap()["c"].0, [0, 1, 2, 0xff]);
    let secret = &all.secrets[0];
    assert_eq!(secret.source, "pods.yaml, document 3, item 1");
    assert_eq!(secret.object.data.as_ref().unwrap()["a"].0, b"secret");
    assert_eq!(secret.object.string_data.as_ref().unwrap()["b"], "plain");
    let bad = "apiVersion: v1
kind: Secret
metadata: {name: s}
data:
  a: plain!
  b: [c]
  d: 1
stringDate: {}
---
apiVersion: v1
kind: ConfigMap
data: {a: 5}
binaryData: {b: '-'}
";
    let found = error(bad);
    let lines: Vec<_> = found.lines().collect();
    for (line, start) in lines.iter().zip([
        "pods.yaml, document 1, line 5: data.a: expected base64 (stringData takes text as it is): ",
        "pods.yaml, document 1, line 6: data.b: expected a base64-encoded string, found a list",
        "pods.yaml, document 1, line 7: data.d: expected a base64-encoded string, found the number",
        "pods.yaml, document 1, line 8: unknown field \"stringDate\", did you mean \"stringData\"?",
        "pods.yaml, document 2, line 12: data.a: expected a string, found the number 5",
        "pods.yaml, document 2, line 13: binaryData.b: expected base64 (data takes text as it is)",
    ]) {
        assert!(line.starts_with(start), "{line}");
    }
    assert_eq!(lines.len(), 6, "{found}");
}

#[test]
fn files_are_read_with_their_folder_and_bounds() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    std::fs::write(path("pod.yaml"), POD).unwrap();
    let pods = read(&path("pod.yaml")).unwrap().pods;
    assert_eq!((pods.len(), pods[0].base.as_path()), (1, dir.path()));
    assert_eq!(pods[0].source, path("pod.yaml").display().to_string());

    let text = |name: &str| read(&path(name)).unwrap_err().to_string();
    assert!(text("none.yaml").ends_with("none.yaml: cannot be read"));
    assert!(matches!(read(dir.path()), Err(SourceError::Read { .. })));
    std::fs::write(path("binary"), b"\0asm\x01\0\0\0\xff").unwrap();
    assert!(text("binary").ends_with("not UTF-8 text: expected a pod in YAML or JSON"));
    // The most that is allowed is read, a byte more is not.
    let mut big = format!("{POD}#");
    let most = usize::try_from(MAX_BYTES).unwrap();
    big.push_str(&"x".repeat(most - big.len()));
    std::fs::write(path("big.yaml"), &big).unwrap();
    let start = Instant::now();
    assert_eq!(read(&path("big.yaml")).unwrap().len(), 1);
    big.push('x');
    std::fs::write(path("big.yaml"), &big).unwrap();
    assert!(text("big.yaml").ends_with("longer than 10 MiB, the most that a pod file may be"));
    assert!(start.elapsed() < QUICK);
}

#[test]
fn hostile_files_end_quickly_as_one_error() {
    let most = usize::try_from(MAX_BYTES).unwrap();
    let mut bomb = String::from("a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n");
    for i in 1..12 {
        let line = format!("*a{}, ", i - 1).repeat(10);
        bomb.push_str(&format!("a{i}: &a{i} [{}]\n", line.trim_end_matches(", ")));
    }
    let cases = [
        bomb,
        "- x\n".repeat(most / 4),
        "[".repeat(most),
        "{a: ".repeat(1000),
        "- ".repeat(10_000),
        "---\na\n".repeat(1000),
        POD.replace("./c.wasm", &"$(A)".repeat(most / 8)) + "    zzz: 1\n",
        POD.replace("name: a", &format!("labels: {{{}}}", "a: 1, ".repeat(30_000))),
        "&a ".repeat(most / 3),
        "\"".to_owned() + &"\\x41".repeat(most / 5),
        format!("{POD}---\n").repeat(300),
        format!("apiVersion: v1\nkind: PodList\nitems: [{}]", "{metadata: {name: a}},".repeat(257)),
    ];
    for case in cases {
        let start = Instant::now();
        let found = error(&case);
        let shown = &case[..case.len().min(40)];
        assert!(start.elapsed() < QUICK, "{shown}: {:?}", start.elapsed());
        assert!(found.starts_with("pods.yaml"), "{shown}: {found}");
        assert!(found.lines().count() <= 20 && found.len() < 8192, "{shown}: {}", found.len());
    }
}

proptest! {
    #[test]
    fn any_text_ends_in_pods_or_an_error(text in "\\PC{0,60}") {
        let _ = parse(&source(), &text).map_err(|e| e.to_string());
    }

    #[test]
    fn any_bytes_end_in_pods_or_an_error(bytes in proptest::collection::vec(any::<u8>(), 0..80)) {
        let _ = bounded(&source(), bytes.as_slice()).and_then(|text| parse(&source(), &text));
    }

    /// A pod with one line put anywhere: never a panic, and never a line silently dropped.
    #[test]
    fn a_stray_line_is_never_ignored(at in 0_usize..8, indent in 0_usize..8, key in "zz[a-z]{1,6}") {
        let mut lines: Vec<String> = POD.lines().map(Into::into).collect();
        lines.insert(at, format!("{}{key}: 1", " ".repeat(indent)));
        prop_assert!(parse(&source(), &lines.join("\n")).is_err());
    }
}
