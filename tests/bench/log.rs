//! The log writer of a sandbox: a guest's output as CRI lines in a file, rotations included.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::time::Duration;

use copepod_sandbox::log::{Log, NextLog, Stream};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};

/// A container's usual limit: what is written beyond it goes into the next file.
const LIMIT: u64 = 10 << 20;
/// Bytes that a guest writes at once.
const WRITE: usize = 64 << 10;
/// Lines as programs write them, and as they dump data.
const LINES: [usize; 2] = [100, 4 << 10];

/// An agent that has a new file whenever one is asked for. Files without a name: the former one is
/// gone when the log lets go of it.
struct Agent;

impl NextLog for Agent {
    fn next_log(&mut self, _: Duration) -> Option<OwnedFd> {
        Some(file().into())
    }
}

fn file() -> File {
    tempfile::tempfile().expect("a file without a name")
}

fn write(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("log");
    for length in LINES {
        let line = [&vec![b'x'; length - 1][..], b"\n"].concat();
        let text = line.repeat(WRITE / length);
        let log = Log::new(file().into(), LIMIT, Agent);
        group.throughput(Throughput::ElementsAndBytes {
            elements: (text.len() / length) as u64,
            bytes: text.len() as u64,
        });
        let name = format!("{} lines of {length} bytes", text.len() / length);
        group.bench_function(name, |bencher| {
            bencher.iter(|| log.write(Stream::Stdout, &text));
        });
    }
    group.finish();
}

criterion_group!(benches, write);
criterion_main!(benches);
