//! The frames that agent and sandbox exchange over the sandbox's Unix socket.
//!
//! A frame is one byte version, one byte kind, four bytes length (little endian), payload.
//! Every length is bounded before anything is allocated: a sandbox holds a hostile guest.

use std::io::{self, Read};

use thiserror::Error;

use crate::{Description, PROTOCOL_VERSION};

/// Bytes before the payload.
pub const HEADER_LEN: usize = 6;
/// Largest description: the kernel's own limit on arguments and environment is 2 MiB.
pub const MAX_TO_SANDBOX: usize = 4 << 20;
/// Largest payload of a frame that comes after the description: a limit.
pub const MAX_NEWS: usize = 8;
/// Largest frame of a sandbox: an error text.
pub const MAX_FROM_SANDBOX: usize = 8 << 10;

/// What an agent says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ToSandbox {
    /// What to run: the first frame.
    Describe(Box<Description>),
    /// A new log: an append-only descriptor travels with the frame (`SCM_RIGHTS`).
    Log,
    /// Ends of pipes, in this order, that the guest's streams are connected to beside what they are
    /// connected to already; they travel with the frame.
    Attach(Attached),
    /// Bytes that all linear memories may hold together from now on; `None` is no limit. What they
    /// hold beyond it they keep.
    Limit(Option<u64>),
}

/// The streams that a client is attached to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Attached {
    /// What the guest reads comes out of the first pipe.
    pub stdin: bool,
    /// What it writes goes into the next.
    pub stdout: bool,
    /// What it writes of errors goes into the last.
    pub stderr: bool,
}

impl Attached {
    /// How many pipes there are.
    #[must_use]
    pub fn count(self) -> usize {
        [self.stdin, self.stdout, self.stderr].map(usize::from).iter().sum()
    }

    fn bits(self) -> u8 {
        u8::from(self.stdin) | u8::from(self.stdout) << 1 | u8::from(self.stderr) << 2
    }

    fn of_bits(bits: u8) -> Self {
        let is = |bit: u8| bits & bit != 0;
        Self { stdin: is(1), stdout: is(2), stderr: is(4) }
    }
}

/// What a sandbox says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FromSandbox {
    /// The guest is instantiated (a command) or its listener is bound (http).
    Started,
    /// The guest cannot be started; nothing of it ran. The text says which step failed and why.
    Failed(String),
    /// The artefact is not there or not of this engine: it has to be compiled anew. Nothing of
    /// the guest ran, no exit record is written, and the same attempt may start again.
    Unloadable(String),
    /// The log is past its limit: send a new one.
    LogFull,
}

/// Why a frame was refused.
#[derive(Debug, Error)]
pub enum FrameError {
    /// The peer speaks another version.
    #[error("frame of protocol version {0}, expected {PROTOCOL_VERSION}")]
    Version(u8),
    /// A kind that this side does not take.
    #[error("frame of unknown kind {0}")]
    Kind(u8),
    /// The frame is longer than its bound.
    #[error("frame of {len} bytes, at most {max} are taken")]
    TooLong {
        /// What the header says.
        len: usize,
        /// The bound.
        max: usize,
    },
    /// The payload is not what its kind holds.
    #[error("frame with a malformed payload")]
    Payload(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The socket failed or ended within a frame.
    #[error("cannot read a frame")]
    Io(#[source] io::Error),
}

const DESCRIBE: u8 = 1;
const LOG: u8 = 2;
/// This and the bits of what is attached.
const ATTACH: u8 = 8;
const ATTACH_LAST: u8 = ATTACH + 7;
const LIMIT: u8 = 16;
const STARTED: u8 = 65;
const FAILED: u8 = 66;
const LOG_FULL: u8 = 67;
const UNLOADABLE: u8 = 68;

fn encode(kind: u8, payload: &[u8]) -> Vec<u8> {
    // Bounded by the callers: no payload comes near 4 GiB.
    let len = u32::try_from(payload.len()).unwrap_or(u32::MAX);
    let mut out = Vec::with_capacity(HEADER_LEN + payload.len());
    out.extend_from_slice(&[PROTOCOL_VERSION, kind]);
    out.extend_from_slice(&len.to_le_bytes());
    out.extend_from_slice(payload);
    out
}

/// Reads a header: the kind and the payload's length, which is at most `max`.
///
/// # Errors
/// [`FrameError::Version`] and [`FrameError::TooLong`].
pub fn header(bytes: [u8; HEADER_LEN], max: usize) -> Result<(u8, usize), FrameError> {
    let [version, kind, a, b, c, d] = bytes;
    if version != PROTOCOL_VERSION {
        return Err(FrameError::Version(version));
    }
    let len = u32::from_le_bytes([a, b, c, d]) as usize;
    if len > max {
        return Err(FrameError::TooLong { len, max });
    }
    Ok((kind, len))
}

fn read(from: &mut impl Read, max: usize) -> Result<Option<(u8, Vec<u8>)>, FrameError> {
    let mut head = [0; HEADER_LEN];
    match from.read(&mut head[..1]).map_err(FrameError::Io)? {
        0 => return Ok(None),
        _ => from.read_exact(&mut head[1..]).map_err(FrameError::Io)?,
    }
    let (kind, len) = header(head, max)?;
    let mut payload = vec![0; len];
    from.read_exact(&mut payload).map_err(FrameError::Io)?;
    Ok(Some((kind, payload)))
}

impl ToSandbox {
    /// The frame's bytes.
    ///
    /// # Errors
    /// [`FrameError::TooLong`] for a description past [`MAX_TO_SANDBOX`].
    pub fn encode(&self) -> Result<Vec<u8>, FrameError> {
        let bytes = match self {
            Self::Describe(description) => encode(
                DESCRIBE,
                &serde_json::to_vec(description).map_err(|e| FrameError::Payload(e.into()))?,
            ),
            Self::Log => encode(LOG, &[]),
            Self::Attach(which) => encode(ATTACH | which.bits(), &[]),
            Self::Limit(bytes) => encode(LIMIT, &bytes.unwrap_or(u64::MAX).to_le_bytes()),
        };
        let len = bytes.len() - HEADER_LEN;
        if len > MAX_TO_SANDBOX {
            return Err(FrameError::TooLong { len, max: MAX_TO_SANDBOX });
        }
        Ok(bytes)
    }

    /// Reads one frame; `None` is the end of the stream between frames.
    ///
    /// # Errors
    /// Any [`FrameError`].
    pub fn read(from: &mut impl Read) -> Result<Option<Self>, FrameError> {
        let Some((kind, payload)) = read(from, MAX_TO_SANDBOX)? else { return Ok(None) };
        match kind {
            DESCRIBE => serde_json::from_slice(&payload)
                .map(|d| Some(Self::Describe(d)))
                .map_err(|e| FrameError::Payload(e.into())),
            LOG => Ok(Some(Self::Log)),
            ATTACH..=ATTACH_LAST => Ok(Some(Self::Attach(Attached::of_bits(kind - ATTACH)))),
            LIMIT => {
                let bytes: Result<[u8; 8], _> = payload.try_into();
                let bytes = bytes.map_err(|_| FrameError::Payload("a limit is 8 bytes".into()))?;
                let bytes = u64::from_le_bytes(bytes);
                Ok(Some(Self::Limit(Some(bytes).filter(|bytes| *bytes != u64::MAX))))
            }
            other => Err(FrameError::Kind(other)),
        }
    }
}

fn cut(text: &str) -> &[u8] {
    &text.as_bytes()[..text.floor_char_boundary(MAX_FROM_SANDBOX)]
}

impl FromSandbox {
    /// The frame's bytes; a text past the bound is cut at a character.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        match self {
            Self::Started => encode(STARTED, &[]),
            Self::Failed(text) => encode(FAILED, cut(text)),
            Self::Unloadable(text) => encode(UNLOADABLE, cut(text)),
            Self::LogFull => encode(LOG_FULL, &[]),
        }
    }

    /// The frame of this kind and payload, as [`header`] and the bytes after it give them.
    ///
    /// # Errors
    /// [`FrameError::Kind`] and [`FrameError::Payload`].
    pub fn decode(kind: u8, payload: Vec<u8>) -> Result<Self, FrameError> {
        let text = |payload| String::from_utf8(payload).map_err(|e| FrameError::Payload(e.into()));
        match kind {
            STARTED => Ok(Self::Started),
            FAILED => text(payload).map(Self::Failed),
            UNLOADABLE => text(payload).map(Self::Unloadable),
            LOG_FULL => Ok(Self::LogFull),
            other => Err(FrameError::Kind(other)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decode(bytes: &[u8]) -> Result<FromSandbox, FrameError> {
        let head = bytes[..HEADER_LEN].try_into().expect("a header");
        let (kind, len) = header(head, MAX_FROM_SANDBOX)?;
        FromSandbox::decode(kind, bytes[HEADER_LEN..][..len].to_vec())
    }

    #[test]
    fn frames_come_back_as_they_were() {
        for frame in [
            FromSandbox::Started,
            FromSandbox::Failed("bind 127.0.0.1:80: permission denied".into()),
            FromSandbox::Unloadable("not of this engine".into()),
            FromSandbox::LogFull,
        ] {
            assert_eq!(decode(&frame.encode()).expect("decodes"), frame);
        }
        let all = (0..8).map(|bits| ToSandbox::Attach(Attached::of_bits(bits)));
        for frame in all.chain([ToSandbox::Log]) {
            let bytes = frame.encode().expect("encodes");
            assert_eq!(bytes.len(), HEADER_LEN, "a header alone");
            assert_eq!(ToSandbox::read(&mut &bytes[..]).expect("reads"), Some(frame));
        }
        for limit in [None, Some(0), Some(64 << 20)] {
            let bytes = ToSandbox::Limit(limit).encode().expect("encodes");
            assert_eq!(bytes.len(), HEADER_LEN + MAX_NEWS);
            let read = ToSandbox::read(&mut &bytes[..]).expect("reads");
            assert_eq!(read, Some(ToSandbox::Limit(limit)));
        }
        let which = Attached { stdin: true, stdout: false, stderr: true };
        assert_eq!((which.count(), Attached::of_bits(which.bits())), (2, which));
        assert_eq!(ToSandbox::read(&mut &b""[..]).expect("reads"), None);
    }

    #[test]
    fn a_long_text_is_cut_at_a_character() {
        let Ok(FromSandbox::Failed(text)) =
            decode(&FromSandbox::Failed("é".repeat(MAX_FROM_SANDBOX)).encode())
        else {
            panic!("not a text")
        };
        assert!(text.len() <= MAX_FROM_SANDBOX && text.len() > MAX_FROM_SANDBOX - 4);
    }

    #[test]
    fn hostile_headers_are_refused_before_anything_is_allocated() {
        let mut bytes = FromSandbox::Started.encode();
        bytes[2..6].copy_from_slice(&u32::MAX.to_le_bytes());
        assert!(matches!(decode(&bytes), Err(FrameError::TooLong { .. })));
        bytes[0] = 9;
        assert!(matches!(decode(&bytes), Err(FrameError::Version(9))));
        assert!(matches!(FromSandbox::decode(200, vec![]), Err(FrameError::Kind(200))));
        assert!(matches!(ToSandbox::read(&mut &b"\x01"[..]), Err(FrameError::Io(_))));
    }
}
