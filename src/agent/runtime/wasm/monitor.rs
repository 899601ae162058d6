//! The one task of a living sandbox: it hears it, stops it, rotates its log and tells its end.

use std::io;
use std::os::fd::AsFd;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::sync::Arc;
use std::time::Duration;

use copepod_pod::{Attempt, AttemptState, Exit, Failure};
use copepod_wasm::PROTOCOL_VERSION;
use copepod_wasm::frame::{self, FromSandbox, HEADER_LEN, MAX_FROM_SANDBOX, ToSandbox};
use copepod_wasm::state::{Launch, Reason, StateError, StateFile};
use jiff::Timestamp;
use rustix::process::Signal;
use tokio::io::AsyncReadExt;
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::{Semaphore, mpsc};
use tokio::time::{Instant, sleep_until};

use super::super::last_words;
use super::kept::{self, About, timestamp};
use super::spawn::{Process, Socket, Spawned, open_log};
use super::waited::Waited;
use super::{Container, Happening, LogLimits, Table, What, exec, oom};
use crate::{linux, logs};

/// Longest grace that a timer is set for: nobody waits longer for one guest.
const GRACE_MAX: Duration = Duration::from_secs(365 * 24 * 3600);

/// 128 + SIGKILL.
const KILLED: i32 = 137;
/// Upstream's text for a container that ended while nobody looked.
const LOST: &str = "The container could not be located when the pod was terminated";

/// Who waits for one sandbox.
pub(super) struct Monitor {
    pub(super) table: Arc<Table>,
    pub(super) happenings: mpsc::Sender<Happening>,
    pub(super) pod_uid: String,
    /// What it runs, where that is known.
    pub(super) container: Option<Arc<Container>>,
    /// The permits of the commands beside it.
    pub(super) execs: Arc<Semaphore>,
    /// From and to its sandbox.
    pub(super) reader: Option<OwnedReadHalf>,
    pub(super) link: Option<Arc<OwnedWriteHalf>>,
    /// Its control group, and what is killed in it.
    pub(super) oom: Arc<oom::OomKills>,
    /// What the sandbox said of an artefact that it cannot load.
    pub(super) unloadable: Option<String>,
    /// Since when the guest runs, once that was told: from then on it never "never ran".
    pub(super) running: Option<Timestamp>,
}

/// Where one sandbox is met.
struct Place<'a> {
    id: &'a str,
    dir: &'a Path,
    about: &'a About,
    /// None once its socket was lost with a reboot of the run directory.
    agent: Option<&'a UnixStream>,
}

/// A sandbox that lives, as this agent met it.
pub(super) struct Living {
    pub(super) id: String,
    /// The attempt's directory.
    pub(super) dir: PathBuf,
    pub(super) about: About,
    pub(super) process: Waited,
    pub(super) stream: Option<UnixStream>,
    pub(super) socket: Socket,
    /// Its control group, and what is killed in it.
    pub(super) oom: Arc<oom::OomKills>,
    /// The last signal that it was sent, by an earlier agent.
    pub(super) told: Option<Signal>,
}

impl From<Spawned> for Living {
    fn from(spawned: Spawned) -> Self {
        let Spawned { id, process: Process { child, stream, socket }, dir, about, leaf } = spawned;
        let (process, stream) = (Waited::Child(child), Some(stream));
        let oom = Arc::new(oom::OomKills::new(leaf));
        Self { id, dir, about, process, stream, socket, oom, told: None }
    }
}

impl Monitor {
    /// Runs until the sandbox has ended and everybody knows how.
    pub(super) async fn run(mut self, living: Living, mut stops: mpsc::Receiver<Duration>) {
        let Living { id, dir, about, mut process, stream: _, socket, oom: _, mut told } = living;
        let (frames_in, mut frames) = mpsc::channel(1);
        match self.reader.take() {
            Some(reader) => drop(tokio::spawn(read_frames(reader, frames_in))),
            // Or what it says last would be waited for, for ever.
            None => drop(frames_in),
        }
        let link = self.link.take();
        let agent = link.as_deref().map(AsRef::as_ref);
        let place = Place { id: &id, dir: &dir, about: &about, agent };
        let mut kill_at: Option<Instant> = None;
        let status = loop {
            tokio::select! {
                // `wait` may be dropped and asked again (cancel safe).
                status = process.wait() => break status,
                Some(frame) = frames.recv() => self.hear(frame, &place).await,
                Some(grace) = stops.recv() => {
                    let wished = Instant::now() + grace.min(GRACE_MAX);
                    let signal = if grace.is_zero() { Signal::KILL } else { Signal::TERM };
                    told = Some(send(&process, signal, &place, self.keeps()));
                    kill_at = Some(kill_at.map_or(wished, |at| at.min(wished)));
                }
                () = sleep_until(kill_at.unwrap_or_else(Instant::now)), if kill_at.is_some() => {
                    told = Some(send(&process, Signal::KILL, &place, self.keeps()));
                    kill_at = None;
                }
            }
        };
        // Closed, this ends the commands beside it; they have its volumes, so they are waited for.
        stops.close();
        // The semaphore is never closed.
        let _ = self.execs.acquire_many(exec::AT_ONCE as u32).await;
        // What it said last; its end has closed the connection.
        while let Some(frame) = frames.recv().await {
            self.hear(frame, &place).await;
        }
        let end = status.map(|status| status.map_or(End::Unseen(told), End::Seen));
        self.ended(&place, end).await;
        socket.ended();
    }

    /// Whether another agent may hear of the end.
    fn keeps(&self) -> bool {
        self.container.as_ref().is_none_or(|container| !container.die_with_agent)
    }

    /// Those that the sandbox was started with; of one whose description was lost, the usual ones.
    fn log_limits(&self) -> LogLimits {
        self.container.as_ref().map(|container| container.log_limits).unwrap_or_default()
    }

    async fn hear(&mut self, frame: FromSandbox, place: &Place<'_>) {
        match frame {
            // Once: a guest that broke out may say anything, as often as it likes.
            FromSandbox::Started if self.running.is_none() => self.started(place).await,
            FromSandbox::Started => {}
            // The same text stands in the exit record, which outlives this agent.
            FromSandbox::Failed(text) => tracing::debug!(text, "a sandbox failed to start"),
            FromSandbox::Unloadable(_) if self.running.is_some() => {}
            FromSandbox::Unloadable(text) => {
                // The next look for it compiles it anew.
                if let Some(container) = &self.container {
                    let _ = std::fs::remove_file(&container.artefact);
                }
                self.unloadable = Some(text);
            }
            FromSandbox::LogFull => {
                if let Some(agent) = place.agent {
                    rotate(&place.about.log, self.log_limits(), agent);
                }
            }
        }
    }

    async fn started(&mut self, place: &Place<'_>) {
        let started_at = match read_state(place.dir) {
            Ok(Records { launch: Some(launch), .. }) => timestamp(launch.at_ns),
            Ok(_) | Err(_) => Timestamp::now(),
        };
        self.running = Some(started_at);
        self.tell(place.id, AttemptState::Running { started_at }).await;
    }

    async fn ended(&mut self, place: &Place<'_>, end: io::Result<End>) {
        let records = read_state(place.dir);
        let recorded = records.as_ref().is_ok_and(Records::has_exit);
        let concluded = conclude(self.running, records, end);
        match self.oom.blame(concluded, recorded) {
            Ok(exit) => {
                let exit = finish(place.dir, place.about, exit).await;
                self.tell(place.id, AttemptState::Exited(exit)).await;
            }
            Err(mut failure) => {
                failure.message = self.unloadable.take().unwrap_or(failure.message);
                let entry = self.table.lock().remove(place.id);
                let Some(Attempt { container, attempt, .. }) = entry.map(|e| e.attempt) else {
                    return;
                };
                forget(place.about);
                self.send(What::NeverRan { container, attempt, failure }).await;
            }
        }
        self.oom.remove_leaf().await;
    }

    async fn tell(&self, id: &str, state: AttemptState) {
        if let Some(attempt) = self.table.set(id, state) {
            self.send(What::Attempt(attempt)).await;
        }
    }

    async fn send(&self, what: What) {
        let happening = Happening { pod_uid: self.pod_uid.clone(), what };
        // Closed: the agent ends, and nobody asks any more.
        let _ = self.happenings.send(happening).await;
    }
}

/// Sends a signal, and keeps that it is sent for an agent that only hears of the end.
fn send(process: &Waited, signal: Signal, place: &Place<'_>, keep: bool) -> Signal {
    if keep && let Err(error) = kept::keep_signal(place.dir, signal) {
        tracing::warn!(path = %place.dir.display(), %error, "cannot keep that a signal is sent");
    }
    process.signal(signal);
    signal
}

/// What a state file holds.
pub(super) struct Records {
    launch: Option<Launch>,
    exit: Option<copepod_wasm::state::Exit>,
}

impl Records {
    /// Reads both.
    ///
    /// # Errors
    /// [`StateError::Format`] where neither is there and the file is not one of this version, whole: they
    /// may have been lost, or be written in another way.
    pub(super) fn of(state: &StateFile) -> Result<Self, StateError> {
        let records = Self { launch: state.launched()?, exit: state.exit()? };
        let says_nothing = records.launch.is_none() && records.exit.is_none();
        if says_nothing && state.version()? != Some(PROTOCOL_VERSION) {
            return Err(StateError::Format);
        }
        Ok(records)
    }

    /// Whether the sandbox told its end itself.
    pub(super) fn has_exit(&self) -> bool {
        self.exit.is_some()
    }
}

/// Reads both of the attempt in this directory.
pub(super) fn read_state(dir: &Path) -> Result<Records, StateError> {
    Records::of(&StateFile::open(&dir.join("state"))?)
}

/// How the end of a sandbox was met.
#[derive(Clone, Copy, Debug)]
pub(super) enum End {
    /// Its parent was told.
    Seen(ExitStatus),
    /// It was somebody else's child: all that is known is the last signal that it was sent.
    Unseen(Option<Signal>),
}

/// The end as it is told: with the guest's last words, and kept where the sandbox's own record does
/// not say it all.
pub(super) async fn finish(dir: &Path, about: &About, exit: Exit) -> Exit {
    let said = last_words::of(&about.message, &about.log, exit.code, exit.message.clone()).await;
    let of_sandbox = matches!(read_state(dir), Ok(Records { exit: Some(_), .. }));
    let is_whole = of_sandbox && said == exit.message;
    let exit = Exit { message: said, ..exit };
    if !is_whole && let Err(error) = kept::keep_end(dir, &exit) {
        // An agent that is started again tells of a kill then.
        tracing::warn!(path = %dir.display(), %error, "cannot keep how a container ended");
    }
    exit
}

/// Removes the traces of an attempt that never ran but its directory.
pub(super) fn forget(about: &About) {
    // Each may be gone already.
    if let Some(link) = &about.link {
        let _ = std::fs::remove_file(link);
    }
}

/// How an attempt ended: its own record before the wait status, and neither where it never ran.
pub(super) fn conclude(
    running: Option<Timestamp>,
    records: Result<Records, StateError>,
    end: io::Result<End>,
) -> Result<Exit, Failure> {
    let failed = |message| Failure { reason: "RunContainerError".into(), message };
    let Records { launch, exit } = match records {
        Ok(records) => records,
        // It ran, or may have: one whose file cannot be read must not run a second time.
        Err(error) => return Ok(unknown(running, crate::telemetry::chain(&error))),
    };
    let started_at = launch.map(|launch| timestamp(launch.at_ns)).or(running);
    if let Some(exit) = exit {
        return Ok(Exit {
            started_at,
            finished_at: timestamp(exit.finished_at_ns),
            code: exit.code,
            reason: exit.reason.as_str().into(),
            message: exit.message,
        });
    }
    let end = end.map_err(|e| failed(format!("cannot wait for the sandbox: {e}")))?;
    if started_at.is_none() {
        return Err(failed(format!("the sandbox ended before its guest ran: {end:?}")));
    }
    // Killed: as a shell tells it.
    let code = match end {
        End::Seen(status) => {
            status.code().or_else(|| status.signal().map(|signal| 128 + signal)).unwrap_or(KILLED)
        }
        End::Unseen(Some(signal)) => 128 + signal.as_raw(),
        End::Unseen(None) => return Ok(unknown(started_at, LOST.into())),
    };
    Ok(Exit {
        started_at,
        finished_at: Timestamp::now(),
        code,
        reason: if code == 0 { Reason::Completed } else { Reason::Error }.as_str().into(),
        message: String::new(),
    })
}

/// The end of an attempt of which nothing can be told, in upstream's words.
fn unknown(started_at: Option<Timestamp>, message: String) -> Exit {
    Exit {
        started_at,
        finished_at: Timestamp::now(),
        code: KILLED,
        reason: "ContainerStatusUnknown".into(),
        message,
    }
}

/// Reads frames until the sandbox ends or says nonsense; a hostile one is heard no more, and its
/// process is still waited for.
pub(super) async fn read_frames(mut from: OwnedReadHalf, into: mpsc::Sender<FromSandbox>) {
    loop {
        let mut head = [0; HEADER_LEN];
        if from.read_exact(&mut head).await.is_err() {
            return;
        }
        let frame = async {
            let (kind, len) = frame::header(head, MAX_FROM_SANDBOX)?;
            let mut payload = vec![0; len];
            from.read_exact(&mut payload).await.map_err(frame::FrameError::Io)?;
            FromSandbox::decode(kind, payload)
        };
        match frame.await {
            Ok(frame) => {
                if into.send(frame).await.is_err() {
                    return;
                }
            }
            Err(error) => {
                tracing::warn!(error = crate::telemetry::chain(&error), "a sandbox spoke nonsense");
                return;
            }
        }
    }
}

/// Moves a full log aside and hands the sandbox a new one. On an error the sandbox goes on with
/// the old one up to twice its limit.
fn rotate(log: &Path, limits: LogLimits, to: &UnixStream) {
    let rotated = || -> io::Result<()> {
        // Asked for before it is due: a sandbox of ours does not, one that was broken may.
        if log.metadata()?.len() < limits.bytes {
            return Ok(());
        }
        logs::rotate(log, limits.files, Timestamp::now())?;
        let new = open_log(log)?;
        let frame = ToSandbox::Log.encode().map_err(io::Error::other)?;
        linux::send_with_fds(to, &frame, &[new.as_fd()])
    };
    if let Err(error) = rotated() {
        tracing::warn!(path = %log.display(), %error, "cannot rotate a log");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn killed(signal: i32) -> io::Result<End> {
        Ok(End::Seen(ExitStatus::from_raw(signal)))
    }

    fn launch() -> Option<Launch> {
        Some(Launch { pid: 1, at_ns: 5 })
    }

    #[test]
    fn a_record_beats_the_wait_status() {
        let exit = Some(copepod_wasm::state::Exit {
            code: 3,
            reason: Reason::Error,
            message: "m".into(),
            finished_at_ns: 9,
        });
        let exit =
            conclude(None, Ok(Records { launch: launch(), exit }), killed(9)).expect("an exit");
        assert_eq!((exit.code, exit.message.as_str()), (3, "m"));
        assert_eq!(exit.started_at, Some(timestamp(5)));
    }

    #[test]
    fn without_a_record_a_launched_guest_was_killed() {
        for (signal, code) in [(9, 137), (15, 143), (11, 139)] {
            let records = Ok(Records { launch: launch(), exit: None });
            let exit = conclude(None, records, killed(signal)).expect("an exit");
            assert_eq!((exit.code, exit.reason.as_str()), (code, "Error"));
        }
    }

    #[test]
    fn of_somebody_elses_child_the_signal_that_it_was_sent_is_known() {
        for (signal, code, reason) in [
            (Some(Signal::TERM), 143, "Error"),
            (Some(Signal::KILL), 137, "Error"),
            (None, 137, "ContainerStatusUnknown"),
        ] {
            let records = Ok(Records { launch: launch(), exit: None });
            let exit = conclude(None, records, Ok(End::Unseen(signal))).expect("an exit");
            assert_eq!((exit.code, exit.reason.as_str()), (code, reason));
        }
    }

    #[test]
    fn without_a_launch_nothing_ran() {
        let records = Ok(Records { launch: None, exit: None });
        let failure = conclude(None, records, killed(9)).expect_err("no exit");
        assert_eq!(failure.reason, "RunContainerError");
        assert!(failure.message.contains("before its guest ran"), "{}", failure.message);
    }

    #[test]
    fn what_ran_or_may_have_never_starts_again() {
        let since = Some(timestamp(5));
        let none = Ok(Records { launch: None, exit: None });
        let exit = conclude(since, none, killed(9)).expect("it was seen to run");
        assert_eq!((exit.code, exit.started_at), (137, since));
        let exit = conclude(None, Err(StateError::Format), killed(9)).expect("it may have run");
        assert_eq!((exit.code, exit.reason.as_str()), (137, "ContainerStatusUnknown"));
    }
}
