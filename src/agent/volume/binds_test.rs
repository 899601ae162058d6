//! Binds of every kind, and guests that swap links.

use std::os::unix::fs::{MetadataExt, symlink};
use std::os::unix::net::UnixListener;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::{CWD, RenameFlags, renameat_with};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::*;
use crate::telemetry::chain;

struct Scene {
    _home: TempDir,
    /// Without a link in it.
    home: PathBuf,
    volumes: Volumes,
    hosts: Option<&'static str>,
    recursive: bool,
    selinux: bool,
}

impl Drop for Scene {
    fn drop(&mut self) {
        linux::remove_tree(&self.home).expect("removes");
        let mounts = fs::read_to_string("/proc/self/mountinfo").expect("reads");
        assert!(!mounts.contains(&*self.home.to_string_lossy()), "a mount is left");
    }
}

fn scene() -> Scene {
    let dir = tempfile::tempdir().expect("a directory");
    let home = dir.path().canonicalize().expect("exists");
    let mut volumes = Volumes::new();
    for (name, kind) in [
        ("empty", Kind::EmptyDir),
        ("host", Kind::HostPath),
        ("map", Kind::Payload { secret: false }),
        ("secret", Kind::Payload { secret: true }),
    ] {
        let path = home.join(name);
        fs::create_dir(&path).expect("makes");
        fs::write(path.join("key"), name).expect("writes");
        volumes.insert(name.into(), Volume { path, kind });
    }
    fs::create_dir(home.join("pod")).expect("makes");
    let hosts = Some("127.0.0.1\tlocalhost\n");
    Scene { _home: dir, home, volumes, hosts, recursive: false, selinux: false }
}

impl Scene {
    fn dir(&self) -> PathBuf {
        self.home.join("pod/containers/c/0")
    }

    fn binds(&self, container: Value) -> Result<Vec<Bind>, TreeError> {
        let mut whole = json!({"name": "c"});
        for (key, value) in container.as_object().expect("an object") {
            whole[key] = value.clone();
        }
        let container = serde_json::from_value(whole).expect("a container");
        let input = BindInput {
            container: &container,
            volumes: &self.volumes,
            env: &[("PART".into(), "part".into())],
            pod_dir: &self.home.join("pod"),
            hosts: self.hosts,
            recursive_read_only: self.recursive,
            selinux: self.selinux,
        };
        binds(&input, &self.dir())
    }

    fn one(&self, mount: Value) -> Result<Bind, TreeError> {
        let path = mount["mountPath"].as_str().expect("a path").to_owned();
        let binds = self.binds(json!({"volumeMounts": [mount]}))?;
        Ok(binds.into_iter().find(|bind| bind.container_path == path).expect("its bind"))
    }
}

fn places(binds: &[Bind]) -> Vec<&str> {
    binds.iter().map(|bind| bind.container_path.as_str()).collect()
}

fn read(path: impl AsRef<Path>) -> String {
    fs::read_to_string(path).expect("reads")
}

#[test]
fn volumes_hosts_and_message_are_bound_parents_first() {
    let scene = scene();
    let mounts = json!([{"name": "map", "mountPath": "/data/x/map"},
        {"name": "empty", "mountPath": "data/x/"},
        {"name": "secret", "mountPath": "/s", "readOnly": false},
        {"name": "host", "mountPath": "/host", "readOnly": true}]);
    for _ in 0..2 {
        let binds = scene.binds(json!({"volumeMounts": mounts})).expect("binds");
        assert_eq!(
            places(&binds),
            ["/s", "/host", "/data/x/", "/etc/hosts", "/dev/termination-log", "/data/x/map"]
        );
        let host = |path: &str| scene.home.join(path);
        let hosts: Vec<_> = binds.iter().map(|bind| bind.host_path.clone()).collect();
        let message = message_file(&scene.dir());
        let expected = [
            host("secret"),
            host("host"),
            host("empty"),
            host("pod/etc-hosts"),
            message,
            host("map"),
        ];
        assert_eq!(hosts, expected);
        let read_only: Vec<_> = binds.iter().map(|bind| bind.read_only).collect();
        assert_eq!(read_only, [true, true, false, false, false, true]);
        for bind in &binds {
            assert!(!bind.recursive_read_only && !bind.selinux_relabel);
            assert_eq!(bind.propagation, Propagation::None);
        }
        for (path, mode, text) in [
            ("pod/etc-hosts", 0o644, "127.0.0.1\tlocalhost\n"),
            ("pod/containers/c/0/termination-log", 0o666, ""),
        ] {
            let about = fs::metadata(host(path)).expect("is there");
            assert_eq!((about.mode() & 0o7777, read(host(path)).as_str()), (mode, text));
        }
        fs::write(message_file(&scene.dir()), "old").expect("writes");
    }
    assert!(!scene.dir().join(PARTS).exists(), "no mount without a part");
}

#[test]
fn the_hosts_file_is_kept_up_to_date_in_place() {
    let mut scene = scene();
    let path = scene.home.join("pod/etc-hosts");
    scene.binds(json!({})).expect("binds");
    let inode = fs::metadata(&path).expect("is there").ino();
    for (before, text) in [("what a guest wrote, and much of it\n", "1"), ("1", "12"), ("x", "x")] {
        fs::write(&path, before).expect("writes");
        scene.hosts = Some(text);
        scene.binds(json!({})).expect("binds");
        assert_eq!((read(&path).as_str(), fs::metadata(&path).expect("is").ino()), (text, inode));
    }
    let own = json!([{"name": "map", "mountPath": "/etc/hosts", "subPath": "key"}]);
    let binds = scene.binds(json!({"volumeMounts": own})).expect("binds");
    assert_eq!(places(&binds), ["/etc/hosts", "/dev/termination-log"]);
    assert_eq!(read(&binds[0].host_path), "map");
    scene.hosts = None;
    assert_eq!(places(&scene.binds(json!({})).expect("binds")), ["/dev/termination-log"]);
}

#[test]
fn the_message_lies_where_the_container_says() {
    let scene = scene();
    for (path, expected) in [
        (json!("/tmp/last"), "/tmp/last"),
        (json!("last"), "/last"),
        (json!(""), "/dev/termination-log"),
        (Value::Null, "/dev/termination-log"),
    ] {
        let binds = scene.binds(json!({"terminationMessagePath": path})).expect("binds");
        assert!(places(&binds).contains(&expected), "{path}");
    }
}

#[test]
fn a_part_of_a_volume_is_bound_as_it_was_found() {
    let scene = scene();
    UnixListener::bind(scene.home.join("host/socket")).expect("listens");
    fs::set_permissions(scene.home.join("empty"), fs::Permissions::from_mode(0o2777)).expect("is");
    let mounts = json!([
        {"name": "empty", "mountPath": "/a", "subPath": "new/dir"},
        {"name": "host", "mountPath": "/b", "subPathExpr": "$(PART)"},
        {"name": "map", "mountPath": "/etc/app.conf", "subPath": "key"},
        {"name": "host", "mountPath": "/socket", "subPath": "socket"},
        {"name": "host", "mountPath": "/file", "subPath": "key", "readOnly": true}]);
    // The second time over what the first left.
    for _ in 0..2 {
        let binds = scene.binds(json!({"volumeMounts": mounts})).expect("binds");
        let find = |place: &str| {
            binds.iter().find(|bind| bind.container_path == place).expect("is bound").clone()
        };
        let parts = scene.dir().join(PARTS);
        for (index, place) in ["/a", "/b", "/etc/app.conf", "/socket", "/file"].iter().enumerate() {
            assert_eq!(find(place).host_path, parts.join(index.to_string()), "{place}");
        }
        let made = fs::metadata(scene.home.join("empty/new")).expect("is made");
        assert_eq!(made.mode() & 0o7777, 0o2777, "the volume's own");
        fs::write(find("/a").host_path.join("in"), "written").expect("writes");
        assert_eq!(read(scene.home.join("empty/new/dir/in")), "written");
        assert!(scene.home.join("host/part").is_dir());
        assert_eq!(
            (read(find("/etc/app.conf").host_path), read(find("/file").host_path)),
            ("map".into(), "host".into())
        );
        assert!(find("/etc/app.conf").read_only && find("/file").read_only);
        let kind = fs::metadata(find("/socket").host_path).expect("is there").mode();
        assert_eq!(FileType::from_raw_mode(kind), FileType::Socket);
        let mounts = read("/proc/self/mountinfo");
        assert_eq!(mounts.matches(&*parts.to_string_lossy()).count(), 5, "one each");
    }
    release(&scene.dir()).expect("releases");
    release(&scene.dir()).expect("again");
    assert!(!scene.dir().join(PARTS).exists() && message_file(&scene.dir()).exists());
    assert_eq!(read(scene.home.join("empty/new/dir/in")), "written", "what was bound stays");
}

#[test]
fn a_part_outside_its_volume_is_refused_and_no_mount_is_left() {
    let scene = scene();
    symlink("../host", scene.home.join("empty/up")).expect("links");
    symlink("/etc", scene.home.join("empty/etc")).expect("links");
    let good = json!({"name": "empty", "mountPath": "/good", "subPath": "good"});
    for path in ["up/key", "up/new", "etc/passwd", "etc"] {
        let bad = json!({"name": "empty", "mountPath": "/bad", "subPath": path});
        let error = scene.binds(json!({"volumeMounts": [good, bad]})).expect_err(path);
        assert_eq!(
            (error.to_string().as_str(), error.reason()),
            (
                "failed to prepare subPath for volumeMount \"empty\" of container \"c\"",
                "CreateContainerConfigError"
            )
        );
        assert!(!scene.dir().join(PARTS).exists());
    }
    for (mount, expected) in [
        (
            json!({"name": "empty", "mountPath": "/a", "subPathExpr": "$(NONE)"}),
            "volume mount \"empty\": missing value for NONE",
        ),
        (json!({"name": "none", "mountPath": "/a"}), "volume mount \"none\" has no volume"),
        (
            json!({"name": "map", "mountPath": "/a", "subPath": "none"}),
            "failed to prepare subPath for volumeMount \"map\" of container \"c\": No such file or \
             directory (os error 2)",
        ),
    ] {
        assert_eq!(chain(&scene.one(mount).expect_err("is refused")), expected);
    }
}

/// A guest that runs beside: `part` is a directory of its own at one moment and a link out of the
/// volume at the next.
#[test]
fn a_link_that_is_swapped_in_leads_nowhere() {
    const TRIES: usize = 60;
    let scene = scene();
    let volume = scene.home.join("empty");
    fs::create_dir(volume.join("part")).expect("makes");
    fs::write(volume.join("part/key"), "inside").expect("writes");
    symlink("../host", volume.join("link")).expect("links");
    let stop = AtomicBool::new(false);
    let (mut bound, mut refused) = (0, 0);
    std::thread::scope(|threads| {
        threads.spawn(|| {
            let (part, link) = (volume.join("part"), volume.join("link"));
            while !stop.load(Ordering::Relaxed) {
                renameat_with(CWD, &part, CWD, &link, RenameFlags::EXCHANGE).expect("swaps");
            }
        });
        for _ in 0..TRIES {
            let mount = json!({"name": "empty", "mountPath": "/a", "subPath": "part/key"});
            match scene.one(mount).map(|bind| read(bind.host_path)) {
                Ok(text) => bound += usize::from(text == "inside"),
                Err(_) => refused += 1,
            }
        }
        stop.store(true, Ordering::Relaxed);
    });
    assert_eq!(bound + refused, TRIES, "{bound} were bound");
}

#[test]
fn propagation_and_recursive_read_only() {
    let mut scene = scene();
    let mount = |more: Value| {
        let mut mount = json!({"name": "host", "mountPath": "/a"});
        mount.as_object_mut().expect("is one").extend(more.as_object().expect("is one").clone());
        mount
    };
    for (mode, expected) in [
        (Value::Null, Propagation::None),
        (json!("None"), Propagation::None),
        (json!("HostToContainer"), Propagation::HostToContainer),
        (json!("Bidirectional"), Propagation::Bidirectional),
    ] {
        let bind = scene.one(mount(json!({"mountPropagation": mode}))).expect("binds");
        assert_eq!(bind.propagation, expected);
    }
    let error = scene.one(mount(json!({"mountPropagation": "Some"}))).expect_err("no such mode");
    assert_eq!(error.to_string(), "invalid MountPropagation mode: \"Some\"");

    for (supported, more, expected) in [
        (true, json!({"recursiveReadOnly": "Disabled"}), Ok(false)),
        (true, json!({"recursiveReadOnly": "IfPossible", "readOnly": true}), Ok(true)),
        (false, json!({"recursiveReadOnly": "IfPossible", "readOnly": true}), Ok(false)),
        (
            true,
            json!({"recursiveReadOnly": "Enabled", "readOnly": true, "mountPropagation": "None"}),
            Ok(true),
        ),
        (
            false,
            json!({"recursiveReadOnly": "Enabled", "readOnly": true}),
            Err("volume \"host\" requested recursive read-only mode, but it is not supported by \
                 the runtime"),
        ),
        (
            true,
            json!({"recursiveReadOnly": "Enabled"}),
            Err("volume \"host\" requested recursive read-only mode, but it is not read-only"),
        ),
        (
            true,
            json!({"recursiveReadOnly": "IfPossible", "readOnly": true,
                "mountPropagation": "Bidirectional"}),
            Err(
                "volume \"host\" requested recursive read-only mode, but it is not compatible with \
                 propagation \"Bidirectional\"",
            ),
        ),
        (
            true,
            json!({"recursiveReadOnly": "Yes", "readOnly": true}),
            Err("unknown recursive read-only mode \"Yes\""),
        ),
    ] {
        scene.recursive = supported;
        let found = scene.one(mount(more.clone())).map(|bind| bind.recursive_read_only);
        let found = found.map_err(|error| chain(&error));
        let text = |text| format!("failed to resolve recursive read-only mode: {text}");
        assert_eq!(found, expected.map_err(text), "{supported} {more}");
    }
}

#[test]
fn all_but_the_hosts_paths_are_labelled() {
    let mut scene = scene();
    scene.selinux = true;
    let mounts = json!([{"name": "empty", "mountPath": "/e"}, {"name": "host", "mountPath": "/h"},
        {"name": "map", "mountPath": "/m"}]);
    for bind in scene.binds(json!({"volumeMounts": mounts})).expect("binds") {
        assert_eq!(bind.selinux_relabel, bind.container_path != "/h", "{}", bind.container_path);
    }
}
