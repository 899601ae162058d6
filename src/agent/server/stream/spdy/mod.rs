//! The server's side of a SPDY/3.1 connection, as Kubernetes' clients speak it.
//!
//! Owns: the frames ([`frame`]), the headers ([`headers`]), the streams that the client has open. In:
//! an upgraded connection; out: [`Opened`] streams, in the order of the client.

#[cfg(test)]
pub(in crate::server) mod client_test;
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
    let every = PING_EVERY.min(activity.limit);
    let mut ping = interval_at(Instant::now() + every, every);
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
/// if it does not open them `within` the time.
pub(in crate::server) async fn client(
    mut opened: mpsc::Receiver<Opened>,
    wanted: Wanted,
    version: u8,
    within: Duration,
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
    timeout(within, take).await.ok()??;
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

#[cfg(test)]
mod tests {
    use std::pin::Pin;

    use proptest::prelude::*;
    use tokio::io::DuplexStream;

    use super::client_test::TestClient;
    use super::*;

    /// Longer than anything takes that works.
    const LONG: Duration = Duration::from_secs(60);
    /// Long enough to see that nothing happens.
    const SHORT: Duration = Duration::from_millis(200);

    /// A client, and a server that does `work` for it.
    async fn with<F: Future<Output = ()>>(
        idle: Duration,
        work: impl FnOnce(mpsc::Receiver<Opened>) -> F,
        client: impl AsyncFnOnce(TestClient<DuplexStream>),
    ) {
        let (ours, theirs) = tokio::io::duplex(1 << 16);
        let (drive, opened, out) = connect(ours, idle);
        let work = work(opened);
        let served = super::super::upgrade::alongside(drive, async {
            work.await;
            drop(out);
        });
        tokio::join!(served, client(TestClient::new(theirs, b"")));
    }

    #[tokio::test]
    async fn a_commands_streams_are_taken_in_any_order() {
        let wanted = Wanted { stdin: true, stdout: true, stderr: true, tty: false };
        let work = async move |opened| {
            let client = client(opened, wanted, 4, LONG).await.expect("a client");
            let mut stdin = client.stdin.expect("is wanted");
            let sent = stdin.next().await.expect("no reset").expect("bytes");
            client.stdout.expect("is wanted").send(sent).await.expect("is there");
            assert_eq!(stdin.next().await, Ok(None), "its end");
            client.error.send("done").await.expect("is there");
            client.error.end().await.expect("is there");
        };
        with(LONG, work, async |mut client| {
            let odd = client.open(&[("streamtype", "x")]).await;
            let mut ids = HashMap::new();
            for kind in ["stdin", "error", "stderr", "stdout"] {
                ids.insert(kind, client.open(&[("streamtype", kind)]).await);
            }
            client.send(ids["stdin"], b"hello", true).await;
            assert!(!client.hear(|_| false).await, "the server ends");
            assert_eq!(client.heard[&odd].over, Some("reset"));
            assert_eq!(client.heard[&ids["stdout"]].bytes, b"hello");
            assert_eq!(client.heard[&ids["error"]].bytes, b"done");
            assert_eq!(client.heard[&ids["error"]].over, Some("end"));
            assert!(client.gone_away);
        })
        .await;
    }

    #[tokio::test]
    async fn a_client_that_opens_too_few_streams_is_not_waited_for() {
        let wanted = Wanted { stdin: true, stdout: true, stderr: true, tty: true };
        let begun = Instant::now();
        let work = async move |opened| assert!(client(opened, wanted, 4, SHORT).await.is_none());
        with(LONG, work, async |mut client| {
            client.open(&[("streamtype", "error")]).await;
            assert!(!client.hear(|_| false).await);
        })
        .await;
        assert!(begun.elapsed() >= SHORT);
    }

    #[tokio::test]
    async fn what_nobody_takes_holds_the_client_back() {
        let (given, mut taken) = mpsc::channel(1);
        let work = async move |mut opened: mpsc::Receiver<Opened>| {
            let stream = opened.recv().await.expect("a stream");
            stream.outgoing.reply().await.expect("is there");
            given.send(stream).await.expect("is taken");
            // Until the client goes.
            assert!(opened.recv().await.is_none());
        };
        with(LONG, work, async |mut client| {
            let id = client.open(&[("streamtype", "data")]).await;
            let mut stream = taken.recv().await.expect("a stream");
            let piece = vec![7; 32 << 10];
            let mut sent = 0;
            while timeout(SHORT, client.send(id, &piece, false)).await.is_ok() {
                sent += piece.len();
                assert!(sent < 2 * super::super::ROOM, "no end of what is taken");
            }
            assert!(sent >= super::super::ROOM, "{sent}");
            let mut came = 0;
            while let Ok(Ok(Some(bytes))) = timeout(SHORT, stream.incoming.next()).await {
                came += bytes.len();
            }
            assert!(came >= sent, "{came} of {sent}");
        })
        .await;
    }

    #[tokio::test]
    async fn streams_of_wrong_numbers_and_too_many_are_refused() {
        let work = async move |mut opened: mpsc::Receiver<Opened>| {
            let mut all = Vec::new();
            while let Some(stream) = opened.recv().await {
                all.push(stream);
            }
            assert_eq!(all.len(), STREAMS);
        };
        with(LONG, work, async |mut client| {
            for _ in 0..STREAMS {
                client.open(&[]).await;
            }
            let over = client.open(&[]).await;
            assert!(client.hear(|heard| heard.contains_key(&over)).await);
            assert_eq!(client.heard[&over].over, Some("reset"));
        })
        .await;
    }

    #[tokio::test]
    async fn a_connection_that_is_not_used_ends() {
        let begun = Instant::now();
        let work = async move |mut opened: mpsc::Receiver<Opened>| {
            let kept = opened.recv().await.expect("a stream");
            assert!(opened.recv().await.is_none(), "{kept:?}");
        };
        with(SHORT, work, async |mut client| {
            client.open(&[]).await;
            assert!(!client.hear(|_| false).await);
        })
        .await;
        assert!(begun.elapsed() > SHORT && begun.elapsed() < LONG);
    }

    proptest! {
        #[test]
        fn garbage_ends_the_connection_or_is_ignored(bytes in prop::collection::vec(any::<u8>(), 0..4000)) {
            let runtime = tokio::runtime::Builder::new_current_thread();
            let runtime = { runtime }.enable_time().build().expect("a runtime");
            runtime.block_on(async {
                let (drive, mut opened, out) = connect(Garbage(bytes), LONG);
                let take = async {
                    while opened.recv().await.is_some() {}
                    drop(out);
                };
                tokio::join!(drive, take);
            });
        }
    }

    /// A connection that gives these bytes and takes everything.
    struct Garbage(Vec<u8>);

    impl AsyncRead for Garbage {
        fn poll_read(
            mut self: Pin<&mut Self>,
            _: &mut std::task::Context<'_>,
            into: &mut tokio::io::ReadBuf<'_>,
        ) -> std::task::Poll<io::Result<()>> {
            let len = into.remaining().min(self.0.len()).min(777);
            into.put_slice(&self.0.drain(..len).collect::<Vec<_>>());
            std::task::Poll::Ready(Ok(()))
        }
    }

    impl AsyncWrite for Garbage {
        fn poll_write(
            self: Pin<&mut Self>,
            _: &mut std::task::Context<'_>,
            bytes: &[u8],
        ) -> std::task::Poll<io::Result<usize>> {
            std::task::Poll::Ready(Ok(bytes.len()))
        }

        fn poll_flush(
            self: Pin<&mut Self>,
            _: &mut std::task::Context<'_>,
        ) -> std::task::Poll<io::Result<()>> {
            std::task::Poll::Ready(Ok(()))
        }

        fn poll_shutdown(
            self: Pin<&mut Self>,
            _: &mut std::task::Context<'_>,
        ) -> std::task::Poll<io::Result<()>> {
            std::task::Poll::Ready(Ok(()))
        }
    }
}
