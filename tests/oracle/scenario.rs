//! The file of scenarios, with its short forms written out.
//!
//! A scenario has `name`, `spec` (a pod's, see below), and
//!
//! - `until`: predicates, separated by blanks, that hold when it is settled (see [`Wanted`]);
//! - `steps`: each `when` (predicates) and one of `delete: SECONDS`, `patch: {...}`, `ephemeral: {...}` (a
//!   container for debugging is added), `remove: true` (the file of a static pod);
//! - `ends: at-once`: what is told after that does not count, of a pod that goes on changing;
//! - `metadata`: merged into the pod's; `first`: a spec of another pod, there and Ready before;
//! - `static: true`: by a file on the node; `bound: true`: made without a node, and bound to it then;
//! - `quick: true`: in `make test`, with containers that run for long enough to be told of while they do:
//!   the kubelet tells of each state, however late; `only: ordinary`; `patience: SECONDS`: for what takes
//!   longer than most;
//! - `objects`: config maps by name.
//!
//! In a container, `do: "STEP -- STEP"` are the actor's arguments, `name` is `main` and `image` is `ACTOR`
//! if nothing is said, and a handler `exec: "STEP"` is the actor's command. Each container sees one
//! directory of the pod, `/s`.

use std::fmt;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Map, Value, json};

const FILE: &str = include_str!("scenarios.yaml");

/// Who runs a pod, and as what.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Column {
    /// The kubelet, an ordinary image.
    Kubelet,
    /// This node, the same image.
    Ordinary,
    /// This node, a Wasm guest.
    Wasm,
}

impl fmt::Display for Column {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Kubelet => "kubelet",
            Self::Ordinary => "ordinary",
            Self::Wasm => "wasm",
        })
    }
}

impl Column {
    /// The namespace of its pods.
    pub(crate) fn namespace(self) -> String {
        format!("oracle-{self}")
    }
}

/// One of them.
#[derive(Clone, Debug)]
pub(crate) struct Scenario {
    pub(crate) name: String,
    pub(crate) quick: bool,
    /// All that the file says of it.
    said: Value,
}

/// One thing that is done in the middle of it.
#[derive(Clone, Debug)]
pub(crate) struct Step {
    pub(crate) when: Wanted,
    pub(crate) act: Act,
}

/// What.
#[derive(Clone, Debug)]
pub(crate) enum Act {
    /// Asks for the pod's end, within so many seconds.
    Delete(u64),
    /// Merges into the pod, or into a subresource of it (`ephemeralcontainers`; else empty).
    Patch(&'static str, Value),
    /// Takes the file of a static pod away.
    Remove,
}

/// Predicates that hold together:
///
/// - `gone`; `phase=Failed`; `Ready=False` or another condition; `event=Unhealthy` (a reason that was told);
/// - `NAME.FIELD.FIELD=VALUE`: of the status of the container NAME; `NAME.state=running`: the state's kind.
#[derive(Clone, Debug)]
pub(crate) struct Wanted(Vec<String>);

/// All of the file, in its order.
pub(crate) fn all() -> Result<Vec<Scenario>> {
    let list: Vec<Value> = serde_saphyr::from_str(FILE).context("scenarios.yaml")?;
    let mut all: Vec<Scenario> = Vec::new();
    for said in list {
        let name = said["name"].as_str().context("a scenario without a name")?.to_owned();
        ensure!(all.iter().all(|other| other.name != name), "{name} is there twice");
        const KEYS: [&str; 14] = [
            "name", "spec", "until", "steps", "metadata", "first", "static", "quick", "only",
            "objects", "why", "ends", "bound", "patience",
        ];
        for key in said.as_object().into_iter().flat_map(Map::keys) {
            ensure!(KEYS.contains(&key.as_str()), "{name}: unknown word {key}");
        }
        ensure!(said["until"].is_string(), "{name}: until when?");
        let scenario = Scenario { name, quick: said["quick"] == true, said };
        scenario.steps().with_context(|| scenario.name.clone())?;
        all.push(scenario);
    }
    Ok(all)
}

impl Scenario {
    /// What is done, for who keeps its record: without what is said of its comparison alone.
    pub(crate) fn text(&self) -> String {
        let mut said = self.said.clone();
        if let Some(fields) = said.as_object_mut() {
            const OF_COMPARISON: [&str; 5] = ["quick", "only", "ends", "why", "patience"];
            fields.retain(|name, _| !OF_COMPARISON.contains(&name.as_str()));
        }
        said.to_string()
    }

    /// The predicates that hold one after the other until it is settled, if nothing that is told
    /// afterwards counts.
    pub(crate) fn cut(&self) -> Option<Vec<Wanted>> {
        (self.said["ends"] == "at-once").then(|| {
            let steps = self.steps().unwrap_or_default().into_iter().map(|step| step.when);
            steps.chain(std::iter::once(self.until())).collect()
        })
    }

    /// The kinds that it is compared as.
    pub(crate) fn columns(&self) -> Vec<Column> {
        match self.said["only"].as_str() {
            Some("ordinary") => vec![Column::Ordinary],
            _ => vec![Column::Ordinary, Column::Wasm],
        }
    }

    /// Whether its pod comes from a file.
    pub(crate) fn is_static(&self) -> bool {
        self.said["static"] == true
    }

    /// Whether its pod is bound to the node as a scheduler would do it.
    pub(crate) fn is_bound(&self) -> bool {
        self.said["bound"] == true
    }

    /// How long each of its predicates may take, where that is more than is usual.
    pub(crate) fn patience(&self) -> Option<Duration> {
        self.said["patience"].as_u64().map(Duration::from_secs)
    }

    /// When it is settled.
    pub(crate) fn until(&self) -> Wanted {
        Wanted::new(self.said["until"].as_str().unwrap_or_default())
    }

    /// What is done meanwhile.
    pub(crate) fn steps(&self) -> Result<Vec<Step>> {
        let steps = self.said["steps"].as_array().into_iter().flatten();
        let steps = steps.map(|said| {
            let when = Wanted::new(said["when"].as_str().context("a step without `when`")?);
            let act = if let Some(seconds) = said["delete"].as_u64() {
                Act::Delete(seconds)
            } else if said["remove"] == true {
                Act::Remove
            } else if said["ephemeral"].is_object() {
                let mut container = said["ephemeral"].clone();
                expand(&mut container);
                let patch = json!({"spec": {"ephemeralContainers": [container]}});
                Act::Patch("ephemeralcontainers", patch)
            } else {
                ensure!(said["patch"].is_object(), "a step that does nothing: {said}");
                Act::Patch("", said["patch"].clone())
            };
            Ok(Step { when, act })
        });
        steps.collect()
    }

    /// The words of images that it names, beginning so.
    pub(crate) fn images(&self, start: &str) -> Vec<String> {
        let mut found = Vec::new();
        strings(&mut self.said.clone(), &mut |text| {
            if text.starts_with(start) {
                found.push(text.clone());
            }
        });
        found
    }

    /// The config maps that it needs.
    pub(crate) fn objects(&self) -> Vec<Value> {
        let objects = self.said["objects"].as_object().into_iter().flatten();
        objects.map(|(name, data)| json!({"metadata": {"name": name}, "data": data})).collect()
    }

    /// Its pod for a node, with images named by `image`.
    pub(crate) fn pod(&self, node: &str, column: Column, image: impl Fn(&str) -> String) -> Value {
        let mut pod = written_out(&self.name, &self.said["spec"], node, column, image);
        for (name, value) in self.said["metadata"].as_object().into_iter().flatten() {
            pod["metadata"][name] = value.clone();
        }
        if self.is_bound() {
            let spec = pod["spec"].as_object_mut().expect("a spec is an object");
            spec.remove("nodeName");
            spec.insert("schedulerName".into(), "nobody".into());
        }
        pod
    }

    /// The pod that is there before.
    pub(crate) fn first(
        &self,
        node: &str,
        column: Column,
        image: impl Fn(&str) -> String,
    ) -> Option<Value> {
        let name = format!("{}-first", self.name);
        let spec = self.said.get("first")?;
        Some(written_out(&name, spec, node, column, image))
    }
}

/// Calls `each` for all strings of a value.
pub(crate) fn strings(value: &mut Value, each: &mut impl FnMut(&mut String)) {
    match value {
        Value::String(text) => each(text),
        Value::Array(all) => all.iter_mut().for_each(|value| strings(value, each)),
        Value::Object(object) => object.values_mut().for_each(|value| strings(value, each)),
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

/// A pod from its short form.
fn written_out(
    name: &str,
    spec: &Value,
    node: &str,
    column: Column,
    image: impl Fn(&str) -> String,
) -> Value {
    let mut spec = spec.clone();
    let usual = [
        ("nodeName", json!(node)),
        ("restartPolicy", json!("Never")),
        ("terminationGracePeriodSeconds", json!(5)),
        ("automountServiceAccountToken", json!(false)),
        ("enableServiceLinks", json!(false)),
        ("tolerations", json!([{"operator": "Exists"}])),
    ];
    for (field, value) in usual {
        if spec.get(field).is_none() {
            spec[field] = value;
        }
    }
    if column == Column::Wasm {
        spec["runtimeClassName"] = json!("wasm");
    }
    let mut volumes = spec["volumes"].as_array().cloned().unwrap_or_default();
    volumes.push(json!({"name": "s", "emptyDir": {}}));
    spec["volumes"] = Value::from(volumes);
    for list in ["initContainers", "containers"] {
        for container in spec.get_mut(list).and_then(Value::as_array_mut).into_iter().flatten() {
            expand(container);
        }
    }
    commands(&mut spec);
    strings(&mut spec, &mut |text| {
        if crate::image::is_word(text) {
            *text = image(text);
        }
    });
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": spec})
}

fn expand(container: &mut Value) {
    let fields = container.as_object_mut().expect("a container is an object");
    fields.entry("name").or_insert(json!("main"));
    fields.entry("image").or_insert(json!("ACTOR"));
    if let Some(steps) = fields.remove("do") {
        fields.insert("args".into(), words(&steps));
    }
    let mounts = fields.entry("volumeMounts").or_insert(json!([]));
    let mounts = mounts.as_array_mut().expect("a list");
    mounts.push(json!({"name": "s", "mountPath": "/s"}));
}

fn words(steps: &Value) -> Value {
    steps.as_str().expect("steps are a string").split_whitespace().map(Value::from).collect()
}

/// Writes out each `exec: "STEP"`.
fn commands(value: &mut Value) {
    match value {
        Value::Object(object) => {
            for (name, value) in object {
                if name == "exec" && value.is_string() {
                    let steps = words(value);
                    let mut command = vec![json!("/actor")];
                    command.extend(steps.as_array().expect("a list").iter().cloned());
                    *value = json!({"command": command});
                } else {
                    commands(value);
                }
            }
        }
        Value::Array(all) => all.iter_mut().for_each(commands),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

impl Wanted {
    fn new(text: &str) -> Self {
        Self(text.split_whitespace().map(str::to_owned).collect())
    }

    /// What it says.
    pub(crate) fn text(&self) -> String {
        self.0.join(" ")
    }

    /// Whether all hold.
    pub(crate) fn holds(&self, pod: &Value, gone: bool, told: &[&str]) -> bool {
        self.0.iter().all(|one| holds(one, pod, gone, told))
    }
}

fn holds(one: &str, pod: &Value, gone: bool, told: &[&str]) -> bool {
    let Some((what, wanted)) = one.split_once('=') else { return one == "gone" && gone };
    let status = &pod["status"];
    match (what, what.split_once('.')) {
        ("event", _) => told.contains(&wanted),
        ("phase", _) => status["phase"] == wanted,
        (_, Some((container, path))) => {
            let lists =
                ["initContainerStatuses", "containerStatuses", "ephemeralContainerStatuses"];
            let all = lists.iter().filter_map(|list| status[*list].as_array()).flatten();
            let Some(of) = all.into_iter().find(|one| one["name"] == container) else {
                return false;
            };
            let found = path.split('.').fold(of, |value, field| &value[field]);
            match found {
                Value::Object(kinds) => kinds.contains_key(wanted),
                Value::String(text) => text == wanted,
                Value::Null | Value::Bool(_) | Value::Number(_) | Value::Array(_) => {
                    serde_json::from_str(wanted).is_ok_and(|wanted: Value| *found == wanted)
                }
            }
        }
        (condition, None) => {
            let all = status["conditions"].as_array().into_iter().flatten();
            all.into_iter().any(|one| one["type"] == condition && one["status"] == wanted)
        }
    }
}
