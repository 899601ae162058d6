//! Frames of SPDY/3.1 (draft-mbelshe-httpbis-spdy-00, 2.2): eight bytes of head, then what it says.
//!
//! Kubernetes speaks a part of it: streams that the client opens, data both ways, resets, pings and
//! an end. Windows are never sent nor kept to by its clients (Go's `spdystream` knows no `SETTINGS`
//! and drops `WINDOW_UPDATE`), so they are read and ignored here: what holds a sender back is the
//! connection itself, which is read as far as there is room ([`super::super::ROOM`]).

use bytes::{Buf, Bytes, BytesMut};
use thiserror::Error;

use super::headers::{Headers, HeadersError, Unpacker, packed_none};

/// Bytes before each frame's payload.
const HEAD: usize = 8;
/// Bytes of a control frame's payload. The headers of a stream are the largest: below 1 KiB.
const CONTROL_MAX: usize = 16 << 10;
/// Pieces of data smaller than this are copied, so that none keeps a whole buffer.
const COPIED: usize = 4 << 10;
/// The version in control frames.
const VERSION: u16 = 3;

const SYN_STREAM: u16 = 1;
const SYN_REPLY: u16 = 2;
const RST_STREAM: u16 = 3;
const SETTINGS: u16 = 4;
const PING: u16 = 6;
const GOAWAY: u16 = 7;
const HEADERS: u16 = 8;
const WINDOW_UPDATE: u16 = 9;

/// The last frame of a stream from its sender.
const FIN: u8 = 1;

/// Why a stream is refused (`RST_STREAM`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ResetStatus {
    /// It is not what the protocol has.
    Protocol = 1,
    /// There are too many, or nobody takes it.
    Refused = 3,
    /// It is over before its end.
    Cancel = 5,
}

/// Why a connection cannot be gone on with.
#[derive(Debug, Error)]
pub(super) enum FrameError {
    #[error("a control frame of version {0}, expected {VERSION}")]
    Version(u16),
    #[error("a control frame of kind {kind} with {len} bytes, at most {CONTROL_MAX} are taken")]
    TooLong { kind: u16, len: usize },
    #[error("a control frame of kind {0} that is too short")]
    TooShort(u16),
    #[error("a control frame of unknown kind {0}")]
    Kind(u16),
    #[error("stream {0}")]
    Headers(u32, #[source] HeadersError),
}

/// What a client says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Said {
    /// A new stream.
    Open { id: u32, headers: Headers },
    /// Bytes of a stream.
    Data { id: u32, bytes: Bytes },
    /// No more bytes come of a stream.
    End { id: u32 },
    /// A stream is over, both ways.
    Reset { id: u32 },
    /// To be sent back.
    Ping(u32),
    /// No more streams come.
    GoAway,
    /// Nothing that concerns a server.
    Nothing,
}

/// Takes what a client sends apart.
#[derive(Debug)]
pub(super) struct Decoder {
    unpacker: Unpacker,
    /// The stream whose data comes, how much of it is missing, and whether that is its last.
    data: Option<(u32, usize, bool)>,
    /// A stream whose last frame has been given but for its end.
    ended: Option<u32>,
}

impl Decoder {
    pub(super) fn new() -> Self {
        Self { unpacker: Unpacker::new(), data: None, ended: None }
    }

    /// The next thing that is said in `from`, which is taken out of it; none if more is needed for
    /// it. Of data, as much as is there.
    ///
    /// # Errors
    /// [`FrameError`]; nothing more can be understood then.
    pub(super) fn next(&mut self, from: &mut BytesMut) -> Result<Option<Said>, FrameError> {
        if let Some(id) = self.ended.take() {
            return Ok(Some(Said::End { id }));
        }
        if let Some((id, left, last)) = self.data {
            return Ok(self.piece(from, (id, left, last)));
        }
        let Some(head) = from.first_chunk::<HEAD>() else { return Ok(None) };
        let [a, b, c, d, flags, len @ ..] = *head;
        let len = u32::from_be_bytes([0, len[0], len[1], len[2]]) as usize;
        let word = u32::from_be_bytes([a, b, c, d]);
        if word >> 31 == 0 {
            from.advance(HEAD);
            self.data = Some((word, len, flags & FIN != 0));
            return Ok(self.piece(from, (word, len, flags & FIN != 0)));
        }
        let (version, kind) = (u16::from_be_bytes([a & 0x7f, b]), u16::from_be_bytes([c, d]));
        if version != VERSION {
            return Err(FrameError::Version(version));
        }
        if len > CONTROL_MAX {
            return Err(FrameError::TooLong { kind, len });
        }
        if from.len() < HEAD + len {
            return Ok(None);
        }
        let frame = from.split_to(HEAD + len);
        self.control(kind, flags, &frame[HEAD..]).map(Some)
    }

    fn piece(&mut self, from: &mut BytesMut, (id, left, last): (u32, usize, bool)) -> Option<Said> {
        let len = left.min(from.len());
        if len == 0 && left > 0 {
            return None;
        }
        self.data = (len < left).then_some((id, left - len, last));
        if self.data.is_none() && last {
            if len == 0 {
                return Some(Said::End { id });
            }
            self.ended = Some(id);
        }
        if len == 0 {
            return Some(Said::Nothing);
        }
        let bytes = if len < COPIED { copied(from, len) } else { from.split_to(len).freeze() };
        Some(Said::Data { id, bytes })
    }

    fn control(&mut self, kind: u16, flags: u8, payload: &[u8]) -> Result<Said, FrameError> {
        let word = |payload: &[u8]| {
            let word = payload.first_chunk::<4>().ok_or(FrameError::TooShort(kind))?;
            Ok::<_, FrameError>(u32::from_be_bytes(*word))
        };
        let id = |payload: &[u8]| Ok::<_, FrameError>(word(payload)? & 0x7fff_ffff);
        match kind {
            SYN_STREAM => {
                let id = id(payload)?;
                // Parent, priority and slot mean nothing here.
                let packed = payload.get(10..).ok_or(FrameError::TooShort(kind))?;
                let headers = self.unpacker.headers(packed);
                let headers = headers.map_err(|e| FrameError::Headers(id, e))?;
                self.ended = (flags & FIN != 0).then_some(id);
                Ok(Said::Open { id, headers })
            }
            SYN_REPLY | HEADERS => {
                // Read even if nobody asks for them: the next ones refer to them.
                let id = id(payload)?;
                self.unpacker.headers(&payload[4..]).map_err(|e| FrameError::Headers(id, e))?;
                Ok(if flags & FIN != 0 { Said::End { id } } else { Said::Nothing })
            }
            RST_STREAM => Ok(Said::Reset { id: id(payload)? }),
            PING => Ok(Said::Ping(word(payload)?)),
            GOAWAY => Ok(Said::GoAway),
            SETTINGS | WINDOW_UPDATE => Ok(Said::Nothing),
            other => Err(FrameError::Kind(other)),
        }
    }
}

/// Takes bytes out by a copy, which keeps nothing else.
fn copied(from: &mut BytesMut, len: usize) -> Bytes {
    let bytes = Bytes::copy_from_slice(&from[..len]);
    from.advance(len);
    bytes
}

fn control(into: &mut Vec<u8>, kind: u16, payload: &[&[u8]]) {
    let len: usize = payload.iter().map(|part| part.len()).sum();
    into.extend((0x8000 | VERSION).to_be_bytes());
    into.extend(kind.to_be_bytes());
    // No flags; none of ours comes near 16 MiB.
    into.extend(u32::try_from(len).unwrap_or(0).to_be_bytes());
    for part in payload {
        into.extend_from_slice(part);
    }
}

/// Puts together what is sent to a client.
#[derive(Debug, Default)]
pub(super) struct Encoder {
    replied: bool,
}

impl Encoder {
    /// A stream is taken.
    pub(super) fn reply(&mut self, into: &mut Vec<u8>, id: u32) {
        let packed = packed_none(!self.replied);
        self.replied = true;
        control(into, SYN_REPLY, &[&id.to_be_bytes(), &packed]);
    }

    /// Bytes of a stream, which are far less than 16 MiB.
    pub(super) fn data(&self, into: &mut Vec<u8>, id: u32, bytes: &[u8], last: bool) {
        into.extend(id.to_be_bytes());
        let len = u32::try_from(bytes.len()).unwrap_or(0);
        let flags = if last { u32::from(FIN) << 24 } else { 0 };
        into.extend((flags | len).to_be_bytes());
        into.extend_from_slice(bytes);
    }

    /// A stream is over, both ways.
    pub(super) fn reset(&self, into: &mut Vec<u8>, id: u32, status: ResetStatus) {
        control(into, RST_STREAM, &[&id.to_be_bytes(), &(status as u32).to_be_bytes()]);
    }

    /// To be sent back; a client's own, sent back.
    pub(super) fn ping(&self, into: &mut Vec<u8>, id: u32) {
        control(into, PING, &[&id.to_be_bytes()]);
    }

    /// No more streams are taken after `last`; all is well.
    pub(super) fn go_away(&self, into: &mut Vec<u8>, last: u32) {
        control(into, GOAWAY, &[&last.to_be_bytes(), &0u32.to_be_bytes()]);
    }
}

#[cfg(test)]
pub(super) mod tests {
    use proptest::prelude::*;

    use super::super::headers::tests::Packer;
    use super::*;

    /// A client's frames.
    pub(in crate::server) struct ClientFrames {
        packer: Packer,
    }

    impl ClientFrames {
        pub(in crate::server) fn new() -> Self {
            Self { packer: Packer::new() }
        }

        pub(in crate::server) fn open(&mut self, id: u32, headers: &[(&str, &str)]) -> Vec<u8> {
            let packed = self.packer.pack(headers);
            let mut frame = Vec::new();
            control(&mut frame, SYN_STREAM, &[&id.to_be_bytes(), &[0; 6], &packed]);
            frame
        }
    }

    fn all(decoder: &mut Decoder, bytes: &[u8], step: usize) -> Result<Vec<Said>, FrameError> {
        let (mut buffer, mut said) = (BytesMut::new(), Vec::new());
        for piece in bytes.chunks(step) {
            buffer.extend_from_slice(piece);
            while let Some(one) = decoder.next(&mut buffer)? {
                said.push(one);
            }
        }
        Ok(said)
    }

    #[test]
    fn frames_come_back_whatever_the_pieces() {
        for step in [1, 7, 5000, usize::MAX] {
            let (mut client, encoder) = (ClientFrames::new(), Encoder::default());
            let mut bytes = client.open(1, &[("streamtype", "stdin")]);
            let sent = vec![b'x'; 10_000];
            encoder.data(&mut bytes, 1, &sent, false);
            encoder.data(&mut bytes, 1, b"", false);
            encoder.data(&mut bytes, 1, b"y", true);
            bytes.extend(client.open(3, &[("streamtype", "error")]));
            encoder.data(&mut bytes, 3, b"", true);
            encoder.ping(&mut bytes, 5);
            encoder.reset(&mut bytes, 3, ResetStatus::Cancel);
            control(&mut bytes, WINDOW_UPDATE, &[&[0; 8]]);
            control(&mut bytes, SETTINGS, &[&[0; 4]]);
            encoder.go_away(&mut bytes, 0);
            let said = all(&mut Decoder::new(), &bytes, step.min(bytes.len())).expect("are read");
            let (mut data, mut rest) = (Vec::new(), Vec::new());
            for one in said {
                match one {
                    Said::Data { id: 1, bytes } => data.extend_from_slice(&bytes),
                    Said::Nothing => {}
                    Said::Open { id, headers } => {
                        let kind = headers.get("streamType").unwrap_or_default().to_owned();
                        rest.push(format!("open {id} {kind}"));
                    }
                    other @ (Said::Data { .. }
                    | Said::End { .. }
                    | Said::Reset { .. }
                    | Said::Ping(_)
                    | Said::GoAway) => rest.push(format!("{other:?}")),
                }
            }
            assert!(data[..10_000] == sent && &data[10_000..] == b"y", "in pieces of {step}");
            assert_eq!(
                rest,
                [
                    "open 1 stdin",
                    "End { id: 1 }",
                    "open 3 error",
                    "End { id: 3 }",
                    "Ping(5)",
                    "Reset { id: 3 }",
                    "GoAway"
                ]
            );
        }
    }

    #[test]
    fn a_stream_that_opens_with_its_end_has_one() {
        let mut frame = ClientFrames::new().open(7, &[("port", "80")]);
        frame[4] = FIN;
        let said = all(&mut Decoder::new(), &frame, 1000).expect("is read");
        assert!(matches!(said[..], [Said::Open { id: 7, .. }, Said::End { id: 7 }]), "{said:?}");
    }

    #[test]
    fn what_is_out_of_bounds_is_refused_before_it_is_there() {
        let refused = |head: [u8; 8]| all(&mut Decoder::new(), &head, 8).expect_err("is refused");
        let long = refused([0x80, 3, 0, 1, 0, 0xff, 0xff, 0xff]);
        assert!(matches!(long, FrameError::TooLong { kind: 1, .. }), "{long}");
        assert!(matches!(refused([0x80, 2, 0, 1, 0, 0, 0, 0]), FrameError::Version(2)));
        assert!(matches!(refused([0x80, 3, 0, 5, 0, 0, 0, 0]), FrameError::Kind(5)));
        for kind in [SYN_STREAM, SYN_REPLY, RST_STREAM, PING, HEADERS] {
            let short = refused([0x80, 3, 0, u8::try_from(kind).expect("small"), 0, 0, 0, 0]);
            assert!(matches!(short, FrameError::TooShort(_)), "{short}");
        }
    }

    proptest! {
        #[test]
        fn garbage_never_panics_and_gives_no_more_than_came(
            bytes in prop::collection::vec(any::<u8>(), 1..2000),
            step in 1usize..600,
            control_frames in any::<bool>(),
        ) {
            let mut bytes = bytes;
            if control_frames && bytes.len() > 8 {
                bytes[..2].copy_from_slice(&[0x80, 3]);
                let kind = bytes[2] % 10;
                bytes[2..6].copy_from_slice(&[0, kind, 0, 0]);
            }
            if let Ok(said) = all(&mut Decoder::new(), &bytes, step) {
                let data = said.iter().map(|one| {
                    if let Said::Data { bytes, .. } = one { bytes.len() } else { 0 }
                });
                prop_assert!(data.sum::<usize>() <= bytes.len());
            }
        }
    }
}
