//! The containerd of the tests and the fault proxy before it, without a node: that what the other
//! tests stand on is there.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use copepod_cri::{ContainerState, PodSandboxConfig};
use copepod_tests::cluster::network::Network;
use copepod_tests::cluster::{Build, Containerd, Cri, leaks, rules};
use copepod_tests::cri_faults::{Fault, Proxy};
use copepod_tests::wait_until;
use tonic::Code;

use crate::{SOON, World};

/// Long against what a call takes, short against a test.
const LATE: Duration = Duration::from_millis(700);

/// A containerd with a network and control groups, and no node.
struct Bare {
    // In the order of their ends.
    containerd: Containerd,
    network: Network,
    cgroup: String,
}

impl Bare {
    fn start(world: &World, number: u32, build: Build) -> Self {
        // Beyond the numbers of nodes in one run.
        let number = 200 + number;
        let cgroup = format!("{}{number}", leaks::prefix());
        let dir = world.plane.dir().join(format!("c{number}"));
        let work = dir.with_extension("net");
        std::fs::create_dir(&work).expect("made");
        let network = Network::new(&cgroup, number, &work);
        network.configure();
        leaks::make_cgroups(&cgroup);
        let containerd = Containerd::start(&dir, &images(world), &network, build);
        Self { containerd, network, cgroup }
    }

    fn leaks(&mut self) -> Vec<String> {
        let mut left = self.containerd.leaks(None);
        left.extend(self.network.leaks());
        left
    }
}

impl Drop for Bare {
    fn drop(&mut self) {
        leaks::remove_below(self.containerd.socket().parent().expect("a folder"));
        leaks::remove_cgroups(&self.cgroup);
    }
}

fn images(world: &World) -> PathBuf {
    world.plane.dir().join("images")
}

fn states(cri: &Cri) -> Vec<ContainerState> {
    cri.containers().iter().map(|container| container.state()).collect()
}

fn runs_and_leaves_nothing(mut bare: Bare) {
    let config = Cri::sandbox("one", &bare.cgroup);
    let cri = bare.containerd.cri();
    let sandbox = cri.run_sandbox(&config).expect("it runs");
    cri.run(&sandbox, &config, "sleep 3600").expect("it runs");
    assert_eq!(states(&cri), [ContainerState::ContainerRunning]);
    let shims = bare.containerd.shims();
    assert_eq!((shims.len(), bare.network.leased().len()), (1, 1));

    bare.containerd.stop();
    assert_eq!(bare.containerd.shims(), shims, "its containers go on");
    bare.containerd.run();
    assert_eq!(states(&cri), [ContainerState::ContainerRunning]);
    bare.containerd.kill9();
    cri.run_sandbox(&Cri::sandbox("two", &bare.cgroup)).expect_err("nobody is there");
    bare.containerd.run();
    assert_eq!(states(&cri), [ContainerState::ContainerRunning]);
    assert_eq!(bare.containerd.shims(), shims);

    cri.remove_sandbox(&sandbox).expect("removed");
    assert_eq!((cri.containers(), cri.sandboxes()), (vec![], vec![]));
    let left = leaks::settled(|| bare.leaks());
    assert!(left.is_empty(), "left behind:\n{}", left.join("\n"));
}

pub(crate) fn it_runs_stops_comes_back_and_leaves_nothing(world: &World) {
    runs_and_leaves_nothing(Bare::start(world, 1, Build::Usual));
}

pub(crate) fn the_second_one_does_so_too(world: &World) {
    runs_and_leaves_nothing(Bare::start(world, 2, Build::Second));
}

pub(crate) fn what_a_test_leaves_is_named_and_removed(world: &World) {
    let mut bare = Bare::start(world, 3, Build::Usual);
    let config = Cri::sandbox("left", &bare.cgroup);
    let cri = bare.containerd.cri();
    let sandbox = cri.run_sandbox(&config).expect("it runs");
    cri.run(&sandbox, &config, "sleep 3600").expect("it runs");
    let left = bare.leaks().join("\n");
    let each =
        ["container: ", "containerd-shim", "mount: ", "interface: ", "IP lease: ", "iptables: "];
    for what in each {
        assert!(left.contains(what), "{what:?} in\n{left}");
    }
    let (dir, cgroup) = (bare.containerd.socket(), bare.cgroup.clone());
    let dir = dir.parent().expect("a folder");
    drop(bare);
    let left = leaks::settled(|| {
        let processes = leaks::processes(dir).into_iter().map(|(_, about)| about);
        let mut left: Vec<String> = processes.chain(leaks::mounts(dir)).collect();
        left.extend(leaks::cgroups_below(&cgroup).iter().map(|dir| dir.display().to_string()));
        left.extend(leaks::results(&cgroup).iter().map(|file| file.display().to_string()));
        left.extend(rules::of(&cgroup));
        left
    });
    assert!(left.is_empty(), "left behind:\n{}", left.join("\n"));
}

pub(crate) fn calls_go_wrong_as_planned(world: &World) {
    let bare = Bare::start(world, 4, Build::Usual);
    let real = bare.containerd.cri();
    let socket = world.plane.dir().join("proxy.sock");
    let proxy = Proxy::start(&bare.containerd.socket(), &socket, |_, _| None);
    let cri = Cri::new(&socket);
    let config = |name: &str| Cri::sandbox(name, &bare.cgroup);
    let names = || {
        let names = real.sandboxes().into_iter().filter_map(|s| Some(s.metadata?.name));
        let mut names: Vec<String> = names.collect();
        names.sort();
        names
    };
    let only = |wanted: Fault| {
        proxy.plan(move |method, _| (method == "RunPodSandbox").then_some(wanted));
    };
    let run = |config: &PodSandboxConfig| {
        let begin = Instant::now();
        (cri.run_sandbox(config).map_err(|status| status.code()), begin.elapsed())
    };

    assert!(run(&config("well")).0.is_ok());
    only(Fault::Refuse(Code::Unavailable));
    assert_eq!(run(&config("refused")).0, Err(Code::Unavailable));
    assert_eq!(names(), ["well"]);
    only(Fault::Lose);
    assert_eq!(run(&config("lost")).0, Err(Code::Unavailable));
    assert_eq!(names(), ["lost", "well"]);
    only(Fault::Twice);
    assert_eq!(run(&config("twice")).0, Err(Code::Unknown), "its name is taken");
    assert_eq!(names(), ["lost", "twice", "well"]);
    for (name, fault) in [("a", Fault::Delay(LATE)), ("b", Fault::Late(LATE))] {
        only(fault);
        let (answer, took) = run(&config(name));
        assert!(answer.is_ok() && took >= LATE, "{answer:?} after {took:?}");
    }
    only(Fault::Hang);
    let held = config("held");
    std::thread::scope(|scope| {
        // A client of its own: one waits for its answer.
        let waiting = scope.spawn(|| Cri::new(&socket).run_sandbox(&held));
        wait_until(SOON, "the call is seen", || proxy.count("RunPodSandbox") == 7);
        assert_eq!(names(), ["a", "b", "lost", "twice", "well"]);
        proxy.calm();
        waiting.join().expect("it ends").expect("and well");
    });
    for sandbox in cri.sandboxes() {
        cri.remove_sandbox(&sandbox.id).expect("removed");
    }
    assert!(names().is_empty());
    let last = proxy.calls().pop().expect("there were some");
    assert_eq!(last, ("RemovePodSandbox".to_owned(), None));
}
