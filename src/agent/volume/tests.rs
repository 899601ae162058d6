//! Volumes of every kind, made and removed.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::sync::Arc;

use copepod_pod::{Token, TokenKey};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::*;

struct Scene {
    home: TempDir,
    place: Place,
}

fn scene(mounts: bool) -> Scene {
    let home = tempfile::tempdir().expect("a directory");
    let path = home.path().canonicalize().expect("exists");
    let (disk, memory) = (path.join("pod"), path.join("run/uid"));
    fs::create_dir(&disk).expect("makes");
    Scene { home, place: Place { disk, memory, mounts, changes_user: mounts, ordinary: false } }
}

fn pod(volumes: Value, group: Option<i64>) -> Pod {
    let spec = json!({"containers": [], "volumes": volumes, "securityContext": {"fsGroup": group}});
    let pod = json!({"metadata": {"name": "p", "labels": {"a": "b"}}, "spec": spec});
    let mut pod = serde_json::from_value(pod).expect("a pod");
    copepod_pod::apply_defaults(&mut pod);
    pod
}

fn objects() -> Objects {
    let mut all = Objects::default();
    let map = serde_json::from_value(json!({"data": {"a": "1"}})).expect("a config map");
    let secret = serde_json::from_value(json!({"data": {"s": "c2VjcmV0"}})).expect("a secret");
    all.config_maps.insert("m".into(), Arc::new(map));
    all.secrets.insert("s".into(), Arc::new(secret));
    all
}

impl Scene {
    fn set_up(&self, volumes: Value, group: Option<i64>) -> Result<Volumes, VolumeError> {
        let pod = pod(volumes, group);
        set_up(&pod, &objects(), &Facts::default(), &self.place).map(|files| files.volumes)
    }

    fn mounted(&self) -> usize {
        let mounts = fs::read_to_string("/proc/self/mountinfo").expect("reads");
        mounts.lines().filter(|line| line.contains(&*self.home.path().to_string_lossy())).count()
    }
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).expect("is there").permissions().mode() & 0o7777
}

fn all_kinds() -> Value {
    json!([{"name": "empty", "emptyDir": {}},
        {"name": "memory", "emptyDir": {"medium": "Memory", "sizeLimit": "1Mi"}},
        {"name": "map", "configMap": {"name": "m"}},
        {"name": "secret", "secret": {"secretName": "s", "defaultMode": 256}},
        {"name": "down", "downwardAPI": {"items": [
            {"path": "labels", "fieldRef": {"fieldPath": "metadata.labels"}}]}},
        {"name": "all", "projected": {"sources": [
            {"configMap": {"name": "m"}}, {"secret": {"name": "s"}}]}}])
}

#[test]
fn every_kind_is_made_where_it_belongs_and_goes_with_the_pod() {
    let scene = scene(true);
    let volumes = scene.set_up(all_kinds(), None).expect("sets up");
    let on_disk = |name: &str| !linux::is_memory(&volumes[name].path);
    assert_eq!(
        ["empty", "memory", "map", "secret", "down", "all"].map(on_disk),
        [true, false, true, false, false, false]
    );
    let read = |path: &str| {
        let (name, file) = path.split_once('/').expect("a volume and a file");
        fs::read_to_string(volumes[name].path.join(file)).expect("reads")
    };
    let texts = ["map/a", "secret/s", "down/labels", "all/a", "all/s"].map(read);
    assert_eq!(texts, ["1", "secret", "a=\"b\"", "1", "secret"]);
    assert_eq!(mode(&volumes["secret"].path.join("s")), 0o400);
    assert_eq!((mode(&volumes["empty"].path), mode(&volumes["memory"].path)), (0o777, 0o777));

    let file = volumes["memory"].path.join("f");
    fs::write(&file, vec![0; 2 << 20]).expect_err("no room for it");
    fs::write(volumes["empty"].path.join("f"), "x").expect("writes");
    let mounted = scene.mounted();
    assert_eq!(scene.set_up(all_kinds(), None).expect("sets up again"), volumes);
    assert_eq!(scene.mounted(), mounted);
    assert!(file.exists() && volumes["empty"].path.join("f").exists(), "what is there stays");

    for _ in 0..2 {
        tear_down(&scene.place).expect("tears down");
        assert_eq!(scene.mounted(), 0);
        assert!(!scene.place.memory.exists() && !scene.place.disk.join("volumes").exists());
    }
}

#[test]
fn without_mounts_secrets_are_their_owners_alone() {
    let scene = scene(false);
    assert!(!linux::is_memory(scene.home.path()), "the test's directory lies on disk");
    let volumes = scene.set_up(all_kinds(), Some(4321)).expect("sets up");
    assert_eq!(scene.mounted(), 0);
    for name in ["down", "all"] {
        assert_eq!(mode(&volumes[name].path), 0o700, "{name}");
    }
    assert_eq!(mode(&volumes["down"].path.join("labels")), 0o600);
    assert_eq!(mode(&volumes["map"].path.join("a")), 0o644);
    let empty = fs::metadata(&volumes["empty"].path).expect("is there");
    assert_eq!((empty.mode() & 0o7777, empty.gid()), (0o777, 0), "no group can be given");
    tear_down(&scene.place).expect("tears down");
}

#[test]
fn files_are_of_the_pods_group() {
    let scene = scene(true);
    let volumes = scene.set_up(all_kinds(), Some(4321)).expect("sets up");
    for (name, path, wanted) in
        [("empty", "", 0o2777), ("memory", "", 0o2777), ("secret", "s", 0o440), ("map", "a", 0o644)]
    {
        let about = fs::metadata(volumes[name].path.join(path)).expect("is there");
        assert_eq!((about.mode() & 0o7777, about.gid()), (wanted, 4321), "{name}");
    }
    tear_down(&scene.place).expect("tears down");
}

#[test]
fn what_is_not_there_is_named_in_upstreams_words() {
    let scene = scene(false);
    for (volume, text) in [
        (json!({"configMap": {"name": "none"}}), "configmap \"none\" not found"),
        (
            json!({"secret": {"secretName": "s", "items": [{"key": "k", "path": "p"}]}}),
            "secret references non-existent secret key: k",
        ),
    ] {
        let mut volume = volume;
        volume["name"] = json!("v");
        let error = scene.set_up(json!([volume]), None).expect_err("is refused");
        assert_eq!(
            crate::telemetry::chain(&error),
            format!("MountVolume.SetUp failed for volume \"v\" : {text}")
        );
    }
}

/// What a pod names, of one text or another.
fn worded(text: &str) -> Objects {
    let mut all = Objects::default();
    let map = json!({"data": {"a": text}});
    all.config_maps.insert("m".into(), Arc::new(serde_json::from_value(map).expect("a map")));
    let mut secret = json!({"stringData": {"s": text}});
    secret["metadata"] = json!({"name": "s"});
    let mut secret = serde_json::from_value(secret).expect("a secret");
    copepod_pod::normalise_secret(&mut secret);
    all.secrets.insert("s".into(), Arc::new(secret));
    let key = TokenKey { audience: String::new(), expiration_seconds: 3600 };
    all.tokens.insert(key, Token::new(text));
    all
}

#[test]
fn a_second_set_up_brings_volumes_up_to_date_and_parts_of_them_stay() {
    let scene = scene(true);
    let volumes = json!([{"name": "map", "configMap": {"name": "m"}},
        {"name": "all", "projected": {"sources": [
            {"serviceAccountToken": {"path": "token"}}, {"secret": {"name": "s"}}]}}]);
    let mut pod = pod(volumes, None);
    let user = json!({"name": "c", "securityContext": {"runAsUser": 1000}, "volumeMounts": [
        {"name": "map", "mountPath": "/map"},
        {"name": "map", "mountPath": "/part", "subPath": "a"}]});
    let container: k8s_openapi::api::core::v1::Container =
        serde_json::from_value(user).expect("a container");
    pod.spec.as_mut().expect("a spec").containers = vec![container.clone()];
    let set_up = |text: &str| {
        super::set_up(&pod, &worded(text), &Facts::default(), &scene.place)
            .expect("sets up")
            .volumes
    };
    let volumes = set_up("old");
    let root = scene.home.path().canonicalize().expect("exists").join("root");
    let seen = Seen {
        container: &container,
        volumes: &volumes,
        env: &[],
        image: None,
        files: &[],
        mounts: false,
    };
    let tree = build(&seen, &root).expect("builds");
    let map = tree.preopens.iter().find(|preopen| preopen.guest == "/map").expect("is a preopen");
    let read = |path: PathBuf| fs::read_to_string(path).expect("reads");
    let texts = || {
        let all = &volumes["all"].path;
        [map.host.join("a"), root.join("part"), all.join("token"), all.join("s")].map(read)
    };
    assert_eq!(texts(), ["old"; 4]);
    assert_eq!(set_up("new"), volumes, "they lie where they lay");
    assert_eq!(texts(), ["new", "old", "new", "new"]);
    let token = fs::metadata(volumes["all"].path.join("token")).expect("is there");
    assert_eq!((token.uid(), token.mode() & 0o7777), (1000, 0o600));
    let secret = fs::metadata(volumes["all"].path.join("s")).expect("is there");
    assert_eq!((secret.uid(), secret.mode() & 0o7777), (0, 0o644));
    tear_down(&scene.place).expect("tears down");
}

fn host(path: &Path, kind: &str) -> Value {
    json!([{"name": "h", "hostPath": {"path": path, "type": kind}}])
}

#[test]
fn a_host_path_is_checked_and_made_by_its_type() {
    let scene = scene(false);
    let home = scene.home.path().canonicalize().expect("exists");
    let (dir, file, link) = (home.join("dir"), home.join("file"), home.join("link"));
    fs::create_dir(&dir).expect("makes");
    fs::write(&file, "x").expect("writes");
    std::os::unix::fs::symlink(&dir, &link).expect("links");
    for (path, kind) in [
        (&dir, ""),
        (&file, ""),
        (&dir, "Directory"),
        (&file, "File"),
        (&file, "FileOrCreate"),
        (&dir, "DirectoryOrCreate"),
    ] {
        let volumes = scene.set_up(host(path, kind), None).expect("is there");
        assert_eq!(volumes["h"], Volume { path: path.clone(), kind: Kind::HostPath });
    }
    let volumes = scene.set_up(host(&link, "Directory"), None).expect("is there");
    assert_eq!(volumes["h"].path, dir, "no link is on the way");

    let (new_dir, new_file) = (home.join("a/b"), home.join("new"));
    assert!(missing(&pod(host(&new_dir, "DirectoryOrCreate"), None)).is_empty());
    scene.set_up(host(&new_dir, "DirectoryOrCreate"), None).expect("is made");
    scene.set_up(host(&new_file, "FileOrCreate"), None).expect("is made");
    assert_eq!((mode(&new_dir), mode(&new_file)), (0o755, 0o644));
    assert_eq!(fs::read(&new_file).expect("reads"), b"");

    for (path, kind, expected) in [
        (&file, "Directory", "a directory"),
        (&file, "DirectoryOrCreate", "a directory"),
        (&dir, "File", "a file"),
        (&dir, "FileOrCreate", "a file"),
        (&home.join("none"), "", "a directory"),
        (&home.join("none"), "File", "a file"),
    ] {
        let text = format!(
            "MountVolume.SetUp failed for volume \"h\" : hostPath type check failed: {} is not {expected}",
            path.display()
        );
        let error = scene.set_up(host(path, kind), None).expect_err("is refused");
        assert_eq!(error.to_string(), text, "{kind}");
        let found: Vec<_> =
            missing(&pod(host(path, kind), None)).iter().map(ToString::to_string).collect();
        assert_eq!(found, [text], "{kind}");
    }
    let error = scene.set_up(host(&home.join("no/ne"), "FileOrCreate"), None);
    assert!(matches!(error, Err(VolumeError::Make { .. })), "no directory is made for a file");
}

#[test]
fn ordinary_containers_see_sockets_devices_and_what_is_made_for_them() {
    let mut scene = scene(false);
    scene.place.ordinary = true;
    let home = scene.home.path().canonicalize().expect("exists");
    let socket = home.join("socket");
    let _listener = std::os::unix::net::UnixListener::bind(&socket).expect("listens");
    let null = Path::new("/dev/null");
    for (path, kind) in [(&*socket, "Socket"), (null, "CharDevice"), (&*socket, ""), (null, "")] {
        let volumes = scene.set_up(host(path, kind), None).expect("is there");
        assert_eq!(volumes["h"].path, path);
    }
    scene.set_up(host(&home.join("a/b"), ""), None).expect("is made");
    assert_eq!(mode(&home.join("a/b")), 0o755);
    for (path, kind, expected) in [
        (null, "Socket", "a socket"),
        (&*socket, "CharDevice", "a character device"),
        (null, "BlockDevice", "a block device"),
    ] {
        let error = scene.set_up(host(path, kind), None).expect_err("is refused").to_string();
        assert!(error.ends_with(&format!("{} is not {expected}", path.display())), "{error}");
    }
}
