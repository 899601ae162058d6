//! Runs scenarios on a node, a few at a time, and hands on what was recorded of each.

use std::collections::VecDeque;
use std::fs;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use copepod_tests::cluster::ControlPlane;
use copepod_tests::holds_within;
use serde_json::{Value, json};

use crate::image::Images;
use crate::record::{Record, Recorder};
use crate::scenario::{Act, Column, Scenario, Wanted};
use crate::shape::{self, Names};

/// Scenarios at once: most of their time they wait, and what they do is to be seen undisturbed.
const AT_ONCE: usize = 10;
/// A second restart waits 10 s, a third 20 s.
const LONGEST: Duration = Duration::from_secs(75);
/// Nothing new for so long: the kubelet looks at its containers each second, and tells what it sees
/// in what it does next. In milliseconds.
const QUIET: u64 = 2500;
/// For the last of it to be told, by a node that has others to tell of.
const LATE: Duration = Duration::from_secs(60);
/// For all pods of a run to be gone.
const GONE: Duration = Duration::from_secs(90);
/// Between two looks at the record, in memory.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// A node, with what its pods need.
#[derive(Clone)]
pub(crate) struct Bench<'a> {
    pub(crate) plane: &'a ControlPlane,
    pub(crate) node: &'a str,
    /// The folder that it takes pods from.
    pub(crate) static_pods: PathBuf,
    pub(crate) images: &'a Images,
    pub(crate) recorder: &'a Recorder,
}

impl Bench<'_> {
    /// Makes what the pods of these kinds need.
    pub(crate) fn prepare(&self, columns: &[Column]) -> Result<()> {
        let api = self.plane.api();
        for column in columns {
            let namespace = column.namespace();
            api.create("namespaces", "", &json!({"metadata": {"name": namespace}}));
            let account = ("serviceaccounts", "default");
            self.plane.wait(LONGEST, "a service account", String::new, || {
                api.get(account.0, &namespace, account.1)
            });
        }
        if !columns.contains(&Column::Wasm) {
            return Ok(());
        }
        let class = json!({"metadata": {"name": "wasm"}, "handler": "wasm"});
        api.create("runtimeclasses", "", &class);
        // What a kubelet has from an archive, this node has from the registry.
        for word in ["ACTOR", "HTTP"] {
            let name = format!("first-{}", word.to_lowercase());
            let pod = json!({
                "metadata": {"name": name},
                "spec": {
                    "nodeName": self.node,
                    "runtimeClassName": "wasm",
                    "terminationGracePeriodSeconds": 1,
                    "containers": [{"name": "main", "image": self.images.name(word, Column::Wasm)}],
                    "restartPolicy": "Never",
                },
            });
            let namespace = Column::Wasm.namespace();
            api.create("pods", &namespace, &pod);
            self.plane.wait(LONGEST, "an image is here", String::new, || {
                let pod = api.get("pods", &namespace, &name)?;
                let one = &pod["status"]["containerStatuses"][0]["state"];
                (one.get("running").is_some() || one.get("terminated").is_some()).then_some(())
            });
            api.delete("pods", &namespace, &name);
        }
        Ok(())
    }

    /// Runs them all, and gives what is kept of each to `keep`.
    pub(crate) fn run(
        &self,
        all: &[(&Scenario, Column)],
        keep: impl Fn(&Scenario, Column, &Value) -> Result<()> + Sync,
    ) -> Result<()> {
        let queue: Mutex<VecDeque<_>> = Mutex::new(all.iter().collect());
        let next = || queue.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
        let work = || -> Result<()> {
            let mut result = Ok(());
            while let Some((scenario, column)) = next() {
                let run = Run { bench: self, scenario, column: *column };
                let kept = run.kept().and_then(|kept| keep(scenario, *column, &kept));
                // The others go on.
                result = result.and(kept.with_context(|| format!("{}: {column}", scenario.name)));
            }
            result
        };
        thread::scope(|scope| {
            let threads: Vec<_> = (0..AT_ONCE).map(|_| scope.spawn(work)).collect();
            threads.into_iter().try_for_each(|thread| match thread.join() {
                Ok(result) => result,
                Err(panic) => std::panic::resume_unwind(panic),
            })
        })
    }

    /// Waits until no pod is left.
    #[track_caller]
    pub(crate) fn clear(&self, log: impl FnOnce() -> String) {
        let api = self.plane.api();
        self.plane.wait(GONE, "all pods are gone", log, || {
            let query = format!("fieldSelector=spec.nodeName%3D{}", self.node);
            api.select("pods", "", &query).is_empty().then_some(())
        });
    }
}

/// One scenario on one node.
struct Run<'a> {
    bench: &'a Bench<'a>,
    scenario: &'a Scenario,
    column: Column,
}

impl Run<'_> {
    /// Runs it to its end: what is kept of it.
    fn kept(&self) -> Result<Value> {
        let api = self.bench.plane.api();
        let namespace = self.column.namespace();
        let image = |word: &str| self.bench.images.name(word, self.column);
        for object in self.scenario.objects() {
            let path = copepod_tests::cluster::api::path("configmaps", &namespace);
            let (code, answer) = api.request("POST", &path, Some(&object));
            // A run before this one has made it.
            ensure!(code == 201 || code == 409, "{answer}");
        }
        let first = self.scenario.first(self.bench.node, self.column, image);
        if let Some(pod) = &first {
            api.create("pods", &namespace, pod);
            let name = pod["metadata"]["name"].as_str().unwrap_or_default();
            self.bench.plane.wait(LONGEST, "the first pod is Ready", String::new, || {
                let pod = api.get("pods", &namespace, name)?;
                copepod_tests::cluster::node::condition(&pod, "Ready")
                    .is_some_and(|one| one["status"] == "True")
                    .then_some(())
            });
        }
        let mut pod = self.scenario.pod(self.bench.node, self.column, image);
        if self.scenario.is_static() {
            pod["metadata"]["namespace"] = json!(namespace);
            fs::write(self.static_file(), pod.to_string())?;
        } else {
            let path = copepod_tests::cluster::api::path("pods", &namespace);
            let (code, answer) = api.request("POST", &path, Some(&pod));
            ensure!(code == 201, "{}", answer["message"]);
        }
        if self.scenario.is_bound() {
            let pods = copepod_tests::cluster::api::path("pods", &namespace);
            let binding = json!({
                "apiVersion": "v1",
                "kind": "Binding",
                "metadata": {"name": self.name()},
                "target": {"kind": "Node", "name": self.bench.node},
            });
            let path = format!("{pods}/{}/binding", self.name());
            let (code, answer) = api.request("POST", &path, Some(&binding));
            ensure!(code == 201, "{}", answer["message"]);
        }
        let settled = self.go_on()?;
        let names = Names {
            node: self.bench.node.to_owned(),
            namespace: namespace.clone(),
            registry: self.bench.images.host(),
        };
        let kept = self.record(|record| shape::kept(record, &names, settled));
        self.remove(first.is_some());
        Ok(kept.unwrap_or_else(|| shape::kept(&Record::default(), &names, false)))
    }

    /// The name of its pod in the cluster.
    fn name(&self) -> String {
        match self.scenario.is_static() {
            true => format!("{}-{}", self.scenario.name, self.bench.node),
            false => self.scenario.name.clone(),
        }
    }

    fn static_file(&self) -> PathBuf {
        // The kubelet and others take no notice of what begins with a dot.
        self.bench.static_pods.join(format!("{}-{}.json", self.scenario.name, self.column))
    }

    fn record<T>(&self, look: impl FnOnce(&Record) -> T) -> Option<T> {
        self.bench.recorder.of(&self.column.namespace(), &self.name(), look)
    }

    /// Does its steps and waits for its end and rest; whether all came.
    fn go_on(&self) -> Result<bool> {
        for step in self.scenario.steps()? {
            if !self.wait(&step.when) {
                return Ok(false);
            }
            self.act(&step.act)?;
        }
        if !self.wait(&self.scenario.until()) {
            return Ok(false);
        }
        if self.scenario.cut().is_some() {
            return Ok(true);
        }
        let quiet = || {
            thread::park_timeout(LOOK_EVERY);
            let last = self.record(shape::last_news).flatten();
            let quiet = last.is_none_or(|last| last + QUIET < self.bench.recorder.now());
            quiet && !self.record(goes_on_ending).unwrap_or(false)
        };
        let rests = holds_within(LATE, quiet);
        if !rests {
            eprintln!("{} ({}): no rest within {LATE:?}", self.scenario.name, self.column);
        }
        Ok(rests)
    }

    fn wait(&self, wanted: &Wanted) -> bool {
        let longest = self.scenario.patience().unwrap_or(LONGEST);
        let came = holds_within(longest, || {
            thread::park_timeout(LOOK_EVERY);
            self.record(|record| {
                let pod = record.changes.last().map(|(_, pod)| pod);
                let told: Vec<&str> = record
                    .events
                    .iter()
                    .filter_map(|(_, event)| event["reason"].as_str())
                    .collect();
                let gone = record.gone.is_some();
                wanted.holds(pod.unwrap_or(&Value::Null), gone, &told)
            })
            .unwrap_or(false)
        });
        if !came {
            eprintln!(
                "{} ({}): not within {longest:?}: {}",
                self.scenario.name,
                self.column,
                wanted.text()
            );
        }
        came
    }

    fn act(&self, act: &Act) -> Result<()> {
        let api = self.bench.plane.api();
        let namespace = self.column.namespace();
        match act {
            Act::Delete(seconds) => self.delete(&self.name(), *seconds),
            Act::Patch(of, patch) => {
                let mut patch = patch.clone();
                crate::scenario::strings(&mut patch, &mut |text| {
                    if crate::image::is_word(text) {
                        *text = self.bench.images.name(text, self.column);
                    }
                });
                let what = format!("{}/{of}", self.name());
                api.patch("pods", &namespace, what.trim_end_matches('/'), &patch);
            }
            Act::Remove => fs::remove_file(self.static_file())?,
        }
        Ok(())
    }

    fn delete(&self, name: &str, seconds: u64) {
        let path = format!("/api/v1/namespaces/{}/pods/{name}", self.column.namespace());
        let body = json!({"gracePeriodSeconds": seconds});
        let (code, answer) = self.bench.plane.api().request("DELETE", &path, Some(&body));
        assert!(code < 300 || code == 404, "DELETE {path}: {code} {answer}");
    }

    fn remove(&self, with_first: bool) {
        if self.scenario.is_static() {
            let _ = fs::remove_file(self.static_file());
        } else {
            self.delete(&self.name(), 1);
        }
        if with_first {
            self.delete(&format!("{}-first", self.scenario.name), 1);
        }
    }
}

/// Whether a pod that is over still has its sandbox, whose end is told after it.
fn goes_on_ending(record: &Record) -> bool {
    let Some((_, pod)) = record.changes.last() else { return false };
    let over = pod["status"]["phase"] == "Failed" || pod["status"]["phase"] == "Succeeded";
    let stands = copepod_tests::cluster::node::condition(pod, "PodReadyToStartContainers");
    record.gone.is_none() && over && stands.is_some_and(|one| one["status"] == "True")
}
