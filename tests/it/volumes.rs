//! Volumes of every kind, and a container's own files, as guests see them.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use copepod_tests::{Home, Run, wait_until};
use rustix::process::Signal;

use crate::survive::sandboxes;
use crate::{SOON, Scene};

/// A config map and a secret, for pods of the same file.
const OBJECTS: &str = "\
apiVersion: v1
kind: ConfigMap
metadata: {name: map}
data: {greeting: hello from a map, other: unused}
binaryData: {bytes: AAEC/w==}
---
apiVersion: v1
kind: Secret
metadata: {name: secret}
data: {password: b3BlbiBzZXNhbWUK}
stringData: {user: ali}
---
";

/// Steps of the guest `files`, as its arguments.
fn steps(steps: &[&str]) -> String {
    let words = steps.join(" -- ");
    let quoted: Vec<String> = words.split(' ').map(|word| format!("{word:?}")).collect();
    format!("[{}]", quoted.join(", "))
}

/// A pod of one container; `more` are further lines of the container.
fn pod(guest: &str, args: &[&str], mounts: &str, volumes: &str, more: &str) -> String {
    format!(
        "{OBJECTS}apiVersion: v1\nkind: Pod\nmetadata: {{name: files, labels: {{app: it}}}}\nspec:\n  \
         restartPolicy: Never\n  terminationGracePeriodSeconds: 1\n  volumes: [{volumes}]\n  \
         containers:\n  - name: main\n    image: '@{guest}@'\n    args: {}\n    volumeMounts: \
         [{mounts}]\n{}",
        steps(args),
        more.lines().map(|line| format!("    {line}\n")).collect::<String>()
    )
}

/// Every file below a directory, links not followed.
fn files_below(dir: &Path) -> Vec<PathBuf> {
    let (mut found, mut left) = (Vec::new(), vec![dir.to_path_buf()]);
    while let Some(dir) = left.pop() {
        for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
            match entry.file_type() {
                Ok(kind) if kind.is_dir() => left.push(entry.path()),
                Ok(kind) if kind.is_file() => found.push(entry.path()),
                Ok(_) | Err(_) => {}
            }
        }
    }
    found
}

fn is_tmpfs(path: &Path) -> bool {
    rustix::fs::statfs(path).expect("is there").f_type == 0x0102_1994
}

/// The mounts that name this home.
fn mounts(home: &Home) -> Vec<String> {
    let all = fs::read_to_string("/proc/self/mountinfo").expect("/proc is mounted");
    let home = home.path().to_string_lossy();
    all.lines().filter(|line| line.contains(&*home)).map(str::to_owned).collect()
}

#[track_caller]
fn assert_nothing_left(home: &Home) {
    assert_eq!(mounts(home), [""; 0]);
    let left: Vec<_> = [home.run(), home.state()].iter().flat_map(|dir| files_below(dir)).collect();
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn files_of_objects_are_read_by_both_kinds_of_guests() {
    let volumes = "{name: map, configMap: {name: map, items: [{key: greeting, path: in/it}, {key: \
                   bytes, path: raw}]}}, {name: secret, secret: {secretName: secret}}, {name: down, \
                   downwardAPI: {items: [{path: labels, fieldRef: {fieldPath: metadata.labels}}]}}, \
                   {name: all, projected: {sources: [{configMap: {name: map}}, {secret: {name: \
                   secret, items: [{key: user, path: who}]}}, {downwardAPI: {items: [{path: name, \
                   fieldRef: {fieldPath: metadata.name}}]}}]}}, {name: gone, configMap: {name: \
                   none, optional: true}}";
    let mounts = "{name: map, mountPath: /map}, {name: secret, mountPath: /secret}, {name: down, \
                  mountPath: /down}, {name: all, mountPath: /all}, {name: gone, mountPath: /gone}";
    let args = [
        "read /map/in/it",
        "list /map",
        "read /secret/password",
        "read /down/labels",
        "read /all/greeting",
        "read /all/who",
        "read /all/name",
        "list /gone",
        "list /",
        "write /map/new x",
    ];
    for guest in ["files", "files-p2"] {
        let ended = Scene::new().run(&pod(guest, &args, mounts, volumes, ""), &[]);
        assert_eq!(ended.code, Some(1), "objects' files cannot be written: {ended:?}");
        for text in [
            "hello from a map",
            "link 9 in",
            "link 10 raw",
            "open sesame",
            "app=\"it\"",
            "ali",
            "dir 4096 etc",
            "dir 4096 map",
        ] {
            assert!(ended.out.contains(text), "{guest}: {text:?} is not in {ended:?}");
        }
        assert!(ended.err.contains("write /map/new x"), "{guest}: {ended:?}");
    }
}

#[test]
fn a_secret_is_in_memory_alone_and_goes_with_the_pod() {
    let scene = Scene::new();
    let volumes = "{name: secret, secret: {secretName: secret, defaultMode: 0400}}";
    let mounts_of = "{name: secret, mountPath: /secret}, {name: secret, mountPath: /one, subPath: \
                     password}";
    let args = ["read /one", "read /secret/password", "wait 60000"];
    let run = scene.start(&pod("files", &args, mounts_of, volumes, ""), &[]);
    run.wait_line("open sesame", SOON);
    wait_until(SOON, "both are read", || run.stdout().matches("open sesame").count() == 2);
    let found: Vec<_> = files_below(scene.home.path())
        .into_iter()
        .filter(|path| fs::read(path).is_ok_and(|bytes| bytes == b"open sesame\n"))
        .collect();
    let [file] = &found[..] else { panic!("one file was expected: {found:?}") };
    let about = fs::metadata(file).expect("is there");
    assert_eq!((about.mode() & 0o7777, about.uid()), (0o400, 0));
    assert!(is_tmpfs(file), "{}", file.display());
    end(scene, run, 143);
}

/// Ctrl-C, and nothing is left.
#[track_caller]
fn end(scene: Scene, mut run: Run, code: i32) {
    run.signal(Signal::INT);
    assert_eq!(run.wait(SOON).code(), Some(code), "{}", run.stderr());
    assert_nothing_left(&scene.home);
    scene.guard.finish();
}

#[test]
fn what_a_killed_agent_mounted_the_next_one_removes() {
    let scene = Scene::new();
    let volumes = "{name: secret, secret: {secretName: secret}}, {name: memory, emptyDir: {medium: \
                   Memory}}";
    let mounts_of = "{name: secret, mountPath: /secret}, {name: memory, mountPath: /memory}";
    let args = ["write /memory/f x", "read /secret/password", "wait 60000"];
    let mut run = scene.start(&pod("files", &args, mounts_of, volumes, ""), &[]);
    run.wait_line("open sesame", SOON);
    run.signal(Signal::KILL);
    run.wait(SOON);
    wait_until(SOON, "its guests end with it", || sandboxes(&scene.home).is_empty());
    assert!(!mounts(&scene.home).is_empty(), "nobody was there to unmount");
    let ended = scene.home.copepod([
        "run",
        &*scene.pod(&crate::one("exit", "Never", "args: ['0']")).to_string_lossy(),
    ]);
    assert_eq!(ended.output(SOON).status.code(), Some(0));
    assert_nothing_left(&scene.home);
    scene.guard.finish();
}

#[test]
fn memory_ends_at_its_limit() {
    let volumes = "{name: memory, emptyDir: {medium: Memory, sizeLimit: 1Mi}}";
    let args = ["fill /memory/small 512", "fill /memory/large 1024"];
    let ended = Scene::new()
        .run(&pod("files", &args, "{name: memory, mountPath: /memory}", volumes, ""), &[]);
    assert_eq!(ended.code, Some(1), "{ended:?}");
    assert!(ended.err.contains("fill /memory/large 1024: No space left"), "{ended:?}");
}

#[test]
fn a_part_of_a_volume_stays_in_it() {
    let scene = Scene::new();
    // The link is made by a guest, and leads to what every host has.
    let yaml = "apiVersion: v1
kind: Pod
metadata: {name: escape}
spec:
  restartPolicy: Never
  terminationGracePeriodSeconds: 1
  volumes: [{name: data, emptyDir: {}}]
  initContainers:
  - {name: init, image: '@files@', args: [link, ../../../../../../../../../../../../etc, /data/out], volumeMounts: [{name: data, mountPath: /data}]}
  containers:
  - {name: main, image: '@files@', args: [list, /out], volumeMounts: [{name: data, mountPath: /out, subPath: out}]}
";
    let run = scene.start(yaml, &[]);
    let line = run.wait_line("failed to prepare subPath", SOON);
    assert!(line.contains("CreateContainerConfigError"), "{line}");
    assert!(line.contains("volumeMount \"data\" of container \"main\""), "{line}");
    assert!(!run.stdout().contains("passwd"));
    end(scene, run, 137);
}

#[test]
fn single_files_and_directories_of_volumes_stand_among_the_containers_own() {
    let scene = Scene::new();
    let host = scene.home.path().join("host.txt");
    fs::write(&host, "of the host").expect("writes");
    let volumes = format!(
        "{{name: map, configMap: {{name: map}}}}, {{name: data, emptyDir: {{}}}}, {{name: host, \
         hostPath: {{path: {}, type: File}}}}",
        host.display()
    );
    let mounts_of = "{name: map, mountPath: /etc/greeting, subPath: greeting}, {name: data, \
                     mountPath: /work, subPathExpr: made/$(WHO)}, {name: host, mountPath: \
                     /srv/host.txt}";
    let args = [
        "read /etc/greeting",
        "list /etc",
        "write /work/f text",
        "read /srv/host.txt",
        "append /srv/host.txt more",
        "read /etc/hostname",
        "read /etc/hosts",
    ];
    let more = "env: [{name: WHO, value: me}]";
    for guest in ["files", "files-p2"] {
        fs::write(&host, "of the host").expect("writes");
        let run = scene.start(&pod(guest, &args, mounts_of, &volumes, more), &[]);
        let output = run.output(SOON);
        let out = String::from_utf8_lossy(&output.stdout);
        assert_eq!(output.status.code(), Some(0), "{guest}: {output:?}");
        for text in [
            "hello from a map",
            "file 16 greeting",
            "file 6 hostname",
            "hosts",
            "resolv.conf",
            "of the host",
            "# Kubernetes-managed hosts file.",
        ] {
            assert!(out.contains(text), "{guest}: {text:?} is not in {out}");
        }
        assert_eq!(fs::read_to_string(&host).expect("reads"), "of the hostmore\n", "{guest}");
    }
    scene.guard.finish();
}

#[test]
fn a_container_leaves_last_words() {
    let args = ["write /dev/termination-log goodbye", "read /none"];
    for more in ["", "securityContext: {readOnlyRootFilesystem: true, runAsUser: 1234}"] {
        let ended = Scene::new().run(&pod("files", &args, "", "", more), &["-o", "json"]);
        assert_eq!(ended.code, Some(1), "{ended:?}");
        assert!(ended.out.contains("\"message\":\"goodbye\\n\""), "{more}: {ended:?}");
    }
}

#[test]
fn a_guests_deepest_folders_are_removed() {
    let volumes = "{name: data, emptyDir: {}}";
    for (mounts_of, dir) in [("{name: data, mountPath: /data}", "/data"), ("", "/etc")] {
        let nest = format!("nest {dir} 5");
        let ended = Scene::new().run(&pod("files", &[&nest], mounts_of, volumes, ""), &[]);
        assert_eq!(ended.code, Some(0), "{ended:?}");
        assert!(!ended.err.contains("cannot"), "{ended:?}");
    }
}

#[test]
fn files_are_of_the_pods_group_and_modes_keep_others_out() {
    let volumes = "{name: secret, secret: {secretName: secret, defaultMode: 0400}}, {name: data, \
                   emptyDir: {}}";
    let mounts_of = "{name: secret, mountPath: /secret}, {name: data, mountPath: /data}";
    let args = ["write /data/f x", "read /secret/password"];
    let yaml = pod("files", &args, mounts_of, volumes, "securityContext: {runAsUser: 1234}");
    let ended = Scene::new().run(&yaml, &[]);
    assert_eq!(ended.code, Some(1), "the file is root's alone: {ended:?}");
    assert!(ended.err.contains("read /secret/password: Permission denied"), "{ended:?}");
    let yaml =
        yaml.replace("  restartPolicy", "  securityContext: {fsGroup: 4321}\n  restartPolicy");
    let ended = Scene::new().run(&yaml, &[]);
    assert_eq!(ended.code, Some(0), "{ended:?}");
    assert!(ended.out.contains("open sesame"), "{ended:?}");
}

#[test]
fn what_a_pod_names_and_no_file_has_is_refused_by_field() {
    let mounts_of = "{name: v, mountPath: /v}";
    for (volume, text) in [
        ("configMap: {name: none}", "spec.volumes[0].configMap: configmap \"none\" not found"),
        (
            "secret: {secretName: secret, items: [{key: k, path: p}]}",
            "spec.volumes[0].secret.items[0].key: secret references non-existent secret key: k",
        ),
        (
            "projected: {sources: [{serviceAccountToken: {path: t}}]}",
            "spec.volumes[0].projected.sources[0].serviceAccountToken: not possible",
        ),
    ] {
        let volume = format!("{{name: v, {volume}}}");
        let ended = Scene::new().run(&pod("files", &["list /v"], mounts_of, &volume, ""), &[]);
        assert_eq!((ended.code, ended.out.as_str()), (Some(1), ""), "{ended:?}");
        assert!(ended.err.contains(text), "{text:?} is not in {ended:?}");
    }
}

#[test]
fn a_volume_over_its_limit_ends_its_pod() {
    let volumes = "{name: data, emptyDir: {sizeLimit: 1Mi}}";
    let args = ["fill /data/f 2048", "wait 60000"];
    let yaml = pod("files", &args, "{name: data, mountPath: /data}", volumes, "");
    let ended =
        Scene::new().run(&yaml.replace("restartPolicy: Never", "restartPolicy: Always"), &[]);
    assert!(ended.code.is_some_and(|code| code != 0), "{ended:?}");
    let text = "Evicted: Usage of EmptyDir volume \"data\" exceeds the limit \"1Mi\".";
    assert!(ended.err.contains(text), "{ended:?}");
}
