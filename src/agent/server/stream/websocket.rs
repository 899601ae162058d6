//! The server's side of Kubernetes' channels over a WebSocket: the first byte of each message names
//! its channel.
//!
//! `channel.k8s.io` has binary messages, `base64.channel.k8s.io` text whose first character is the
//! channel's digit and whose rest is base64; `v4` of either tells a command's end as a `Status`, `v5`
//! (binary) can say as well that a channel is closed.

use std::pin::pin;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use futures_util::stream::{SplitSink, SplitStream};
use futures_util::{SinkExt, StreamExt};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior, interval_at, timeout};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::{Message, Role, WebSocketConfig};
use tokio_tungstenite::tungstenite::{Error, Utf8Bytes};

use super::{
    Activity, CHUNK, Client, Feed, Incoming, Out, Outgoing, PARTING, PING_EVERY, QUEUED, Room,
    Wanted,
};

/// The newest of the protocols.
pub(crate) const PROTOCOL: &str = "v5.channel.k8s.io";
/// Longest message that a client may send; kubectl's have 32 KiB.
const MESSAGE_MAX: usize = 1 << 20;

/// The channels of a command, by the byte before each message.
pub(crate) mod channel {
    /// What the command reads.
    pub(crate) const STDIN: u8 = 0;
    /// What it writes.
    pub(crate) const STDOUT: u8 = 1;
    /// What it writes of errors.
    pub(crate) const STDERR: u8 = 2;
    /// How it ended.
    pub(crate) const ERROR: u8 = 3;
    /// The channel named by the next byte is at its end.
    pub(crate) const CLOSE: u8 = 255;
}

/// How messages are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::server) struct Codec {
    /// As text, in base64.
    pub(in crate::server) base64: bool,
    /// The protocol's version: 1, 4 or 5.
    pub(in crate::server) version: u8,
}

/// The limits of both ends of a connection.
pub(crate) fn limits() -> WebSocketConfig {
    WebSocketConfig::default()
        .max_message_size(Some(MESSAGE_MAX))
        .max_frame_size(Some(MESSAGE_MAX))
        // Sent as it comes: what waits is bounded by one message.
        .write_buffer_size(0)
        .max_write_buffer_size(MESSAGE_MAX + CHUNK)
}

/// A connection's channels before it is driven.
pub(in crate::server) struct Channels {
    room: Room,
    feeds: Vec<Option<Feed>>,
    to: mpsc::Sender<Out>,
    outs: mpsc::Receiver<Out>,
}

impl Channels {
    /// No channels yet.
    pub(in crate::server) fn new() -> Self {
        let (to, outs) = mpsc::channel(QUEUED);
        Self { room: Room::new(), feeds: Vec::new(), to, outs }
    }

    fn next(&self) -> Outgoing {
        // Two for each port of a request, whose head bounds them.
        Outgoing::new(u32::try_from(self.feeds.len()).unwrap_or(u32::MAX), self.to.clone())
    }

    /// One more channel that goes both ways.
    pub(in crate::server) fn both(&mut self) -> (Incoming, Outgoing) {
        let (outgoing, (feed, incoming)) = (self.next(), self.room.stream());
        self.feeds.push(Some(feed));
        (incoming, outgoing)
    }

    /// One more channel of which nothing comes.
    pub(in crate::server) fn outgoing(&mut self) -> Outgoing {
        let outgoing = self.next();
        self.feeds.push(None);
        outgoing
    }

    /// The channels of a command, those that its client asked for.
    pub(in crate::server) fn of_client(&mut self, wanted: Wanted, codec: Codec) -> Client {
        let (stdin, _) = self.both();
        let (stdout, stderr, error) = (self.outgoing(), self.outgoing(), self.outgoing());
        let (resize, _) = self.both();
        Client {
            stdin: wanted.stdin.then_some(stdin),
            stdout: wanted.stdout.then_some(stdout),
            stderr: wanted.stderr.then_some(stderr),
            resize: wanted.tty.then_some(resize),
            error,
            statuses: codec.version >= 4,
        }
    }

    /// The connection's future. It ends when the client is gone or does nothing for `idle`; after the
    /// last [`Outgoing`] is dropped it sends what is left, and ends when the client is gone or a
    /// moment is over.
    pub(in crate::server) async fn drive<S>(self, io: S, codec: Codec, idle: Duration)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send,
    {
        let Self { feeds, to, outs, .. } = self;
        // Only those of the streams count.
        drop(to);
        let socket = WebSocketStream::from_raw_socket(io, Role::Server, Some(limits())).await;
        let (into, from) = socket.split();
        let activity = Activity::new(idle);
        let mut read = pin!(read(from, feeds, codec, &activity));
        let written = tokio::select! {
            () = &mut read => return,
            written = write(into, outs, codec, &activity) => written,
        };
        match written {
            Ok(()) => drop(timeout(PARTING, read).await),
            Err(error) => tracing::debug!(%error, "a client went away"),
        }
    }
}

/// Gives the channels what comes, until the client is gone.
async fn read<S: AsyncRead + AsyncWrite + Unpin>(
    mut from: SplitStream<WebSocketStream<S>>,
    mut feeds: Vec<Option<Feed>>,
    codec: Codec,
    activity: &Activity,
) {
    while let Some(Ok(message)) = from.next().await {
        let message = match message {
            Message::Binary(bytes) => bytes,
            Message::Text(text) => Bytes::from(text),
            Message::Close(_) => return,
            Message::Ping(_) | Message::Pong(_) | Message::Frame(_) => continue,
        };
        activity.touch();
        if codec.version >= 5
            && let [channel::CLOSE, closed] = *message
        {
            if let Some(feed) = feeds.get_mut(usize::from(closed)) {
                *feed = None;
            }
            continue;
        }
        if let Some((channel, bytes)) = decoded(message, codec)
            && let Some(Some(feed)) = feeds.get(usize::from(channel))
        {
            feed.give(bytes).await;
        }
    }
}

/// The channel and what is for it; none for what is not in the protocol's form, which upstream drops
/// as well.
fn decoded(message: Bytes, codec: Codec) -> Option<(u8, Bytes)> {
    let channel = *message.first()?;
    if !codec.base64 {
        return Some((channel, message.slice(1..)));
    }
    let bytes = BASE64.decode(&message[1..]).ok()?;
    Some((channel.checked_sub(b'0')?, bytes.into()))
}

fn encoded(channel: u32, bytes: &[u8], codec: Codec) -> Message {
    // More than these have no byte, and are never made.
    let channel = u8::try_from(channel).unwrap_or(u8::MAX);
    if codec.base64 {
        let mut text = String::from(char::from(b'0'.saturating_add(channel)));
        BASE64.encode_string(bytes, &mut text);
        return Message::Text(Utf8Bytes::from(text));
    }
    let mut message = Vec::with_capacity(1 + bytes.len());
    message.push(channel);
    message.extend_from_slice(bytes);
    Message::binary(message)
}

/// Sends all that is to be sent, until there is nobody who could send more.
async fn write<S: AsyncRead + AsyncWrite + Unpin>(
    mut into: SplitSink<WebSocketStream<S>, Message>,
    mut outs: mpsc::Receiver<Out>,
    codec: Codec,
    activity: &Activity,
) -> Result<(), Error> {
    let every = PING_EVERY.min(activity.limit);
    let mut ping = interval_at(Instant::now() + every, every);
    ping.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            out = outs.recv() => match out {
                Some(Out::Data(channel, bytes)) => {
                    activity.touch();
                    into.send(encoded(channel, &bytes, codec)).await?;
                }
                // Channels are there from the beginning, and end with the connection.
                Some(Out::Reply(_) | Out::End(_) | Out::Reset(_)) => {}
                None => return into.close().await,
            },
            _ = ping.tick() => {
                if activity.is_over() {
                    return Err(Error::ConnectionClosed);
                }
                into.send(Message::Ping(Bytes::new())).await?;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_name_their_channel() {
        let (binary, text) =
            (Codec { base64: false, version: 5 }, Codec { base64: true, version: 1 });
        let message = encoded(1, b"a\xff", binary);
        assert_eq!(message, Message::binary(vec![1, b'a', 0xff]));
        let bytes = Bytes::from_static(b"a\xff");
        assert_eq!(decoded(message.into_data(), binary), Some((1, bytes.clone())));
        let message = encoded(1, b"a\xff", text);
        assert_eq!(message, Message::text("1Yf8="));
        assert_eq!(decoded(message.into_data(), text), Some((1, bytes)));
        for odd in ["", "0%", "!YQ==", "0YQ"] {
            assert_eq!(decoded(Bytes::from(odd), text), None, "{odd}");
        }
        assert_eq!(decoded(Bytes::new(), binary), None);
        assert_eq!(decoded(Bytes::from_static(&[0]), binary), Some((0, Bytes::new())));
    }
}
