//! A container's environment, from every source that one machine has.

use std::fs;

use crate::{Ended, Scene};

const OBJECTS: &str = "\
apiVersion: v1
kind: ConfigMap
metadata: {name: map}
data: {A: from the map, B: b}
---
apiVersion: v1
kind: Secret
metadata: {name: secret}
stringData: {TOKEN: krill}
---
";

fn run(container: &str) -> Ended {
    let lines: String = container.lines().map(|line| format!("    {line}\n")).collect();
    Scene::new().run(
        &format!(
            "{OBJECTS}apiVersion: v1\nkind: Pod\nmetadata: {{name: env, labels: {{app: it}}}}\nspec:\n  \
             restartPolicy: Never\n  containers:\n  - name: main\n    image: '@files@'\n{lines}"
        ),
        &[],
    )
}

#[test]
fn every_kind_of_source_gives_variables_in_order() {
    let ended = run("\
args: [env]
resources: {limits: {memory: 64Mi}}
envFrom:
- configMapRef: {name: map}
- {prefix: S_, secretRef: {name: secret}}
- configMapRef: {name: none, optional: true}
env:
- {name: B, value: over the map}
- {name: NAME, valueFrom: {fieldRef: {fieldPath: metadata.name}}}
- {name: APP, valueFrom: {fieldRef: {fieldPath: \"metadata.labels['app']\"}}}
- {name: IP, valueFrom: {fieldRef: {fieldPath: status.podIP}}}
- {name: NODE, valueFrom: {fieldRef: {fieldPath: spec.nodeName}}}
- {name: MEMORY, valueFrom: {resourceFieldRef: {resource: limits.memory, divisor: 1Mi}}}
- {name: CPU, valueFrom: {resourceFieldRef: {resource: limits.cpu}}}
- {name: KEY, valueFrom: {configMapKeyRef: {name: map, key: A}}}
- {name: NONE, valueFrom: {secretKeyRef: {name: none, key: x, optional: true}}}
- {name: TOKEN, valueFrom: {secretKeyRef: {name: secret, key: TOKEN}}}
- {name: ALL, value: $(A) $(S_TOKEN) $(NAME) $(NONE) $$(A)}");
    assert_eq!(ended.code, Some(0), "{ended:?}");
    let node = fs::read_to_string("/proc/sys/kernel/hostname").expect("reads");
    let cpus = std::thread::available_parallelism().expect("some").to_string();
    for line in [
        "A=from the map",
        "ALL=from the map krill env $(NONE) $(A)",
        "APP=it",
        "B=over the map",
        &format!("CPU={cpus}"),
        "HOSTNAME=env",
        "IP=127.0.0.1",
        "KEY=from the map",
        "MEMORY=64",
        "NAME=env",
        &format!("NODE={}", node.trim().to_lowercase()),
        "S_TOKEN=krill",
        "TOKEN=krill",
    ] {
        assert!(
            ended.out.lines().any(|found| found.contains(line)),
            "{line:?} is not in {ended:?}"
        );
    }
    assert!(!ended.out.contains("NONE="), "{ended:?}");
}

#[test]
fn a_file_of_an_init_container_gives_variables() {
    let ended = Scene::new().run(
        "apiVersion: v1
kind: Pod
metadata: {name: env}
spec:
  restartPolicy: Never
  volumes: [{name: data, emptyDir: {}}]
  initContainers:
  - {name: init, image: '@files@', args: [write, /data/env, \"KEY='from a file'\"], volumeMounts: [{name: data, mountPath: /data}]}
  containers:
  - name: main
    image: '@files@'
    args: [env]
    env:
    - {name: GIVEN, valueFrom: {fileKeyRef: {volumeName: data, path: env, key: KEY}}}
    - {name: ABSENT, valueFrom: {fileKeyRef: {volumeName: data, path: none, key: KEY, optional: true}}}
",
        &[],
    );
    assert_eq!(ended.code, Some(0), "{ended:?}");
    assert!(ended.out.contains("GIVEN=from a file") && !ended.out.contains("ABSENT="), "{ended:?}");
}

#[test]
fn what_is_not_there_is_refused_by_field_in_upstreams_words() {
    for (env, text) in [
        (
            "configMapKeyRef: {name: map, key: x}",
            "spec.containers[0].env[0].valueFrom.configMapKeyRef.key: couldn't find key x in \
             ConfigMap default/map",
        ),
        (
            "secretKeyRef: {name: none, key: x}",
            "spec.containers[0].env[0].valueFrom.secretKeyRef: secret \"none\" not found",
        ),
    ] {
        let ended = run(&format!("args: [env]\nenv: [{{name: A, valueFrom: {{{env}}}}}]"));
        assert_eq!((ended.code, ended.out.as_str()), (Some(1), ""), "{ended:?}");
        assert!(ended.err.contains(text), "{text:?} is not in {ended:?}");
    }
}

#[test]
fn a_container_that_must_not_be_root_and_is_does_not_start() {
    let scene = Scene::new();
    let yaml = crate::one(
        "exit",
        "Never",
        "args: ['0']\nsecurityContext: {runAsNonRoot: true, runAsUser: 0}",
    );
    let mut run = scene.start(&yaml, &[]);
    let line = run.wait_line("breaks non-root policy", crate::SOON);
    assert!(
        line.contains("container's runAsUser breaks non-root policy (pod: \"one_default("),
        "{line}"
    );
    assert!(line.contains("CreateContainerConfigError"), "{line}");
    run.signal(rustix::process::Signal::INT);
    run.wait(crate::SOON);
    scene.guard.finish();
}
