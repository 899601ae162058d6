//! File streams of components, read and written on the one thread.
//!
//! `allow_blocking_current_thread` covers all file access of wasmtime-wasi but the non-blocking
//! `read` and `write` of a file's stream (48.0.8, `p2/filesystem.rs`), which start a thread: the
//! jail refuses that. A file never makes anybody wait, so the streams given to a guest do each
//! operation at once, by the blocking call that the inner stream has for it.

use std::pin::pin;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use wasmtime::component::{ComponentType, Lift, Linker, Lower, Resource};
use wasmtime_wasi::async_trait;
use wasmtime_wasi::filesystem::{Descriptor, WasiFilesystemCtxView, WasiFilesystemView};
use wasmtime_wasi::p2::bindings::filesystem::types::{ErrorCode, HostDescriptor};
use wasmtime_wasi::p2::{
    DynInputStream, DynOutputStream, FsResult, InputStream, OutputStream, Pollable, StreamError,
    StreamResult,
};

use crate::guest::ComponentState;

/// The interface that the linker has from wasmtime-wasi, by the version it has it in.
const FILES: &str = "wasi:filesystem/types@0.2.12";
const READ: &str = "[method]descriptor.read-via-stream";
const WRITE: &str = "[method]descriptor.write-via-stream";
const APPEND: &str = "[method]descriptor.append-via-stream";

struct Inline<S>(S);

/// The value of a future that is ready.
fn now<T>(future: impl Future<Output = StreamResult<T>>) -> StreamResult<T> {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(value) => value,
        Poll::Pending => Err(StreamError::trap("a file operation did not end at once")),
    }
}

#[async_trait]
impl<S: Send + 'static> Pollable for Inline<S> {
    async fn ready(&mut self) {}
}

#[async_trait]
impl InputStream for Inline<DynInputStream> {
    fn read(&mut self, size: usize) -> StreamResult<Bytes> {
        if size == 0 {
            // To the blocking call, nothing read is the end of the file.
            return Ok(Bytes::new());
        }
        now(self.0.blocking_read(size))
    }

    async fn cancel(&mut self) {
        self.0.cancel().await;
    }
}

#[async_trait]
impl OutputStream for Inline<DynOutputStream> {
    fn write(&mut self, bytes: Bytes) -> StreamResult<()> {
        now(self.0.blocking_write_and_flush(bytes))
    }

    fn flush(&mut self) -> StreamResult<()> {
        self.0.flush()
    }

    fn check_write(&mut self) -> StreamResult<usize> {
        self.0.check_write()
    }

    async fn cancel(&mut self) {
        self.0.cancel().await;
    }
}

/// Replaces the functions that give a file's streams; the linker must allow shadowing.
pub(crate) fn replace_file_streams(linker: &mut Linker<ComponentState>) -> wasmtime::Result<()> {
    let mut files = linker.instance(FILES)?;
    files.func_wrap(READ, |mut store, (file, offset): (Resource<Descriptor>, u64)| {
        let files = &mut store.data_mut().filesystem();
        let stream = files.read_via_stream(file, offset);
        answer(stream.and_then(|stream| {
            let inner = files.table.delete(stream)?;
            let stream: DynInputStream = Box::new(Inline(inner));
            Ok(files.table.push(stream)?)
        }))
    })?;
    files.func_wrap(WRITE, |mut store, (file, offset): (Resource<Descriptor>, u64)| {
        let files = &mut store.data_mut().filesystem();
        let stream = files.write_via_stream(file, offset);
        answer(stream.and_then(|stream| inline_output(files, stream)))
    })?;
    files.func_wrap(APPEND, |mut store, (file,): (Resource<Descriptor>,)| {
        let files = &mut store.data_mut().filesystem();
        let stream = files.append_via_stream(file);
        answer(stream.and_then(|stream| inline_output(files, stream)))
    })
}

fn inline_output(
    files: &mut WasiFilesystemCtxView<'_>,
    stream: Resource<DynOutputStream>,
) -> FsResult<Resource<DynOutputStream>> {
    let inner = files.table.delete(stream)?;
    let stream: DynOutputStream = Box::new(Inline(inner));
    Ok(files.table.push(stream)?)
}

/// What a host function returns: the guest's error is a value, all else is a trap.
fn answer<T: ComponentType + Lift + Lower>(
    result: FsResult<T>,
) -> wasmtime::Result<(Result<T, ErrorCode>,)> {
    match result {
        Ok(value) => Ok((Ok(value),)),
        Err(e) => Ok((Err(e.downcast()?),)),
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Seek, Write};

    use wasmtime::Engine;
    use wasmtime_wasi::p2::StreamError;

    use super::*;

    /// A stream as wasmtime's files are: only the blocking calls end at once.
    struct Script(std::fs::File);

    #[async_trait]
    impl Pollable for Script {
        async fn ready(&mut self) {
            panic!("nobody waits for a file");
        }
    }

    #[async_trait]
    impl InputStream for Script {
        fn read(&mut self, _: usize) -> StreamResult<Bytes> {
            panic!("this would start a thread");
        }

        async fn blocking_read(&mut self, size: usize) -> StreamResult<Bytes> {
            let mut bytes = vec![0; size];
            match std::io::Read::read(&mut self.0, &mut bytes) {
                Ok(0) => Err(StreamError::Closed),
                Ok(n) => Ok(Bytes::copy_from_slice(&bytes[..n])),
                Err(e) => Err(StreamError::LastOperationFailed(e.into())),
            }
        }
    }

    #[test]
    fn reads_are_done_at_once_and_none_is_not_the_end() {
        let mut file = tempfile::tempfile().expect("a file");
        file.write_all(b"hello").expect("writes");
        file.rewind().expect("rewinds");
        let inner: DynInputStream = Box::new(Script(file));
        let mut stream = Inline(inner);
        assert_eq!(stream.read(0).expect("nothing"), "");
        assert_eq!(stream.read(3).expect("reads"), "hel");
        assert_eq!(stream.read(9).expect("reads"), "lo");
        assert!(matches!(stream.read(9), Err(StreamError::Closed)));
    }

    #[test]
    fn what_is_replaced_is_what_wasmtime_serves() {
        let engine = Engine::new(&copepod_wasm::engine_config()).expect("an engine");
        for name in [READ, WRITE, APPEND] {
            let mut linker = Linker::<ComponentState>::new(&engine);
            wasmtime_wasi::p2::add_to_linker_async(&mut linker).expect("links");
            let mut files = linker.instance(FILES).expect("the interface");
            let twice = files.func_wrap(name, |_, ()| Ok(()));
            assert!(twice.is_err(), "{name} is not a function of {FILES} any more");
        }
    }
}
