//! A command beside a running container: one more sandbox with the container's description, whose
//! standard streams are descriptors of who asked for it.
//!
//! It belongs to whoever waits for it and to its container, and ends with either: nothing of it is
//! on disk, and an agent that is started again knows nothing of it.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::ExitStatusExt;
use std::process::{ExitStatus, Stdio};
use std::sync::Arc;

use copepod_pod::AttemptState;
use copepod_wasm::frame::{FromSandbox, HEADER_LEN};
use copepod_wasm::state::StateFile;
use copepod_wasm::{Description, GuestKind};
use rustix::process::Signal;
use tokio::io::AsyncWriteExt;
use tokio::net::UnixStream;
use tokio::process::Command;
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::monitor::{End, Records, conclude, read_frames};
use super::spawn::{Process, TELL_TIMEOUT, describe, frame, launch, new_id};
use super::{Entry, Exec, ExecError, ExecExit, Table, Wasm, oom};
use crate::linux;

/// Commands that may run in one container at a time: each is a process, which a client can ask for.
pub(super) const AT_ONCE: usize = 16;

/// The exit code of what is found and is no command, as of a shell.
const NOT_A_COMMAND: i32 = 126;

/// Why a command was killed that the kernel had no memory for.
const OUT_OF_MEMORY: &str = "killed by the kernel: out of memory";

/// What a command has of its container while it runs.
struct Place {
    description: Description,
    /// Closed when the container has ended.
    container: mpsc::Sender<std::time::Duration>,
    oom: Arc<oom::OomKills>,
    _permit: OwnedSemaphorePermit,
}

impl Table {
    /// What of the running container `id` is wanted; `None` of `take`: it cannot be had.
    pub(super) fn running<T>(
        &self,
        id: &str,
        take: impl FnOnce(&Entry) -> Option<Result<T, ExecError>>,
    ) -> Result<T, ExecError> {
        let entries = self.lock();
        let entry = entries.get(id).filter(|entry| match entry.attempt.state {
            AttemptState::Running { .. } => true,
            AttemptState::Starting | AttemptState::Exited(_) => false,
        });
        entry.and_then(take).unwrap_or_else(|| Err(ExecError::NotRunning(id.into())))
    }

    fn place(&self, id: &str) -> Result<Place, ExecError> {
        self.running(id, |entry| {
            let description = describe(entry.container.as_ref()?, entry.oom.leaf());
            let permit = entry.execs.clone().try_acquire_owned();
            Some(permit.map_err(|_| ExecError::TooMany(AT_ONCE)).map(|permit| Place {
                description,
                container: entry.stop.clone(),
                oom: Arc::clone(&entry.oom),
                _permit: permit,
            }))
        })
    }
}

/// Runs a command beside the container `id` to its end. Dropped before, it is killed.
pub(super) async fn exec(wasm: &Wasm, id: &str, exec: Exec) -> Result<ExecExit, ExecError> {
    let Exec { command, artefact, streams } = exec;
    let Some(name) = command.first().cloned() else { return Err(ExecError::NoCommand) };
    let mut place = wasm.table.place(id)?;
    let description = &mut place.description;
    if let Some((artefact, kind)) = artefact {
        description.artefact = artefact;
        description.kind = kind;
    }
    match description.kind {
        GuestKind::P1Command | GuestKind::P2Command => {}
        GuestKind::Http => {
            let message = format!(
                "exec failed: unable to start container process: exec: {name:?}: a component for \
                 wasi:http has no command"
            );
            return Ok(ExecExit { code: NOT_A_COMMAND, message });
        }
    }
    description.args = command;
    description.streams = true;
    description.listen.clear();
    description.die_with_agent = true;
    let start = |e| ExecError::Start(Box::new(e));
    let frame = frame(description.clone()).map_err(start)?;
    let id = new_id();
    let failed = |e| ExecError::Start(Box::new(e));
    let state = StateFile::unnamed(&id).map_err(failed)?;
    let records = state.try_clone().map_err(failed)?;
    let mut command = Command::new(&wasm.sandbox);
    command.stderr(Stdio::null()).kill_on_drop(true);
    let Process { child, stream, socket } =
        launch(command, wasm.ledger.socket(&id), state).map_err(start)?;
    // Nobody connects again: an agent that is started anew has killed it.
    drop(socket);
    let running = Running { place, child, stream, records };
    // A task of its own: it is killed with its container even if nobody asks how it goes. It is
    // aborted when the set is dropped.
    let mut task = JoinSet::new();
    task.spawn(running.run(frame, streams));
    match task.join_next().await {
        Some(Ok(result)) => result,
        Some(Err(e)) => Err(ExecError::Start(Box::new(e))),
        None => Err(ExecError::NotStarted("its task is gone".into())),
    }
}

/// A command that was started and has not been told what to run.
struct Running {
    place: Place,
    child: tokio::process::Child,
    stream: UnixStream,
    records: StateFile,
}

impl Running {
    async fn run(self, frame: Vec<u8>, streams: [OwnedFd; 3]) -> Result<ExecExit, ExecError> {
        let Self { place, mut child, mut stream, records } = self;
        let to_the_end = async {
            // As for a container: an error is a sandbox that has ended, one that does not listen
            // is left to its own patience.
            let _ = timeout(TELL_TIMEOUT, tell(&mut stream, &frame, streams)).await;
            child.wait().await
        };
        let (status, by_us) = tokio::select! {
            status = to_the_end => (status, false),
            () = place.container.closed() => (kill(&mut child).await, true),
        };
        let records = Records::of(&records);
        let killed =
            !by_us && was_killed(&status) && !records.as_ref().is_ok_and(Records::has_exit);
        let for_memory = killed && place.oom.took_exec();
        match conclude(None, records, status.map(End::Seen)) {
            Ok(exit) if for_memory => {
                Ok(ExecExit { code: exit.code, message: OUT_OF_MEMORY.into() })
            }
            Ok(exit) => Ok(ExecExit { code: exit.code, message: exit.message }),
            Err(_) if for_memory => Err(ExecError::NotStarted(OUT_OF_MEMORY.into())),
            Err(failure) => {
                let said = unloadable(stream).await;
                if said.is_some() {
                    // The next look for it compiles it anew.
                    let _ = std::fs::remove_file(&place.description.artefact);
                }
                Err(ExecError::NotStarted(said.unwrap_or(failure.message)))
            }
        }
    }
}

/// Sends the description, the streams with its first bytes: they are closed here once it has them.
async fn tell(stream: &mut UnixStream, frame: &[u8], streams: [OwnedFd; 3]) -> io::Result<()> {
    let (head, rest) = frame.split_at(HEADER_LEN);
    linux::send_with_fds(&*stream, head, &streams.each_ref().map(OwnedFd::as_fd))?;
    drop(streams);
    stream.write_all(rest).await
}

fn was_killed(status: &io::Result<ExitStatus>) -> bool {
    status.as_ref().is_ok_and(|status| status.signal() == Some(Signal::KILL.as_raw()))
}

async fn kill(child: &mut tokio::process::Child) -> io::Result<ExitStatus> {
    child.start_kill()?;
    child.wait().await
}

/// What the sandbox said of an artefact that it could not load; its end has closed the connection.
async fn unloadable(stream: UnixStream) -> Option<String> {
    let (reader, _writer) = stream.into_split();
    let (frames_in, mut frames) = mpsc::channel(1);
    tokio::spawn(read_frames(reader, frames_in));
    while let Some(frame) = frames.recv().await {
        match frame {
            FromSandbox::Unloadable(text) => return Some(text),
            FromSandbox::Started | FromSandbox::Failed(_) | FromSandbox::LogFull => {}
        }
    }
    None
}
