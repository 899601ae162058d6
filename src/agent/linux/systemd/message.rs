//! Messages of D-Bus: header and body.

use super::SystemdError;
use super::wire::{Reader, Value, WireError, Writer};

/// Bytes of a header up to the length of its fields, that length included.
pub(super) const FIXED_LEN: usize = 16;
/// Longest message taken: signals tell of units and jobs, a KiB each.
const LEN_MAX: u64 = 1 << 20;

/// The version of the protocol.
const PROTOCOL: u8 = 1;
/// What a header's fields say, by their numbers.
const PATH: u8 = 1;
const INTERFACE: u8 = 2;
const MEMBER: u8 = 3;
const ERROR_NAME: u8 = 4;
const REPLY_SERIAL: u8 = 5;
const DESTINATION: u8 = 6;
const SIGNATURE: u8 = 8;

/// Kinds of messages, by their numbers.
const CALL: u8 = 1;
const RETURN: u8 = 2;
const ERROR: u8 = 3;
const SIGNAL: u8 = 4;

/// What a header's first byte says of the order of numbers' bytes.
const LITTLE: u8 = b'l';
const BIG: u8 = b'B';

/// The body of a message, as it came.
#[derive(Clone, Debug)]
pub(super) struct Body {
    bytes: Vec<u8>,
    big: bool,
}

impl Body {
    /// Its values.
    pub(super) fn reader(&self) -> Reader<'_> {
        Reader::new(&self.bytes, self.big)
    }
}

/// A message of any kind that came.
#[derive(Debug)]
pub(super) enum Message {
    /// The answer to a call, with its body.
    Return(u32, Body),
    /// The refusal of a call: the error's name and its text.
    Error(u32, String, String),
    /// A signal by its member, with its body.
    Signal(String, Body),
    /// A call, or what the future has.
    Other,
}

/// A method of an object.
#[derive(Clone, Copy, Debug)]
pub(super) struct Method {
    pub(super) destination: &'static str,
    pub(super) path: &'static str,
    pub(super) interface: &'static str,
    pub(super) member: &'static str,
    /// The types of its body.
    pub(super) types: &'static str,
}

/// The bytes of a call.
pub(super) fn call(method: Method, serial: u32, body: &[u8]) -> Vec<u8> {
    let Method { destination, path, interface, member, types } = method;
    let fields = [
        (PATH, Value::Path(path.into())),
        (INTERFACE, interface.into()),
        (MEMBER, member.into()),
        (DESTINATION, destination.into()),
        (SIGNATURE, Value::Types(types.into())),
    ];
    header(Writer::default(), CALL, serial, &fields, body)
}

/// A message with this header; `writer` says in which order numbers are.
pub(super) fn header(
    mut writer: Writer,
    kind: u8,
    serial: u32,
    fields: &[(u8, Value)],
    body: &[u8],
) -> Vec<u8> {
    writer.byte(if writer.is_big() { BIG } else { LITTLE });
    writer.byte(kind);
    writer.byte(0);
    writer.byte(PROTOCOL);
    writer.u32(u32::try_from(body.len()).unwrap_or(u32::MAX));
    writer.u32(serial);
    writer.list(8, |list| {
        for (code, value) in fields {
            list.align(8);
            list.byte(*code);
            list.value(value);
        }
    });
    writer.align(8);
    let mut bytes = writer.bytes();
    bytes.extend_from_slice(body);
    bytes
}

/// How many bytes follow the fixed part of a header.
///
/// # Errors
/// [`SystemdError::Long`].
pub(super) fn rest_len(fixed: &[u8; FIXED_LEN]) -> Result<usize, SystemdError> {
    let lengths = Lengths::read(fixed).map_err(SystemdError::Message)?;
    let len = lengths.fields.next_multiple_of(8) + lengths.body;
    usize::try_from(len).ok().filter(|_| len <= LEN_MAX).ok_or(SystemdError::Long(len))
}

/// Reads a whole message.
///
/// # Errors
/// [`SystemdError::Message`].
pub(super) fn read(bytes: &[u8]) -> Result<Message, SystemdError> {
    parse(bytes).map_err(SystemdError::Message)
}

fn parse(bytes: &[u8]) -> Result<Message, WireError> {
    let fixed = bytes.first_chunk::<FIXED_LEN>().ok_or(WireError::Short)?;
    let lengths = Lengths::read(fixed)?;
    let start = usize::try_from(lengths.fields.next_multiple_of(8)).unwrap_or(usize::MAX);
    let body = bytes.get(FIXED_LEN.saturating_add(start)..).ok_or(WireError::Short)?;
    // The body is aligned by its own start.
    let body = Body { bytes: body.to_vec(), big: lengths.big };
    let mut header = Reader::new(bytes, lengths.big);
    // Order and kind stand in bytes of their own, then flags and protocol.
    let kind = header.u32().map(|_| fixed[1])?;
    // The body's length, the serial.
    for skip in [Reader::u32, Reader::u32] {
        skip(&mut header)?;
    }
    let fields = header.list(8, |field| Ok((field.byte()?, field.value()?)))?;
    let field = |wanted| fields.iter().find(|(code, _)| *code == wanted).map(|(_, value)| value);
    let text = |wanted| match field(wanted) {
        Some(Value::Text(text)) => text.clone(),
        _ => String::new(),
    };
    let answered = match field(REPLY_SERIAL) {
        Some(Value::U32(serial)) => *serial,
        _ => 0,
    };
    Ok(match kind {
        RETURN => Message::Return(answered, body),
        ERROR => {
            // Most errors have a text, none has to.
            let words = body.reader().text().unwrap_or_default();
            Message::Error(answered, text(ERROR_NAME), words)
        }
        SIGNAL => Message::Signal(text(MEMBER), body),
        _ => Message::Other,
    })
}

/// What the fixed part of a header says.
struct Lengths {
    big: bool,
    body: u64,
    fields: u64,
}

impl Lengths {
    fn read(fixed: &[u8; FIXED_LEN]) -> Result<Self, WireError> {
        let big = fixed[0] == BIG;
        let mut reader = Reader::new(fixed, big);
        // Order, kind, flags, protocol.
        reader.u32()?;
        let body = reader.u32()?.into();
        reader.u32()?;
        Ok(Self { big, body, fields: reader.u32()?.into() })
    }
}
