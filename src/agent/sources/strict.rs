//! A tree into a typed object, strictly: unknown fields, duplicate keys and wrong types are all
//! found, each with its path and line, as the API server's `fieldValidation=Strict` does.

use std::cell::RefCell;
use std::collections::HashSet;
use std::fmt;

use serde::de::value::StrDeserializer;
use serde::de::{
    self, DeserializeOwned, DeserializeSeed, Deserializer, Expected, MapAccess, SeqAccess,
    Unexpected,
};

use super::node::{Node, Value};

/// Problems named for one object; the rest are found in the next run.
pub(super) const MAX_PROBLEMS: usize = 20;
/// Bytes shown of a wrong text.
const SHOWN_TEXT: usize = 64;
/// A known field is offered for an unknown one of at least this likeness (Jaro-Winkler, 0 to 1).
const ALIKE: f64 = 0.85;

/// One thing wrong in an object.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Problem {
    /// Where, from 1; 0 where unknown.
    pub(super) line: u64,
    /// What, with the path of the field.
    pub(super) text: String,
}

/// Reads an object. Each wrong value is taken out of the tree and the rest read again, so that all
/// problems come at once, in the order of their lines.
///
/// # Errors
/// At least one and at most [`MAX_PROBLEMS`] problems.
pub(super) fn decode<T: DeserializeOwned>(node: Node) -> Result<T, Vec<Problem>> {
    match decode_known(node)? {
        (object, unknown) if unknown.is_empty() => Ok(object),
        (_, mut unknown) => {
            unknown.sort();
            unknown.truncate(MAX_PROBLEMS);
            Err(unknown)
        }
    }
}

/// The same, with unknown fields left out of the object and named beside it, as a kubelet reads
/// static pods: they may be of a later version.
///
/// # Errors
/// As [`decode`], of what is wrong in known fields.
pub(super) fn decode_known<T: DeserializeOwned>(
    mut node: Node,
) -> Result<(T, Vec<Problem>), Vec<Problem>> {
    let mut problems = Vec::new();
    duplicates(&mut node, &Path::Root, &mut problems);
    loop {
        let unknown = RefCell::new(Vec::new());
        let result = T::deserialize(At { node: &node, path: Path::Root, unknown: &unknown });
        let unknown = unknown.into_inner();
        match result {
            Ok(object) if problems.is_empty() => return Ok((object, unknown)),
            Err(wrong) if problems.len() < MAX_PROBLEMS && take_out(&mut node, &wrong.place) => {
                problems.push(Problem { line: wrong.line, text: wrong.text() });
            }
            Ok(_) | Err(_) => {
                let rest = result.err().map(|w| Problem { line: w.line, text: w.text() });
                problems.extend(rest);
                problems.extend(unknown);
                problems.sort();
                problems.truncate(MAX_PROBLEMS);
                return Err(problems);
            }
        }
    }
}

/// Marks the value at `place` as wrong; false if that is the whole object, or already done.
fn take_out(node: &mut Node, place: &[Step]) -> bool {
    let Some((last, before)) = place.split_last() else { return false };
    let Some(parent) = before.iter().try_fold(node, |node, step| step.children(node).next()) else {
        return false;
    };
    let mut found = false;
    for child in last.children(parent) {
        found |= child.value != Value::Wrong;
        child.value = Value::Wrong;
    }
    found
}

/// Finds keys that stand twice, and takes the later ones out: some readers would stop at them.
fn duplicates(node: &mut Node, path: &Path<'_>, problems: &mut Vec<Problem>) {
    match &mut node.value {
        Value::List(list) => {
            for (i, child) in list.iter_mut().enumerate() {
                duplicates(child, &Path::Index(path, i), problems);
            }
        }
        Value::Map(entries) => {
            let mut keys = HashSet::new();
            for (key, child) in entries {
                let key = &*key;
                let path = Path::Key(path, key);
                let is_first = keys.insert(key);
                if !is_first && problems.len() < MAX_PROBLEMS {
                    let text = format!("duplicate field \"{path}\"");
                    problems.push(Problem { line: child.line, text });
                }
                duplicates(child, &path, problems);
                if !is_first {
                    child.value = Value::Wrong;
                }
            }
        }
        Value::Null
        | Value::Bool(_)
        | Value::Unsigned(_)
        | Value::Signed(_)
        | Value::Float(_)
        | Value::Text(_)
        | Value::Wrong => {}
    }
}

/// A way into a tree, on the stack of its reader.
#[derive(Clone, Copy)]
enum Path<'a> {
    Root,
    Key(&'a Path<'a>, &'a str),
    Index(&'a Path<'a>, usize),
}

impl Path<'_> {
    fn steps(&self) -> Vec<Step> {
        let (mut steps, last) = match self {
            Self::Root => return Vec::new(),
            Self::Key(parent, key) => (parent.steps(), Step::Key((*key).into())),
            Self::Index(parent, at) => (parent.steps(), Step::Index(*at)),
        };
        steps.push(last);
        steps
    }
}

impl fmt::Display for Path<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Root => Ok(()),
            Self::Key(Self::Root, key) => f.write_str(key),
            Self::Key(parent, key) => write!(f, "{parent}.{key}"),
            Self::Index(parent, at) => write!(f, "{parent}[{at}]"),
        }
    }
}

/// The same, kept.
#[derive(Debug)]
enum Step {
    Key(String),
    Index(usize),
}

impl Step {
    /// What it leads to; more than one where a key stands twice.
    fn children<'a>(&'a self, node: &'a mut Node) -> Box<dyn Iterator<Item = &'a mut Node> + 'a> {
        match (self, &mut node.value) {
            (Self::Key(key), Value::Map(entries)) => {
                Box::new(entries.iter_mut().filter(move |(k, _)| k == key).map(|(_, n)| n))
            }
            (Self::Index(at), Value::List(list)) => Box::new(list.get_mut(*at).into_iter()),
            (Self::Key(_) | Self::Index(_), _) => Box::new(std::iter::empty()),
        }
    }
}

/// A value that is not what its field needs.
#[derive(Debug, Default)]
struct Wrong {
    message: String,
    place: Vec<Step>,
    path: String,
    line: u64,
    placed: bool,
}

impl Wrong {
    fn text(&self) -> String {
        let colon = if self.path.is_empty() { "" } else { ": " };
        format!("{}{colon}{}", self.path, self.message)
    }

    /// Says where, unless a reader further in has.
    fn at(mut self, at: &At<'_>) -> Self {
        if !self.placed {
            self.place = at.path.steps();
            self.path = at.path.to_string();
            self.line = at.node.line;
            self.placed = true;
        }
        self
    }
}

impl fmt::Display for Wrong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text())
    }
}

impl std::error::Error for Wrong {}

impl de::Error for Wrong {
    fn custom<T: fmt::Display>(message: T) -> Self {
        Self { message: message.to_string(), ..Self::default() }
    }

    fn invalid_type(found: Unexpected<'_>, expected: &dyn Expected) -> Self {
        let expected = expected.to_string();
        Self::custom(format_args!("expected {}, found {}", wanted(&expected), shown(found)))
    }

    fn invalid_value(found: Unexpected<'_>, expected: &dyn Expected) -> Self {
        let expected = match expected.to_string().as_str() {
            "i32" => "an integer of 32 bits".into(),
            "i64" => "an integer of 64 bits".into(),
            other => wanted(other),
        };
        Self::custom(format_args!("expected {expected}, found {}", shown(found)))
    }
}

/// What a field needs, in the words of its user.
fn wanted(expected: &str) -> String {
    match expected {
        "i32" | "i64" | "u32" | "u64" => "an integer".into(),
        "f32" | "f64" => "a number".into(),
        "a sequence" => "a list".into(),
        "a map" => "an object".into(),
        "Quantity" => "a quantity (a string or a number)".into(),
        "IntOrString" => "an integer or a string".into(),
        // The API's types are objects, and named by what they are.
        name if name.starts_with(|c: char| c.is_ascii_uppercase()) => format!("an object ({name})"),
        other => other.into(),
    }
}

fn shown(found: Unexpected<'_>) -> String {
    match found {
        Unexpected::Bool(value) => format!("the boolean {value}"),
        Unexpected::Unsigned(value) => format!("the number {value}"),
        Unexpected::Signed(value) => format!("the number {value}"),
        Unexpected::Float(value) => format!("the number {value}"),
        Unexpected::Str(text) if text.len() > SHOWN_TEXT => {
            format!("a string of {} bytes", text.len())
        }
        Unexpected::Str(text) => format!("a string {text:?}"),
        Unexpected::Unit | Unexpected::Option => "null".into(),
        Unexpected::Seq => "a list".into(),
        Unexpected::Map | Unexpected::StructVariant => "an object".into(),
        Unexpected::Char(_)
        | Unexpected::Bytes(_)
        | Unexpected::NewtypeStruct
        | Unexpected::Enum
        | Unexpected::UnitVariant
        | Unexpected::NewtypeVariant
        | Unexpected::TupleVariant
        | Unexpected::Other(_) => found.to_string(),
    }
}

/// The reader of one value.
#[derive(Clone, Copy)]
struct At<'a> {
    node: &'a Node,
    path: Path<'a>,
    unknown: &'a RefCell<Vec<Problem>>,
}

impl<'a> At<'a> {
    /// Notes each key that is none of the object's fields.
    fn note_unknown(&self, entries: &[(String, Node)], fields: &[&str]) {
        for (key, child) in entries.iter().filter(|(key, _)| !fields.contains(&key.as_str())) {
            let mut unknown = self.unknown.borrow_mut();
            if unknown.len() < MAX_PROBLEMS {
                let mut text = format!("unknown field \"{}\"", Path::Key(&self.path, key));
                if let Some(meant) = closest(key, fields) {
                    text = format!("{text}, did you mean {meant:?}?");
                }
                unknown.push(Problem { line: child.line, text });
            }
        }
    }

    fn visit<'de, V: de::Visitor<'de>>(
        self,
        visitor: V,
        fields: Option<&[&str]>,
    ) -> Result<V::Value, Wrong> {
        let result = match &self.node.value {
            Value::Null | Value::Wrong => visitor.visit_unit(),
            Value::Bool(value) => visitor.visit_bool(*value),
            Value::Unsigned(value) => visitor.visit_u64(*value),
            Value::Signed(value) => visitor.visit_i64(*value),
            Value::Float(value) => visitor.visit_f64(*value),
            Value::Text(text) => visitor.visit_str(text),
            Value::List(list) => {
                visitor.visit_seq(Children { at: self, rest: list.iter().enumerate() })
            }
            Value::Map(entries) => {
                if let Some(fields) = fields {
                    self.note_unknown(entries, fields);
                }
                let rest = entries.iter();
                visitor.visit_map(Entries { at: self, fields, rest, value: None })
            }
        };
        result.map_err(|wrong: Wrong| wrong.at(&self))
    }
}

/// The field that a wrong name most likely stands for.
fn closest<'f>(key: &str, fields: &[&'f str]) -> Option<&'f str> {
    let key = key.to_lowercase();
    let likeness = |field: &&str| strsim::jaro_winkler(&key, &field.to_lowercase());
    let best = fields.iter().copied().max_by(|a, b| likeness(a).total_cmp(&likeness(b)))?;
    (likeness(&best) >= ALIKE).then_some(best)
}

impl<'de> Deserializer<'de> for At<'_> {
    type Error = Wrong;

    fn deserialize_any<V: de::Visitor<'de>>(self, visitor: V) -> Result<V::Value, Wrong> {
        self.visit(visitor, None)
    }

    fn deserialize_option<V: de::Visitor<'de>>(self, visitor: V) -> Result<V::Value, Wrong> {
        if self.node.value == Value::Null { visitor.visit_none() } else { visitor.visit_some(self) }
    }

    fn deserialize_newtype_struct<V: de::Visitor<'de>>(
        self,
        _name: &'static str,
        visitor: V,
    ) -> Result<V::Value, Wrong> {
        // Checks of the type's own, such as a timestamp's form, fail here and not further in.
        visitor.visit_newtype_struct(self).map_err(|wrong| wrong.at(&self))
    }

    fn deserialize_struct<V: de::Visitor<'de>>(
        self,
        _name: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Wrong> {
        self.visit(visitor, Some(fields))
    }

    fn deserialize_ignored_any<V: de::Visitor<'de>>(self, visitor: V) -> Result<V::Value, Wrong> {
        visitor.visit_unit()
    }

    serde::forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf unit
        unit_struct seq tuple tuple_struct map enum identifier
    }
}

struct Children<'a, I> {
    at: At<'a>,
    rest: I,
}

impl<'de, 'a, I: Iterator<Item = (usize, &'a Node)>> SeqAccess<'de> for Children<'a, I> {
    type Error = Wrong;

    fn next_element_seed<T: DeserializeSeed<'de>>(
        &mut self,
        seed: T,
    ) -> Result<Option<T::Value>, Wrong> {
        let Some((i, node)) = self.rest.find(|(_, node)| node.value != Value::Wrong) else {
            return Ok(None);
        };
        let path = Path::Index(&self.at.path, i);
        seed.deserialize(At { node, path, unknown: self.at.unknown }).map(Some)
    }
}

struct Entries<'a, 'f, I> {
    at: At<'a>,
    fields: Option<&'f [&'f str]>,
    rest: I,
    value: Option<(&'a str, &'a Node)>,
}

impl<'de, 'a, I: Iterator<Item = &'a (String, Node)>> MapAccess<'de> for Entries<'a, '_, I> {
    type Error = Wrong;

    fn next_key_seed<K: DeserializeSeed<'de>>(
        &mut self,
        seed: K,
    ) -> Result<Option<K::Value>, Wrong> {
        let fields = self.fields;
        let known = |key: &str| fields.is_none_or(|fields| fields.contains(&key));
        let next = self.rest.find(|(key, node)| node.value != Value::Wrong && known(key));
        let Some((key, node)) = next else { return Ok(None) };
        self.value = Some((key, node));
        seed.deserialize(StrDeserializer::new(key)).map(Some)
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, Wrong> {
        let taken = self.value.take();
        let (key, node) = taken.ok_or_else(|| de::Error::custom("value before its key"))?;
        let path = Path::Key(&self.at.path, key);
        seed.deserialize(At { node, path, unknown: self.at.unknown })
    }
}
