//! What is known of the runtime's sandboxes and containers: the last relist, and what this agent
//! has done since.

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use copepod_cri::{ContainerState, PodSandboxState};
use copepod_pod::{Attempt, AttemptState, Exit, ImageNames, User};
use jiff::Timestamp;

use super::status::Looked;

/// One sandbox.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Sandbox {
    /// Its pod.
    pub(super) pod_uid: String,
    /// Which sandbox of the pod it is, from 0.
    pub(super) generation: u32,
    /// Whether it stands.
    pub(super) ready: bool,
    /// Nanoseconds since 1970.
    pub(super) created_at: i64,
    /// This agent has stopped it.
    pub(super) stopped: bool,
    /// The count of changes at its last one.
    pub(super) changed: u64,
}

/// How far a container is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// Made and not started: of a start that was cut off, or is under way.
    Created,
    /// It runs.
    Running {
        /// Since when.
        started_at: Timestamp,
    },
    /// It has ended.
    Exited(Exit),
}

/// One container.
#[derive(Clone, Debug)]
pub(super) struct Container {
    /// Its pod.
    pub(super) pod_uid: String,
    /// Its name in the pod.
    pub(super) name: String,
    /// Its attempt.
    pub(super) attempt: u32,
    /// The sandbox that it is in, by id.
    pub(super) sandbox: String,
    /// The definition that it was made from.
    pub(super) definition: Option<u32>,
    /// How far it is.
    pub(super) state: State,
    /// Its log.
    pub(super) log: PathBuf,
    /// As whom it began, if the runtime tells.
    pub(super) user: Option<User>,
    /// What it was made from, if the runtime tells.
    pub(super) image: Option<ImageNames>,
    /// When the last stop that is under way kills it.
    pub(super) stopping: Option<Instant>,
    /// The count of changes at its last one.
    changed: u64,
}

/// A container that was listed as new or as having gone on.
#[derive(Debug)]
struct Asking {
    pod_uid: String,
    /// It is asked for now.
    under_way: bool,
    /// It was listed once more since: the answer that comes may be of before.
    again: bool,
    /// The last time there was no answer.
    failed: bool,
}

/// What an answer came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Answered {
    /// Its pod's worker is to look.
    pub(super) is_change: bool,
    /// The runtime is to be looked at again: the answer may be of before.
    pub(super) again: bool,
}

/// All of it. Locked for a look-up only, never across a wait.
#[derive(Debug, Default)]
pub(super) struct Table(Mutex<Inner>);

/// See [`Table`].
#[derive(Debug, Default)]
pub(super) struct Inner {
    /// By id.
    pub(super) sandboxes: HashMap<String, Sandbox>,
    /// By id.
    pub(super) containers: HashMap<String, Container>,
    /// Those of which more has to be asked than a list says before they are known as they are, by id.
    /// Bounded by the last list.
    unknown: HashMap<String, Asking>,
    /// Counts what this agent has changed: what changed after a relist had begun is newer than it.
    changes: u64,
}

impl Table {
    pub(super) fn lock(&self) -> MutexGuard<'_, Inner> {
        // A panic elsewhere leaves it whole: each change is one call.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A container as a list of the runtime has it.
#[derive(Clone, Debug)]
pub(super) struct Listed {
    pub(super) id: String,
    pub(super) pod_uid: String,
    pub(super) name: String,
    pub(super) attempt: u32,
    pub(super) sandbox: String,
    pub(super) definition: Option<u32>,
    pub(super) state: ContainerState,
}

impl Inner {
    /// Where a relist stands that begins now.
    pub(super) fn mark(&self) -> u64 {
        self.changes
    }

    /// A container is in this state now.
    pub(super) fn set(&mut self, id: &str, container: Container) {
        self.changes += 1;
        self.containers.insert(id.into(), Container { changed: self.changes, ..container });
    }

    /// A container has gone on; what it was before does not come back.
    pub(super) fn advance(&mut self, id: &str, looked: Looked) -> bool {
        self.changes += 1;
        let changes = self.changes;
        let Some(known) = self.containers.get_mut(id) else { return false };
        // One that was found made and not started has none yet.
        if !looked.log.as_os_str().is_empty() {
            known.log = looked.log;
        }
        known.image = looked.image.or(known.image.take());
        let on = rank(&looked.state) > rank(&known.state);
        if on {
            (known.state, known.user, known.changed) = (looked.state, looked.user, changes);
        }
        on
    }

    /// A sandbox is in this state now.
    pub(super) fn set_sandbox(&mut self, id: &str, sandbox: Sandbox) {
        self.changes += 1;
        self.sandboxes.insert(id.into(), Sandbox { changed: self.changes, ..sandbox });
    }

    /// The id of the pod's sandbox that stands, the newest if there are more.
    pub(super) fn standing(&self, pod_uid: &str) -> Option<String> {
        let of_pod = self.sandboxes.iter().filter(|(_, one)| one.pod_uid == pod_uid);
        let stand = of_pod.filter(|(_, one)| one.ready && !one.stopped);
        stand.max_by_key(|(_, one)| one.generation).map(|(id, _)| id.clone())
    }

    /// Takes what was listed; gives those of which more is to be asked now, because they are new or have
    /// gone on. Who is asked for already is not given twice. Of what was made and not started there is no
    /// more to know.
    pub(super) fn take_listed(&mut self, listed: Vec<Listed>) -> Vec<Listed> {
        let news = listed.into_iter().filter(|one| match self.containers.get(&one.id) {
            None => true,
            Some(known) => listed_rank(one.state) > rank(&known.state),
        });
        let (made, news): (Vec<Listed>, Vec<Listed>) =
            news.partition(|one| one.state == ContainerState::ContainerCreated);
        for one in made {
            self.set(&one.id, Container::new(&one, Looked::created()));
        }
        let is_news = |id: &str| news.iter().any(|one| one.id == id);
        self.unknown.retain(|id, asking| asking.under_way || is_news(id));
        let mut ask = Vec::new();
        for one in news {
            let asking = self.unknown.entry(one.id.clone()).or_insert_with(|| Asking {
                pod_uid: one.pod_uid.clone(),
                under_way: false,
                again: false,
                failed: false,
            });
            asking.again = asking.under_way;
            if !std::mem::replace(&mut asking.under_way, true) {
                ask.push(one);
            }
        }
        ask
    }

    /// What was asked of a container was answered; without `looked` it is gone.
    pub(super) fn answered(&mut self, listed: &Listed, looked: Option<Looked>) -> Answered {
        let again = self.unknown.remove(&listed.id).is_some_and(|asking| asking.again);
        let is_change = match looked {
            None => false,
            Some(looked) if self.containers.contains_key(&listed.id) => {
                self.advance(&listed.id, looked)
            }
            Some(looked) => {
                let is_change = looked.state != State::Created;
                self.set(&listed.id, Container::new(listed, looked));
                is_change
            }
        };
        Answered { is_change, again }
    }

    /// What was asked of a container was not answered: the next relist asks again. Gives whether that
    /// is new.
    pub(super) fn not_answered(&mut self, id: &str) -> bool {
        let asking = self.unknown.get_mut(id);
        asking.is_some_and(|asking| {
            asking.under_way = false;
            !std::mem::replace(&mut asking.failed, true)
        })
    }

    /// Whether all that was listed of a pod is known as it is.
    pub(super) fn is_known(&self, pod_uid: &str) -> bool {
        self.unknown.values().all(|asking| asking.pod_uid != pod_uid)
    }

    /// Whether a container was listed once more since it was asked for.
    #[cfg(test)]
    pub(super) fn is_asked_again(&self, id: &str) -> bool {
        self.unknown.get(id).is_some_and(|asking| asking.again)
    }

    /// Whether all that was listed is known as it is.
    pub(super) fn knows_all(&self) -> bool {
        self.unknown.is_empty()
    }

    /// Forgets the containers that a relist which began at `mark` has not listed; gives their pods.
    pub(super) fn forget_unlisted(&mut self, listed: &[Listed], mark: u64) -> Vec<String> {
        let is_listed = |id: &str| listed.iter().any(|one| one.id == id);
        let gone: Vec<String> = self
            .containers
            .iter()
            .filter(|(id, known)| known.changed <= mark && !is_listed(id))
            .map(|(id, _)| id.clone())
            .collect();
        gone.iter()
            .filter_map(|id| self.containers.remove(id))
            .map(|container| container.pod_uid)
            .collect()
    }

    /// The sandboxes of a relist that began at `mark` take the place of what was known; gives the
    /// pods whose newest sandbox stood and does not any more, not by this agent's doing.
    pub(super) fn take_sandboxes(
        &mut self,
        listed: Vec<(String, Sandbox)>,
        mark: u64,
    ) -> Vec<(String, u32)> {
        let old = std::mem::take(&mut self.sandboxes);
        for (id, sandbox) in listed {
            let stopped = old.get(&id).is_some_and(|known| known.stopped);
            self.sandboxes.insert(id, Sandbox { stopped, ..sandbox });
        }
        let newer = old.iter().filter(|(_, known)| known.changed > mark);
        self.sandboxes.extend(newer.map(|(id, known)| (id.clone(), known.clone())));
        let mut newest: BTreeMap<&str, (&String, &Sandbox)> = BTreeMap::new();
        for (id, sandbox) in &old {
            let entry = newest.entry(&sandbox.pod_uid).or_insert((id, sandbox));
            if sandbox.generation > entry.1.generation {
                *entry = (id, sandbox);
            }
        }
        let fell = |(id, was): &(&String, &Sandbox)| {
            let now = self.sandboxes.get(*id);
            was.ready && !was.stopped && !now.is_some_and(|now| now.ready)
        };
        let fallen = newest.into_values().filter(fell);
        fallen.map(|(_, was)| (was.pod_uid.clone(), was.generation)).collect()
    }

    /// The attempts of a pod, for its worker; `scheme` stands before their ids. What was made and
    /// not started is not among them: its start is given again, and finds it.
    pub(super) fn attempts(&self, pod_uid: &str, scheme: &str) -> Vec<Attempt> {
        let of_pod = self.containers.iter().filter(|(_, one)| one.pod_uid == pod_uid);
        of_pod.filter_map(|(id, one)| self.attempt(id, one, scheme)).collect()
    }

    /// One container as an attempt.
    pub(super) fn attempt(&self, id: &str, one: &Container, scheme: &str) -> Option<Attempt> {
        let state = match &one.state {
            State::Created => return None,
            State::Running { started_at } => AttemptState::Running { started_at: *started_at },
            State::Exited(exit) => AttemptState::Exited(exit.clone()),
        };
        Some(Attempt {
            container: one.name.clone(),
            attempt: one.attempt,
            id: format!("{scheme}://{id}"),
            // One whose sandbox is gone is of none that stands.
            sandbox: self.sandboxes.get(&one.sandbox).map_or(0, |sandbox| sandbox.generation),
            definition: one.definition,
            user: one.user.clone(),
            image: one.image.clone(),
            state,
        })
    }

    /// The newest sandbox of a pod.
    pub(super) fn newest_sandbox(&self, pod_uid: &str) -> Option<(&String, &Sandbox)> {
        let of_pod = self.sandboxes.iter().filter(|(_, sandbox)| sandbox.pod_uid == pod_uid);
        of_pod.max_by_key(|(_, sandbox)| (sandbox.generation, sandbox.created_at))
    }
}

impl Container {
    /// A container that was just looked at.
    pub(super) fn new(listed: &Listed, looked: Looked) -> Self {
        Self {
            pod_uid: listed.pod_uid.clone(),
            name: listed.name.clone(),
            attempt: listed.attempt,
            sandbox: listed.sandbox.clone(),
            definition: listed.definition,
            state: looked.state,
            log: looked.log,
            user: looked.user,
            image: looked.image,
            stopping: None,
            changed: 0,
        }
    }

    /// Whether it runs.
    pub(super) fn is_running(&self) -> bool {
        matches!(self.state, State::Running { .. })
    }
}

/// The one order in which a container goes.
fn rank(state: &State) -> u8 {
    match state {
        State::Created => 0,
        State::Running { .. } => 1,
        State::Exited(_) => 2,
    }
}

fn listed_rank(state: ContainerState) -> u8 {
    match state {
        ContainerState::ContainerCreated => 0,
        ContainerState::ContainerRunning => 1,
        // Nothing of what nobody can say more of runs on.
        ContainerState::ContainerExited | ContainerState::ContainerUnknown => 2,
    }
}

/// Whether a sandbox stands.
pub(super) fn is_ready(state: PodSandboxState) -> bool {
    match state {
        PodSandboxState::SandboxReady => true,
        PodSandboxState::SandboxNotready => false,
    }
}
