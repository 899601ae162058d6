//! What a guest sees of the host's files.

use std::fs;

use crate::Scene;

fn pod(kind: &str, args: &str, mounts: &str, volumes: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: files}}\nspec:\n  restartPolicy: Never\n  \
         volumes: [{volumes}]\n  containers:\n  - {{name: main, image: '@{kind}@', args: [{args}], \
         volumeMounts: [{mounts}]}}\n"
    )
}

#[test]
fn an_empty_dir_is_writable_and_a_read_only_host_path_is_not() {
    for kind in ["files", "files-p2"] {
        let scene = Scene::new();
        let host = scene.home.path().join("host");
        fs::create_dir(&host).expect("makes");
        fs::write(host.join("given"), "from the host").expect("writes");
        let yaml = pod(
            kind,
            "mkdir, /data/d, --, write, /data/d/f, text, --, rename, /data/d/f, /data/g, --, read, \
             /data/g, --, remove, /data/g, --, list, /data, --, read, /host/given, --, write, \
             /host/new, x",
            "{name: data, mountPath: /data}, {name: host, mountPath: /host, readOnly: true}",
            &format!(
                "{{name: data, emptyDir: {{}}}}, {{name: host, hostPath: {{path: {}}}}}",
                host.display()
            ),
        );
        let ended = scene.run(&yaml, &[]);
        assert_eq!(ended.code, Some(1), "{kind}: the last step is refused: {ended:?}");
        for text in ["text", "from the host"] {
            assert!(ended.out.contains(text), "{kind}: {ended:?}");
        }
        assert!(ended.err.contains("/host/new"), "{kind}: {ended:?}");
    }
}

#[test]
fn a_writable_host_path_is_written_to() {
    let scene = Scene::new();
    let host = tempfile::tempdir().expect("makes");
    let yaml = pod(
        "files",
        "write, /host/new, text",
        "{name: host, mountPath: /host}",
        &format!("{{name: host, hostPath: {{path: {}, type: Directory}}}}", host.path().display()),
    );
    let ended = scene.run(&yaml, &[]);
    assert_eq!(ended.code, Some(0), "{ended:?}");
    assert_eq!(fs::read_to_string(host.path().join("new")).expect("is there").trim_end(), "text");
}

#[test]
fn nothing_outside_a_mount_is_seen() {
    let host = tempfile::tempdir().expect("makes");
    std::os::unix::fs::symlink("/etc", host.path().join("link")).expect("links");
    for path in ["/etc/passwd", "/host/../etc/passwd", "/host/link/passwd"] {
        let yaml = pod(
            "files",
            &format!("read, {path}"),
            "{name: host, mountPath: /host}",
            &format!("{{name: host, hostPath: {{path: {}}}}}", host.path().display()),
        );
        let ended = Scene::new().run(&yaml, &[]);
        assert_eq!(ended.code, Some(1), "{path}: {ended:?}");
        assert_eq!(ended.out, "", "{path}: {ended:?}");
    }
}
