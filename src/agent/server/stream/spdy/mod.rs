//! The server's side of a SPDY/3.1 connection, as Kubernetes' clients speak it.
//!
//! Owns: the frames ([`frame`]), the headers ([`headers`]), the streams that the client has open. In:
//! an upgraded connection; out: [`Opened`] streams, in the order of the client.

mod dictionary;
mod frame;
mod headers;

use std::collections::HashMap;
use std::io;
use std::pin::pin;
use std::time::Duration;

use bytes::BytesMut;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior, interval_at, timeout};

use self::frame::{Decoder, Encoder, FrameError, ResetStatus, Said};
pub(in crate::server) use self::headers::Headers;
use super::{
    Activity, CHUNK, Client, Feed, Incoming, Out, Outgoing, PARTING, PING_EVERY, QUEUED, Room,
    Wanted,
};
use crate::telemetry::chain;

/// Streams of a client at a time: two for each connection that is forwarded.
const STREAMS: usize = 512;
/// Streams that wait to be taken.
const UNTAKEN: usize = 16;
/// Answers to a client's frames that wait to be sent: pings, refusals.
const ANSWERS: usize = 16;
/// Bytes read at once.
const READ: usize = 64 << 10;
/// Bytes written at once; more go out with the next write.
const WRITE: usize = 2 * CHUNK;
/// How long a client may take to open the streams that it asked for (upstream's
/// `DefaultStreamCreationTimeout`).
pub(in crate::server) const OPENING: Duration = Duration::from_secs(30);

/// A stream that the client has opened. It waits for [`Outgoing::reply`] or [`Outgoing::reset`].
#[derive(Debug)]
pub(in crate::server) struct Opened {
    /// Its number: odd, and higher than those before.
    pub(in crate::server) id: u32,
    /// What it is for.
    pub(in crate::server) headers: Headers,
    /// What comes of it.
    pub(in crate::server) incoming: Incoming,
    /// What goes to it.
    pub(in crate::server) outgoing: Outgoing,
}

/// The connection's future, and the streams that the client opens over it. The future ends when the
/// client is gone, speaks nonsense or does nothing for `idle`; after the last [`Outgoing`] is dropped
/// it sends what is left, and ends when the client is gone or a moment is over.
pub(in crate::server) fn connect<S: AsyncRead + AsyncWrite + Send>(
    io: S,
    idle: Duration,
) -> (impl Future<Output = ()> + Send, mpsc::Receiver<Opened>, mpsc::Sender<Out>) {
    let (out, outs) = mpsc::channel(QUEUED);
    let (opened, streams) = mpsc::channel(UNTAKEN);
    let to = out.downgrade();
    let drive = async move {
        let (from, into) = tokio::io::split(io);
        let (answer, answers) = mpsc::channel(ANSWERS);
        let activity = Activity::new(idle);
        let reader =
            Reader { to, opened, answer, room: Room::new(), streams: HashMap::new(), last: 0 };
        let mut read = pin!(reader.run(from, &activity));
        let written = tokio::select! {
            end = &mut read => return told(end),
            written = write(into, outs, answers, &activity) => written,
        };
        match written {
            // It goes, or is left.
            Ok(()) => drop(timeout(PARTING, read).await),
            Err(error) => tracing::debug!(%error, "a client went away"),
        }
    };
    (drive, streams, out)
}

fn told(end: Result<(), ReadError>) {
    match end {
        Ok(()) => {}
        Err(ReadError::Io(error)) => tracing::debug!(%error, "a client went away"),
        Err(ReadError::Frame(error)) => {
            tracing::debug!(error = chain(&error), "a client spoke nonsense");
        }
    }
}

enum ReadError {
    Io(io::Error),
    Frame(FrameError),
}

/// What is answered to a client's frame.
enum Answer {
    Pong(u32),
    Refused(u32, ResetStatus),
}

struct Reader {
    to: mpsc::WeakSender<Out>,
    opened: mpsc::Sender<Opened>,
    answer: mpsc::Sender<Answer>,
    room: Room,
    /// Those that somebody takes something of.
    streams: HashMap<u32, Feed>,
    last: u32,
}

impl Reader {
    async fn run(
        mut self,
        mut from: impl AsyncRead + Unpin,
        activity: &Activity,
    ) -> Result<(), ReadError> {
        let mut decoder = Decoder::new();
        let mut buffer = BytesMut::new();
        loop {
            while let Some(said) = decoder.next(&mut buffer).map_err(ReadError::Frame)? {
                self.hear(said, activity).await;
            }
            buffer.reserve(READ);
            if from.read_buf(&mut buffer).await.map_err(ReadError::Io)? == 0 {
                return Ok(());
            }
        }
    }

    async fn hear(&mut self, said: Said, activity: &Activity) {
        match said {
            Said::Open { id, headers } => {
                activity.touch();
                self.open(id, headers).await;
            }
            Said::Data { id, bytes } => {
                activity.touch();
                // Of one that is over, nobody asks.
                if let Some(feed) = self.streams.get(&id) {
                    feed.give(bytes).await;
                }
            }
            Said::End { id } => {
                if let Some(feed) = self.streams.get(&id) {
                    feed.end();
                }
            }
            Said::Reset { id } => {
                if let Some(feed) = self.streams.remove(&id) {
                    feed.reset();
                }
            }
            // Ours come back, and have even numbers.
            Said::Ping(id) if id.is_multiple_of(2) => {}
            Said::Ping(id) => self.answer(Answer::Pong(id)).await,
            Said::GoAway | Said::Nothing => {}
        }
    }

    async fn open(&mut self, id: u32, headers: Headers) {
        if id.is_multiple_of(2) || id <= self.last {
            return self.answer(Answer::Refused(id, ResetStatus::Protocol)).await;
        }
        self.last = id;
        self.streams.retain(|_, feed| !feed.is_closed());
        let Some(to) = self.to.upgrade().filter(|_| self.streams.len() < STREAMS) else {
            return self.answer(Answer::Refused(id, ResetStatus::Refused)).await;
        };
        let (feed, incoming) = self.room.stream();
        let outgoing = Outgoing::new(id, to);
        match self.opened.send(Opened { id, headers, incoming, outgoing }).await {
            Ok(()) => drop(self.streams.insert(id, feed)),
            Err(_) => self.answer(Answer::Refused(id, ResetStatus::Refused)).await,
        }
    }

    async fn answer(&self, answer: Answer) {
        // Closed: nothing is sent any more.
        let _ = self.answer.send(answer).await;
    }
}

/// Sends all that is to be sent, until there is nobody who could send more.
async fn write(
    mut into: impl AsyncWrite + Unpin,
    mut outs: mpsc::Receiver<Out>,
    mut answers: mpsc::Receiver<Answer>,
    activity: &Activity,
) -> io::Result<()> {
    let mut encoder = Encoder::default();
    let mut bytes = Vec::new();
    let mut last = 0;
    let mut ping = interval_at(Instant::now() + PING_EVERY, PING_EVERY);
    ping.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut pings = 0;
    loop {
        tokio::select! {
            out = outs.recv() => {
                let Some(out) = out else { break };
                activity.touch();
                last = last.max(encode(&mut encoder, &mut bytes, out));
                while bytes.len() < WRITE && let Ok(out) = outs.try_recv() {
                    last = last.max(encode(&mut encoder, &mut bytes, out));
                }
            }
            Some(answer) = answers.recv() => match answer {
                Answer::Pong(id) => encoder.ping(&mut bytes, id),
                Answer::Refused(id, status) => encoder.reset(&mut bytes, id, status),
            },
            _ = ping.tick() => {
                if activity.is_over() {
                    return Err(io::ErrorKind::TimedOut.into());
                }
                pings = if pings >= i32::MAX as u32 - 1 { 2 } else { pings + 2 };
                encoder.ping(&mut bytes, pings);
            }
        }
        into.write_all(&bytes).await?;
        into.flush().await?;
        bytes.clear();
    }
    encoder.go_away(&mut bytes, last);
    into.write_all(&bytes).await?;
    into.shutdown().await
}

/// Puts it into bytes; gives the stream's number.
fn encode(encoder: &mut Encoder, into: &mut Vec<u8>, out: Out) -> u32 {
    match out {
        Out::Reply(id) => {
            encoder.reply(into, id);
            return id;
        }
        // What says nothing is left out: a client takes it for a piece like any other.
        Out::Data(_, bytes) if bytes.is_empty() => {}
        Out::Data(id, bytes) => encoder.data(into, id, &bytes, false),
        Out::End(id) => encoder.data(into, id, &[], true),
        Out::Reset(id) => encoder.reset(into, id, ResetStatus::Cancel),
    }
    0
}

/// Takes the streams that a command's client asked for, as `version` of the protocol has them; none
/// if it does not open them in time.
pub(in crate::server) async fn client(
    mut opened: mpsc::Receiver<Opened>,
    wanted: Wanted,
    version: u8,
) -> Option<Client> {
    let Wanted { stdin, stdout, stderr, tty } = wanted;
    let resize = tty && version >= 3;
    let expected = 1 + [stdin, stdout, stderr, resize].map(usize::from).iter().sum::<usize>();
    let mut taken: HashMap<String, (Incoming, Outgoing)> = HashMap::new();
    let take = async {
        while taken.len() < expected {
            let Opened { headers, incoming, outgoing, .. } = opened.recv().await?;
            let kind = headers.get("streamType").unwrap_or_default().to_owned();
            let is_known = ["error", "stdin", "stdout", "stderr", "resize"].contains(&&*kind);
            if is_known && !taken.contains_key(&kind) {
                outgoing.reply().await.ok()?;
                taken.insert(kind, (incoming, outgoing));
            } else {
                outgoing.reset().await.ok()?;
            }
        }
        Some(())
    };
    timeout(OPENING, take).await.ok()??;
    let mut one = |kind: &str| taken.remove(kind);
    let client = Client {
        error: one("error")?.1,
        stdin: one("stdin").map(|(incoming, _)| incoming),
        stdout: one("stdout").map(|(_, outgoing)| outgoing),
        stderr: one("stderr").map(|(_, outgoing)| outgoing),
        resize: one("resize").map(|(incoming, _)| incoming),
        statuses: version >= 4,
    };
    Some(client)
}
