//! On this host's own control groups, below a root of each test's own, and on a directory laid out
//! as version 2 is.

use std::io::{Read, Write};
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, Output, Stdio};

use super::files::read;
use super::*;

/// Groups of a test's own on the real kernel, removed with this.
struct Scene {
    cgroups: Cgroups,
    name: String,
}

impl Scene {
    /// One of each driver that the host has; none for an ordinary user, and where nothing is
    /// mounted.
    fn each() -> impl Iterator<Item = Self> {
        let systemd = Path::new("/run/systemd/private").exists().then_some(Driver::Systemd);
        [Driver::Cgroupfs].into_iter().chain(systemd).filter_map(Self::new)
    }

    fn new(driver: Driver) -> Option<Self> {
        let name = format!("copepod-test-{}", uuid::Uuid::new_v4().simple());
        let options = Options { driver, cgroup_root: name.clone(), ..Options::default() };
        match Cgroups::open(&options) {
            Ok(cgroups) => Some(Self { cgroups, name }),
            Err(CgroupError::NotMounted) => None,
            Err(_) if !rustix::process::geteuid().is_root() => None,
            Err(error) => panic!("{error}: {:?}", std::error::Error::source(&error)),
        }
    }

    /// The directory of a group, in the hierarchy of the controller.
    fn dir(&self, controller: Controller, group: &str) -> PathBuf {
        let mut all = self.cgroups.hierarchies.iter();
        let hierarchy = all.find(|h| h.controllers.contains(&controller)).expect("is mounted");
        let group = Group::of_path(&format!("{}/{KUBEPODS}/{group}", self.name)).expect("a group");
        hierarchy.mount.join(group.path(self.cgroups.driver()))
    }

    /// What a file of a group says, in the hierarchy of the controller.
    fn read(&self, controller: Controller, group: &str, file: &str) -> String {
        let path = self.dir(controller, group).join(file);
        read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display())).trim().to_owned()
    }

    fn has(&self, controller: Controller) -> bool {
        !self.cgroups.missing().contains(&controller)
    }

    fn is_systemd(&self) -> bool {
        self.cgroups.driver() == Driver::Systemd
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        self.cgroups.remove_all().expect("removes");
    }
}

/// A shell that is admitted to the leaf, enters it, and then does `script`.
fn shell(leaf: &Leaf, script: &str) -> Child {
    let mut command = Command::new("sh");
    let enter = "read go; for f in \"$@\"; do echo 0 > \"$f\"; done;";
    command.arg("-c").arg(format!("{enter} {script}"));
    command.arg("sh").args(leaf.entries());
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("starts");
    leaf.admit(child.id()).expect("is admitted");
    child.stdin.take().expect("piped").write_all(b"go\n").expect("is told");
    child
}

fn output(leaf: &Leaf, script: &str) -> Output {
    shell(leaf, script).wait_with_output().expect("ends")
}

/// A process in the leaf that stays.
fn sleeper(leaf: &Leaf) -> Child {
    let mut child = shell(leaf, "echo in; exec sleep 600");
    let mut line = [0; 3];
    child.stdout.as_mut().expect("piped").read_exact(&mut line).expect("says so");
    child
}

const ID: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

/// A container's own: scopes of all pods are beside each other.
fn new_id() -> String {
    uuid::Uuid::new_v4().simple().to_string().repeat(2)
}

fn limits() -> Limits {
    Limits {
        cpu_shares: Some(512),
        cpu_weight: Some(50),
        cpu_quota_us: Some(20_000),
        cpu_period_us: 50_000,
        memory_bytes: Some(64 << 20),
        pids: Some(77),
        huge_pages: None,
    }
}

#[test]
fn limits_are_the_kernels_and_change() {
    Scene::each().for_each(|scene| limits_change(&scene));
}

fn limits_change(scene: &Scene) {
    let id = new_id();
    let (v1, cgroups) = (scene.cgroups.version == Version::V1, &scene.cgroups);
    let expect = |group: &str, controller, v1_file, v2_file, value: [&str; 2]| {
        if scene.has(controller) {
            let (file, value) = if v1 { (v1_file, value[0]) } else { (v2_file, value[1]) };
            assert_eq!(scene.read(controller, group, file), value, "{group}: {file}");
        }
    };
    let quota = |group: &str, value| {
        expect(group, Controller::Cpu, "cpu.cfs_quota_us", "cpu.max", value);
    };
    let memory = |group: &str, value| {
        expect(group, Controller::Memory, "memory.limit_in_bytes", "memory.max", value);
    };
    let shares = |group: &str, value| {
        expect(group, Controller::Cpu, "cpu.shares", "cpu.weight", value);
    };
    let pids = |group: &str, value| expect(group, Controller::Pids, "pids.max", "pids.max", value);
    shares("besteffort", ["2", "1"]);
    cgroups.set_class_cpu(Class::Burstable, 2048, 200).expect("sets");
    shares("burstable", ["2048", "200"]);

    cgroups.make_pod("u", Class::Burstable, &limits()).expect("makes");
    let leaf = cgroups.make_leaf("u", Class::Burstable, &id, &limits()).expect("makes");
    let of_leaf = format!("burstable/podu/{id}");
    for group in ["burstable/podu", &of_leaf] {
        quota(group, ["20000", "20000 50000"]);
        memory(group, ["67108864", "67108864"]);
        shares(group, ["512", "50"]);
        pids(group, ["77", "77"]);
    }
    if v1 && scene.has(Controller::Memory) {
        let swap = scene.read(Controller::Memory, &of_leaf, "memory.memsw.limit_in_bytes");
        assert_eq!(swap, "67108864");
    }

    let more = Limits {
        memory_bytes: Some(128 << 20),
        cpu_quota_us: Some(150_000),
        cpu_period_us: 100_000,
        pids: None,
        ..limits()
    };
    for _ in 0..2 {
        cgroups.make_pod("u", Class::Burstable, &more).expect("changes");
        cgroups.make_leaf("u", Class::Burstable, &id, &more).expect("changes");
    }
    memory(&of_leaf, ["134217728", "134217728"]);
    cgroups.make_leaf("u", Class::Burstable, &id, &limits()).expect("changes");
    cgroups.make_pod("u", Class::Burstable, &limits()).expect("changes");
    memory(&of_leaf, ["67108864", "67108864"]);
    cgroups.make_leaf("u", Class::Burstable, &id, &Limits::default()).expect("changes");
    cgroups.make_pod("u", Class::Burstable, &Limits::default()).expect("changes");
    quota("burstable/podu", ["-1", "max 100000"]);
    quota(&of_leaf, ["-1", "max 100000"]);
    pids(&of_leaf, ["max", "max"]);
    cgroups.set_pods_limits(&Limits { memory_bytes: Some(1 << 30), ..limits() }).expect("sets");
    memory("", ["1073741824", "1073741824"]);

    assert_eq!(leaf.oom_kills().expect("reads"), 0);
    assert_eq!(cgroups.find_leaf("u", &id).expect("looks"), Some(leaf.clone()));
    assert_eq!(cgroups.find_leaf("v", &id).expect("looks"), None);
    leaf.remove().expect("removes");
    leaf.remove().expect("is gone already");
    assert!(leaf.oom_kills().is_err() || !scene.has(Controller::Memory));
    assert_eq!(cgroups.find_leaf("u", &id).expect("looks"), None);
}

#[test]
fn an_oom_kill_is_counted() {
    Scene::each().for_each(|scene| oom_kills(&scene));
}

fn oom_kills(scene: &Scene) {
    let id = new_id();
    if !scene.has(Controller::Memory) {
        return;
    }
    let limits = Limits { memory_bytes: Some(16 << 20), ..Limits::default() };
    let cgroups = &scene.cgroups;
    let leaf = cgroups.make_leaf("u", Class::Guaranteed, &id, &limits).expect("makes");
    let other = cgroups.make_leaf("u", Class::Guaranteed, &new_id(), &limits).expect("makes");
    // It keeps the last line, which never ends.
    let hog = output(&leaf, "exec tail /dev/zero");
    assert_eq!(hog.status.signal(), Some(9), "{hog:?}");
    // The one that is chosen is killed a second time with its group.
    let each = if cgroups.version == Version::V1 { 1..=1 } else { 1..=2 };
    let first = leaf.oom_kills().expect("reads");
    assert!(each.contains(&first), "{first}");
    assert_eq!(other.oom_kills().expect("reads"), 0, "of another container");

    // A command beside a container; both are killed where all are.
    let mut container = sleeper(&other);
    let mut command = Command::new("sh");
    let enter = "for f in \"$@\"; do echo 0 > \"$f\"; done; exec tail /dev/zero";
    let hog = command.arg("-c").arg(enter).arg("sh").args(other.entries()).output();
    assert_eq!(hog.expect("starts").status.signal(), Some(9));
    container.kill().expect("ours");
    container.wait().expect("ours");
    let kills = other.oom_kills().expect("reads");
    assert!((1..=3).contains(&kills), "{kills}");
    assert_eq!(leaf.oom_kills().expect("reads"), first);

    // The pod's limit: the count is that of the leaf whose process was killed.
    cgroups.make_pod("u", Class::Guaranteed, &limits).expect("limits");
    let free =
        cgroups.make_leaf("u", Class::Guaranteed, &new_id(), &Limits::default()).expect("makes");
    assert_eq!(output(&free, "exec tail /dev/zero").status.signal(), Some(9));
    let third = free.oom_kills().expect("reads");
    assert!(each.contains(&third), "{third}");
    assert_eq!(leaf.oom_kills().expect("reads"), first);
}

#[test]
fn processes_are_limited() {
    Scene::each().for_each(|scene| pids_are_limited(&scene));
}

fn pids_are_limited(scene: &Scene) {
    let id = new_id();
    if !scene.has(Controller::Pids) {
        return;
    }
    let one = Limits { pids: Some(1), ..Limits::default() };
    scene.cgroups.make_pod("u", Class::BestEffort, &one).expect("makes");
    let none = Limits::default();
    let leaf = scene.cgroups.make_leaf("u", Class::BestEffort, &id, &none).expect("makes");
    let forks = output(&leaf, "/bin/true; echo $?");
    assert!(!String::from_utf8_lossy(&forks.stdout).contains('0'), "{forks:?}");
    scene.cgroups.make_pod("u", Class::BestEffort, &none).expect("frees");
    let leaf = scene.cgroups.make_leaf("u", Class::BestEffort, &new_id(), &none).expect("makes");
    let forks = output(&leaf, "/bin/true; echo $?");
    assert_eq!(forks.stdout, b"0\n", "{forks:?}");
}

#[test]
fn what_is_left_ends_with_its_pod() {
    Scene::each().for_each(|scene| what_is_left_ends(&scene));
}

fn what_is_left_ends(scene: &Scene) {
    let id = new_id();
    let cgroups = &scene.cgroups;
    let none = Limits::default();
    let leaf = cgroups.make_leaf("u", Class::Burstable, &id, &none).expect("makes");
    let kept = cgroups.make_leaf("v", Class::Burstable, &new_id(), &none).expect("makes");
    let (mut child, mut stranger) = (sleeper(&leaf), sleeper(&kept));
    if !scene.is_systemd() {
        let Err(CgroupError::Remove { source, .. }) = leaf.remove() else { panic!("was removed") };
        assert_eq!(source.kind(), io::ErrorKind::ResourceBusy);
    }
    for entry in leaf.entries() {
        fs::create_dir(entry.with_file_name("below")).expect("makes");
    }
    cgroups.remove_pod("u").expect("removes");
    assert_eq!(child.wait().expect("ours").signal(), Some(9));
    cgroups.remove_pod("u").expect("is gone already");
    assert_eq!(cgroups.find_leaf("u", &id).expect("looks"), None);
    assert!(stranger.try_wait().expect("ours").is_none(), "of another pod");
    kept.destroy().expect("removes");
    assert_eq!(stranger.wait().expect("ours").signal(), Some(9));
}

#[test]
fn a_second_agent_finds_what_the_first_made() {
    Scene::each().for_each(|scene| second_agent(&scene));
}

fn second_agent(scene: &Scene) {
    let id = new_id();
    let limits = Limits { pids: Some(5), ..Limits::default() };
    scene.cgroups.make_leaf("u", Class::Guaranteed, &id, &limits).expect("makes");
    let (driver, cgroup_root) = (scene.cgroups.driver(), format!("/{}/", scene.name));
    let options = Options { driver, cgroup_root, ..Options::default() };
    let second = Cgroups::open(&options).expect("opens");
    let leaf = second.find_leaf("u", &id).expect("looks").expect("is there");
    assert_eq!(scene.cgroups.find_leaf("u", &id).expect("looks"), Some(leaf));
}

#[test]
fn names_stay_below_the_root() {
    Scene::each().for_each(|scene| odd_names(&scene));
}

fn odd_names(scene: &Scene) {
    let none = Limits::default();
    for id in ["", ".", "..", "a/b", "../x", &"x".repeat(256)] {
        let made = scene.cgroups.make_leaf("u", Class::Burstable, id, &none);
        assert!(matches!(made, Err(CgroupError::Name(_))), "{id:?}");
    }
    assert!(matches!(scene.cgroups.remove_pod("/../.."), Err(CgroupError::Name(_))));
    let options = Options { cgroup_root: "/a/../../b".into(), ..Options::default() };
    assert!(matches!(Cgroups::open(&options), Err(CgroupError::Name(_))));
}

#[test]
fn a_runtime_is_told_the_pods_group() {
    Scene::each().for_each(|scene| parents(&scene));
    let (dir, cgroups) = version_2("", "cpu memory pids");
    let parent = cgroups.parent(Class::BestEffort, "u-1").expect("a name");
    assert_eq!(parent, "/kubepods/besteffort/podu-1");
    let hierarchy = Hierarchy { mount: dir.path().into(), controllers: Vec::new() };
    fs::create_dir(dir.path().join(PODLESS)).expect("makes");
    fs::write(dir.path().join(PODLESS).join("cgroup.controllers"), "pids").expect("writes");
    let options = Options { per_class: false, ..Options::default() };
    let podless = Cgroups::open_at(Version::V2, vec![hierarchy], None, &options).expect("opens");
    assert_eq!(podless.parent(Class::Burstable, "u").expect("a name"), "");
    assert!(podless.parent(Class::Burstable, "u/").is_err());
    podless.make_pod("u", Class::Burstable, &limits()).expect("nothing to make");
    podless.set_class_cpu(Class::Burstable, 2, 1).expect("nothing to set");
    let leaf = podless.make_leaf("u", Class::Burstable, ID, &limits()).expect("makes");
    let place = dir.path().join(PODLESS).join(ID);
    assert_eq!(leaf.entries(), [place.join("cgroup.procs")]);
    podless.remove_pod("u").expect("nothing to remove");
    assert_eq!(podless.find_leaf("u", ID).expect("looks"), Some(leaf));
}

/// What a runtime makes in the pod's group goes with it.
fn parents(scene: &Scene) {
    let cgroups = &scene.cgroups;
    cgroups.make_pod("u-1", Class::Burstable, &limits()).expect("makes");
    let parent = cgroups.parent(Class::Burstable, "u-1").expect("a name");
    let dirs: Vec<PathBuf> =
        cgroups.hierarchies.iter().map(|h| h.mount.join(&parent[1..])).collect();
    for dir in &dirs {
        assert!(dir.join("cgroup.procs").exists(), "{}", dir.display());
        fs::create_dir(dir.join("of-a-runtime")).expect("makes");
    }
    let (last, escaped) = (parent.rsplit('/').next().expect("one"), scene.name.replace('-', "_"));
    match cgroups.driver() {
        Driver::Cgroupfs => assert_eq!(last, "podu-1"),
        Driver::Systemd => {
            assert_eq!(last, format!("{escaped}-kubepods-burstable-podu_1.slice"));
        }
    }
    cgroups.remove_pod("u-1").expect("removes");
    assert!(!dirs.iter().any(|dir| dir.exists()));
}

#[test]
fn a_group_of_the_hosts_is_limited_where_it_is_there() {
    Scene::each().for_each(|scene| existing(&scene));
}

fn existing(scene: &Scene) {
    let cgroups = &scene.cgroups;
    cgroups.make_pod("u", Class::Guaranteed, &limits()).expect("makes");
    let name = cgroups.parent(Class::Guaranteed, "u").expect("a name");
    let more = Limits { memory_bytes: Some(32 << 20), ..Limits::default() };
    cgroups.limit_existing(&name, &more).expect("limits");
    for (controller, files, value) in [
        (Controller::Memory, ["memory.limit_in_bytes", "memory.max"], "33554432"),
        (Controller::Pids, ["pids.max", "pids.max"], "77"),
    ] {
        if scene.has(controller) {
            let file = files[usize::from(cgroups.version == Version::V2)];
            assert_eq!(scene.read(controller, "podu", file), value, "{file}");
        }
    }
    let none = cgroups.limit_existing(&format!("{name}/none"), &more);
    assert!(matches!(none, Err(CgroupError::Missing(_))), "{none:?}");
}

#[test]
fn mounts_are_found() {
    let hybrid = "\
31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw
32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw,relatime shared:9 - cgroup cgroup rw,cpu,cpuacct
33 31 0:29 / /a rw - cgroup cgroup rw,cpu,cpuacct
34 31 0:32 / /sys/fs/cgroup/memory ro,relatime - cgroup cgroup rw,memory
35 31 0:36 / /sys/fs/cgroup/p\\040ids rw - cgroup cgroup rw,pids
36 31 0:37 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,name=systemd
41 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw
";
    assert_eq!(v2::mount(hybrid), None);
    let hierarchy =
        |mount: &str, controller| Hierarchy { mount: mount.into(), controllers: vec![controller] };
    assert_eq!(
        v1::hierarchies(hybrid),
        [hierarchy("/a", Controller::Cpu), hierarchy("/sys/fs/cgroup/p ids", Controller::Pids)]
    );
    let unified = "25 1 0:22 / /sys/fs/cgroup rw shared:4 - cgroup2 cgroup2 rw,nsdelegate";
    assert_eq!(v2::mount(unified), Some("/sys/fs/cgroup".into()));
    assert_eq!(v1::hierarchies(unified), []);
}

/// A directory with what a kernel of version 2 would have in these groups.
fn version_2(root: &str, controllers: &str) -> (tempfile::TempDir, Cgroups) {
    let dir = tempfile::tempdir().expect("a directory");
    let groups = dir.path().join(root).join(KUBEPODS);
    fs::create_dir_all(&groups).expect("makes");
    fs::write(groups.join("cgroup.controllers"), controllers).expect("writes");
    let hierarchy = Hierarchy { mount: dir.path().into(), controllers: Vec::new() };
    let options = Options { cgroup_root: root.into(), ..Options::default() };
    let cgroups = Cgroups::open_at(Version::V2, vec![hierarchy], None, &options).expect("opens");
    (dir, cgroups)
}

#[test]
fn version_2_has_one_hierarchy_with_controllers_from_the_top_down() {
    let (dir, cgroups) = version_2("a/b", "cpuset cpu io memory pids\n");
    assert_eq!(cgroups.missing(), []);
    let file = |path: &str| {
        fs::read_to_string(dir.path().join(path.trim_start_matches('/'))).unwrap_or_default()
    };
    let leaf = cgroups.make_leaf("u", Class::Burstable, ID, &limits()).expect("makes");
    for group in
        ["", "a", "a/b", "a/b/kubepods", "a/b/kubepods/burstable", "a/b/kubepods/burstable/podu"]
    {
        // The last one written; the kernel would keep all.
        assert_eq!(file(&format!("{group}/cgroup.subtree_control")), "+pids", "{group}");
    }
    let group = format!("a/b/kubepods/burstable/podu/{ID}");
    for (name, value) in [
        ("cpu.weight", "50"),
        ("cpu.max", "20000 50000"),
        ("memory.max", "67108864"),
        ("memory.swap.max", "0"),
        ("memory.oom.group", "1"),
        ("pids.max", "77"),
        ("cgroup.subtree_control", ""),
    ] {
        assert_eq!(file(&format!("{group}/{name}")), value, "{name}");
    }
    assert_eq!(file("a/b/kubepods/burstable/podu/memory.oom.group"), "");
    assert_eq!(file("a/b/kubepods/besteffort/cpu.weight"), "1");
    assert_eq!(leaf.entries(), [dir.path().join(&group).join("cgroup.procs")]);

    let events = "low 0\nhigh 0\nmax 8\noom 2\noom_kill 3\noom_group_kill 1\n";
    fs::write(dir.path().join(&group).join("memory.events"), events).expect("writes");
    assert_eq!(leaf.oom_kills().expect("reads"), 3);

    cgroups.make_leaf("u", Class::Burstable, ID, &Limits::default()).expect("changes");
    assert_eq!(file(&format!("{group}/cpu.max")), "max 100000");
    assert_eq!(file(&format!("{group}/memory.max")), "max");
}

#[test]
fn a_missing_controller_is_named_and_the_rest_goes_on() {
    let (dir, cgroups) = version_2("", "cpu pids");
    assert_eq!(cgroups.missing(), [Controller::Memory]);
    let leaf = cgroups.make_leaf("u", Class::Guaranteed, ID, &limits()).expect("makes");
    let group = dir.path().join("kubepods/podu").join(ID);
    assert!(group.join("pids.max").exists() && !group.join("memory.max").exists());
    assert_eq!(leaf.oom_kills().expect("none is counted"), 0);
    let none = Cgroups::open_at(Version::V1, Vec::new(), None, &Options::default());
    assert!(matches!(none, Err(CgroupError::NotMounted)));
}
