//! Static pods of several sources as one set: what each new word of a source changes in it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use k8s_openapi::api::core::v1::Pod;

use crate::static_pod::{SEEN_ANNOTATION, Source, annotation};

/// Namespace and name.
pub type FullName = (String, String);

/// The full name of a pod.
#[must_use]
pub fn full_name(pod: &Pod) -> FullName {
    let text = |field: &Option<String>| field.clone().unwrap_or_default();
    (text(&pod.metadata.namespace), text(&pod.metadata.name))
}

/// What a word of a source changes.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Change {
    /// No longer wanted.
    pub removed: Vec<Arc<Pod>>,
    /// New, in the source's order.
    pub added: Vec<Arc<Pod>>,
    /// Of a uid that was there, and otherwise now: only of pods that bring their uid along.
    pub updated: Vec<Arc<Pod>>,
    /// Of a name, or a uid, that another pod of the source has, and not named before.
    pub doubles: Vec<Arc<Pod>>,
}

/// The static pods that are wanted, by source.
#[derive(Clone, Debug, Default)]
pub struct StaticPods {
    sources: BTreeMap<Source, Known>,
    /// What an earlier agent had, by uid.
    kept: BTreeMap<String, FullName>,
}

#[derive(Clone, Debug, Default)]
struct Known {
    /// By uid.
    pods: BTreeMap<String, Arc<Pod>>,
    /// The uids of those that stand behind others of their name.
    doubles: BTreeSet<String>,
    is_seen: bool,
}

impl StaticPods {
    /// None yet, of these sources; `kept` is what an earlier agent had.
    #[must_use]
    pub fn of<'a>(
        sources: impl IntoIterator<Item = Source>,
        kept: impl IntoIterator<Item = &'a Pod>,
    ) -> Self {
        let sources = sources.into_iter().map(|source| (source, Known::default()));
        let kept = kept.into_iter();
        let kept = kept.filter_map(|pod| Some((pod.metadata.uid.clone()?, full_name(pod))));
        Self { sources: sources.collect(), kept: kept.collect() }
    }

    /// Whether the source has said at least once what it has; one that is not configured has nothing
    /// to say.
    #[must_use]
    pub fn has_seen(&self, source: Source) -> bool {
        self.sources.get(&source).is_none_or(|known| known.is_seen)
    }

    /// Whether each source has.
    #[must_use]
    pub fn has_seen_all(&self) -> bool {
        self.sources.values().all(|known| known.is_seen)
    }

    /// These are all pods of `source`. `is_seen` is false for what is only remembered of it. `now`
    /// is the time for [`SEEN_ANNOTATION`] of those that are new.
    ///
    /// Of several pods of one name the one that is there already stays, also over a restart of the
    /// agent, else the first is taken: a new file harms no pod that runs.
    pub fn set(&mut self, source: Source, pods: Vec<Pod>, is_seen: bool, now: &str) -> Change {
        let known = self.sources.entry(source).or_default();
        let kept = if known.is_seen { &BTreeMap::new() } else { &self.kept };
        known.is_seen |= is_seen;
        let is_known = |pod: &Pod| {
            let uid = pod.metadata.uid.as_deref().unwrap_or_default();
            let before = known.pods.get(uid).map(|before| full_name(before));
            before.as_ref().or_else(|| kept.get(uid)) == Some(&full_name(pod))
        };
        let (pods, doubles) = singled(pods, is_known);
        let mut change = Change::default();
        let mut next = BTreeMap::new();
        for mut pod in pods {
            let uid = pod.metadata.uid.clone().unwrap_or_default();
            let annotations = pod.metadata.annotations.get_or_insert_default();
            let before = known.pods.get(&uid);
            let seen = before.and_then(|before| annotation(before, SEEN_ANNOTATION));
            annotations.insert(SEEN_ANNOTATION.into(), seen.unwrap_or(now).to_owned());
            let pod = match before {
                Some(before) if **before == pod => Arc::clone(before),
                Some(_) => {
                    let pod = Arc::new(pod);
                    change.updated.push(Arc::clone(&pod));
                    pod
                }
                None => {
                    let pod = Arc::new(pod);
                    change.added.push(Arc::clone(&pod));
                    pod
                }
            };
            next.insert(uid, pod);
        }
        let gone = known.pods.iter().filter(|(uid, _)| !next.contains_key(*uid));
        change.removed = gone.map(|(_, pod)| Arc::clone(pod)).collect();
        known.pods = next;
        let uids = doubles.iter().filter_map(|pod| pod.metadata.uid.clone()).collect();
        let named = std::mem::replace(&mut known.doubles, uids);
        let is_new = |pod: &Pod| pod.metadata.uid.as_ref().is_none_or(|uid| !named.contains(uid));
        change.doubles = doubles.into_iter().filter(is_new).map(Arc::new).collect();
        change
    }
}

/// One pod of each name and uid, in their order, and the others.
fn singled(pods: Vec<Pod>, is_known: impl Fn(&Pod) -> bool) -> (Vec<Pod>, Vec<Pod>) {
    // Of each name: who has it.
    let mut owners: BTreeMap<FullName, usize> = BTreeMap::new();
    for (index, pod) in pods.iter().enumerate() {
        let owner = owners.entry(full_name(pod)).or_insert(index);
        if is_known(pod) && !is_known(&pods[*owner]) {
            *owner = index;
        }
    }
    let (mut uids, mut doubles, mut singles) = (BTreeSet::new(), Vec::new(), Vec::new());
    for (index, pod) in pods.into_iter().enumerate() {
        let is_owner = owners.get(&full_name(&pod)) == Some(&index);
        if is_owner && uids.insert(pod.metadata.uid.clone()) {
            singles.push(pod);
        } else {
            doubles.push(pod);
        }
    }
    (singles, doubles)
}

/// Takes from `waiting` those that may start now: of each name the first, once nothing of that name
/// stands in its way (upstream `allowStaticPodStart`).
pub fn next_to_start(
    waiting: &mut Vec<Arc<Pod>>,
    mut is_busy: impl FnMut(&Pod) -> bool,
) -> Vec<Arc<Pod>> {
    let mut passed: BTreeSet<FullName> = BTreeSet::new();
    let mut ready = Vec::new();
    waiting.retain(|pod| {
        // Those behind the first of their name wait for it, whether it starts now or not.
        let starts = passed.insert(full_name(pod)) && !is_busy(pod);
        if starts {
            ready.push(Arc::clone(pod));
        }
        !starts
    });
    ready
}

#[cfg(test)]
#[path = "source_test.rs"]
mod tests;
