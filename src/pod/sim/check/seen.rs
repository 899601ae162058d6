//! What happened, and how often: shows that a test has teeth.

use crate::sim::dice::listed;

listed! {
    /// Each of these is to happen in more than one of a hundred lifetimes.
    Happening {
        Step,
        Start,
        Restart,
        BackOffServed,
        AgentDeath,
        DeathBeforeLaunch,
        LostEvent,
        Sigkill,
        EndByItself,
        Success,
        Removal,
        Eviction,
        /// A start in the place of an attempt of an old definition.
        Replacement,
        Refresh,
        SandboxDeath,
        /// An init container's success again in a new sandbox.
        InitBegunAnew,
        EphemeralStart,
        SidecarStart,
        SidecarRestart,
        /// A sidecar's stop after the last main container's end.
        SidecarStop,
        /// A start that a container's own policy or rule calls for, and the pod's does not.
        RestartByOwnPolicy,
        /// A start of what had all of the pod run anew.
        RestartOfAll,
        StartupProbe,
        LivenessProbe,
        ReadinessProbe,
        /// A readiness probe of a pod that is to end.
        LateReadinessProbe,
        StartupKill,
        LivenessKill,
        /// The answer of a probe of an attempt that is over.
        StaleAnswer,
        ForgedAnswer,
        /// A failure of a startup probe before upstream would have made one.
        EarlyFailure,
        PostStart,
        PostStartFailure,
        PreStop,
        /// A hook that is cut short.
        HookCut,
        /// A stop whose preStop hook used the grace up.
        GraceUsedUp,
        /// A container that is shown as ready.
        Ready,
        /// A container that was ready before a restart of the agent is shown so after it.
        ReadyKept,
        DeadlinePassed,
        ClockJump,
        Reboot,
        /// A reboot after which only the pod's status tells that a container has run.
        Recall,
    }
}

/// How often each happened in one lifetime.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::sim) struct Seen([u32; Happening::ALL.len()]);

impl Default for Seen {
    fn default() -> Seen {
        Seen([0; Happening::ALL.len()])
    }
}

impl Seen {
    pub(in crate::sim) fn saw(&mut self, what: Happening) {
        self.0[what as usize] += 1;
    }

    pub(in crate::sim) fn saw_if(&mut self, what: Happening, holds: bool) {
        self.0[what as usize] += u32::from(holds);
    }

    pub(in crate::sim) fn steps(&self) -> u32 {
        self.0[Happening::Step as usize]
    }
}

/// The same over many lifetimes: how often, and in how many of them.
#[derive(Clone, Debug, Default)]
pub(in crate::sim) struct Total {
    pub(in crate::sim) lifetimes: u64,
    counts: Vec<(u64, u64)>,
}

impl Total {
    pub(in crate::sim) fn add(&mut self, seen: &Seen) {
        self.lifetimes += 1;
        self.counts.resize(Happening::ALL.len(), (0, 0));
        for (total, one) in self.counts.iter_mut().zip(seen.0) {
            total.0 += u64::from(one);
            total.1 += u64::from(one > 0);
        }
    }

    /// What, how often, in how many lifetimes.
    pub(in crate::sim) fn counts(&self) -> impl Iterator<Item = (Happening, u64, u64)> {
        Happening::ALL
            .iter()
            .zip(&self.counts)
            .map(|(what, (often, lives))| (*what, *often, *lives))
    }
}
