//! One table of scenarios, run by both runtimes on one node: Wasm guests and busybox, whose statuses
//! have to be the same but for what names them.

use std::collections::BTreeSet;
use std::fs;
use std::thread;
use std::time::Duration;

use copepod_tests::cluster::images::BUSYBOX;
use copepod_tests::cluster::{Build, Node, leaks};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use crate::place::{Place, container, ready};
use crate::statuses::{differences, shape};
use crate::survive::sandboxes;
use crate::{SOON, World};

/// The class of Wasm pods on a node that runs both kinds.
pub(crate) const CLASS: &str = "both-wasm";
/// Scenarios at once: each is two pods.
const AT_ONCE: usize = 4;
/// A second restart waits 10 s, and this machine has other tests.
const LONG: Duration = Duration::from_secs(120);
/// What only one of the runtimes sets in the environment of its containers, each as it should.
const OWN_VARIABLES: [&str; 4] = ["PATH", "HOME", "SHLVL", "PWD"];

/// Makes the class, unless another test has.
#[track_caller]
pub(crate) fn wasm_class(world: &World) {
    let class = json!({"metadata": {"name": CLASS}, "handler": "wasm"});
    let path = "/apis/node.k8s.io/v1/runtimeclasses";
    let (code, answer) = world.plane.api().request("POST", path, Some(&class));
    assert!(code == 201 || code == 409, "{code} {answer}");
}

/// The two columns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Wasm,
    Ordinary,
}

impl Kind {
    fn name(self, scenario: &str) -> String {
        match self {
            Self::Wasm => format!("{scenario}-w"),
            Self::Ordinary => format!("{scenario}-o"),
        }
    }
}

/// What a container does, in words that both kinds understand.
#[derive(Clone, Copy)]
enum Act {
    /// Says so and ends with this code after so many milliseconds.
    Exit(u8, u32),
    /// Ends with this code once there is a file `/out/go`.
    Await(u8),
    /// Goes on until it is told to end.
    Wait,
    /// Writes a termination message and ends well.
    Message(&'static str),
    /// Shows its arguments and its environment.
    Show,
    /// Reads these files.
    Read(&'static [&'static str]),
}

/// One kind's pods of a node.
struct Column<'a> {
    place: &'a Place<'a>,
    kind: Kind,
}

impl Column<'_> {
    fn container(&self, name: &str, act: Act) -> Value {
        let wasm = |guest: &str, args: &[&str]| json!({"name": name, "image": self.place.world.image(guest), "args": args});
        let shell = |script: &str, args: &[&str]| {
            let command = [&["sh", "-c", script, "sh"], args].concat();
            json!({"name": name, "image": BUSYBOX, "command": command})
        };
        match (self.kind, act) {
            (Kind::Wasm, Act::Exit(code, ms)) => {
                wasm("exit", &[&code.to_string(), "--after", &ms.to_string()])
            }
            (Kind::Ordinary, Act::Exit(code, ms)) => {
                shell(&format!("usleep {ms}000; echo exit {code}; exit {code}"), &[])
            }
            (Kind::Wasm, Act::Await(code)) => {
                wasm("actor", &["await", "/out/go", "--", "exit", &code.to_string()])
            }
            (Kind::Ordinary, Act::Await(code)) => {
                shell(&format!("until [ -e /out/go ]; do usleep 10000; done; exit {code}"), &[])
            }
            (Kind::Wasm, Act::Wait) => wasm("cat", &["wait"]),
            (Kind::Ordinary, Act::Wait) => {
                shell("trap 'exit 143' TERM; while :; do sleep 0.1; done", &[])
            }
            (Kind::Wasm, Act::Message(text)) => {
                wasm("files", &["write", "/dev/termination-log", text])
            }
            (Kind::Ordinary, Act::Message(text)) => {
                shell(&format!("echo '{text}' > /dev/termination-log"), &[])
            }
            (Kind::Wasm, Act::Show) => wasm("hello", &["--count", "1"]),
            (Kind::Ordinary, Act::Show) => {
                let script = "echo \"args: $*\"; env | sort | sed 's/^/env: /'; echo count 1";
                shell(script, &["--count", "1"])
            }
            (Kind::Wasm, Act::Read(files)) => {
                let steps: Vec<Vec<&str>> = files.iter().map(|file| vec!["read", *file]).collect();
                wasm("files", &steps.join(&"--"))
            }
            (Kind::Ordinary, Act::Read(files)) => {
                let command = [&["cat"], files].concat();
                json!({"name": name, "image": BUSYBOX, "command": command})
            }
        }
    }

    /// A pod with these init containers and containers.
    fn pod(&self, scenario: &str, policy: &str, inits: &[Act], mains: &[Act]) -> Value {
        let all = |prefix: &str, acts: &[Act]| -> Vec<Value> {
            let acts = acts.iter().enumerate();
            acts.map(|(n, act)| self.container(&format!("{prefix}{n}"), *act)).collect()
        };
        let mut pod = self.place.pod(&self.kind.name(scenario), "hello", &[]);
        pod["spec"]["restartPolicy"] = json!(policy);
        pod["spec"]["initContainers"] = json!(all("init", inits));
        pod["spec"]["containers"] = json!(all("main", mains));
        if self.kind == Kind::Wasm {
            pod["spec"]["runtimeClassName"] = json!(CLASS);
        }
        pod
    }

    /// Makes a pod and waits until it is as wanted.
    #[track_caller]
    fn until(&self, pod: &Value, what: &str, wanted: impl FnMut(&Value) -> bool) -> Value {
        self.place.create(pod);
        self.wait(pod, what, wanted)
    }

    #[track_caller]
    fn wait(&self, pod: &Value, what: &str, mut wanted: impl FnMut(&Value) -> bool) -> Value {
        let name = pod["metadata"]["name"].as_str().expect("a name");
        self.place.node.wait(LONG, &format!("pod {name}: {what}"), || {
            self.place.api().get("pods", &self.place.namespace, name).filter(|pod| wanted(pod))
        })
    }

    /// The lines of the log of its first container.
    fn log(&self, pod: &Value) -> BTreeSet<String> {
        let name = pod["metadata"]["name"].as_str().expect("a name");
        let log = self.place.told(&["logs", name, "-c", "main0"]).replace(name, "NAME");
        let own = |line: &&str| {
            let variable = line.strip_prefix("env: ").and_then(|line| line.split_once('='));
            variable.is_none_or(|(name, _)| !OWN_VARIABLES.contains(&name))
        };
        log.lines().filter(own).map(str::to_owned).collect()
    }
}

/// Whether the pod is in this phase; one that is over also has its sandbox stopped, which is told
/// after it.
fn phase(wanted: &'static str) -> impl Fn(&Value) -> bool {
    let is_over = ["Succeeded", "Failed"].contains(&wanted);
    move |pod| {
        let conditions = pod["status"]["conditions"].as_array();
        let stopped = conditions.into_iter().flatten().any(|condition| {
            condition["type"] == "PodReadyToStartContainers" && condition["status"] == "False"
        });
        pod["status"]["phase"] == wanted && (stopped || !is_over)
    }
}

/// Whether the first container waits for its second restart, or the first init container does.
fn backs_off(list: &'static str) -> impl Fn(&Value) -> bool {
    move |pod| {
        let status = &pod["status"][list][0];
        status["restartCount"] == 1 && status["state"]["waiting"]["reason"] == "CrashLoopBackOff"
    }
}

/// A row: its name and what it gives to be compared.
type Row = (&'static str, fn(&Column<'_>, &str) -> Vec<Value>);

const ROWS: [Row; 13] = [
    ("ends-well", |column, name| {
        let pod = column.pod(name, "Never", &[], &[Act::Exit(0, 300)]);
        vec![shape(&column.until(&pod, "it ends", phase("Succeeded")))]
    }),
    ("fails", |column, name| {
        let pod = column.pod(name, "Never", &[], &[Act::Exit(1, 300)]);
        vec![shape(&column.until(&pod, "it ends", phase("Failed")))]
    }),
    ("runs", |column, name| {
        let pod = column.pod(name, "Always", &[], &[Act::Wait, Act::Wait]);
        vec![shape(&column.until(&pod, "it runs", ready))]
    }),
    ("crashes", |column, name| {
        let pod = column.pod(name, "OnFailure", &[], &[Act::Exit(3, 300)]);
        vec![shape(&column.until(&pod, "it waits", backs_off("containerStatuses")))]
    }),
    ("begins-again", |column, name| {
        let pod = column.pod(name, "Always", &[], &[Act::Exit(0, 300)]);
        vec![shape(&column.until(&pod, "it waits", backs_off("containerStatuses")))]
    }),
    ("one-ends", |column, name| {
        let pod = column.pod(name, "OnFailure", &[], &[Act::Exit(0, 300), Act::Wait]);
        vec![shape(&column.until(&pod, "one has ended", |pod| {
            container(pod, "main0")["state"]["terminated"].is_object()
                && container(pod, "main1")["ready"] == true
        }))]
    }),
    ("init", |column, name| {
        let inits = [Act::Exit(0, 300), Act::Exit(0, 0)];
        let pod = column.pod(name, "Always", &inits, &[Act::Wait]);
        vec![shape(&column.until(&pod, "it runs", ready))]
    }),
    ("init-fails", |column, name| {
        let pod = column.pod(name, "Never", &[Act::Exit(3, 300)], &[Act::Wait]);
        vec![shape(&column.until(&pod, "it ends", phase("Failed")))]
    }),
    ("init-crashes", |column, name| {
        let pod = column.pod(name, "Always", &[Act::Exit(3, 300)], &[Act::Wait]);
        vec![shape(&column.until(&pod, "it waits", backs_off("initContainerStatuses")))]
    }),
    ("says", |column, name| {
        let mut pod = column.pod(name, "Never", &[], &[Act::Message("bye"), Act::Exit(3, 0)]);
        pod["spec"]["containers"][1]["terminationMessagePolicy"] = json!("FallbackToLogsOnError");
        vec![shape(&column.until(&pod, "it ends", phase("Failed")))]
    }),
    ("shows", |column, name| {
        let mut pod = column.pod(name, "Never", &[], &[Act::Show]);
        pod["spec"]["enableServiceLinks"] = json!(false);
        pod["spec"]["containers"][0]["env"] = json!([
            {"name": "PLAIN", "value": "a b"},
            {"name": "EXPANDED", "value": "<$(PLAIN)>"},
            {"name": "NODE", "valueFrom": {"fieldRef": {"fieldPath": "spec.nodeName"}}},
            {"name": "POD", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
            {"name": "KEY", "valueFrom": {"configMapKeyRef": {"name": "table", "key": "word"}}},
        ]);
        let ended = column.until(&pod, "it ends", phase("Succeeded"));
        vec![shape(&ended), json!(column.log(&ended))]
    }),
    ("reads", |column, name| {
        let files = &["/config/key", "/one", "/config/..data/key"];
        let mut pod = column.pod(name, "Never", &[], &[Act::Read(files)]);
        pod["spec"]["volumes"] = json!([{"name": "config", "configMap": {"name": "table"}}]);
        pod["spec"]["containers"][0]["volumeMounts"] = json!([
            {"name": "config", "mountPath": "/config"},
            {"name": "config", "mountPath": "/one", "subPath": "key"},
        ]);
        let ended = column.until(&pod, "it ends", phase("Succeeded"));
        vec![shape(&ended), json!(column.log(&ended))]
    }),
    ("killed", |column, name| {
        let pod = column.pod(name, "Always", &[], &[Act::Wait]);
        let before = column.until(&pod, "it runs", ready);
        let all = processes(&column.place.node, &before);
        assert_eq!(all.len(), 1, "{all:?}");
        kill(all[0]);
        vec![shape(&column.wait(&pod, "it runs again", |pod| {
            container(pod, "main0")["restartCount"] == 1 && ready(pod)
        }))]
    }),
];

/// The kernel's time of a process's start: ids come round again.
fn started(pid: u32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(')')?.1.split_whitespace().nth(19)?.parse().ok()
}

/// The main processes of a pod's containers, of either kind.
pub(crate) fn processes(node: &Node<'_>, pod: &Value) -> Vec<u32> {
    let uid = pod["metadata"]["uid"].as_str().expect("a string");
    let of_wasm = sandboxes(node).into_iter().filter(|(folder, _)| folder.ends_with(uid));
    let mut found: Vec<u32> = of_wasm.flat_map(|(_, all)| all).map(|(pid, _)| pid).collect();
    // An ordinary one is the first in its control group; what holds the namespaces is in one too.
    let mut groups: BTreeSet<(String, u32)> = BTreeSet::new();
    for group in leaks::cgroups_below(node.cgroup()) {
        if !group.parent().is_some_and(|pod| pod.to_string_lossy().ends_with(uid)) {
            continue;
        }
        let procs = fs::read_to_string(group.join("cgroup.procs")).unwrap_or_default();
        let pids = procs.lines().filter_map(|pid| pid.parse().ok());
        let first = pids.min_by_key(|pid| (started(*pid), *pid));
        let name = group.file_name().unwrap_or_default().to_string_lossy().into_owned();
        groups.extend(first.map(|pid| (name, pid)));
    }
    let command = |pid: u32| fs::read(format!("/proc/{pid}/comm"));
    let pause = |pid: u32| command(pid).is_ok_and(|name| name.starts_with(b"pause"));
    found.extend(groups.into_iter().map(|(_, pid)| pid).filter(|pid| !pause(*pid)));
    found.sort();
    found.dedup();
    found
}

/// Kills a process, which has to be there.
#[track_caller]
pub(crate) fn kill(pid: u32) {
    let pid = Pid::from_raw(pid.cast_signed()).expect("not 0");
    kill_process(pid, Signal::KILL).expect("it lives");
}

pub(crate) fn both_give_the_same_statuses(world: &World) {
    table(world, Build::Usual);
}

pub(crate) fn both_give_the_same_statuses_with_containerd_2(world: &World) {
    table(world, Build::Second);
}

fn table(world: &World, build: Build) {
    wasm_class(world);
    let mut place = Place::ordinary(world, build);
    let config = json!({"metadata": {"name": "table"}, "data": {
        "key": "of a config map\n", "word": "a word"}});
    place.api().create("configmaps", &place.namespace, &config);
    let mut wrong = String::new();
    for rows in ROWS.chunks(AT_ONCE) {
        let results: Vec<_> = thread::scope(|scope| {
            let run = |kind: Kind, row: &'static Row| {
                let place = &place;
                scope.spawn(move || row.1(&Column { place, kind }, row.0))
            };
            let started: Vec<_> =
                rows.iter().map(|r| (r.0, run(Kind::Wasm, r), run(Kind::Ordinary, r))).collect();
            started.into_iter().map(|(name, w, o)| (name, w.join(), o.join())).collect()
        });
        for (name, wasm, ordinary) in results {
            let (Ok(wasm), Ok(ordinary)) = (wasm, ordinary) else {
                wrong.push_str(&format!("{name}: see above\n"));
                continue;
            };
            if wasm != ordinary {
                let differences = differences("", &json!(wasm), &json!(ordinary));
                wrong.push_str(&format!("{name}:\n{differences}"));
            }
        }
    }
    assert!(wrong.is_empty(), "not the same (Wasm | ordinary):\n{wrong}");
    adopted(&mut place);
    deleted(&place);
    place.finish();
}

fn columns<'a>(place: &'a Place<'a>) -> [Column<'a>; 2] {
    [Kind::Wasm, Kind::Ordinary].map(|kind| Column { place, kind })
}

/// The agent is killed: what goes on goes on with the status that it has, and what ends meanwhile
/// has ended when the agent is back.
#[track_caller]
fn adopted(place: &mut Place<'_>) {
    let run = |pod: fn(&Column<'_>) -> Value| {
        let pods = columns(place).map(|column| {
            let pod = pod(&column);
            column.place.create(&pod);
            pod
        });
        let [w, o] = columns(place);
        [w.wait(&pods[0], "it runs", ready), o.wait(&pods[1], "it runs", ready)]
    };
    let before =
        run(|column| column.pod("stays", "Always", &[Act::Exit(0, 0)], &[Act::Wait, Act::Wait]));
    let out = place.node.file("out");
    fs::create_dir(&out).expect("made");
    let ending = run(|column| {
        let mut pod = column.pod("ends", "Never", &[], &[Act::Await(7)]);
        let path = column.place.node.file("out");
        pod["spec"]["volumes"] = json!([{"name": "out", "hostPath": {"path": path}}]);
        let mounts = json!([{"name": "out", "mountPath": "/out"}]);
        pod["spec"]["containers"][0]["volumeMounts"] = mounts;
        pod
    });
    let process = |pods: &[Value; 2], place: &Place<'_>| {
        [processes(&place.node, &pods[0]), processes(&place.node, &pods[1])]
    };
    let were = process(&before, place);
    assert_eq!(were.clone().map(|all| all.len()), [2, 2]);

    place.node.kill9();
    fs::write(out.join("go"), "").expect("written");
    place.node.wait(SOON, "two end while nobody looks", || {
        process(&ending, place).iter().all(Vec::is_empty).then_some(())
    });
    assert_eq!(process(&before, place), were);
    place.node.run();

    let [w, o] = columns(place);
    let ended = [
        w.wait(&ending[0], "it has ended", phase("Failed")),
        o.wait(&ending[1], "it has ended", phase("Failed")),
    ];
    let [wasm, ordinary] = ended.map(|pod| shape(&pod));
    assert_eq!(differences("", &wasm, &ordinary), "", "ended without an agent");
    place.node.wait_ready(SOON);
    let after = [w.wait(&before[0], "it runs", ready), o.wait(&before[1], "it runs", ready)];
    assert_eq!(process(&after, place), were, "no process is another");
    for (before, after) in before.iter().zip(&after) {
        let (before, after) = (&before["status"], &after["status"]);
        assert_eq!(differences("", before, after), "", "its status is as it was");
    }
}

/// Both pods that stay are deleted: what they say last, each time since the pod is there until its
/// end, is the same; and it takes no longer than it must.
#[track_caller]
fn deleted(place: &Place<'_>) {
    let last = [Kind::Wasm, Kind::Ordinary].map(|kind| {
        let name = kind.name("stays");
        let mut watch = place.api().watch("pods", &place.namespace);
        place.api().delete("pods", &place.namespace, &name);
        loop {
            let (change, pod, _) = watch.next(SOON).expect("it is deleted");
            if change == "DELETED" && pod["metadata"]["name"] == name {
                return shape(&pod);
            }
        }
    });
    assert_eq!(differences("", &last[0], &last[1]), "", "deleted");
    let states: Vec<&Value> = last[0]["containerStatuses"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|one| &one["state"]["terminated"]["exitCode"])
        .collect();
    assert_eq!(states, [143, 143], "{}", last[0]);
}
