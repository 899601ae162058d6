//! Which room may import which: ARCHITECTURE.md's table against every path in `src`.
//!
//! A room is a crate (`pod`) or a module of the agent (`cli`; the agent's `main.rs` is `agent`). A
//! row may also name a room inside a room (`runtime/wasm`), which is then one of its own. Paths are
//! read from tokens, so those in macros count and those in comments and texts do not.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use proc_macro2::{Delimiter, TokenStream, TokenTree};

/// The crate whose modules are rooms, and the room that its `main.rs` is.
const AGENT: &str = "agent";

/// What the room tables start and end with.
const MARKERS: (&str, &str) = ("<!-- imports -->", "<!-- /imports -->");

/// A module's path from its crate's name on: `["agent", "runtime", "wasm"]`.
type Module = Vec<String>;

/// From each room to those it may import.
type Table = BTreeMap<String, BTreeSet<String>>;

#[test]
fn each_room_imports_only_what_the_architecture_allows() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let text = fs::read_to_string(root.join("ARCHITECTURE.md")).expect("ARCHITECTURE.md");
    let mut files = Vec::new();
    sources(&root.join("src"), "", &mut files);
    assert!(files.len() > 20, "found only {} source files", files.len());
    let faults = check(&text, &files);
    assert!(faults.is_empty(), "\n{}\n", faults.join("\n"));
}

/// Collects each Rust file below `dir` with its path below `src`.
fn sources(dir: &Path, below: &str, into: &mut Vec<(String, String)>) {
    for entry in fs::read_dir(dir).expect("a folder of src").map(|entry| entry.expect("an entry")) {
        let path = format!("{below}{}", entry.file_name().display());
        if entry.file_type().expect("its kind").is_dir() {
            sources(&entry.path(), &format!("{path}/"), into);
        } else if path.ends_with(".rs") && !path.ends_with("/build.rs") {
            into.push((path, fs::read_to_string(entry.path()).expect("a source file")));
        }
    }
}

/// Every fault of `files` (path below `src`, text) against the table in `architecture`.
fn check(architecture: &str, files: &[(String, String)]) -> Vec<String> {
    let (table, mut faults) = read_table(architecture);
    let modules: BTreeSet<Module> = files.iter().map(|(path, _)| module_of(path)).collect();
    let rooms = Rooms { table: &table, modules: &modules };

    let mut seen = BTreeSet::new();
    for (path, text) in files {
        let module = module_of(path);
        let room = rooms.of(&module);
        seen.insert(room.clone());
        let Some(allowed) = table.get(&room) else {
            faults.push(format!("{path}: the table has no row for room {room}"));
            continue;
        };
        let tokens: TokenStream = match text.parse() {
            Ok(tokens) => tokens,
            Err(error) => {
                faults.push(format!("{path}: {error}"));
                continue;
            }
        };
        let mut paths = BTreeSet::new();
        Scan { rooms: &rooms, found: &mut paths }.tokens(tokens, &module);
        let imports: BTreeSet<String> = paths.iter().map(|to| rooms.of(to)).collect();
        for to in imports.difference(allowed).filter(|to| **to != room) {
            faults.push(format!("{path}: {room} imports {to}, which the table does not allow"));
        }
    }
    for (room, allowed) in &table {
        if !seen.contains(room) {
            faults.push(format!("the table has a row for {room}, and src no such room"));
        }
        for to in allowed.iter().filter(|to| !table.contains_key(*to)) {
            faults.push(format!("row {room} allows {to}, which has no row"));
        }
    }
    faults
}

/// Reads the rows `| room | may, import |` between the markers.
fn read_table(text: &str) -> (Table, Vec<String>) {
    let between = text.split_once(MARKERS.0).and_then(|(_, rest)| rest.split_once(MARKERS.1));
    let Some((rows, _)) = between else {
        return (Table::new(), vec![format!("no table between {} and {}", MARKERS.0, MARKERS.1)]);
    };
    let mut table = Table::new();
    let mut faults = Vec::new();
    for row in rows.lines().map(str::trim).filter(|row| !row.is_empty()) {
        let cells: Vec<String> = row
            .trim_matches('|')
            .split('|')
            .map(|cell| cell.replace('`', "").trim().into())
            .collect();
        let [room, allowed] = &cells[..] else {
            faults.push(format!("expected | room | may import |, found {row}"));
            continue;
        };
        if room == "room" || room.starts_with("--") {
            continue;
        }
        let allowed = allowed.split(',').map(str::trim).filter(|to| !to.is_empty() && *to != "—");
        if table.insert(room.clone(), allowed.map(str::to_owned).collect()).is_some() {
            faults.push(format!("two rows for {room}"));
        }
    }
    (table, faults)
}

/// `agent/runtime/wasm/mod.rs` → `agent runtime wasm`; `pod/lib.rs` → `pod`.
fn module_of(path: &str) -> Module {
    let mut parts: Module = path.trim_end_matches(".rs").split('/').map(str::to_owned).collect();
    let is_root = parts.len() == 2 && (parts[1] == "main" || parts[1] == "lib");
    if is_root || parts.last().is_some_and(|last| last == "mod") {
        parts.pop();
    }
    parts
}

struct Rooms<'a> {
    table: &'a Table,
    modules: &'a BTreeSet<Module>,
}

impl Rooms<'_> {
    /// The room that a path belongs to: the longest that has a row, else the crate, or the module
    /// of the agent.
    fn of(&self, path: &[String]) -> String {
        let is_agents = path[0] == AGENT && path.len() > 1 && self.is_module(&path[..2]);
        let names = if is_agents { &path[1..] } else { path };
        let rows = (2..=names.len()).rev().map(|n| names[..n].join("/"));
        rows.into_iter()
            .find(|room| self.table.contains_key(room))
            .unwrap_or_else(|| names[0].clone())
    }

    fn is_module(&self, path: &[String]) -> bool {
        self.modules.iter().any(|module| module.starts_with(path))
    }
}

/// Collects the paths that a file's tokens name.
struct Scan<'a> {
    rooms: &'a Rooms<'a>,
    found: &'a mut BTreeSet<Module>,
}

impl Scan<'_> {
    /// All paths in code of the module `here`, those in nested groups and inline modules too.
    fn tokens(&mut self, tokens: TokenStream, here: &[String]) {
        let tokens: Vec<TokenTree> = tokens.into_iter().collect();
        let mut at = 0;
        while at < tokens.len() {
            match &tokens[at] {
                TokenTree::Ident(name) => {
                    let inner = inline_module(&tokens[at..]);
                    if let Some((inner, body)) = inner {
                        self.tokens(body, &[here, &[inner]].concat());
                        at += 2;
                    } else if let Some(start) = self.start(&name.to_string(), &tokens, at, here) {
                        at = self.path(&tokens, at + 1, start);
                        continue;
                    }
                }
                TokenTree::Group(group) => self.tokens(group.stream(), here),
                TokenTree::Punct(_) | TokenTree::Literal(_) => {}
            }
            at += 1;
        }
    }

    /// Where a path leads that starts with `name` at `at`: none if that is no path, or not of ours.
    fn start(
        &self,
        name: &str,
        tokens: &[TokenTree],
        at: usize,
        here: &[String],
    ) -> Option<Module> {
        let inside = at >= 2 && is_path_separator(&tokens[at - 2..]);
        if let Some(room) = name.strip_prefix("copepod_") {
            return self.rooms.is_module(&[room.into()]).then(|| vec![room.into()]);
        }
        if inside || !is_path_separator(&tokens[at + 1..]) {
            return None; // the rest of a path, or `pub(crate)`, or `self.x`
        }
        match name {
            "crate" => Some(vec![here[0].clone()]),
            "self" => Some(here.to_vec()),
            "super" => Some(parent(here)),
            _ => {
                // A child by its bare name: `wasm::Wasm` in `runtime`.
                let child = [here, &[name.to_owned()]].concat();
                self.rooms.is_module(&child).then_some(child)
            }
        }
    }

    /// Follows a path from `to` on; `at` is behind its first name. Gives the place behind it.
    fn path(&mut self, tokens: &[TokenTree], mut at: usize, mut to: Module) -> usize {
        while is_path_separator(&tokens[at.min(tokens.len())..]) {
            match tokens.get(at + 2) {
                Some(TokenTree::Ident(name)) if name == "super" => to = parent(&to),
                Some(TokenTree::Ident(name)) => to.push(name.to_string()),
                Some(TokenTree::Group(group)) if group.delimiter() == Delimiter::Brace => {
                    self.branches(group.stream(), &to);
                    return at + 3;
                }
                _ => break, // `::*` or `::<T>`
            }
            at += 3;
        }
        self.found.insert(to);
        at
    }

    /// The parts of `{a, b::c, self}` behind the path `from`.
    fn branches(&mut self, tokens: TokenStream, from: &[String]) {
        let tokens: Vec<TokenTree> = tokens.into_iter().collect();
        let comma = |token: &TokenTree| matches!(token, TokenTree::Punct(p) if p.as_char() == ',');
        for branch in tokens.split(comma) {
            if let Some(TokenTree::Ident(name)) = branch.first() {
                let mut to = from.to_vec();
                if name != "self" {
                    to.push(name.to_string());
                }
                self.path(branch, 1, to);
            }
        }
    }
}

/// `mod name { body }` at the start of `tokens`.
fn inline_module(tokens: &[TokenTree]) -> Option<(String, TokenStream)> {
    match tokens {
        [TokenTree::Ident(word), TokenTree::Ident(name), TokenTree::Group(body), ..]
            if word == "mod" =>
        {
            Some((name.to_string(), body.stream()))
        }
        _ => None,
    }
}

fn is_path_separator(tokens: &[TokenTree]) -> bool {
    let colon = |token: &TokenTree| matches!(token, TokenTree::Punct(p) if p.as_char() == ':');
    matches!(tokens, [first, second, ..] if colon(first) && colon(second))
}

fn parent(module: &[String]) -> Module {
    module[..module.len().saturating_sub(1).max(1)].to_vec()
}

#[cfg(test)]
mod checker {
    use super::check;

    const TABLE: &str = "
        <!-- imports -->
        | room | may import |
        |---|---|
        | pod | |
        | `agent` | cli |
        | cli | pod, worker, runtime/wasm |
        | worker | pod, runtime |
        | runtime | pod |
        | runtime/wasm | runtime |
        <!-- /imports -->";

    fn faults(table: &str, changed: &[(&str, &str)]) -> Vec<String> {
        let good = [
            ("pod/lib.rs", "pub mod step; pub fn f() { crate::step::g() }"),
            ("agent/main.rs", "mod cli; fn main() { cli::main() }"),
            ("agent/cli/mod.rs", "use crate::{runtime::wasm::Wasm, worker};\nuse copepod_pod::X;"),
            (
                "agent/worker/mod.rs",
                "/// [`crate::cli`]\npub(crate) fn f() { let _ = \"crate::cli\"; } // crate::cli",
            ),
            ("agent/runtime/mod.rs", "pub mod wasm; use crate::Top;"),
            ("agent/runtime/wasm/mod.rs", "use super::Runtime; mod t { use super::super::Other; }"),
        ];
        let with = |path: &str, text| changed.iter().find(|c| c.0 == path).map_or(text, |c| c.1);
        let old = good.iter().map(|(path, text)| (path.to_string(), with(path, text).to_string()));
        let new = changed.iter().filter(|c| good.iter().all(|g| g.0 != c.0));
        let new = new.map(|(path, text)| (path.to_string(), text.to_string()));
        check(table, &old.chain(new).collect::<Vec<_>>())
    }

    #[test]
    fn good_rooms_pass_but_for_an_item_of_the_agents_root() {
        let item = "agent/runtime/mod.rs: runtime imports agent, which the table does not allow";
        assert_eq!(faults(TABLE, &[]), [item]);
    }

    #[test]
    fn each_way_to_write_a_forbidden_import_is_found() {
        let bad = [
            ("agent/worker/mod.rs", "use crate::cli;", "worker imports cli"),
            (
                "agent/worker/mod.rs",
                "use crate::{runtime::{self, wasm::Wasm}};",
                "worker imports runtime/wasm",
            ),
            (
                "agent/worker/mod.rs",
                "fn f() { println!(\"{}\", crate::cli::g()) }",
                "worker imports cli",
            ),
            ("agent/worker/x.rs", "use super::super::cli::Y;", "worker imports cli"),
            ("agent/worker/mod.rs", "mod t { use super::super::cli::Y; }", "worker imports cli"),
            (
                "agent/runtime/mod.rs",
                "fn f() -> wasm::Wasm { wasm::new() }",
                "runtime imports runtime/wasm",
            ),
            ("agent/runtime/mod.rs", "use self::wasm::Wasm;", "runtime imports runtime/wasm"),
            ("agent/runtime/wasm/mod.rs", "use copepod_pod as p;", "runtime/wasm imports pod"),
            ("agent/runtime/wasm/mod.rs", "type T = ::copepod_pod::T;", "runtime/wasm imports pod"),
            ("agent/main.rs", "mod cli; fn main() { worker::main() }", "agent imports worker"),
        ];
        for (path, text, fault) in bad {
            let found = faults(TABLE, &[(path, text)]);
            assert!(
                found.iter().any(|f| f.starts_with(path) && f.contains(fault)),
                "{path}: {text}\n{found:?}"
            );
        }
    }

    #[test]
    fn rooms_and_rows_must_be_the_same() {
        let has = |found: Vec<String>, part: &str| {
            assert!(found.iter().any(|fault| fault.contains(part)), "{part}: {found:?}");
        };
        has(faults(TABLE, &[("agent/volume/mod.rs", "")]), "no row for room volume");
        has(faults(TABLE, &[("cri/lib.rs", "")]), "no row for room cri");
        has(faults(&TABLE.replace("| pod | |", "| pod | |\n| gone | |"), &[]), "a row for gone");
        has(
            faults(&TABLE.replace("pod, runtime |", "podd |"), &[]),
            "allows podd, which has no row",
        );
        has(faults(&TABLE.replace("| pod | |", "| pod | |\n| pod | |"), &[]), "two rows for pod");
        has(faults("nothing", &[]), "no table");
    }
}
