//! What is linked into the shipped programs.

use std::fs;
use std::path::Path;

use object::elf::{ET_DYN, PT_DYNAMIC, PT_INTERP};
use object::read::elf::{ElfFile64, FileHeader, ProgramHeader};
use object::{Endianness, Object, ObjectSymbol};

/// A sandbox links the runtime of wasmtime: thousands of symbols. Fewer means that they were
/// stripped, and that this test looks at nothing.
const SYMBOLS_MIN: usize = 1000;

/// What a compiler's symbols are called: cranelift's crates and its register allocator, and
/// wasmtime's other compiler.
const COMPILERS: [&str; 3] = ["cranelift", "regalloc2", "winch"];

/// Collections (maps by index, sets of bits, B-trees) that have cranelift's name, since it was first
/// to use them. wasmtime's runtime is built on them and they compile nothing.
const COLLECTIONS: [&str; 3] = ["cranelift_bforest", "cranelift_bitset", "cranelift_entity"];

struct Linked {
    symbols: Vec<String>,
    position_independent: bool,
    interpreted: bool,
}

impl Linked {
    fn read(program: &Path) -> Self {
        let bytes = fs::read(program).expect("a program of `make build`");
        let elf = ElfFile64::<Endianness>::parse(&*bytes).expect("a 64-bit ELF file");
        let endian = elf.endian();
        let has = |kind| elf.elf_program_headers().iter().any(|part| part.p_type(endian) == kind);
        let symbols = elf.symbols().filter_map(|s| s.name().ok().map(str::to_owned));
        Self {
            symbols: symbols.filter(|name| !name.is_empty()).collect(),
            position_independent: elf.elf_header().e_type(endian) == ET_DYN && has(PT_DYNAMIC),
            interpreted: has(PT_INTERP),
        }
    }

    fn with(&self, part: &str) -> Option<&String> {
        self.symbols.iter().find(|name| name.contains(part))
    }

    /// A symbol of a compiler, if there is one.
    fn compiler(&self) -> Option<&String> {
        self.symbols.iter().find(|name| {
            let rest =
                COLLECTIONS.iter().fold((*name).clone(), |rest, part| rest.replace(part, ""));
            COMPILERS.iter().any(|part| rest.contains(part))
        })
    }
}

#[test]
fn the_sandbox_holds_no_compiler_and_is_static_pie() {
    let sandbox = Linked::read(&copepod_tests::sandbox());
    assert!(sandbox.symbols.len() > SYMBOLS_MIN, "{} symbols", sandbox.symbols.len());
    assert!(sandbox.with("wasmtime").is_some(), "the engine itself is to be seen");
    assert_eq!(sandbox.compiler(), None, "a sandbox runs Wasm and compiles none");
    assert!(sandbox.position_independent, "its address is to be random");
    assert!(!sandbox.interpreted, "static: it must start with no file of the host");
}

/// The agent is the counter-example: what the test above looks for is there to be found.
#[test]
fn the_agent_holds_the_compiler() {
    let agent = Linked::read(&copepod_tests::copepod());
    assert!(agent.compiler().is_some(), "none in {} symbols", agent.symbols.len());
    assert!(agent.interpreted, "an ordinary program of the host");
}
