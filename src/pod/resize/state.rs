//! What a pod's state holds of its resize, and what is told of it (upstream `SyncPod`,
//! `SetPodResizePendingCondition`, `SetPodResizeInProgressCondition`).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Pod, PodCondition, PodStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::message::message;
use super::{Actuated, DEFERRED, ERROR, INFEASIBLE};
use crate::backoff::Work;
use crate::state::State;
use crate::status::whole_seconds;
use crate::{Now, Record, ResizeNews};

const PENDING: &str = "PodResizePending";
const IN_PROGRESS: &str = "PodResizeInProgress";

/// One of the two conditions, while it holds.
#[derive(Clone, Debug, PartialEq)]
struct Shown {
    reason: String,
    message: String,
    /// The generation of the pod's object that it is about.
    generation: Option<i64>,
    /// Since when it has this reason.
    since: Timestamp,
    /// When it was last changed.
    changed: Timestamp,
}

/// What a resize that is under way brings.
#[derive(Clone, Debug)]
struct Asked {
    pod: Actuated,
    attempts: Vec<(String, u32, Actuated)>,
}

/// The resize of one pod.
#[derive(Clone, Debug, Default)]
pub(crate) struct Resizing {
    pending: Option<Shown>,
    in_progress: Option<Shown>,
    /// What the pod's own group was last given.
    pub(super) pod: Option<Actuated>,
    /// What attempts were made or last resized with, where that is known.
    pub(super) attempts: BTreeMap<(String, u32), Actuated>,
    /// Containers that are stopped so that they start with other resources.
    pub(super) restarting: BTreeSet<String>,
    /// The one resize at a time; never done.
    pub(super) work: Work<()>,
    asked: Option<Asked>,
}

impl Resizing {
    /// What the pod's object remembers (upstream `BackfillPodResizeConditions`).
    pub(crate) fn of(status: Option<&PodStatus>) -> Self {
        let shown = |kind: &str| {
            let mut all = status.into_iter().flat_map(|status| status.conditions.iter().flatten());
            let condition = all.find(|one| one.type_ == kind && one.status == "True")?;
            let since = condition.last_transition_time.as_ref().map(|time| time.0)?;
            Some(Shown {
                reason: condition.reason.clone().unwrap_or_default(),
                message: condition.message.clone().unwrap_or_default(),
                generation: condition.observed_generation,
                since,
                changed: condition.last_probe_time.as_ref().map_or(since, |time| time.0),
            })
        };
        Self { pending: shown(PENDING), in_progress: shown(IN_PROGRESS), ..Self::default() }
    }

    /// Whether it is one of the conditions that are told of here.
    pub(crate) fn is_own(kind: &str) -> bool {
        kind == PENDING || kind == IN_PROGRESS
    }

    /// The conditions that hold.
    pub(crate) fn conditions(&self) -> impl Iterator<Item = PodCondition> {
        let text = |text: &str| Some(text.to_owned()).filter(|text| !text.is_empty());
        let both = [(PENDING, &self.pending), (IN_PROGRESS, &self.in_progress)];
        both.into_iter().filter_map(move |(kind, shown)| {
            let shown = shown.as_ref()?;
            Some(PodCondition {
                type_: kind.to_owned(),
                status: "True".to_owned(),
                reason: text(&shown.reason),
                message: text(&shown.message),
                last_transition_time: Some(Time(whole_seconds(shown.since))),
                last_probe_time: Some(Time(whole_seconds(shown.changed))),
                observed_generation: shown.generation,
            })
        })
    }

    /// A resize is under way: nothing is started beside it.
    pub(crate) fn is_doing(&self) -> bool {
        self.work.doing
    }

    /// The pod's group is asked for with what the pod has allocated now.
    pub(crate) fn set_up(&mut self, pod: &Pod) {
        self.pod = Some(Actuated::of_pod(pod));
    }

    /// An attempt is asked for.
    pub(crate) fn start(&mut self, pod: &Pod, container: &str, attempt: u32) {
        if let Some(spec) = crate::container_named(pod, container) {
            let made = Actuated::of(pod, &spec);
            self.attempts.insert((container.to_owned(), attempt), made);
        }
    }

    pub(super) fn ask(&mut self, pod: Actuated, attempts: Vec<(String, u32, Actuated)>) {
        self.work.doing = true;
        self.asked = Some(Asked { pod, attempts });
    }
}

impl State {
    /// What earlier agents made and resized attempts with.
    pub(crate) fn recall_actuated(&mut self, known: Vec<(String, u32, Actuated)>) {
        for (container, attempt, actuated) in known {
            self.resize.attempts.entry((container, attempt)).or_insert(actuated);
        }
    }

    /// The node has decided on what the pod's object asks for. Gives the pod with what is allocated
    /// to it from now on, if that is other than before.
    pub(crate) fn decide_resize(&mut self, news: ResizeNews, now: Now) -> Option<Arc<Pod>> {
        match news {
            ResizeNews::None => {
                self.resize.pending = None;
                None
            }
            ResizeNews::Allocated(pod) => {
                let generation = pod.metadata.generation;
                self.resize.pending = None;
                // A failure of an earlier one is over, and this one is tried at once.
                self.resize.in_progress = None;
                self.resize.show_progress("", "", generation, now.wall);
                self.resize.work.hurry();
                let text = message("started", &pod, generation, "");
                self.records.push(told(false, "ResizeStarted", text));
                Some(pod)
            }
            ResizeNews::Pending { desired, reason, message: why } => {
                let generation = desired.metadata.generation;
                let is_infeasible = reason == INFEASIBLE;
                let shown = if is_infeasible { INFEASIBLE } else { DEFERRED };
                let before = self.resize.pending.take();
                let is_same =
                    before.as_ref().filter(|old| old.reason == shown).map(|old| old.since);
                let is_told = is_same.is_some()
                    && before.as_ref().is_some_and(|old| old.generation == generation);
                if !is_told {
                    let event = if is_infeasible { "ResizeInfeasible" } else { "ResizeDeferred" };
                    let text = message(&reason, &desired, generation, &why);
                    self.records.push(told(true, event, text));
                }
                self.resize.pending = Some(Shown {
                    reason: shown.to_owned(),
                    message: why,
                    generation,
                    since: is_same.unwrap_or(now.wall),
                    changed: now.wall,
                });
                None
            }
        }
    }

    /// The answer of [`Action::Resize`](crate::Action::Resize).
    pub(crate) fn take_resized(&mut self, result: Result<(), String>, now: Now) {
        let Some(Asked { pod, attempts }) = self.resize.asked.take() else { return };
        match result {
            Ok(()) => {
                self.resize.work = Work::default();
                self.resize.pod = Some(pod);
                for (container, attempt, actuated) in attempts {
                    self.resize.attempts.insert((container, attempt), actuated);
                }
            }
            Err(why) => {
                self.resize.work.fail(now.mono);
                let generation = self.pod.metadata.generation;
                let (is_new, generation) =
                    self.resize.show_progress(ERROR, &why, generation, now.wall);
                if is_new {
                    let text = message("error", &self.pod, generation, &why);
                    self.records.push(told(true, "ResizeError", text));
                }
            }
        }
    }

    /// What is to be shown of the resize after a step.
    pub(crate) fn settle_resize(&mut self, wall: Timestamp) {
        // What was known before the first look is of attempts that are not known yet.
        if !self.observed {
            return;
        }
        self.forget_actuated();
        self.note_restarted();
        if self.ended.is_some() {
            (self.resize.pending, self.resize.in_progress) = (None, None);
            return;
        }
        if self.is_resizing() {
            if self.resize.in_progress.is_none() {
                let generation = self.pod.metadata.generation;
                self.resize.show_progress("", "", generation, wall);
            }
        } else if self.has_settled()
            && let Some(done) = self.resize.in_progress.take()
        {
            let text = message("completed", &self.pod, done.generation, "");
            self.records.push(told(false, "ResizeCompleted", text));
        }
    }

    /// Attempts of which nothing is known any more.
    fn forget_actuated(&mut self) {
        let containers = &self.containers;
        self.resize.attempts.retain(|(name, attempt), _| {
            let mut of_name = containers.iter().filter(|container| container.name == *name);
            of_name.any(|one| one.starting == Some(*attempt) || one.attempts.contains_key(attempt))
        });
    }
}

impl Resizing {
    /// Shows that a resize is under way, and what is in its way, if anything is. The generation stays
    /// that of its beginning. Gives whether that says anything new, and the generation.
    fn show_progress(
        &mut self,
        reason: &str,
        message: &str,
        generation: Option<i64>,
        wall: Timestamp,
    ) -> (bool, Option<i64>) {
        let before = self.in_progress.take();
        let same = before.as_ref().filter(|old| old.reason == reason);
        let new = Shown {
            reason: reason.to_owned(),
            message: message.to_owned(),
            generation: before.as_ref().map_or(generation, |old| old.generation),
            since: same.map_or(wall, |old| old.since),
            changed: wall,
        };
        let said = |shown: &Shown| (shown.reason.clone(), shown.message.clone());
        let is_new = before.as_ref().map(said) != Some(said(&new));
        let generation = new.generation;
        self.in_progress = Some(new);
        (is_new, generation)
    }
}

fn told(warning: bool, reason: &str, message: String) -> Record {
    Record { warning, reason: reason.to_owned(), message, container: None }
}
