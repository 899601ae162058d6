//! What kind of Wasm a file is, read from its top level before anything is compiled.
//!
//! The input is hostile: the look is linear in its size, keeps no more than a few names of it and
//! validates its structure (not the bodies of functions, which the compiler does).
//! Anything that could never start is refused here, by the name of what is missing, so that a
//! user does not wait for a compiler to read it in a linker's words.

use std::fmt;

use thiserror::Error;
use wasmparser::component_types::{ComponentAnyTypeId, ComponentEntityType};
use wasmparser::types::TypesRef;
use wasmparser::{
    BinaryReaderError, ComponentExport, ComponentExternalKind, ComponentImport, ComponentTypeRef,
    Encoding, Export, ExternalKind, Import, Parser, Payload, TypeBounds, TypeRef, ValidPayload,
    Validator, WasmFeatures,
};

use crate::GuestKind;

mod served;
#[cfg(test)]
mod tests;
mod world;

use served::{Version, hint};
pub use world::{World, world};

/// Deepest nesting of components; those that tools make nest four deep.
const DEPTH_MAX: usize = 64;
/// Longest part of a foreign name that an error shows, in characters.
const NAME_SHOWN: usize = 128;
/// Most imports of a component that are not ours by name and therefore looked at by type.
const FOREIGN_IMPORTS_MAX: usize = 256;
const COMMAND: &str = "wasi:cli/run";
const HTTP: &str = "wasi:http/incoming-handler";

/// Why a file cannot be run as a guest.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum InspectError {
    /// It is something else than Wasm.
    #[error("not a Wasm binary: {0}")]
    NotWasm(Found),
    /// It is cut off, or its structure is wrong.
    #[error("malformed Wasm at byte {offset}: {message}")]
    Malformed {
        /// Where, in bytes from the start.
        offset: usize,
        /// What the parser says.
        message: String,
    },
    /// It imports what nobody serves.
    #[error("import {name} is not served: {hint}")]
    Import {
        /// The import as the file has it: `"module" "name"`, or a component's one name.
        name: String,
        /// What would be served instead, or why not.
        hint: &'static str,
    },
    /// A core module without `_start`.
    #[error(
        "no entry point: the module exports no function _start (a library, not a command: build \
         a program, or a component for wasi:http)"
    )]
    NoStart,
    /// A component without an entry that is served.
    #[error("no entry point: the component exports neither {COMMAND}@0.2 nor {HTTP}@0.2")]
    NoEntry,
    /// A component for WASI 0.3.
    #[error("WASI 0.3 is not served yet: the component exports {0}, expected its 0.2 version")]
    Wasi03(String),
    /// More of something than a real guest has.
    #[error("too many {what}: more than {max}")]
    TooMany {
        /// Of what.
        what: &'static str,
        /// How many are taken.
        max: usize,
    },
}

/// What a file that is not Wasm looks like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    /// No byte at all.
    Empty,
    /// The first bytes of Wasm and no more.
    CutOff,
    /// A native program or library.
    Elf,
    /// An artefact of wasmtime; native code, so never taken from outside.
    Precompiled,
    /// A gzip archive.
    Gzip,
    /// A zstd archive.
    Zstd,
    /// A zip archive.
    Zip,
    /// A tar archive.
    Tar,
    /// A file that starts with `#!`.
    Script,
    /// WebAssembly's text format.
    Text,
    /// Anything else, by up to eight first bytes and their count.
    Bytes([u8; 8], usize),
}

impl fmt::Display for Found {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Empty => "the file is empty",
            Self::CutOff => "the file ends within its first eight bytes",
            Self::Elf => "an ELF program of the host (build it for wasm32-wasip1 or -wasip2)",
            Self::Precompiled => {
                "a precompiled .cwasm, which is native code and never taken from outside (give \
                 the .wasm it was made of)"
            }
            Self::Gzip => "a gzip archive (unpack it first)",
            Self::Zstd => "a zstd archive (unpack it first)",
            Self::Zip => "a zip archive (unpack it first)",
            Self::Tar => "a tar archive (unpack it first)",
            Self::Script => "a script",
            Self::Text => "WebAssembly text (turn it into a binary with wat2wasm)",
            Self::Bytes(bytes, len) => {
                f.write_str("it starts with the bytes")?;
                return bytes.iter().take(*len).try_for_each(|b| write!(f, " {b:02x}"));
            }
        })
    }
}

impl From<BinaryReaderError> for InspectError {
    fn from(e: BinaryReaderError) -> Self {
        // The parser repeats names of the file as they are.
        let message = shown(e.message()).replace(char::is_control, "\u{fffd}");
        Self::Malformed { offset: e.offset(), message }
    }
}

/// Takes the bytes of a whole file and says how its guest is linked and entered.
///
/// A core module is a [`GuestKind::P1Command`]. A component that exports both entries is
/// [`GuestKind::Http`]: such a component is a server that also has a command for maintenance,
/// while a command never happens to export a handler.
///
/// # Errors
/// [`InspectError`] for what is not Wasm, is malformed, imports what nobody serves or has no
/// entry point. Served are all of `wasi_snapshot_preview1`, and of 0.2 the interfaces that
/// wasmtime-wasi and wasmtime-wasi-http 48 link by default. A component may also import
/// interfaces that hold nothing but types (and no resources): they ask nothing of a host.
pub fn inspect(bytes: &[u8]) -> Result<GuestKind, InspectError> {
    if !bytes.starts_with(b"\0asm") {
        return Err(InspectError::NotWasm(found(bytes)));
    }
    if bytes.len() < 8 {
        return Err(InspectError::NotWasm(Found::CutOff));
    }
    // Every feature: what this engine leaves out, its compiler names better than a parser here.
    let mut validator = Validator::new_with_features(WasmFeatures::all());
    let mut top = TopLevel::default();
    let mut depth = 0_usize;
    for payload in Parser::new(0).parse_all(bytes) {
        let payload = payload?;
        if depth == 0 {
            top.read(&payload)?;
        }
        match validator.payload(&payload)? {
            ValidPayload::Parser(_) if depth == DEPTH_MAX => {
                return Err(InspectError::TooMany { what: "nested components", max: DEPTH_MAX });
            }
            ValidPayload::Parser(_) => depth += 1,
            ValidPayload::End(types) if depth == 0 => return top.kind(types.as_ref()),
            ValidPayload::End(_) => depth -= 1,
            ValidPayload::Ok | ValidPayload::Func(..) => {}
        }
    }
    // The parser ends with an error or with the end of the top level.
    Err(InspectError::Malformed { offset: bytes.len(), message: "no end".into() })
}

/// What the top level has shown so far.
#[derive(Default)]
struct TopLevel<'a> {
    component: bool,
    start: bool,
    command: bool,
    http: bool,
    wasi03: Option<&'a str>,
    /// Imported instances that are not ours by name.
    foreign: Vec<&'a str>,
}

impl<'a> TopLevel<'a> {
    fn read(&mut self, payload: &Payload<'a>) -> Result<(), InspectError> {
        if let Payload::Version { encoding, .. } = payload {
            self.component = *encoding == Encoding::Component;
        } else if let Payload::ImportSection(section) = payload {
            for import in section.clone().into_imports() {
                module_import(&import?)?;
            }
        } else if let Payload::ExportSection(section) = payload {
            for export in section.clone() {
                self.start |= is_start(&export?);
            }
        } else if let Payload::ComponentImportSection(section) = payload {
            for import in section.clone() {
                self.component_import(&import?)?;
            }
        } else if let Payload::ComponentExportSection(section) = payload {
            for export in section.clone() {
                self.component_export(&export?);
            }
        }
        Ok(())
    }

    fn component_import(&mut self, import: &ComponentImport<'a>) -> Result<(), InspectError> {
        let name = import.name.name;
        match import.ty {
            ComponentTypeRef::Instance(_) if served::interface(name) => Ok(()),
            ComponentTypeRef::Instance(_) if self.foreign.len() == FOREIGN_IMPORTS_MAX => {
                Err(InspectError::TooMany { what: "imports", max: FOREIGN_IMPORTS_MAX })
            }
            ComponentTypeRef::Instance(_) => {
                self.foreign.push(name);
                Ok(())
            }
            // Another name for a type that the component has already.
            ComponentTypeRef::Type(TypeBounds::Eq(_)) => Ok(()),
            ComponentTypeRef::Type(TypeBounds::SubResource)
            | ComponentTypeRef::Module(_)
            | ComponentTypeRef::Func(_)
            | ComponentTypeRef::Value(_)
            | ComponentTypeRef::Component(_) => Err(foreign_import(name)),
        }
    }

    fn component_export(&mut self, export: &ComponentExport<'a>) {
        let name = export.name.name;
        if export.kind != ComponentExternalKind::Instance {
            return;
        }
        match served::split(name) {
            (COMMAND, Version::V02) => self.command = true,
            (HTTP, Version::V02) => self.http = true,
            (COMMAND | "wasi:http/handler", Version::V03) => self.wasi03 = Some(name),
            (_, Version::V02 | Version::V03 | Version::Other) => {}
        }
    }

    fn kind(self, types: TypesRef<'_>) -> Result<GuestKind, InspectError> {
        // Said before a 0.3 import is, since it is the shorter answer.
        if let Some(name) = self.wasi03.filter(|_| !self.command && !self.http) {
            return Err(InspectError::Wasi03(shown(name)));
        }
        if let Some(name) = self.foreign.iter().find(|name| !only_types(types, name)) {
            return Err(foreign_import(name));
        }
        match self {
            Self { component: false, start: true, .. } => Ok(GuestKind::P1Command),
            Self { component: false, start: false, .. } => Err(InspectError::NoStart),
            Self { component: true, http: true, .. } => Ok(GuestKind::Http),
            Self { component: true, command: true, .. } => Ok(GuestKind::P2Command),
            Self { component: true, command: false, http: false, .. } => Err(InspectError::NoEntry),
        }
    }
}

/// Whether an imported instance holds nothing but plain types, so that the linker asks nobody for
/// it.
fn only_types(types: TypesRef<'_>, import: &str) -> bool {
    let Some(item) = types.component_item_for_import(import) else { return false };
    let ComponentEntityType::Instance(id) = item.ty else { return false };
    types[id].exports.values().all(|export| match export.ty {
        ComponentEntityType::Type { created, .. } => {
            !matches!(created, ComponentAnyTypeId::Resource(_))
        }
        ComponentEntityType::Module(_)
        | ComponentEntityType::Func(_)
        | ComponentEntityType::Value(_)
        | ComponentEntityType::Instance(_)
        | ComponentEntityType::Component(_) => false,
    })
}

fn module_import(import: &Import<'_>) -> Result<(), InspectError> {
    let function = matches!(import.ty, TypeRef::Func(_));
    if import.module == served::P1 && function && served::p1_function(import.name) {
        return Ok(());
    }
    let name = format!("{:?} {:?}", shown(import.module), shown(import.name));
    Err(InspectError::Import { name, hint: hint::module(import.module) })
}

fn foreign_import(name: &str) -> InspectError {
    InspectError::Import { name: format!("{:?}", shown(name)), hint: hint::component(name) }
}

fn is_start(export: &Export<'_>) -> bool {
    export.name == "_start" && matches!(export.kind, ExternalKind::Func | ExternalKind::FuncExact)
}

/// A foreign text, cut to what an error may show.
fn shown(text: &str) -> String {
    match text.char_indices().nth(NAME_SHOWN) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

fn found(bytes: &[u8]) -> Found {
    let tar = bytes.get(257..262) == Some(b"ustar");
    match bytes {
        [] => Found::Empty,
        [0x7f, b'E', b'L', b'F', ..] if wasmtime::Engine::detect_precompiled(bytes).is_some() => {
            Found::Precompiled
        }
        [0x7f, b'E', b'L', b'F', ..] => Found::Elf,
        [0x1f, 0x8b, ..] => Found::Gzip,
        [0x28, 0xb5, 0x2f, 0xfd, ..] => Found::Zstd,
        [b'P', b'K', 3, 4, ..] => Found::Zip,
        [b'#', b'!', ..] => Found::Script,
        _ if tar => Found::Tar,
        _ if b"\0asm".starts_with(bytes) => Found::CutOff,
        _ if is_text(bytes) => Found::Text,
        _ => {
            let mut first = [0; 8];
            let len = bytes.len().min(first.len());
            first[..len].copy_from_slice(&bytes[..len]);
            Found::Bytes(first, len)
        }
    }
}

/// Whether the first thing after white space and comments of a line is `(module` or `(component`.
fn is_text(bytes: &[u8]) -> bool {
    let mut rest = bytes.trim_ascii_start();
    while rest.starts_with(b";;") {
        let end = rest.iter().position(|&b| b == b'\n').unwrap_or(rest.len());
        rest = rest[end..].trim_ascii_start();
    }
    let Some(inner) = rest.strip_prefix(b"(") else { return false };
    let inner = inner.trim_ascii_start();
    [&b"module"[..], b"component", b";"].iter().any(|word| inner.starts_with(word))
}
