//! A pod's probes and hooks: jobs that the core asks for, each answered by one event.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use copepod_pod::{AttemptState, Event, HookKind, ProbeKind, ProbeOutcome, container_named};
use k8s_openapi::api::core::v1::Pod;
use tokio::sync::oneshot;

use super::{Done, Shared, Worker};
use crate::probe::{self, Commands, HookEnd, OUTPUT_MAX, Target};
use crate::runtime::{ExecError, ExecOutput, Runtime};

/// A hook that runs.
pub(super) struct RunningHook {
    /// The id of the attempt.
    id: String,
    /// Dropped, it cuts the hook short; closed once that has ended.
    cut: oneshot::Sender<()>,
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
        let Some(hooks) = &container.lifecycle else { return none };
        let handler = match kind {
            HookKind::PostStart => &hooks.post_start,
            HookKind::PreStop => &hooks.pre_stop,
        };
        let Some(handler) = handler else { return none };
        let target = Target { pod: &self.pod, container: &container, ip: self.ip };
        probe::hook(handler, target, self).await
    }
}

impl<R: Runtime> Worker<R> {
    /// Runs a probe once.
    pub(super) fn probe(&mut self, container: String, id: String, probe: ProbeKind) {
        let job = self.job(container, id);
        self.jobs.spawn(async move {
            let outcome = job.probe(probe).await;
            Done::Event(Event::Probed { container: job.name, id: job.id, probe, outcome })
        });
    }

    /// Runs a hook. It is answered also if it is cut short.
    pub(super) fn hook(&mut self, container: String, id: String, hook: HookKind) {
        self.cut_hooks(&id);
        let (cut, is_cut) = oneshot::channel();
        self.hooks.push(RunningHook { id: id.clone(), cut });
        let job = self.job(container, id);
        let outlet = Arc::clone(&self.outlet);
        self.jobs.spawn(async move {
            let result = tokio::select! {
                end = job.hook(hook) => {
                    if let Some(record) = end.told {
                        outlet.record(&job.pod, record);
                    }
                    end.result
                }
                _ = is_cut => Err(format!("container terminated before {} hook finished", field(hook))),
            };
            Done::Event(Event::Hooked { container: job.name, id: job.id, hook, result })
        });
    }

    /// Cuts short what hooks of this attempt run.
    pub(super) fn cut_hooks(&mut self, id: &str) {
        self.hooks.retain(|hook| hook.id != id);
    }

    /// Cuts short the hooks of an attempt that has ended, and forgets those that have.
    pub(super) fn mind_hooks(&mut self, event: &Event) {
        if self.hooks.is_empty() {
            return;
        }
        self.hooks.retain(|hook| !hook.cut.is_closed());
        if let Event::Attempt(attempt) = event
            && let AttemptState::Exited(_) = attempt.state
        {
            self.cut_hooks(&attempt.id);
        }
        if let Event::Observed(attempts) = event {
            let lives = |id: &str| {
                let mut found = attempts.iter().filter(|attempt| attempt.id == id);
                found.any(|attempt| !matches!(attempt.state, AttemptState::Exited(_)))
            };
            self.hooks.retain(|hook| lives(&hook.id));
        }
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

/// The hook's field in a container's `lifecycle`.
fn field(hook: HookKind) -> &'static str {
    match hook {
        HookKind::PostStart => "postStart",
        HookKind::PreStop => "preStop",
    }
}
