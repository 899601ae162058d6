//! Pipes, files and a terminal as the streams of a guest.

use std::io::{Read, Seek, Write};

use rustix::pipe::{PipeFlags, fcntl_getpipe_size, pipe_with};
use tokio::runtime::Builder;

use super::*;

fn in_loop<T>(test: impl Future<Output = T>) -> T {
    let runtime = Builder::new_current_thread().enable_io().build().expect("makes");
    runtime.block_on(test)
}

fn pipe() -> (std::fs::File, OwnedFd, OwnedFd) {
    let (out, into) = pipe_with(PipeFlags::CLOEXEC).expect("a pipe");
    let null = std::fs::File::options().write(true).open("/dev/null").expect("opens");
    (into.into(), out, null.into())
}

#[test]
fn input_is_waited_for_and_ends() {
    in_loop(async {
        let (mut into, out, null) = pipe();
        let spare = null.try_clone().expect("a second");
        let Streams { mut input, .. } = Streams::new([out, null, spare]).expect("takes");
        assert_eq!(input.read(9).expect("nothing yet"), "");
        let writer = async {
            tokio::task::yield_now().await;
            into.write_all(b"hello").expect("writes");
        };
        let (read, ()) = tokio::join!(input.blocking_read(4), writer);
        assert_eq!(read.expect("reads"), "hell");
        assert_eq!(input.read(9).expect("the rest"), "o");
        assert_eq!(input.read(9).expect("nothing yet"), "");
        drop(into);
        assert!(matches!(input.blocking_read(9).await, Err(StreamError::Closed)));
    });
}

#[test]
fn output_waits_for_its_reader_and_keeps_the_order() {
    in_loop(async {
        let (into, mut out) = {
            let (out, into) = pipe_with(PipeFlags::CLOEXEC).expect("a pipe");
            (into, std::fs::File::from(out))
        };
        let room = fcntl_getpipe_size(&into).expect("a size");
        let mut output = Output::new(into).expect("takes");
        let mut written = 0;
        while let permit @ 1.. = output.check_write().expect("goes on") {
            output.write(vec![b'a'; permit].into()).expect("fits");
            written += permit;
        }
        assert!(written >= room && written <= room + WRITE_MAX, "{written} of {room}");
        output.write("beyond".into()).expect("is kept");
        assert_eq!(output.check_write().expect("goes on"), 0);
        let mut got = vec![0; written];
        let reader = async {
            tokio::task::yield_now().await;
            out.read_exact(&mut got).expect("reads");
        };
        let (ready, ()) = tokio::join!(output.write_ready(), reader);
        assert_eq!(ready.expect("room again"), WRITE_MAX);
        let mut rest = [0; 6];
        out.read_exact(&mut rest).expect("reads");
        assert_eq!(&rest, b"beyond");
    });
}

#[test]
fn a_reader_that_is_gone_is_an_error_of_the_write() {
    in_loop(async {
        let (out, into) = pipe_with(PipeFlags::CLOEXEC).expect("a pipe");
        let mut output = Output::new(into).expect("takes");
        drop(out);
        assert_eq!(output.write_ready().await.expect("a write tells"), WRITE_MAX);
        assert!(matches!(output.write("x".into()), Err(StreamError::Closed)));
    });
}

#[test]
fn a_guest_that_ignores_its_permit_is_bounded() {
    in_loop(async {
        let (out, into) = pipe_with(PipeFlags::CLOEXEC).expect("a pipe");
        let mut output = Output::new(into).expect("takes");
        let piece = Bytes::from(vec![0; UNTAKEN_MAX]);
        let refused = (0..4).find_map(|_| output.write(piece.clone()).err());
        assert!(matches!(refused, Some(StreamError::Trap(_))));
        drop(out);
    });
}

#[test]
fn files_are_never_waited_for() {
    in_loop(async {
        let mut file = tempfile::tempfile().expect("a file");
        file.write_all(b"hello").expect("writes");
        file.rewind().expect("rewinds");
        let fd = || OwnedFd::from(file.try_clone().expect("a second"));
        let mut streams = Streams::new([fd(), fd(), fd()]).expect("takes");
        assert_eq!(streams.input.read(9).expect("reads"), "hello");
        assert!(matches!(streams.input.read(9), Err(StreamError::Closed)));
        streams.output.write(", world".into()).expect("writes");
        streams.finish().await;
        let mut text = String::new();
        file.rewind().expect("rewinds");
        file.read_to_string(&mut text).expect("reads");
        assert_eq!(text, "hello, world");
        assert!(!streams.output.is_terminal());
    });
}

#[test]
fn a_terminal_is_one() {
    in_loop(async {
        let master = rustix::pty::openpt(rustix::pty::OpenptFlags::RDWR).expect("a terminal");
        rustix::pty::unlockpt(&master).expect("unlocks");
        let path = rustix::pty::ptsname(&master, Vec::new()).expect("a name");
        let flags = rustix::fs::OFlags::RDWR | rustix::fs::OFlags::NOCTTY;
        let slave = rustix::fs::open(&path, flags, rustix::fs::Mode::empty()).expect("opens");
        let fd = || slave.try_clone().expect("a second");
        let mut streams = Streams::new([fd(), fd(), fd()]).expect("takes");
        assert!(streams.input.is_terminal() && streams.error.is_terminal());
        rustix::io::write(&master, b"line\n").expect("types");
        assert_eq!(streams.input.blocking_read(99).await.expect("reads"), "line\n");
    });
}
