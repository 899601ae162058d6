//! Errors that the simulator puts into the machine on purpose, to show that its rules find them.
//! Outside of this crate's own tests each place of one is `false`, and nothing of this is left.

/// Whether this error is put in.
macro_rules! fault {
    ($name:ident) => {{
        #[cfg(test)]
        let is_put_in = crate::fault::Fault::$name.is_put_in();
        #[cfg(not(test))]
        let is_put_in = false;
        is_put_in
    }};
}

#[cfg(test)]
pub(crate) use put_in::Fault;

#[cfg(test)]
mod put_in {
    use std::cell::Cell;

    /// One error.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub(crate) enum Fault {
        /// Things are decided before the first look at the runtime.
        LookNotAwaited,
        /// A start is given while another is under way.
        StartedTwice,
        /// A pod that is to end goes on.
        GoesOnAfterDeletion,
        /// What is never to restart does.
        NeverRestarts,
        /// An ephemeral container is run again.
        EphemeralRestarts,
        /// A restart waits for nothing.
        BackOffNotServed,
        /// Main containers wait for no init container.
        InitsNotAwaited,
        /// The image of an old definition is taken for the new one's.
        OldImageCounts,
        /// Only the container that asks for it is run anew, not all.
        OthersNotBegunAnew,
        /// A probe of an old attempt counts for the new one.
        StaleProbeCounts,
        /// One failure too few is enough.
        ThresholdShort,
        /// Other probes do not wait for the startup probe.
        StartupNotAwaited,
        /// What is to end is probed as before.
        ProbedToTheEnd,
        /// Nothing wakes the machine for the next probe.
        ProbeForgotten,
        /// A new attempt is ready because the one before it was.
        ReadinessKept,
        /// The postStart hook is run for an attempt of an earlier agent.
        AdoptedHookRun,
        /// The preStop hook is run again and again.
        PreStopRepeated,
        /// SIGTERM does not wait for the preStop hook.
        PreStopNotAwaited,
        /// Sidecars are stopped together with all others.
        SidecarsNotLast,
        /// A later decision may lengthen the grace.
        GraceGrows,
        /// The active deadline follows the wall clock.
        DeadlineByWallClock,
        /// The phase is terminal as soon as the pod is to end.
        TerminalEarly,
        /// What the runtime has forgotten counts for nothing.
        ForgottenNotRecalled,
    }

    thread_local! {
        static PUT_IN: Cell<Option<Fault>> = const { Cell::new(None) };
    }

    impl Fault {
        pub(crate) fn is_put_in(self) -> bool {
            PUT_IN.get() == Some(self)
        }

        /// Puts it in on this thread while `during` runs.
        pub(crate) fn put_in<T>(self, during: impl FnOnce() -> T) -> T {
            PUT_IN.set(Some(self));
            let done = during();
            PUT_IN.set(None);
            done
        }
    }
}
