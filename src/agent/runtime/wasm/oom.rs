//! Whose death was for want of memory, by what the kernel counts in a container's control group.
//!
//! A killed sandbox leaves no record, and its wait status says no more than SIGKILL. Its group
//! counts each process of it that the kernel killed for want of memory; those that were commands
//! beside the container are told apart by their own ends. Where all of a group are killed together
//! (version 2), no command dies of it alone: a kill that is counted twice does no harm.

use std::sync::atomic::{AtomicU64, Ordering};

use copepod_pod::{Exit, Failure};
use copepod_wasm::state::Reason;
use tokio::task::spawn_blocking;

use crate::linux::cgroup::Leaf;
use crate::telemetry::chain;

/// 128 + SIGKILL, which the kernel sends.
const KILLED: i32 = 137;
/// runc's words for a container whose limit leaves no room for its start.
const TOO_LITTLE: &str = "container init was OOM-killed (memory limit too low?)";

/// The OOM kills in one container's group.
#[derive(Debug, Default)]
pub(super) struct OomKills {
    leaf: Option<Leaf>,
    /// How many of them were commands beside the container.
    of_execs: AtomicU64,
}

impl OomKills {
    /// Of a container that has just been started in this group, if in any.
    pub(super) fn new(leaf: Option<Leaf>) -> Self {
        Self { leaf, of_execs: AtomicU64::new(0) }
    }

    /// Of a container that an earlier agent started. If it `lives`, all kills so far were commands.
    pub(super) fn adopted(leaf: Option<Leaf>, lives: bool) -> Self {
        let kills = Self::new(leaf);
        if lives {
            kills.of_execs.store(kills.count(), Ordering::Relaxed);
        }
        kills
    }

    /// The group.
    pub(super) fn leaf(&self) -> Option<&Leaf> {
        self.leaf.as_ref()
    }

    fn count(&self) -> u64 {
        match self.leaf.as_ref().map_or(Ok(0), Leaf::oom_kills) {
            Ok(count) => count,
            Err(error) => {
                tracing::warn!(leaf = ?self.leaf, %error, "cannot tell whether memory was short");
                0
            }
        }
    }

    /// Whether there is a kill that no command has taken.
    fn any_left(&self) -> bool {
        self.count() > self.of_execs.load(Ordering::Relaxed)
    }

    /// For a command that was killed, and not by us: whether that was for want of memory. The kill
    /// is then not taken for its container's.
    pub(super) fn took_exec(&self) -> bool {
        let any = self.any_left();
        if any {
            self.of_execs.fetch_add(1, Ordering::Relaxed);
        }
        any
    }

    /// The end of a container, as it was concluded: `OOMKilled` where it was killed without a
    /// record, and for want of memory. Asked for after the ends of all commands beside it.
    pub(super) fn blame(
        &self,
        concluded: Result<Exit, Failure>,
        recorded: bool,
    ) -> Result<Exit, Failure> {
        let killed = concluded.as_ref().map_or(true, |exit| exit.code == KILLED);
        if recorded || !killed || !self.any_left() {
            return concluded;
        }
        match concluded {
            Ok(exit) => Ok(Exit { reason: Reason::OomKilled.as_str().into(), ..exit }),
            Err(failure) => Err(Failure { message: TOO_LITTLE.into(), ..failure }),
        }
    }

    /// Removes the group once the container has ended and it was told how.
    pub(super) async fn remove_leaf(&self) {
        let Some(leaf) = self.leaf.clone() else { return };
        remove(leaf).await;
    }
}

/// Removes a group that no container is in any more; what cannot be removed goes with its pod's.
pub(super) async fn remove(leaf: Leaf) {
    let removed = spawn_blocking(move || leaf.destroy()).await;
    match removed {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::warn!(error = chain(&error), "a control group stays"),
        // The agent ends.
        Err(error) => tracing::debug!(%error, "a control group was not removed"),
    }
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::*;
    use crate::linux::cgroup::fake_leaf;

    fn killed() -> Result<Exit, Failure> {
        Ok(Exit {
            started_at: None,
            finished_at: Timestamp::UNIX_EPOCH,
            code: KILLED,
            reason: "Error".into(),
            message: String::new(),
        })
    }

    fn reason(kills: &OomKills, recorded: bool) -> String {
        kills.blame(killed(), recorded).expect("an exit").reason
    }

    #[test]
    fn a_kill_is_of_the_container_unless_a_command_took_it() {
        let dir = tempfile::tempdir().expect("a directory");
        let count =
            |n: u32| std::fs::write(dir.path().join("memory.events"), format!("oom_kill {n}\n"));
        let leaf = || Some(fake_leaf(dir.path()));
        count(0).expect("writes");
        let kills = OomKills::new(leaf());
        assert_eq!(reason(&kills, false), "Error", "killed by somebody");
        assert!(!kills.took_exec());
        count(1).expect("writes");
        assert_eq!(reason(&kills, false), "OOMKilled");
        assert_eq!(reason(&kills, true), "Error", "a record tells more");
        assert!(kills.took_exec() && !kills.took_exec(), "one kill, one command");
        assert_eq!(reason(&kills, false), "Error", "the command's");
        count(2).expect("writes");
        assert_eq!(reason(&kills, false), "OOMKilled", "its own");

        assert_eq!(reason(&OomKills::adopted(leaf(), true), false), "Error");
        assert_eq!(reason(&OomKills::adopted(leaf(), false), false), "OOMKilled");
        assert_eq!(reason(&OomKills::new(None), false), "Error", "no group");
    }

    #[test]
    fn only_what_was_killed_is_blamed_and_a_start_is_told_apart() {
        let dir = tempfile::tempdir().expect("a directory");
        std::fs::write(dir.path().join("memory.events"), "oom_kill 1\n").expect("writes");
        let kills = OomKills::new(Some(fake_leaf(dir.path())));
        let stopped = killed().map(|exit| Exit { code: 143, ..exit });
        assert_eq!(kills.blame(stopped, false).expect("an exit").reason, "Error");
        let failure = Failure { reason: "RunContainerError".into(), message: "m".into() };
        let failure = kills.blame(Err(failure), false).expect_err("never ran");
        assert_eq!(failure.reason, "RunContainerError");
        assert!(failure.message.contains("memory limit too low"), "{}", failure.message);
    }
}
