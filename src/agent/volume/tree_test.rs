//! Trees of every part.

use std::os::unix::fs::symlink;

use serde_json::{Value, json};
use tempfile::TempDir;

use super::*;
use crate::volume::Volume;

struct Scene {
    _home: TempDir,
    /// Without a link in it.
    home: PathBuf,
    volumes: Volumes,
    mounts: bool,
    image: Option<PathBuf>,
}

fn scene(mounts: bool) -> Scene {
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
        fs::set_permissions(path.join("key"), fs::Permissions::from_mode(0o440)).expect("sets");
        volumes.insert(name.into(), Volume { path, kind });
    }
    Scene { _home: dir, home, volumes, mounts, image: None }
}

impl Scene {
    fn root(&self) -> PathBuf {
        self.home.join("attempt/root")
    }

    fn build(&self, container: Value) -> Result<Tree, TreeError> {
        let mut whole = json!({"name": "c"});
        for (key, value) in container.as_object().expect("an object") {
            whole[key] = value.clone();
        }
        let container = serde_json::from_value(whole).expect("a container");
        let files = [("etc/hosts", "the hosts".to_owned()), ("etc/hostname", "p\n".to_owned())];
        let seen = Seen {
            container: &container,
            volumes: &self.volumes,
            env: &[("PART".into(), "part".into())],
            image: self.image.as_deref(),
            files: &files,
            mounts: self.mounts,
        };
        build(&seen, &self.root())
    }

    fn read(&self, path: &str) -> String {
        fs::read_to_string(self.root().join(path)).expect(path)
    }

    /// An image with some files.
    fn with_image(mut self, links: &[(&str, &str)]) -> Self {
        let image = self.home.join("image");
        fs::create_dir_all(image.join("etc")).expect("makes");
        fs::write(image.join("etc/hosts"), "the image's").expect("writes");
        fs::write(image.join("etc/motd"), "welcome").expect("writes");
        fs::create_dir_all(image.join("srv")).expect("makes");
        for (link, target) in links {
            symlink(target, image.join(link)).expect("links");
        }
        self.image = Some(image);
        self
    }
}

fn preopen(host: PathBuf, guest: &str, read_only: bool) -> Preopen {
    Preopen { host, guest: guest.into(), read_only }
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).expect("is there").mode() & 0o7777
}

#[test]
fn a_tree_has_the_pods_files_and_a_place_for_each_volume() {
    let scene = scene(false);
    let volumes = json!([{"name": "map", "mountPath": "/etc/map/deep"},
        {"name": "empty", "mountPath": "data/./x/"},
        {"name": "host", "mountPath": "/host", "readOnly": true}]);
    // The second time over what the first left.
    for _ in 0..2 {
        let tree = scene.build(json!({"volumeMounts": volumes})).expect("builds");
        assert_eq!(
            tree.preopens,
            [
                preopen(scene.root(), "/", false),
                preopen(scene.home.join("host"), "/host", true),
                preopen(scene.home.join("empty"), "/data/x", false),
                preopen(scene.home.join("map"), "/etc/map/deep", true),
            ]
        );
        assert_eq!(tree.mounts, []);
        assert_eq!(tree.message, Some((scene.root().join("dev"), "termination-log".into())));
        assert_eq!(
            (scene.read("etc/hosts"), scene.read("dev/termination-log")),
            ("the hosts".into(), String::new())
        );
        for place in ["etc/map/deep", "data/x", "host"] {
            assert!(scene.root().join(place).is_dir(), "{place}");
        }
        assert_eq!(mode(&scene.root()), 0o755);
        assert_eq!(mode(&scene.root().join("etc/hosts")), 0o644);
        assert_eq!(mode(&scene.root().join("dev/termination-log")), 0o666);
        fs::write(scene.root().join("dev/termination-log"), "old").expect("writes");
    }
}

#[test]
fn an_images_files_are_there_and_the_pods_are_over_them() {
    let scene = scene(false).with_image(&[("srv/up", "../etc")]);
    let tree = scene.build(json!({"securityContext": {"readOnlyRootFilesystem": true}}));
    let tree = tree.expect("builds");
    assert_eq!(
        (scene.read("etc/hosts"), scene.read("srv/up/motd")),
        ("the hosts".into(), "welcome".into())
    );
    let message = preopen(scene.root().join("dev"), "/dev", false);
    assert_eq!(tree.preopens, [preopen(scene.root(), "/", true), message]);
    let image = scene.image.clone().expect("has one");
    assert_eq!(fs::read_to_string(image.join("etc/hosts")).expect("reads"), "the image's");
}

#[test]
fn a_file_that_the_container_mounts_is_not_the_pods() {
    let scene = scene(false);
    for mount in [
        json!({"name": "map", "mountPath": "/etc/hosts", "subPath": "key"}),
        json!({"name": "empty", "mountPath": "/etc"}),
    ] {
        let whole = mount["mountPath"] == "/etc";
        scene.build(json!({"volumeMounts": [mount]})).expect("builds");
        if whole {
            assert!(!scene.root().join("etc/hosts").exists());
        } else {
            assert_eq!(scene.read("etc/hosts"), "map");
        }
    }
    assert!(!scene.home.join("empty/hosts").exists());
}

#[test]
fn a_part_of_a_volume_is_shown() {
    let scene = scene(false);
    let mounts = json!([
        {"name": "empty", "mountPath": "/a", "subPath": "new/dir"},
        {"name": "host", "mountPath": "/b", "subPathExpr": "$(PART)"},
        {"name": "map", "mountPath": "/etc/app.conf", "subPath": "key"}]);
    let tree = scene.build(json!({"volumeMounts": mounts})).expect("builds");
    assert_eq!(
        tree.preopens[1..],
        [
            preopen(scene.home.join("empty/new/dir"), "/a", false),
            preopen(scene.home.join("host/part"), "/b", false),
        ]
    );
    assert_eq!(scene.read("etc/app.conf"), "map");
    assert_eq!(mode(&scene.root().join("etc/app.conf")), 0o440);
    assert!(scene.root().join("etc/hosts").exists(), "beside its siblings");
}

#[test]
fn a_part_outside_its_volume_is_refused_and_nothing_is_left() {
    let scene = scene(true);
    symlink("../host", scene.home.join("empty/up")).expect("links");
    symlink("/etc", scene.home.join("empty/etc")).expect("links");
    for path in ["up/key", "up/new", "etc/passwd", "etc"] {
        let mount = json!([{"name": "empty", "mountPath": "/a", "subPath": path}]);
        let error = scene.build(json!({"volumeMounts": mount})).expect_err(path);
        assert_eq!(
            (error.to_string().as_str(), error.reason()),
            (
                "failed to prepare subPath for volumeMount \"empty\" of container \"c\"",
                "CreateContainerConfigError"
            )
        );
        assert!(!scene.root().exists());
    }
    let mount = json!([{"name": "empty", "mountPath": "/a", "subPathExpr": "$(NONE)"}]);
    let error = scene.build(json!({"volumeMounts": mount})).expect_err("has no value");
    assert_eq!(crate::telemetry::chain(&error), "volume mount \"empty\": missing value for NONE");
}

#[test]
fn single_files_that_may_change_or_are_secret_are_mounted() {
    for (volume, read_only) in [("empty", false), ("host", false), ("secret", true)] {
        let mount = json!([{"name": volume, "mountPath": "/etc/one", "subPath": "key"}]);
        let scene = scene(true);
        let tree = scene.build(json!({"volumeMounts": mount})).expect("builds");
        let (source, target) = (scene.home.join(volume).join("key"), scene.root().join("etc/one"));
        assert_eq!(tree.mounts, [Mount { source, target, read_only }]);
        assert_eq!(scene.read("etc/one"), "", "no copy");
        assert_eq!(tree.preopens.len(), 1);
    }
    for (volume, copied) in [("empty", false), ("host", false), ("secret", true)] {
        let mount = json!([{"name": volume, "mountPath": "/etc/one", "subPath": "key"}]);
        let scene = scene(false);
        let built = scene.build(json!({"volumeMounts": mount}));
        match built {
            Ok(tree) => {
                assert!(copied, "{volume}");
                assert_eq!((tree.mounts, scene.read("etc/one")), (vec![], "secret".into()));
            }
            Err(error) => {
                assert!(!copied, "{volume}");
                assert_eq!(
                    error.to_string(),
                    format!(
                        "volume mount \"{volume}\" at /etc/one: a single file of it is shown, \
                         which takes a mount: expected copepod to run as root"
                    )
                );
                assert!(!scene.root().exists());
            }
        }
    }
}

#[test]
fn a_volume_below_another_is_seen_in_it() {
    let scene = scene(true);
    let mounts = json!([
        {"name": "map", "mountPath": "/data/in/map"}, {"name": "empty", "mountPath": "/data"},
        {"name": "host", "mountPath": "/data/one", "subPath": "key"}]);
    let tree = scene.build(json!({"volumeMounts": mounts})).expect("builds");
    assert_eq!(
        tree.preopens[1..],
        [
            preopen(scene.home.join("empty"), "/data", false),
            preopen(scene.home.join("map"), "/data/in/map", true),
        ]
    );
    assert!(scene.home.join("empty/in/map").is_dir());
    let (source, target) = (scene.home.join("host/key"), scene.home.join("empty/one"));
    assert!(target.is_file());
    assert_eq!(tree.mounts, [Mount { source, target, read_only: false }]);
}

#[test]
fn a_volume_that_a_link_leads_to_is_mounted() {
    for (link, target, path, place, why) in [
        ("alias", "data/x", "data", "data", "the image's link /alias leads around it"),
        ("alias", "data", "data", "data", "the image's link /alias leads around it"),
        (
            "srv/alias",
            "../run",
            "run/app",
            "run/app",
            "the image's link /srv/alias leads around it",
        ),
        ("alias", "/", "data", "data", "the image's link /alias leads around it"),
        ("run", "srv", "run/app", "srv/app", "a link of the image is on its way"),
    ] {
        let mounts = json!([{"name": "empty", "mountPath": format!("/{path}"), "readOnly": true}]);
        let with = scene(true).with_image(&[(link, target)]);
        let tree = with.build(json!({"volumeMounts": mounts})).expect("builds");
        let (source, target_path) = (with.home.join("empty"), with.root().join(place));
        let mount = Mount { source: source.clone(), target: target_path, read_only: true };
        assert_eq!(tree.mounts, [mount], "{link} -> {target}");
        assert_eq!(tree.preopens[1], preopen(source, &format!("/{path}"), true));

        let without = scene(false).with_image(&[(link, target)]);
        let error = without.build(json!({"volumeMounts": mounts})).expect_err("is refused");
        let text = format!(
            "volume mount \"empty\" at /{path}: {why}, which takes a mount: expected copepod to \
             run as root"
        );
        assert_eq!(error.to_string(), text);
    }
    let scene = scene(false).with_image(&[("alias", "etc"), ("srv/away", "../../../../etc/x")]);
    let mounts = json!([{"name": "empty", "mountPath": "/data"}]);
    let tree = scene.build(json!({"volumeMounts": mounts})).expect("no link leads there");
    assert_eq!(tree.mounts, []);
}

#[test]
fn last_words_lie_where_the_guest_can_write_them() {
    let scene = scene(false);
    fs::write(scene.home.join("empty/message"), "of the attempt before").expect("writes");
    fs::write(scene.home.join("host/message"), "a user's own").expect("writes");
    let mounts = json!([{"name": "empty", "mountPath": "/empty"}, {"name": "host", "mountPath": "/host"},
        {"name": "map", "mountPath": "/map"}, {"name": "map", "mountPath": "/one", "subPath": "key"}]);
    for (path, expected) in [
        ("/empty/message", Some(("empty", "message"))),
        ("/empty/in/message", Some(("empty/in", "message"))),
        ("/host/message", Some(("host", "message"))),
        ("/map/message", None),
        ("/one", None),
        ("/", None),
        ("/message", Some(("attempt/root", "message"))),
    ] {
        let container = json!({"volumeMounts": mounts, "terminationMessagePath": path});
        let tree = scene.build(container).expect("builds");
        let expected = expected.map(|(dir, file)| (scene.home.join(dir), PathBuf::from(file)));
        assert_eq!(tree.message, expected, "{path}");
    }
    let read = |path: &str| fs::read_to_string(scene.home.join(path)).expect("reads");
    assert_eq!(
        (read("empty/message"), read("host/message")),
        (String::new(), "a user's own".into())
    );
}
