//! The fake runtime: what is durable, and what lives. It outlives the agent.

use std::time::Duration;

use jiff::Timestamp;

use crate::{Attempt, AttemptState, Exit};

/// One process, alive or dead, with its durable record.
#[derive(Clone, Debug)]
pub(super) struct Process {
    /// The container's place in the script.
    pub(super) part: usize,
    pub(super) attempt: u32,
    /// The generation of the pod's sandbox that it is in.
    pub(super) sandbox: u32,
    pub(super) id: u64,
    /// The agent life that started it: only that one is owed an answer.
    pub(super) life: u32,
    /// What it was made from, and whether the runtime can tell.
    pub(super) definition: Option<u32>,
    pub(super) state: AttemptState,
    /// When it was launched.
    pub(super) launched: Option<Duration>,
    /// When SIGKILL is due.
    pub(super) kill_at: Option<Duration>,
}

/// What a process is made as.
#[derive(Clone, Copy, Debug)]
pub(super) struct Made {
    pub(super) part: usize,
    pub(super) attempt: u32,
    pub(super) sandbox: u32,
    pub(super) life: u32,
    pub(super) definition: Option<u32>,
}

impl Process {
    pub(super) fn is_alive(&self) -> bool {
        match self.state {
            AttemptState::Starting | AttemptState::Running { .. } => true,
            AttemptState::Exited(_) => false,
        }
    }

    pub(super) fn is_launched(&self) -> bool {
        match self.state {
            AttemptState::Starting => false,
            AttemptState::Running { .. } | AttemptState::Exited(_) => true,
        }
    }

    pub(super) fn is_running(&self) -> bool {
        self.is_alive() && self.is_launched()
    }

    /// What the runtime says of it.
    pub(super) fn tell(&self, container: &str) -> Attempt {
        Attempt {
            container: container.to_owned(),
            attempt: self.attempt,
            sandbox: self.sandbox,
            id: self.id.to_string(),
            definition: self.definition,
            user: None,
            image: None,
            state: self.state.clone(),
        }
    }
}

#[derive(Debug, Default)]
pub(super) struct Runtime {
    pub(super) processes: Vec<Process>,
    /// The sandboxes that were made.
    generations: u32,
    /// Whether the newest of them stands.
    stands: bool,
    next_id: u64,
}

impl Runtime {
    /// The generation of the sandbox that stands.
    pub(super) fn sandbox(&self) -> Option<u32> {
        self.newest_sandbox().filter(|_| self.stands)
    }

    /// The newest generation, which may be dead.
    pub(super) fn newest_sandbox(&self) -> Option<u32> {
        self.generations.checked_sub(1)
    }

    /// Makes a sandbox if none stands; gives its generation.
    pub(super) fn make_sandbox(&mut self) -> u32 {
        self.generations += u32::from(!self.stands);
        self.stands = true;
        self.generations - 1
    }

    /// The newest sandbox is dead.
    pub(super) fn lose_sandbox(&mut self) {
        self.stands = false;
    }

    /// Everything is gone, and forgotten.
    pub(super) fn wipe(&mut self) {
        self.processes.clear();
        (self.generations, self.stands) = (0, false);
    }

    /// Makes a process in a sandbox; it is not launched yet.
    pub(super) fn make(&mut self, made: Made) -> &Process {
        let id = self.next_id;
        self.next_id += 1;
        let Made { part, attempt, sandbox, life, definition } = made;
        self.processes.push(Process {
            part,
            attempt,
            sandbox,
            id,
            life,
            definition,
            state: AttemptState::Starting,
            launched: None,
            kill_at: None,
        });
        self.processes.last().unwrap()
    }

    pub(super) fn find(&mut self, id: u64) -> Option<&mut Process> {
        self.processes.iter_mut().find(|process| process.id == id)
    }

    pub(super) fn get(&self, id: u64) -> Option<&Process> {
        self.processes.iter().find(|process| process.id == id)
    }

    pub(super) fn alive(&self) -> impl Iterator<Item = &Process> {
        self.processes.iter().filter(|process| process.is_alive())
    }

    /// The newest process of a container.
    pub(super) fn newest(&self, part: usize) -> Option<&Process> {
        self.processes.iter().rev().find(|process| process.part == part)
    }

    /// Launches a process that is starting; says whether it did.
    pub(super) fn launch(&mut self, id: u64, now: Duration, wall: Timestamp) -> bool {
        let Some(starting) = self.find(id).filter(|process| !process.is_launched()) else {
            return false;
        };
        starting.state = AttemptState::Running { started_at: wall };
        starting.launched = Some(now);
        true
    }

    /// Ends a process that runs; says whether it did.
    pub(super) fn exit(&mut self, id: u64, code: i32, wall: Timestamp) -> bool {
        let Some(process) = self.find(id) else { return false };
        let AttemptState::Running { started_at } = process.state else { return false };
        let reason = if code == 0 { "Completed" } else { "Error" }.to_owned();
        let (started_at, message) = (Some(started_at), String::new());
        let exit = Exit { started_at, finished_at: wall, code, reason, message };
        process.state = AttemptState::Exited(exit);
        true
    }

    /// Removes a process that is starting, and with it all that was known of it.
    pub(super) fn vanish(&mut self, id: u64) -> Option<Process> {
        let at = self.processes.iter().position(|p| p.id == id && !p.is_launched())?;
        Some(self.processes.remove(at))
    }
}
