//! The crash matrix: in four stories of a pod the agent aborts at every boundary of its actions (see
//! the agent's `worker/abort.rs`), once for each boundary, and the next one has to make of it what is
//! made of it without any crash, with nothing run twice and nothing left behind.
//!
//! `make test` takes some of the boundaries, `make crash-matrix` (`COPEPOD_CRASH_EVERY=1`) all.

use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use copepod_tests::cluster::images::{ACTOR, actor_archive};
use copepod_tests::cluster::{Build, Node, NodeOptions, leaks};
use copepod_tests::{holds_within, wait_until};
use rustix::process::Signal;
use serde_json::{Value, json};

use crate::place::{Place, container, ready};
use crate::statuses::{differences, shape};
use crate::{SOON, World};

/// Tells the agent where to abort.
const ABORT_AT: &str = "COPEPOD_ABORT_AT";
/// A boundary that no agent comes to.
const NEVER: u64 = 1 << 40;
/// Each so many boundaries one is taken, unless the environment says otherwise.
const EVERY: u64 = 3;
/// How many actions there are differs a little from run to run (two events in one, a refresh more): so
/// often an agent is given the chance to come to a boundary.
const TRIES: usize = 3;
/// Nodes of one story, each with an agent of its own that dies and comes back.
const LANES: usize = 3;
/// What an agent may still do when its pod looks settled: it is looked at that long at most.
const AFTERWARDS: Duration = Duration::from_secs(10);
/// An agent that comes to no other boundary for so long is done, where only their number depends on it.
const QUIET: Duration = Duration::from_secs(2);
/// Between two looks at the API server and the agent's process.
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// A liveness probe has to fail, and this machine is busy.
const LONG: Duration = Duration::from_secs(90);

/// What happens to a pod while its agent dies.
struct Story {
    name: &'static str,
    /// The spec of its pod, whose containers see the folder `/out`.
    spec: fn() -> Value,
    /// How far the pod is when the boundaries begin to count: Ready, or not made yet.
    from_ready: bool,
    /// What sets it off in that folder or at the API server.
    begin: fn(&Place<'_>, &Scene),
    /// Whether the pod is where it is to end; gone if none.
    end: Option<fn(&Value) -> bool>,
    /// How often each container is launched in all.
    launches: &'static [(&'static str, usize)],
}

/// The pod of one run.
struct Scene {
    name: String,
    /// Its folder of the host.
    out: PathBuf,
    /// Where the log begins of the agent that is to die.
    log: usize,
}

fn start() -> Story {
    Story {
        name: "start",
        spec: || {
            let mut side = actor("side", "append /out/side launched -- wait");
            side["restartPolicy"] = json!("Always");
            json!({
                "initContainers": [actor("init", "append /out/init launched -- sleep 50"), side],
                "containers": [actor("main", "append /out/main launched -- wait")],
            })
        },
        from_ready: false,
        begin: |_, _| {},
        end: Some(ready),
        launches: &[("init", 1), ("side", 1), ("main", 1)],
    }
}

fn restart() -> Story {
    Story {
        name: "restart",
        spec: || {
            let steps = "append /out/main launched -- await /out/go -- turn /out/turn 3,- -- wait";
            json!({"containers": [actor("main", steps)]})
        },
        from_ready: true,
        begin: |_, scene| fs::write(scene.out.join("go"), "").expect("written"),
        end: Some(|pod| ready(pod) && container(pod, "main")["restartCount"] == 1),
        launches: &[("main", 2)],
    }
}

fn liveness_kill() -> Story {
    Story {
        name: "liveness",
        spec: || {
            let steps = "append /out/main launched -- write /out/ok x -- wait";
            let mut main = actor("main", steps);
            let probe = json!({
                "exec": {"command": ["/actor", "check", "/out/ok"]},
                "periodSeconds": 1,
                "timeoutSeconds": 30,
                "failureThreshold": 1,
            });
            main["livenessProbe"] = probe.clone();
            // Until it has written its file, however long that takes.
            main["startupProbe"] = probe;
            main["startupProbe"]["failureThreshold"] = json!(60);
            json!({"containers": [main]})
        },
        from_ready: true,
        begin: |_, scene| {
            let ok = scene.out.join("ok");
            wait_until(SOON, "the container has written its file", || ok.exists());
            fs::remove_file(ok).expect("it is there");
        },
        end: Some(|pod| ready(pod) && container(pod, "main")["restartCount"] == 1),
        launches: &[("main", 2)],
    }
}

fn delete() -> Story {
    Story {
        name: "delete",
        spec: || json!({"containers": [actor("main", "append /out/main launched -- wait")]}),
        from_ready: true,
        begin: |place, scene| place.api().delete("pods", &place.namespace, &scene.name),
        end: None,
        launches: &[("main", 1)],
    }
}

/// Names the tests of a story, one for each kind of pod.
macro_rules! matrix {
    ($($story:ident: $wasm:ident, $ordinary:ident;)*) => {$(
        pub(crate) fn $wasm(world: &World) {
            $story().run(world, None);
        }

        pub(crate) fn $ordinary(world: &World) {
            $story().run(world, Some(Build::Usual));
        }
    )*};
}

matrix! {
    start: a_start_outlives_each_death, an_ordinary_start_outlives_each_death;
    restart: a_restart_outlives_each_death, an_ordinary_restart_outlives_each_death;
    liveness_kill: a_liveness_kill_outlives_each_death, an_ordinary_liveness_kill_outlives_each_death;
    delete: a_delete_outlives_each_death, an_ordinary_delete_outlives_each_death;
}

/// A container that does this.
fn actor(name: &str, steps: &str) -> Value {
    let args: Vec<&str> = steps.split_whitespace().collect();
    json!({
        "name": name,
        "args": args,
        "volumeMounts": [{"name": "out", "mountPath": "/out"}],
    })
}

impl Story {
    /// Once without a death, which counts the boundaries and says how it ends; then once for each.
    fn run(&self, world: &World, containerd: Option<Build>) {
        let started = Instant::now();
        let every = std::env::var("COPEPOD_CRASH_EVERY").ok().and_then(|n| n.parse().ok());
        let every: u64 = every.unwrap_or(EVERY);
        let mut first = Lane::new(world, self, containerd);
        let (end, boundaries) = first.undisturbed();
        let next = AtomicU64::new(0);
        let missed: Mutex<Vec<u64>> = Mutex::default();
        let work = |mut lane: Lane<'_>| {
            loop {
                let at = next.fetch_add(every, Ordering::Relaxed);
                if at >= boundaries {
                    break lane.finish();
                }
                if !(0..TRIES).any(|_| lane.killed_at(at, &end)) {
                    missed.lock().expect("no panic with it").push(at);
                }
            }
        };
        thread::scope(|scope| {
            scope.spawn(|| work(first));
            (1..LANES).for_each(|_| {
                scope.spawn(|| work(Lane::new(world, self, containerd)));
            });
        });
        let missed = missed.into_inner().expect("all have ended");
        println!(
            "{} ({}): {boundaries} boundaries, each {every}. with a death, {:.0} s; not come to: {missed:?}",
            self.name,
            if containerd.is_some() { "ordinary" } else { "Wasm" },
            started.elapsed().as_secs_f64()
        );
        assert!(missed.len() <= 2, "the agent did not come to the boundaries {missed:?}");
    }
}

/// One node, on which a story happens again and again.
struct Lane<'a> {
    story: &'a Story,
    place: Place<'a>,
    image: String,
    runs: u32,
}

impl<'a> Lane<'a> {
    #[track_caller]
    fn new(world: &'a World, story: &'a Story, containerd: Option<Build>) -> Self {
        let options = NodeOptions { containerd, ..NodeOptions::default() };
        let node = Node::prepare(world.plane, options);
        let image = match containerd {
            Some(_) => {
                let archive = actor_archive(&world.plane.dir().join("images"));
                node.containerd().import(&archive, &[ACTOR]);
                ACTOR.to_owned()
            }
            None => world.image("actor"),
        };
        let mut lane = Self { story, place: Place::on(world, Box::new(node)), image, runs: 0 };
        // Here the image is pulled, which later runs have not to do.
        lane.undisturbed();
        lane
    }

    /// Starts an agent that aborts there.
    #[track_caller]
    fn start(&mut self, abort_at: Option<u64>) {
        self.place.node.set_env(ABORT_AT, abort_at.map(|at| at.to_string()).as_deref());
        self.place.node.run();
    }

    /// Begins the story with an agent that aborts there: the pod's name, its folder, and where that
    /// agent's log begins.
    #[track_caller]
    fn begin(&mut self, abort_at: u64) -> Scene {
        self.runs += 1;
        let name = format!("{}-{}", self.story.name, self.runs);
        let out = self.place.node.file("out").join(&name);
        fs::create_dir_all(&out).expect("made");
        let mut scene = Scene { name, out, log: 0 };
        let pod = self.pod(&scene);
        if self.story.from_ready {
            self.start(None);
            self.place.create(&pod);
            self.place.wait_ready(&scene.name);
            self.place.node.stop();
        }
        scene.log = self.place.node.whole_log().len();
        self.start(Some(abort_at));
        if !self.story.from_ready {
            self.place.create(&pod);
        }
        (self.story.begin)(&self.place, &scene);
        scene
    }

    fn pod(&self, scene: &Scene) -> Value {
        let mut spec = (self.story.spec)();
        spec["nodeName"] = json!(self.place.node.name());
        spec["terminationGracePeriodSeconds"] = json!(2);
        spec["automountServiceAccountToken"] = json!(false);
        spec["volumes"] = json!([{"name": "out", "hostPath": {"path": scene.out}}]);
        for list in ["initContainers", "containers"] {
            for container in spec.get_mut(list).and_then(Value::as_array_mut).into_iter().flatten()
            {
                container["image"] = json!(self.image);
            }
        }
        json!({"metadata": {"name": scene.name}, "spec": spec})
    }

    /// The pod, where the story ends with one.
    fn ended(&self, scene: &Scene) -> Option<Value> {
        let pod = self.place.api().get("pods", &self.place.namespace, &scene.name);
        match (self.story.end, pod) {
            (None, None) => Some(Value::Null),
            (Some(end), Some(pod)) => end(&pod).then_some(pod),
            (None, Some(_)) | (Some(_), None) => None,
        }
    }

    /// The last boundary that the agent of this scene has come to, but for those of probes: these go
    /// on as long as the pod.
    fn passed(&self, scene: &Scene) -> Option<u64> {
        let log = self.place.node.whole_log();
        let passed = log[scene.log..].lines().filter_map(|line| {
            let (number, action) = line.split_once("boundary ")?.1.split_once(':')?;
            let is_probe = action.contains(" Probe {");
            number.parse::<u64>().ok().filter(|_| !is_probe)
        });
        passed.max()
    }

    /// The story without a death: its end, and how many boundaries the agent has come to.
    #[track_caller]
    fn undisturbed(&mut self) -> (Value, u64) {
        let scene = self.begin(NEVER);
        let mut end = self.close(&scene);
        // What is told after the end counts as well; boundaries come in pairs.
        let mut seen = (self.passed(&scene), Instant::now());
        holds_within(AFTERWARDS, || {
            thread::park_timeout(LOOK_EVERY);
            let passed = self.passed(&scene);
            if passed != seen.0 {
                seen = (passed, Instant::now());
            }
            seen.1.elapsed() > QUIET
        });
        let boundaries = self.passed(&scene).map_or(0, |last| (last / 2 + 1) * 2);
        assert!(boundaries > 0, "the agent told of no boundary:\n{}", self.place.node.log());
        self.clear(&scene);
        if !end.is_null() {
            end = shape(&end);
        }
        (end, boundaries)
    }

    /// The story with a death at this boundary and a new agent after it, which has to end as `end`
    /// says; whether the agent came to that boundary at all.
    #[track_caller]
    fn killed_at(&mut self, boundary: u64, end: &Value) -> bool {
        let scene = self.begin(boundary);
        let mut settled = None;
        let died = holds_within(LONG, || {
            thread::park_timeout(LOOK_EVERY);
            if settled.is_none() && self.ended(&scene).is_some() {
                settled = Some(Instant::now());
            }
            self.place.node.ended().is_some() || settled.is_some_and(|at| at.elapsed() > AFTERWARDS)
        });
        assert!(died, "boundary {boundary}: neither dead nor done\n{}", self.place.node.log());
        let ended = self.place.node.ended();
        if let Some(status) = ended {
            let what = format!("boundary {boundary}: {status}\n{}", self.place.node.log());
            assert_eq!(status.signal(), Some(Signal::ABORT.as_raw()), "{what}");
        } else {
            // Else it would die of what is done to its pod afterwards.
            self.place.node.stop();
        }
        self.start(None);
        let pod = self.close(&scene);
        if !pod.is_null() {
            let told = differences("", end, &shape(&pod));
            let log = self.place.node.whole_log();
            assert_eq!(
                told,
                "",
                "boundary {boundary} (without a death | with)\n{}",
                &log[scene.log..]
            );
        }
        self.clear(&scene);
        ended.is_some()
    }

    /// Waits for the end and counts what was launched.
    #[track_caller]
    fn close(&self, scene: &Scene) -> Value {
        let what = format!("pod {} is where {} ends", scene.name, self.story.name);
        let pod = self.place.node.wait(LONG, &what, || self.ended(scene));
        for (container, times) in self.story.launches {
            let lines = || {
                let text = fs::read_to_string(scene.out.join(container)).unwrap_or_default();
                text.lines().count()
            };
            // One that runs may not have come to its first line yet.
            holds_within(LONG, || lines() >= *times);
            let log = self.place.node.whole_log();
            assert_eq!(
                lines(),
                *times,
                "launches of {container} of {}\n{}",
                scene.name,
                &log[scene.log..]
            );
        }
        pod
    }

    /// Deletes the pod and ends the agent; nothing of either may be left.
    #[track_caller]
    fn clear(&mut self, scene: &Scene) {
        self.place.api().delete("pods", &self.place.namespace, &scene.name);
        self.place.wait_none(SOON);
        // What a pod has on disk goes after it is gone from the API server.
        self.place.node.settle();
        self.place.node.stop();
        let left = leaks::settled(|| self.place.node.leaks());
        assert!(left.is_empty(), "{}: left behind:\n{}", scene.name, left.join("\n"));
    }

    #[track_caller]
    fn finish(mut self) {
        self.start(None);
        self.place.finish();
    }
}
