use rustix::fs::{CWD, Mode, mkfifoat};
use tempfile::TempDir;
use tokio::time::timeout;

use super::*;

/// Far longer than the kernel takes to tell of a change.
const SOON: Duration = Duration::from_secs(20);

fn text(name: &str, image: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\n\
         spec: {{containers: [{{name: c, image: '{image}'}}]}}\n"
    )
}

fn options(path: &Path) -> FileOptions {
    let every = Duration::from_secs(3600);
    FileOptions { path: path.into(), node: "n1".into(), every, kept: BTreeMap::new() }
}

fn images(pods: &[Pod]) -> Vec<String> {
    let spec = pods.iter().filter_map(|pod| pod.spec.as_ref());
    spec.filter_map(|spec| spec.containers[0].image.clone()).collect()
}

fn dir() -> TempDir {
    tempfile::tempdir().expect("a directory")
}

fn write(dir: &TempDir, name: &str, content: &str) {
    fs::write(dir.path().join(name), content).expect("written");
}

#[test]
fn a_directory_is_read_in_order_without_hidden_files_and_folders() {
    let dir = dir();
    write(&dir, "b.yaml", &text("b", "2"));
    write(
        &dir,
        "a.json",
        r#"{"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a"},
        "spec": {"containers": [{"name": "c", "image": "1"}]}}"#,
    );
    write(&dir, ".c.yaml", &text("c", "3"));
    write(&dir, "README", "nothing of a pod");
    fs::create_dir(dir.path().join("d")).expect("made");
    fs::write(dir.path().join("d/e.yaml"), text("e", "4")).expect("written");
    mkfifoat(CWD, dir.path().join("pipe"), Mode::RUSR).expect("made");
    let mut files = Files::new(options(dir.path()));
    let pods = files.scan(true).expect("read");
    assert_eq!(images(&pods), ["1", "2"]);
    assert_eq!(files.scan(false).expect("read"), pods);
    let annotations = pods[0].metadata.annotations.as_ref().expect("some");
    let file = dir.path().join("a.json").display().to_string();
    assert_eq!(annotations.get(copepod_pod::FILE_ANNOTATION), Some(&file));
}

#[test]
fn a_file_that_breaks_keeps_its_pod_and_harms_no_other() {
    let dir = dir();
    write(&dir, "a.yaml", &text("a", "1"));
    write(&dir, "b.yaml", &text("b", "2"));
    let mut files = Files::new(options(dir.path()));
    let good = files.scan(true).expect("read");
    for broken in [
        "".into(),
        "apiVersion: v1\nkind: Po".into(),
        text("a", "1").replace("name: c", "name: C"),
        text("a", "1").replace(
            "image: 1",
            "image: 1, env: [{name: E, valueFrom: {secretKeyRef: {name: s, key: k}}}]",
        ),
        " ".repeat(11 << 20),
        "\u{fffd}".into(),
    ] {
        let broken: String = broken;
        write(&dir, "a.yaml", &broken);
        assert_eq!(files.scan(true).expect("read"), good, "{:.80}", broken);
    }
    fs::write(dir.path().join("a.yaml"), b"\xff\xfe\xff").expect("written");
    assert_eq!(files.scan(true).expect("read"), good);
    // Mended, and gone.
    write(&dir, "a.yaml", &text("a", "3"));
    assert_eq!(images(&files.scan(false).expect("read")), ["3", "2"]);
    fs::remove_file(dir.path().join("a.yaml")).expect("removed");
    assert_eq!(images(&files.scan(false).expect("read")), ["2"]);
}

#[test]
fn what_an_earlier_agent_made_of_a_broken_file_goes_on() {
    let dir = dir();
    for name in ["a", "b", "c"] {
        write(&dir, &format!("{name}.yaml"), &text(name, name));
    }
    let pods = Files::new(options(dir.path())).scan(true).expect("read");
    let path = |name: &str| dir.path().join(name);
    let kept = [("a.yaml", 0), ("b.yaml", 1), ("c.yaml", 2)];
    let kept = kept.map(|(name, index)| (path(name), pods[index].clone())).into();
    write(&dir, "a.yaml", "broken: [");
    write(&dir, "b.yaml", &text("b", "new"));
    fs::remove_file(path("c.yaml")).expect("removed");
    let mut files = Files::new(FileOptions { kept, ..options(dir.path()) });
    assert_eq!(images(&files.scan(true).expect("read")), ["a", "new"]);
}

#[test]
fn one_file_is_enough_and_none_is_no_pod() {
    let dir = dir();
    let mut files = Files::new(options(&dir.path().join("one.yaml")));
    assert_eq!(files.scan(true).expect("nothing"), []);
    write(&dir, "one.yaml", &text("a", "1"));
    write(&dir, "other.yaml", &text("b", "2"));
    assert_eq!(images(&files.scan(true).expect("read")), ["1"]);
    mkfifoat(CWD, dir.path().join("pipe"), Mode::RUSR).expect("made");
    let error = Files::new(options(&dir.path().join("pipe"))).scan(true).expect_err("a pipe");
    assert!(error.to_string().ends_with("is neither a file nor a directory"), "{error}");
    assert!(Files::new(options(&dir.path().join("one.yaml/x"))).scan(true).is_err());
}

struct Heard(mpsc::Receiver<Update>);

impl Heard {
    fn of(options: FileOptions) -> Self {
        let (updates, heard) = mpsc::channel(1);
        follow(options, updates);
        Self(heard)
    }

    async fn next(&mut self) -> Vec<String> {
        let next = timeout(SOON, self.0.recv()).await;
        let update = next.expect("in time").expect("it goes on");
        assert!(update.is_seen && update.source == Source::File);
        images(&update.pods)
    }
}

#[tokio::test]
async fn changes_are_told_as_they_come() {
    let dir = dir();
    let manifests = dir.path().join("manifests");
    let mut heard = Heard::of(options(&manifests));
    assert_eq!(heard.next().await, [""; 0], "it is seen, though it is not there");
    fs::create_dir(&manifests).expect("made");
    fs::write(manifests.join("a.yaml"), text("a", "1")).expect("written");
    assert_eq!(heard.next().await, ["1"]);
    // Written elsewhere, then moved.
    fs::write(manifests.join(".a"), text("a", "2")).expect("written");
    fs::rename(manifests.join(".a"), manifests.join("a.yaml")).expect("moved");
    assert_eq!(heard.next().await, ["2"]);
    fs::write(manifests.join("b.yaml"), text("b", "3")).expect("written");
    assert_eq!(heard.next().await, ["2", "3"]);
    fs::remove_file(manifests.join("a.yaml")).expect("removed");
    assert_eq!(heard.next().await, ["3"]);
    fs::remove_dir_all(&manifests).expect("removed");
    assert_eq!(heard.next().await, [""; 0]);
}

#[tokio::test]
async fn a_single_file_is_followed_too() {
    let dir = dir();
    let file = dir.path().join("one.yaml");
    fs::write(&file, text("a", "1")).expect("written");
    let mut heard = Heard::of(options(&file));
    assert_eq!(heard.next().await, ["1"]);
    fs::write(&file, text("a", "2")).expect("written");
    assert_eq!(heard.next().await, ["2"]);
}

#[tokio::test]
async fn without_events_the_next_look_finds_what_changed() {
    let dir = dir();
    // Behind a link that is swapped: no event of the directory that was watched.
    let (old, new) = (dir.path().join("old"), dir.path().join("new"));
    for (to, image) in [(&old, "1"), (&new, "2")] {
        fs::create_dir(to).expect("made");
        fs::write(to.join("a.yaml"), text("a", image)).expect("written");
    }
    let link = dir.path().join("link");
    std::os::unix::fs::symlink(&old, &link).expect("linked");
    let every = Duration::from_millis(50);
    let mut heard = Heard::of(FileOptions { every, ..options(&link) });
    assert_eq!(heard.next().await, ["1"]);
    std::os::unix::fs::symlink(&new, dir.path().join("next")).expect("linked");
    fs::rename(dir.path().join("next"), &link).expect("moved");
    assert_eq!(heard.next().await, ["2"]);
}
