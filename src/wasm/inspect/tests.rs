//! Modules and components written as text, and bytes that are neither.

use super::*;

fn look(wat: &str) -> Result<GuestKind, InspectError> {
    inspect(&wat::parse_str(wat).unwrap())
}

fn text(wat: &str) -> String {
    look(wat).unwrap_err().to_string()
}

/// A component that exports an instance under each name.
fn exporting(names: &[&str]) -> String {
    let exports: String = names.iter().map(|n| format!("(export \"{n}\" (instance $i))")).collect();
    format!("(component (instance $i) {exports})")
}

#[test]
fn a_command_of_preview_1() {
    let wat = r#"(module
        (import "wasi_snapshot_preview1" "fd_write" (func (param i32 i32 i32 i32) (result i32)))
        (memory (export "memory") 1)
        (func (export "_start")))"#;
    assert_eq!(look(wat), Ok(GuestKind::P1Command));
}

#[test]
fn components_by_their_exports() {
    let run = "wasi:cli/run@0.2.0";
    let http = "wasi:http/incoming-handler@0.2.12";
    assert_eq!(look(&exporting(&[run])), Ok(GuestKind::P2Command));
    assert_eq!(look(&exporting(&[http])), Ok(GuestKind::Http));
    assert_eq!(look(&exporting(&[run, http])), Ok(GuestKind::Http));
    assert_eq!(look(&exporting(&["wasi:cli/run@0.3.0", run])), Ok(GuestKind::P2Command));
    assert_eq!(look(&exporting(&[])), Err(InspectError::NoEntry));
    assert_eq!(look(&exporting(&["wasi:cli/run@0.2.0-rc-2023-11-10"])), Err(InspectError::NoEntry));
    assert_eq!(
        text(&exporting(&["wasi:cli/run@0.3.2"])),
        "WASI 0.3 is not served yet: the component exports wasi:cli/run@0.3.2, expected its 0.2 \
         version"
    );
    assert!(text(&exporting(&["wasi:http/handler@0.3.0"])).contains("wasi:http/handler@0.3.0"));
}

#[test]
fn an_entry_counts_only_at_the_top_level_and_only_as_its_kind() {
    let nested = format!("(component {})", exporting(&["wasi:cli/run@0.2.0"]));
    assert_eq!(look(&nested), Err(InspectError::NoEntry));
    let module = r#"(component (core module (func (export "_start"))))"#;
    assert_eq!(look(module), Err(InspectError::NoEntry));
    assert_eq!(look(r#"(module (memory (export "_start") 1))"#), Err(InspectError::NoStart));
    assert_eq!(look(r#"(module (func (export "_initialize")))"#), Err(InspectError::NoStart));
}

#[test]
fn a_nested_import_is_its_parents_affair() {
    let wat = r#"(component
        (core module (import "env" "f" (func)))
        (component (import "a:b/c" (instance (export "f" (func)))))
        (instance $i) (export "wasi:cli/run@0.2.0" (instance $i)))"#;
    assert_eq!(look(wat), Ok(GuestKind::P2Command));
}

#[test]
fn a_module_import_that_nobody_serves_is_named() {
    let import = |module: &str, name: &str, ty: &str| {
        text(&format!(r#"(module (import "{module}" "{name}" {ty}) (func (export "_start")))"#))
    };
    assert_eq!(
        import("env", "abort", "(func)"),
        "import \"env\" \"abort\" is not served: a core module may import only from \
         wasi_snapshot_preview1"
    );
    assert!(import("wasi_unstable", "fd_write", "(func)").contains("wasm32-wasip1"));
    assert_eq!(
        import(served::P1, "sock_open", "(func)"),
        "import \"wasi_snapshot_preview1\" \"sock_open\" is not served: WASI preview 1 has no \
         function of that name"
    );
    assert!(import(served::P1, "fd_write", "(memory 1)").contains("\"fd_write\" is not served"));
    assert!(import("wasi:io/poll@0.2.0", "poll", "(func)").contains("component new"));
}

#[test]
fn a_component_import_that_nobody_serves_is_named() {
    let import = |name: &str, ty: &str| {
        look(&format!(
            r#"(component (import "{name}" {ty}) (instance $i)
               (export "wasi:cli/run@0.2.0" (instance $i)))"#
        ))
    };
    let function = r#"(instance (export "f" (func)))"#;
    for served in ["wasi:io/streams@0.2.0", "wasi:sockets/udp-create-socket@0.2.99"] {
        assert_eq!(import(served, function), Ok(GuestKind::P2Command), "{served}");
    }
    for (name, said) in [
        ("wasi:keyvalue/store@0.2.0", "served are wasi:cli"),
        ("wasi:clocks/timezone@0.2.0", "served are wasi:cli"),
        ("wasi:io/streams@0.2.0-rc-2023-11-10", "expected a release of WASI 0.2"),
        ("wasi:io/streams", "expected a release of WASI 0.2"),
        ("wasi:cli/stdout@0.3.0", "WASI 0.3 is not served yet"),
        ("acme:db/query@1.0.0", "compose it"),
    ] {
        let error = import(name, function).unwrap_err().to_string();
        assert!(error.contains(&format!("import \"{name}\" is not served")), "{error}");
        assert!(error.contains(said), "{error}");
    }
    assert!(import("f", "(func)").unwrap_err().to_string().contains("import \"f\""));
}

#[test]
fn an_interface_of_types_only_asks_nothing_of_a_host() {
    let with = |item: &str| {
        look(&format!(
            r#"(component (import "acme:db/types" (instance {item})) (instance $i)
               (export "wasi:cli/run@0.2.0" (instance $i)))"#
        ))
    };
    let record = r#"(type $r (record (field "a" u32))) (export "r" (type (eq $r)))"#;
    assert_eq!(with(record), Ok(GuestKind::P2Command));
    assert!(with(r#"(export "r" (type (sub resource)))"#).is_err());
}

#[test]
fn what_is_not_wasm_is_called_by_its_name() {
    let mut tar = vec![b'x'; 512];
    tar[257..262].copy_from_slice(b"ustar");
    for (bytes, what) in [
        (&b""[..], Found::Empty),
        (b"\0as", Found::CutOff),
        (b"\0asm\x01\0", Found::CutOff),
        (b"\x7fELF\x02\x01\x01\0 and so on", Found::Elf),
        (b"\x1f\x8b\x08", Found::Gzip),
        (b"#!/bin/sh\n", Found::Script),
        (b"PK\x03\x04", Found::Zip),
        (&tar, Found::Tar),
        (b"\n ;; made by hand\n ( module)", Found::Text),
        (b"(component)", Found::Text),
        (b"hello", Found::Bytes(*b"hello\0\0\0", 5)),
    ] {
        assert_eq!(inspect(bytes), Err(InspectError::NotWasm(what)));
    }
    let found = Found::Bytes([1, 0xab, 0, 0, 0, 0, 0, 0], 2);
    assert_eq!(
        InspectError::NotWasm(found).to_string(),
        "not a Wasm binary: it starts with the bytes 01 ab"
    );
}

#[test]
fn every_prefix_and_every_changed_byte_ends_in_an_answer() {
    let wat = r#"(component
        (import "wasi:io/poll@0.2.0" (instance (export "f" (func))))
        (core module (memory 1) (func (export "_start") i32.const 7 drop) (data (i32.const 0) "x"))
        (component (instance $i) (export "x:y/z" (instance $i)))
        (instance $i) (export "wasi:cli/run@0.2.0" (instance $i)))"#;
    let whole = wat::parse_str(wat).unwrap();
    assert_eq!(inspect(&whole), Ok(GuestKind::P2Command));
    // Only a cut before the last section, the names of items, leaves a whole component.
    let accepted = (0..whole.len()).filter(|&end| inspect(&whole[..end]).is_ok()).count();
    assert!(accepted <= 1, "{accepted} prefixes were taken for whole");
    for at in 0..whole.len() {
        for value in [0, 1, 0x7f, 0x80, 0xff, whole[at] ^ 1] {
            let mut changed = whole.clone();
            changed[at] = value;
            // Any answer will do; a panic or an endless loop would not.
            let _ = inspect(&changed);
        }
    }
}

#[test]
fn what_the_parser_repeats_of_a_file_is_one_line_without_commands_for_a_terminal() {
    let twice = r#"(module (func (export "a\1b[2J\0a") (export "a\1b[2J\0a")))"#;
    let error = text(twice);
    assert!(error.contains("duplicate export") && !error.contains(char::is_control), "{error}");
}

#[test]
fn a_cut_off_module_is_refused_at_its_end() {
    let whole = wat::parse_str(r#"(module (func (export "_start") nop nop nop))"#).unwrap();
    let cut = &whole[..whole.len() - 3];
    let Err(InspectError::Malformed { offset, message }) = inspect(cut) else {
        panic!("not malformed")
    };
    assert!(offset <= cut.len() && message.contains("unexpected end"), "{offset} {message}");
}

#[test]
fn random_bytes_behind_a_header_never_panic() {
    let mut seed = 0x9e37_79b9_7f4a_7c15_u64;
    for round in 0..20_000_usize {
        let mut bytes = match round % 2 {
            0 => b"\0asm\x01\0\0\0".to_vec(),
            _ => b"\0asm\x0d\0\x01\0".to_vec(),
        };
        for _ in 0..round % 64 {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            bytes.push((seed >> 33) as u8 % 32);
        }
        let _ = inspect(&bytes);
    }
}

#[test]
fn nesting_and_foreign_imports_are_bounded() {
    let deep = format!("{}{}", "(component ".repeat(DEPTH_MAX + 2), ")".repeat(DEPTH_MAX + 2));
    assert!(matches!(look(&deep), Err(InspectError::TooMany { what: "nested components", .. })));
    let imports: String =
        (0..=FOREIGN_IMPORTS_MAX).map(|i| format!("(import \"a:b/c{i}\" (instance))")).collect();
    assert!(matches!(
        look(&format!("(component {imports})")),
        Err(InspectError::TooMany { what: "imports", .. })
    ));
}

#[test]
fn a_long_name_is_cut() {
    let name = "ü".repeat(40_000);
    let error = text(&format!(r#"(module (import "env" "{name}" (func)))"#));
    assert!(error.len() < 1000 && error.contains('…'), "{}", error.len());
}
