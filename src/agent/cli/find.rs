//! Which pod of which run, and which container of it, a command means.

use anyhow::{Result, bail};
use copepod_pod::is_terminal;
use k8s_openapi::api::core::v1::Pod;

use super::api::{Found, Run};

/// Shortest part of a uid that is taken for one.
const UID_MIN: usize = 4;
/// What names the container that is meant where none is (kubectl's).
const DEFAULT_CONTAINER: &str = "kubectl.kubernetes.io/default-container";

/// The pods' namespace.
#[derive(Debug, clap::Args)]
pub(super) struct Namespace {
    /// Pods of this namespace only
    #[arg(long, short, value_name = "NAMESPACE")]
    pub(super) namespace: Option<String>,
}

/// The pods of all runs, of one namespace if it is given.
pub(super) fn all<'a>(runs: &'a [Run], namespace: Option<&str>) -> Vec<Found<'a>> {
    let pods = runs.iter().flat_map(|run| run.pods.iter().map(move |pod| Found { run, pod }));
    pods.filter(|found| namespace.is_none_or(|wanted| found.namespace() == wanted)).collect()
}

/// The one pod that `name` means: `POD`, `NAMESPACE/POD` or the beginning of a uid.
///
/// # Errors
/// None of that name; several, with a name for each that is its own.
pub(super) fn one<'a>(runs: &'a [Run], name: &str, namespace: Option<&str>) -> Result<Found<'a>> {
    let (namespace, short) = match name.split_once('/') {
        Some(("pod" | "pods", short)) => (namespace, short),
        Some((namespace, short)) => (Some(namespace), short),
        None => (namespace, name),
    };
    let pods = all(runs, namespace);
    let of = |test: &dyn Fn(&Found<'_>) -> bool| -> Vec<Found<'a>> {
        pods.iter().copied().filter(test).collect()
    };
    let mut found = of(&|found| found.name() == short);
    if found.is_empty() && short.len() >= UID_MIN {
        found = of(&|found| found.uid().starts_with(short));
    }
    match found.as_slice() {
        [one] => Ok(*one),
        [] if runs.is_empty() => bail!(nothing_runs(None)),
        [] => bail!("pod {name:?} not found: copepod ps lists those that run"),
        several => {
            let several: Vec<String> = several
                .iter()
                .map(|found| {
                    let pid = found.run.pid.unwrap_or_default();
                    let (namespace, name, uid) = (found.namespace(), found.name(), found.uid());
                    format!("  {namespace}/{name} of process {pid}: {uid}")
                })
                .collect();
            bail!(
                "{} pods are called {name:?}: name one as NAMESPACE/POD or by its uid\n{}",
                several.len(),
                several.join("\n")
            )
        }
    }
}

/// What is said where there is no pod at all.
pub(super) fn nothing_runs(namespace: Option<&str>) -> String {
    match namespace {
        Some(namespace) => format!("nothing runs in namespace {namespace:?}"),
        None => "nothing runs: copepod run FILE starts the pods of a file".into(),
    }
}

impl<'a> Found<'a> {
    /// The pod's namespace.
    pub(super) fn namespace(&self) -> &'a str {
        self.pod.metadata.namespace.as_deref().unwrap_or_default()
    }

    /// The pod's name.
    pub(super) fn name(&self) -> &'a str {
        self.pod.metadata.name.as_deref().unwrap_or_default()
    }

    /// The pod's uid.
    pub(super) fn uid(&self) -> &'a str {
        self.pod.metadata.uid.as_deref().unwrap_or_default()
    }

    /// Whether nothing of it runs any more, or ever will.
    pub(super) fn has_ended(&self) -> bool {
        is_terminal(self.pod.status.as_ref())
    }

    /// The names of all its containers, init containers first.
    pub(super) fn containers(&self) -> Vec<&'a str> {
        let Some(spec) = &self.pod.spec else { return Vec::new() };
        let init = spec.init_containers.as_deref().unwrap_or_default();
        init.iter().chain(&spec.containers).map(|container| container.name.as_str()).collect()
    }

    /// The container that is meant: the named one, the pod's default, or its only one.
    ///
    /// # Errors
    /// Kubectl's texts for one that is not there, and for several of which none is named.
    pub(super) fn container(&self, named: Option<&str>) -> Result<&'a str> {
        let names = self.containers();
        let find = |wanted: &str| names.iter().find(|name| **name == wanted).copied();
        if let Some(named) = named {
            return match find(named) {
                Some(name) => Ok(name),
                None => bail!(
                    "container {named:?} not found in pod {:?}: it has {}",
                    self.name(),
                    names.join(", ")
                ),
            };
        }
        if let Some(name) = default_container(self.pod).and_then(find) {
            return Ok(name);
        }
        match self.pod.spec.as_ref().map(|spec| spec.containers.as_slice()) {
            Some([only]) => Ok(&only.name),
            Some(_) | None => bail!(
                "a container name must be specified for pod {}, choose one of: [{}]",
                self.name(),
                names.join(" ")
            ),
        }
    }
}

fn default_container(pod: &Pod) -> Option<&str> {
    let annotations = pod.metadata.annotations.as_ref()?;
    annotations.get(DEFAULT_CONTAINER).map(String::as_str)
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::{Container, PodSpec};
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

    use super::*;

    fn pod(namespace: &str, name: &str, uid: &str, containers: &[&str]) -> Pod {
        let named = |name: &&str| Container { name: (*name).into(), ..Container::default() };
        let metadata = ObjectMeta {
            namespace: Some(namespace.into()),
            name: Some(name.into()),
            uid: Some(uid.into()),
            ..ObjectMeta::default()
        };
        let containers = containers.iter().map(named).collect();
        Pod { metadata, spec: Some(PodSpec { containers, ..PodSpec::default() }), status: None }
    }

    fn runs() -> Vec<Run> {
        let first = vec![pod("default", "web", "aaaa1", &["c"]), pod("ns", "web", "bbbb1", &["c"])];
        let second = vec![pod("default", "aaaa1", "cccc1", &["c", "d"])];
        vec![Run::of(first), Run::of(second)]
    }

    #[test]
    fn a_name_means_one_pod() {
        let runs = runs();
        let uid = |name: &str, namespace: Option<&str>| {
            one(&runs, name, namespace).map(|found| found.uid().to_owned())
        };
        assert_eq!(uid("ns/web", None).expect("one"), "bbbb1");
        assert_eq!(uid("web", Some("ns")).expect("one"), "bbbb1");
        assert_eq!(uid("pod/web", Some("ns")).expect("one"), "bbbb1");
        assert_eq!(uid("bbbb", None).expect("one"), "bbbb1");
        assert_eq!(uid("aaaa1", None).expect("one"), "cccc1", "a name goes before a uid");
        let several = uid("web", None).expect_err("two").to_string();
        assert!(several.starts_with("2 pods are called \"web\""), "{several}");
        assert!(several.contains("ns/web of process 0: bbbb1"), "{several}");
        for (name, namespace) in [("none", None), ("bb", None), ("web", Some("other"))] {
            let error = uid(name, namespace).expect_err("none").to_string();
            assert!(error.contains(&format!("pod {name:?} not found")), "{error}");
        }
        let error = one(&[], "web", None).expect_err("none").to_string();
        assert!(error.starts_with("nothing runs"), "{error}");
    }

    #[test]
    fn a_container_is_named_where_there_are_several() {
        let runs = runs();
        let container = |name: &str, named: Option<&str>| {
            let found = one(&runs, name, None).expect("one");
            found.container(named).map_err(|error| error.to_string())
        };
        assert_eq!(container("ns/web", None), Ok("c"));
        assert_eq!(container("aaaa1", Some("d")), Ok("d"));
        let text = "a container name must be specified for pod aaaa1, choose one of: [c d]";
        assert_eq!(container("aaaa1", None), Err(text.into()));
        let text = r#"container "x" not found in pod "aaaa1": it has c, d"#;
        assert_eq!(container("aaaa1", Some("x")), Err(text.into()));
        let mut by_default = pod("default", "p", "dddd1", &["c", "d"]);
        let annotation = (DEFAULT_CONTAINER.to_owned(), "d".to_owned());
        by_default.metadata.annotations = Some([annotation].into());
        let runs = [Run::of(vec![by_default])];
        assert_eq!(one(&runs, "p", None).expect("one").container(None).expect("d"), "d");
    }
}
