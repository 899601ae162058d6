//! Values in the wire format of D-Bus (its specification, version 1), as far as systemd's manager
//! takes and gives them. By hand: the crates that have the format bring procedural macros whose
//! features have every crate of the workspace built another time.

use thiserror::Error;

/// Most bytes of a text or a list: a message has no more.
const LEN_MAX: u32 = 1 << 20;

/// A value whose type is told with it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Value {
    /// A text.
    Text(String),
    /// The path of an object.
    Path(String),
    /// Types, as a text.
    Types(String),
    /// Yes or no.
    Bool(bool),
    /// A number.
    U32(u32),
    /// A larger number.
    U64(u64),
    /// Numbers.
    Numbers(Vec<u32>),
    /// Texts.
    Texts(Vec<String>),
}

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        Self::Text(text.into())
    }
}

impl From<String> for Value {
    fn from(text: String) -> Self {
        Self::Text(text)
    }
}

impl From<bool> for Value {
    fn from(yes: bool) -> Self {
        Self::Bool(yes)
    }
}

impl From<u64> for Value {
    fn from(number: u64) -> Self {
        Self::U64(number)
    }
}

impl From<Vec<u32>> for Value {
    fn from(numbers: Vec<u32>) -> Self {
        Self::Numbers(numbers)
    }
}

impl From<Vec<String>> for Value {
    fn from(texts: Vec<String>) -> Self {
        Self::Texts(texts)
    }
}

impl Value {
    /// The type's letters.
    fn signature(&self) -> &'static str {
        match self {
            Self::Text(_) => "s",
            Self::Path(_) => "o",
            Self::Types(_) => "g",
            Self::Bool(_) => "b",
            Self::U32(_) => "u",
            Self::U64(_) => "t",
            Self::Numbers(_) => "au",
            Self::Texts(_) => "as",
        }
    }
}

/// What is no value, or none that is expected.
#[derive(Debug, Error, PartialEq, Eq)]
pub(crate) enum WireError {
    /// It ends too early.
    #[error("it ends too early")]
    Short,
    /// A text is none.
    #[error("a text is not in UTF-8")]
    Text,
    /// It is of a type that nobody expects.
    #[error("a value of type {0:?}")]
    Type(String),
    /// A length past any bound.
    #[error("a length of {0} bytes")]
    Long(u32),
}

/// Writes values one after the other, each at its alignment.
#[derive(Clone, Debug, Default)]
pub(super) struct Writer {
    bytes: Vec<u8>,
    /// The most significant byte comes first; only peers do that.
    big: bool,
}

impl Writer {
    /// The other byte order, as some peers have it.
    #[cfg(test)]
    pub(super) fn big() -> Self {
        Self { big: true, ..Self::default() }
    }

    /// Whether the most significant byte comes first.
    pub(super) fn is_big(&self) -> bool {
        self.big
    }

    pub(super) fn bytes(self) -> Vec<u8> {
        self.bytes
    }

    pub(super) fn align(&mut self, to: usize) {
        self.bytes.resize(self.bytes.len().next_multiple_of(to), 0);
    }

    pub(super) fn byte(&mut self, byte: u8) {
        self.bytes.push(byte);
    }

    pub(super) fn bool(&mut self, yes: bool) {
        self.u32(yes.into());
    }

    pub(super) fn u32(&mut self, number: u32) {
        self.align(4);
        let bytes = if self.big { number.to_be_bytes() } else { number.to_le_bytes() };
        self.bytes.extend(bytes);
    }

    pub(super) fn text(&mut self, text: &str) {
        // What is longer than a message may be is refused by whoever reads it.
        self.u32(u32::try_from(text.len()).unwrap_or(u32::MAX));
        self.bytes.extend(text.as_bytes());
        self.byte(0);
    }

    pub(super) fn types(&mut self, types: &str) {
        self.byte(u8::try_from(types.len()).unwrap_or(u8::MAX));
        self.bytes.extend(types.as_bytes());
        self.byte(0);
    }

    /// A list whose entries are aligned to `align`, as `entries` writes them.
    pub(super) fn list(&mut self, align: usize, entries: impl FnOnce(&mut Self)) {
        self.u32(0);
        let at = self.bytes.len() - 4;
        self.align(align);
        let start = self.bytes.len();
        entries(self);
        let len = u32::try_from(self.bytes.len() - start).unwrap_or(u32::MAX);
        let len = if self.big { len.to_be_bytes() } else { len.to_le_bytes() };
        self.bytes[at..at + 4].copy_from_slice(&len);
    }

    pub(super) fn value(&mut self, value: &Value) {
        self.types(value.signature());
        match value {
            Value::Text(text) | Value::Path(text) => self.text(text),
            Value::Types(types) => self.types(types),
            Value::Bool(yes) => self.bool(*yes),
            Value::U32(number) => self.u32(*number),
            Value::U64(number) => {
                self.align(8);
                let bytes = if self.big { number.to_be_bytes() } else { number.to_le_bytes() };
                self.bytes.extend(bytes);
            }
            Value::Numbers(numbers) => {
                self.list(4, |list| numbers.iter().for_each(|number| list.u32(*number)));
            }
            Value::Texts(texts) => {
                self.list(4, |list| texts.iter().for_each(|text| list.text(text)));
            }
        }
    }

    /// Names with their values (`a(sv)`).
    pub(super) fn named<'a>(&mut self, all: impl Iterator<Item = (&'a str, &'a Value)>) {
        self.list(8, |list| {
            for (name, value) in all {
                list.align(8);
                list.text(name);
                list.value(value);
            }
        });
    }
}

/// Reads values one after the other.
#[derive(Clone, Debug)]
pub(super) struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
    big: bool,
}

impl<'a> Reader<'a> {
    /// Of bytes that begin at an alignment of their own; `big` says in which order numbers are.
    pub(super) fn new(bytes: &'a [u8], big: bool) -> Self {
        Self { bytes, at: 0, big }
    }

    fn take(&mut self, len: usize) -> Result<&'a [u8], WireError> {
        let end = self.at.checked_add(len).ok_or(WireError::Short)?;
        let taken = self.bytes.get(self.at..end).ok_or(WireError::Short)?;
        self.at = end;
        Ok(taken)
    }

    pub(super) fn align(&mut self, to: usize) {
        self.at = self.at.next_multiple_of(to);
    }

    pub(super) fn byte(&mut self) -> Result<u8, WireError> {
        self.take(1)?.first().copied().ok_or(WireError::Short)
    }

    pub(super) fn u32(&mut self) -> Result<u32, WireError> {
        self.align(4);
        let bytes = *self.take(4)?.first_chunk::<4>().ok_or(WireError::Short)?;
        Ok(if self.big { u32::from_be_bytes(bytes) } else { u32::from_le_bytes(bytes) })
    }

    fn u64(&mut self) -> Result<u64, WireError> {
        self.align(8);
        let bytes = *self.take(8)?.first_chunk::<8>().ok_or(WireError::Short)?;
        Ok(if self.big { u64::from_be_bytes(bytes) } else { u64::from_le_bytes(bytes) })
    }

    fn len(&mut self) -> Result<usize, WireError> {
        let len = self.u32()?;
        let fits = usize::try_from(len).ok().filter(|_| len <= LEN_MAX);
        fits.ok_or(WireError::Long(len))
    }

    pub(super) fn text(&mut self) -> Result<String, WireError> {
        let len = self.len()?;
        self.string(len)
    }

    fn types(&mut self) -> Result<String, WireError> {
        let len = self.byte()?;
        self.string(len.into())
    }

    fn string(&mut self, len: usize) -> Result<String, WireError> {
        let text = std::str::from_utf8(self.take(len)?).map_err(|_| WireError::Text)?.to_owned();
        self.byte()?;
        Ok(text)
    }

    /// A list of what `entry` reads, each aligned to `align`.
    pub(super) fn list<T>(
        &mut self,
        align: usize,
        mut entry: impl FnMut(&mut Self) -> Result<T, WireError>,
    ) -> Result<Vec<T>, WireError> {
        let len = self.len()?;
        self.align(align);
        let end = self.at.checked_add(len).filter(|end| *end <= self.bytes.len());
        let end = end.ok_or(WireError::Short)?;
        let mut all = Vec::new();
        while self.at < end {
            self.align(align);
            all.push(entry(self)?);
        }
        Ok(all)
    }

    pub(super) fn value(&mut self) -> Result<Value, WireError> {
        let types = self.types()?;
        Ok(match &*types {
            "s" => Value::Text(self.text()?),
            "o" => Value::Path(self.text()?),
            "g" => Value::Types(self.types()?),
            "b" => Value::Bool(self.u32()? != 0),
            "u" => Value::U32(self.u32()?),
            "t" => Value::U64(self.u64()?),
            "au" => Value::Numbers(self.list(4, Self::u32)?),
            "as" => Value::Texts(self.list(4, Self::text)?),
            _ => return Err(WireError::Type(types)),
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// As the specification lays values out: `("a", variant u64 5, variant [u32 1])`, little-endian.
    #[test]
    fn values_stand_where_the_specification_puts_them() {
        let mut writer = Writer::default();
        writer.text("a");
        writer.value(&Value::U64(5));
        writer.value(&Value::Numbers(vec![1]));
        let wanted = [
            1, 0, 0, 0, b'a', 0, 1, b't', 0, 0, 0, 0, 0, 0, 0, 0, 5, 0, 0, 0, 0, 0, 0, 0, 2, b'a',
            b'u', 0, 4, 0, 0, 0, 1, 0, 0, 0,
        ];
        assert_eq!(writer.bytes(), wanted);
        let mut writer = Writer::default();
        writer.named([("b", &Value::Bool(true))].into_iter());
        let wanted =
            [16, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, b'b', 0, 1, b'b', 0, 0, 0, 0, 1, 0, 0, 0];
        assert_eq!(writer.bytes(), wanted, "padding before a first entry is none of its length");
    }

    fn values() -> impl Strategy<Value = Value> {
        prop_oneof![
            ".*".prop_map(Value::Text),
            any::<bool>().prop_map(Value::Bool),
            any::<u32>().prop_map(Value::U32),
            any::<u64>().prop_map(Value::U64),
            any::<Vec<u32>>().prop_map(Value::Numbers),
            any::<Vec<String>>().prop_map(Value::Texts),
            "[a-z(){}]{0,20}".prop_map(Value::Types),
            "/[a-z/]*".prop_map(Value::Path),
        ]
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_in_either_order(all: Vec<u8>, some in prop::collection::vec(values(), 0..5), big: bool) {
            let mut writer = if big { Writer::big() } else { Writer::default() };
            some.iter().for_each(|value| writer.value(value));
            let bytes = writer.bytes();
            let mut reader = Reader::new(&bytes, big);
            for value in &some {
                prop_assert_eq!(&reader.value().expect("reads"), value);
            }
            // Anything else is an error and no panic.
            let mut reader = Reader::new(&all, big);
            while reader.value().is_ok() {}
        }
    }
}
