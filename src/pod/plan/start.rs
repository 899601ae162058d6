//! Towards the next start of a container: the back-offs are served, the image is prepared, then it
//! starts.

use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;

use super::{Pass, Rules};
use crate::{
    Action,
    backoff::Backoff,
    container::{Container, Waiting},
    record,
};

/// For how long a failed pull or start shows its own reason before that of its back-off takes its
/// place: half the shortest one, so that whoever polls sees both.
const FAILURE_SHOWN: Duration = Duration::from_secs(5);

/// What stands before a start.
enum Served {
    Yes,
    /// Its back-off holds until then.
    Until(Duration),
}

impl Pass {
    /// Asks for what the container's next start needs, or for the start; whether for that.
    pub(super) fn start(&mut self, rules: &Rules<'_>, container: &mut Container) -> bool {
        let is_busy = (container.is_busy() || container.awaits_hook()) && !fault!(StartedTwice);
        if is_busy || !container.is_wanted(rules.generation) {
            return false;
        }
        let attempt = container.next_attempt();
        if !self.serve_crash_back_off(rules, container, attempt)
            || container.start.waits(self.now, &mut self.wake)
            || !self.prepare_image(rules.pod, container)
        {
            return false;
        }
        container.image.ready = false;
        container.starting = Some(attempt);
        self.actions.push(Action::Start { container: container.name.clone(), attempt });
        true
    }

    /// Whether the restart back-off of the attempt is over.
    fn serve_crash_back_off(
        &mut self,
        rules: &Rules<'_>,
        container: &mut Container,
        attempt: u32,
    ) -> bool {
        let Some((_, last)) = container.newest() else { return true };
        let ended = last.ended;
        let until = match container.serve(rules, attempt, self.now) {
            Served::Yes => return true,
            Served::Until(until) => until,
        };
        self.wake.at(until);
        let shown_until = ended + FAILURE_SHOWN;
        if container.waiting == Some(Waiting::Start) && self.now < shown_until {
            self.wake.at(shown_until);
            return false;
        }
        let delay = container.crash.map(|entry| entry.delay).unwrap_or_default();
        let waiting = container.waiting.replace(Waiting::CrashLoop(delay));
        if waiting != container.waiting {
            self.records.push(record::crash_back_off(rules.pod, &container.name));
        }
        false
    }

    /// Whether the image is ready for one start; asks for it if nobody has. It is asked for before
    /// each start, as upstream does: the pull policy may want a look at the registry.
    fn prepare_image(&mut self, pod: &Pod, container: &mut Container) -> bool {
        let image = &container.image;
        if image.ready || image.asked {
            return image.ready;
        }
        if self.waits_for_image(pod, container) {
            return false;
        }
        container.image.asked = true;
        self.actions.push(Action::PrepareImage { container: container.name.clone() });
        false
    }

    /// Whether the back-off of an image that was not to be had still holds; that is shown.
    pub(super) fn waits_for_image(&mut self, pod: &Pod, container: &mut Container) -> bool {
        let Some(wait) = container.image.waits(self.now) else { return false };
        self.wake.at(wait.until);
        let shown_until = wait.since + FAILURE_SHOWN;
        let now = if wait.is_pull && self.now >= shown_until {
            Waiting::ImageBackOff
        } else {
            Waiting::Image
        };
        if container.waiting.replace(now) != Some(now) && now == Waiting::ImageBackOff {
            self.records.extend(record::pull_back_off(pod, &container.name));
        }
        if wait.is_pull && self.now < shown_until {
            self.wake.at(shown_until);
        }
        true
    }
}

impl Container {
    /// Whether the attempt is stopped and the next one started in one go: nobody looks at its end then
    /// (upstream: `SyncPod`, which does both unless a back-off holds).
    pub(super) fn goes_on_at_once(&self, number: u32, now: Duration) -> bool {
        if self.replacing == Some(number) {
            return true;
        }
        let is_served = self.served == Some(number.saturating_add(1));
        let waits = || {
            let before = self.launched().nth(1).map(|(_, before)| before.ended);
            before.and_then(|before| Backoff::until(self.crash, before, now)).is_some()
        };
        let restarts = self.life.restarts_after_probe(self.role);
        self.is_culled(number) && restarts && (is_served || !waits())
    }

    /// Serves the restart back-off of the attempt, once. The first restart is immediate (upstream:
    /// `doBackOff`), and so is the one of an init container in a new sandbox, or of any in a pod that is
    /// begun anew: nothing is known of them there (upstream: `purgeInitContainers`,
    /// `computePodActions`).
    fn serve(&mut self, rules: &Rules<'_>, attempt: u32, now: Duration) -> Served {
        let Some((number, last)) = self.newest() else { return Served::Yes };
        let (ended, is_old) = (last.ended, last.is_old(rules.generation));
        if self.role.is_init() && is_old || last.is_past {
            return Served::Yes;
        }
        // One of an old definition has not crashed: the count begins anew.
        if self.replacing.is_some_and(|replaced| replaced.saturating_add(1) == attempt) {
            self.crash = None;
            self.served = Some(attempt);
        }
        if self.served == Some(attempt) {
            return Served::Yes;
        }
        let mut event = ended;
        if let Some(culled) = self.culled.as_mut().filter(|culled| culled.attempt == number)
            && std::mem::take(&mut culled.is_new)
        {
            // Upstream stops and starts it in one go, and looks for an end before this one.
            let before = self.launched().nth(1).map(|(_, before)| before.ended);
            match before {
                None => {
                    self.served = Some(attempt);
                    return Served::Yes;
                }
                Some(before) if Backoff::until(self.crash, before, now).is_none() => event = before,
                Some(_) => {}
            }
        }
        if let Some(until) = Backoff::until(self.crash, event, now)
            && !fault!(BackOffNotServed)
        {
            return Served::Until(until);
        }
        self.crash = Some(Backoff::next(self.crash, event, now, rules.restart_max));
        self.served = Some(attempt);
        Served::Yes
    }
}
