//! Messages of D-Bus: header and body in the wire format of its specification, version 1.
//!
//! The format itself is [`zbus`]'s. Its connection is not used: that is asynchronous, with tasks of
//! its own, and would have every crate that is built on `futures` built another time.

use serde::ser::{Serialize, SerializeSeq, Serializer};
use zbus::wire::serialized::{Context, Data};
use zbus::wire::{BE, Endian, LE, Signature, Type, as_variant, to_bytes};
use zbus::{ObjectPath, Variant};

use super::SystemdError;

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

/// A message of any kind that came.
#[derive(Debug)]
pub(super) enum Message {
    /// The answer to a call, with its body.
    Return(u32, Data<'static, 'static>),
    /// The refusal of a call: the error's name and its text.
    Error(u32, String, String),
    /// A signal by its member, with its body.
    Signal(String, Data<'static, 'static>),
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
}

/// The bytes of a call.
///
/// # Errors
/// [`SystemdError::Message`] for a body that cannot be written.
pub(super) fn call<B>(method: Method, serial: u32, body: &B) -> Result<Vec<u8>, SystemdError>
where
    B: Serialize + Type,
{
    let context = Context::new(LE, 0);
    let body_bytes = to_bytes(context, body).map_err(SystemdError::Message)?;
    let len = u32::try_from(body_bytes.bytes().len()).unwrap_or(u32::MAX);
    let fields = Fields { method, body: B::SIGNATURE.to_string_no_parens() };
    let header = (b'l', CALL, 0_u8, PROTOCOL, len, serial, fields);
    let header = to_bytes(context, &header).map_err(SystemdError::Message)?;
    let mut bytes = header.bytes().to_vec();
    bytes.resize(bytes.len().next_multiple_of(8), 0);
    bytes.extend_from_slice(body_bytes.bytes());
    Ok(bytes)
}

/// How many bytes follow the fixed part of a header.
///
/// # Errors
/// [`SystemdError::Long`].
pub(super) fn rest_len(fixed: &[u8; FIXED_LEN]) -> Result<usize, SystemdError> {
    let lengths = Lengths::read(fixed);
    let len = lengths.fields.next_multiple_of(8) + lengths.body;
    usize::try_from(len).ok().filter(|_| len <= LEN_MAX).ok_or(SystemdError::Long(len))
}

/// Reads a whole message.
///
/// # Errors
/// [`SystemdError::Message`].
pub(super) fn read(bytes: Vec<u8>) -> Result<Message, SystemdError> {
    parse(bytes).map_err(SystemdError::Message)
}

fn parse(bytes: Vec<u8>) -> Result<Message, zbus::Error> {
    let fixed = bytes.first_chunk::<FIXED_LEN>().ok_or(zbus::Error::OutOfBounds)?;
    let lengths = Lengths::read(fixed);
    let start = usize::try_from(lengths.fields.next_multiple_of(8)).unwrap_or(usize::MAX);
    let body = bytes.get(FIXED_LEN.saturating_add(start)..).ok_or(zbus::Error::OutOfBounds)?;
    // The body is aligned by its own start.
    let body = Data::new(body.to_vec(), Context::new(lengths.endian, 0));
    let header = Data::new(bytes, Context::new(lengths.endian, 0));
    type Header<'a> = (u8, u8, u8, u8, u32, u32, Vec<(u8, Variant<'a>)>);
    let ((_, kind, _, _, _, _, fields), _) = header.deserialize::<Header<'_>>()?;
    let field = |wanted| fields.iter().find(|(code, _)| *code == wanted).map(|(_, value)| value);
    let text = |wanted| match field(wanted) {
        Some(Variant::Str(text)) => text.as_str().to_owned(),
        _ => String::new(),
    };
    let answered = match field(REPLY_SERIAL) {
        Some(Variant::U32(serial)) => *serial,
        _ => 0,
    };
    Ok(match kind {
        RETURN => Message::Return(answered, body),
        ERROR => {
            // Most errors have a text, none has to.
            let words = body.deserialize::<&str>().map(|(text, _)| text.to_owned());
            Message::Error(answered, text(ERROR_NAME), words.unwrap_or_default())
        }
        SIGNAL => Message::Signal(text(MEMBER), body),
        _ => Message::Other,
    })
}

/// What the fixed part of a header says.
struct Lengths {
    endian: Endian,
    body: u64,
    fields: u64,
}

impl Lengths {
    fn read(fixed: &[u8; FIXED_LEN]) -> Self {
        let endian = if fixed[0] == b'B' { BE } else { LE };
        let number = |at: usize| {
            let bytes = [fixed[at], fixed[at + 1], fixed[at + 2], fixed[at + 3]];
            u64::from(match endian {
                Endian::Little => u32::from_le_bytes(bytes),
                Endian::Big => u32::from_be_bytes(bytes),
            })
        };
        Self { endian, body: number(4), fields: number(12) }
    }
}

/// The fields of a call's header.
struct Fields {
    method: Method,
    body: String,
}

impl Type for Fields {
    const SIGNATURE: &'static Signature = <Vec<(u8, Variant<'static>)>>::SIGNATURE;
}

impl Serialize for Fields {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Method { destination, path, interface, member } = self.method;
        let path = ObjectPath::from_static_str_unchecked(path);
        let mut fields = serializer.serialize_seq(None)?;
        fields.serialize_element(&(PATH, Variant::from(path)))?;
        fields.serialize_element(&(INTERFACE, Variant::from(interface)))?;
        fields.serialize_element(&(MEMBER, Variant::from(member)))?;
        fields.serialize_element(&(DESTINATION, Variant::from(destination)))?;
        if !self.body.is_empty() {
            let body = BodySignature(&self.body);
            fields.serialize_element(&(SIGNATURE, as_variant::Serialize(&body)))?;
        }
        fields.end()
    }
}

/// The types of a body one after the other, which is no single complete type as `Signature` is.
struct BodySignature<'a>(&'a str);

impl Type for BodySignature<'_> {
    const SIGNATURE: &'static Signature = &Signature::Signature;
}

impl Serialize for BodySignature<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.0)
    }
}
