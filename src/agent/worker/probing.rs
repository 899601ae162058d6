//! A pod's probes and hooks: jobs that the core asks for, each answered by one event.

use std::net::IpAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use copepod_pod::{
    Attempt, AttemptState, Event, HookKind, ProbeKind, ProbeOutcome, container_named,
};
use k8s_openapi::api::core::v1::{Container, LifecycleHandler, Pod};
use tokio::sync::oneshot;
use tokio::time::timeout;

use super::{Done, Shared, Worker};
use crate::probe::{self, Commands, HookEnd, OUTPUT_MAX, Target};
use crate::runtime::{ExecError, ExecOutput, Runtime};

/// What a command may still take once its container has ended, with which its runtime kills it.
/// Upstream waits for that without a bound.
const ENDS_WITHIN: Duration = Duration::from_secs(60);

/// A hook that runs.
pub(super) struct RunningHook {
    /// The id of the attempt.
    id: String,
    /// Whether it is a command, which runs in its container and ends with that. A request goes on, as
    /// upstream's does.
    is_command: bool,
    /// Told, the hook ends soon by itself; dropped, it is cut short. Closed once it has ended.
    cut: oneshot::Sender<()>,
}

impl RunningHook {
    /// Whether it ends with its container, which by this event has ended.
    fn ends_with(&self, event: &Event) -> bool {
        if !self.is_command {
            return false;
        }
        let has_exited = |attempt: &Attempt| matches!(attempt.state, AttemptState::Exited(_));
        if let Event::Attempt(attempt) = event {
            return attempt.id == self.id && has_exited(attempt);
        }
        if let Event::Observed(all) = event {
            return !all.iter().any(|one| one.id == self.id && !has_exited(one));
        }
        false
    }
}

/// The attempt that is probed or whose hook is run.
struct Job<R> {
    shared: Arc<Shared<R>>,
    pod: Arc<Pod>,
    name: String,
    id: String,
    ip: Option<IpAddr>,
}

impl<R: Runtime> Commands for Job<R> {
    fn run(
        &self,
        command: Vec<String>,
        within: Duration,
    ) -> impl Future<Output = Result<ExecOutput, ExecError>> + Send {
        self.shared.run(&self.id, command, within, OUTPUT_MAX)
    }
}

impl<R: Runtime> Job<R> {
    async fn probe(&self, kind: ProbeKind) -> ProbeOutcome {
        // One that was taken out of the spec has nothing to say.
        let Some(container) = container_named(&self.pod, &self.name) else {
            return ProbeOutcome::Success;
        };
        let spec = match kind {
            ProbeKind::Startup => &container.startup_probe,
            ProbeKind::Liveness => &container.liveness_probe,
            ProbeKind::Readiness => &container.readiness_probe,
        };
        let Some(spec) = spec else { return ProbeOutcome::Success };
        let target = Target { pod: &self.pod, container: &container, ip: self.ip };
        probe::probe(spec, target, self).await
    }

    async fn hook(&self, kind: HookKind) -> HookEnd {
        let none = HookEnd { result: Ok(()), told: None };
        let Some(container) = container_named(&self.pod, &self.name) else { return none };
        let Some(handler) = handler(&container, kind) else { return none };
        let target = Target { pod: &self.pod, container: &container, ip: self.ip };
        probe::hook(handler, target, self).await
    }

    /// What is said of a hook that was cut short.
    fn canceled(&self, kind: HookKind) -> String {
        let Some(container) = container_named(&self.pod, &self.name) else { return String::new() };
        let Some(handler) = handler(&container, kind) else { return String::new() };
        probe::canceled(handler, Target { pod: &self.pod, container: &container, ip: self.ip })
    }
}

/// How a hook ended; none for one that was cut short.
async fn watched(
    hook: impl Future<Output = HookEnd>,
    cut: oneshot::Receiver<()>,
) -> Option<HookEnd> {
    let mut hook = pin!(hook);
    let told = tokio::select! {
        biased;
        end = &mut hook => return Some(end),
        told = cut => told,
    };
    match told {
        Ok(()) => timeout(ENDS_WITHIN, hook).await.ok(),
        Err(_) => None,
    }
}

impl<R: Runtime> Worker<R> {
    /// Runs a probe once.
    pub(super) fn probe(&mut self, container: String, id: String, probe: ProbeKind) {
        let job = self.job(container, id);
        let probed = Arc::clone(&self.probed);
        self.jobs.spawn(async move {
            let began = Instant::now();
            let outcome = job.probe(probe).await;
            probed.count(&job.name, probe, &outcome, began.elapsed());
            Done::Event(Event::Probed { container: job.name, id: job.id, probe, outcome })
        });
    }

    /// Runs a hook. It is answered also if it is cut short.
    pub(super) fn hook(&mut self, container: String, id: String, hook: HookKind) {
        self.cut_hooks(&id);
        let (cut, is_cut) = oneshot::channel();
        let spec = container_named(self.state.pod(), &container);
        let handler = spec.as_deref().and_then(|spec| handler(spec, hook));
        let is_command = handler.is_some_and(|handler| handler.exec.is_some());
        self.hooks.push(RunningHook { id: id.clone(), is_command, cut });
        let job = self.job(container, id);
        let outlet = Arc::clone(&self.outlet);
        self.jobs.spawn(async move {
            let end = watched(job.hook(hook), is_cut).await;
            let end =
                end.unwrap_or_else(|| HookEnd { result: Err(job.canceled(hook)), told: None });
            if let Some(record) = end.told {
                outlet.record(&job.pod, record);
            }
            let result = end.result;
            Done::Event(Event::Hooked { container: job.name, id: job.id, hook, result })
        });
    }

    /// Cuts short what hooks of this attempt run.
    pub(super) fn cut_hooks(&mut self, id: &str) {
        self.hooks.retain(|hook| hook.id != id);
    }

    /// Sees to it that the commands of an attempt that has ended do so too, and forgets the hooks that
    /// have. How a command ended is its runtime's to say, as it is upstream.
    pub(super) fn mind_hooks(&mut self, event: &Event) {
        for hook in self.hooks.extract_if(.., |hook| hook.ends_with(event)) {
            // One that has ended meanwhile hears nothing any more.
            let _ = hook.cut.send(());
        }
        self.hooks.retain(|hook| !hook.cut.is_closed());
    }

    fn job(&self, name: String, id: String) -> Job<R> {
        let of_status = || self.state.status().pod_ip?.parse().ok();
        Job {
            shared: Arc::clone(&self.shared),
            pod: Arc::clone(self.state.pod()),
            name,
            id,
            // An agent that was started again knows a pod's address before it is set up again.
            ip: self.ready.addresses.pod_ips.first().copied().or_else(of_status),
        }
    }
}

/// What a container's hook does, if it has it.
fn handler(container: &Container, hook: HookKind) -> Option<&LifecycleHandler> {
    let hooks = container.lifecycle.as_ref()?;
    match hook {
        HookKind::PostStart => hooks.post_start.as_ref(),
        HookKind::PreStop => hooks.pre_stop.as_ref(),
    }
}

#[cfg(test)]
mod tests {
    use copepod_pod::Exit;
    use jiff::Timestamp;

    use super::*;

    fn attempt(id: &str, state: AttemptState) -> Attempt {
        let (container, attempt, sandbox) = ("c".into(), 0, 0);
        Attempt {
            container,
            attempt,
            sandbox,
            id: id.into(),
            definition: None,
            user: None,
            image: None,
            state,
        }
    }

    #[test]
    fn a_command_ends_with_its_container_and_a_request_does_not() {
        let started_at = Some(Timestamp::UNIX_EPOCH);
        let finished_at = Timestamp::UNIX_EPOCH;
        let exited = || {
            let (code, reason, message) = (0, "Completed".into(), String::new());
            AttemptState::Exited(Exit { started_at, finished_at, code, reason, message })
        };
        let running = || AttemptState::Running { started_at: Timestamp::UNIX_EPOCH };
        for (event, ends) in [
            (Event::Timer, false),
            (Event::Attempt(attempt("1", running())), false),
            (Event::Attempt(attempt("2", exited())), false),
            (Event::Attempt(attempt("1", exited())), true),
            (Event::Observed(vec![attempt("1", running())]), false),
            (Event::Observed(vec![attempt("1", exited()), attempt("2", running())]), true),
            (Event::Observed(Vec::new()), true),
        ] {
            for is_command in [true, false] {
                let (cut, _hook) = oneshot::channel();
                let hook = RunningHook { id: "1".into(), is_command, cut };
                assert_eq!(hook.ends_with(&event), ends && is_command, "{event:?}");
            }
        }
    }

    #[tokio::test]
    async fn a_command_whose_container_has_ended_says_itself_how_it_ended() {
        let killed = || HookEnd { result: Err("exited with 137".into()), told: None };
        let (runtime, answer) = oneshot::channel();
        let hook = async { answer.await.unwrap_or_else(|_| killed()) };
        let (cut, is_cut) = oneshot::channel();
        let told = async {
            cut.send(()).unwrap();
            tokio::task::yield_now().await;
            runtime.send(killed()).unwrap();
        };
        let (end, ()) = tokio::join!(watched(hook, is_cut), told);
        assert_eq!(end.map(|end| end.result), Some(Err("exited with 137".into())));
        // One that is cut short says nothing.
        let (cut, is_cut) = oneshot::channel();
        drop(cut);
        assert!(watched(std::future::pending(), is_cut).await.is_none());
    }
}
