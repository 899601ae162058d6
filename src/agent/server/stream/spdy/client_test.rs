//! A client, as far as tests need one.

use std::collections::HashMap;

use bytes::BytesMut;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::frame::tests::ClientFrames;
use super::frame::{Decoder, Encoder, ResetStatus, Said};

/// How a stream of a server went.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in crate::server) struct Heard {
    /// All that came of it.
    pub(in crate::server) bytes: Vec<u8>,
    /// `end` or `reset`, once it is over.
    pub(in crate::server) over: Option<&'static str>,
}

/// The client's end of a connection.
pub(in crate::server) struct TestClient<S> {
    io: S,
    frames: ClientFrames,
    decoder: Decoder,
    buffer: BytesMut,
    next: u32,
    /// What came, by stream.
    pub(in crate::server) heard: HashMap<u32, Heard>,
    /// Whether the server takes no more.
    pub(in crate::server) gone_away: bool,
}

impl<S: AsyncRead + AsyncWrite + Unpin> TestClient<S> {
    /// Over this connection, of which these bytes were read already.
    pub(in crate::server) fn new(io: S, read: &[u8]) -> Self {
        Self {
            io,
            frames: ClientFrames::new(),
            decoder: Decoder::new(),
            buffer: BytesMut::from(read),
            next: 1,
            heard: HashMap::new(),
            gone_away: false,
        }
    }

    /// Opens a stream and gives its number.
    pub(in crate::server) async fn open(&mut self, headers: &[(&str, &str)]) -> u32 {
        let id = self.next;
        self.next += 2;
        let frame = self.frames.open(id, headers);
        self.send_raw(&frame).await;
        id
    }

    /// Sends bytes of a stream, and maybe its end.
    pub(in crate::server) async fn send(&mut self, id: u32, bytes: &[u8], last: bool) {
        let mut frame = Vec::new();
        Encoder::default().data(&mut frame, id, bytes, last);
        self.send_raw(&frame).await;
    }

    /// Resets a stream.
    pub(in crate::server) async fn reset(&mut self, id: u32) {
        let mut frame = Vec::new();
        Encoder::default().reset(&mut frame, id, ResetStatus::Cancel);
        self.send_raw(&frame).await;
    }

    /// Sends bytes as they are.
    pub(in crate::server) async fn send_raw(&mut self, bytes: &[u8]) {
        self.io.write_all(bytes).await.expect("is sent");
        self.io.flush().await.expect("is sent");
    }

    /// Hears the server until `enough`, or its end: whether it was enough.
    pub(in crate::server) async fn hear(
        &mut self,
        mut enough: impl FnMut(&HashMap<u32, Heard>) -> bool,
    ) -> bool {
        loop {
            while let Some(said) = self.decoder.next(&mut self.buffer).expect("a frame") {
                match said {
                    Said::Data { id, bytes } => {
                        self.heard.entry(id).or_default().bytes.extend_from_slice(&bytes);
                    }
                    Said::End { id } => self.heard.entry(id).or_default().over = Some("end"),
                    Said::Reset { id } => self.heard.entry(id).or_default().over = Some("reset"),
                    Said::GoAway => self.gone_away = true,
                    Said::Open { .. } | Said::Ping(_) | Said::Nothing => {}
                }
            }
            if enough(&self.heard) {
                return true;
            }
            self.buffer.reserve(4096);
            if !self.io.read_buf(&mut self.buffer).await.is_ok_and(|len| len > 0) {
                return false;
            }
        }
    }
}
