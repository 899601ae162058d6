//! A pseudo-terminal of which the agent has one end.

use std::io;
use std::os::fd::OwnedFd;

use rustix::io::{Errno, ioctl_fionbio, retry_on_intr};
use rustix::pty::{OpenptFlags, grantpt, ioctl_tiocgptpeer, openpt, unlockpt};
use rustix::termios::{Winsize, tcsetwinsize};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// One end of a pseudo-terminal, as the event loop has it.
#[derive(Debug)]
pub(crate) struct Terminal(AsyncFd<OwnedFd>);

impl Terminal {
    /// A new terminal: the end of who sits before it, and that of the program, which is a terminal to
    /// it. It belongs to no session: nobody is signalled by it.
    ///
    /// # Errors
    /// The kernel's, such as no more terminals.
    pub(crate) fn open() -> io::Result<(Self, OwnedFd)> {
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
        let user = openpt(flags)?;
        grantpt(&user)?;
        unlockpt(&user)?;
        let program = ioctl_tiocgptpeer(&user, flags)?;
        Ok((Self::watch(user)?, program))
    }

    /// An end of a terminal that is nobody else's.
    ///
    /// # Errors
    /// The event loop's.
    #[expect(unsafe_code, reason = "the event loop cannot know that a descriptor is not replaced")]
    pub(crate) fn watch(end: OwnedFd) -> io::Result<Self> {
        ioctl_fionbio(&end, true)?;
        let interest = Interest::READABLE | Interest::WRITABLE;
        // SAFETY: it is owned by what is given, never taken out and never given another description
        // (no dup onto it), so it is the same open one until it is dropped.
        let watched = unsafe { AsyncFd::register_with_interest(end, interest) };
        Ok(Self(watched?))
    }

    /// Bytes that came; none once nobody has the other end.
    ///
    /// # Errors
    /// The kernel's.
    pub(crate) async fn read(&self, into: &mut [u8]) -> io::Result<usize> {
        let read = self.0.async_io(Interest::READABLE, |fd| {
            Ok(retry_on_intr(|| rustix::io::read(fd, &mut *into))?)
        });
        match read.await {
            // What a terminal says whose other end is closed.
            Err(e) if Errno::from_io_error(&e) == Some(Errno::IO) => Ok(0),
            other => other,
        }
    }

    /// Writes all of the bytes.
    ///
    /// # Errors
    /// The kernel's, such as that nobody has the other end.
    pub(crate) async fn write_all(&self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            let written = self.0.async_io(Interest::WRITABLE, |fd| {
                Ok(retry_on_intr(|| rustix::io::write(fd, bytes))?)
            });
            bytes = &bytes[written.await?..];
        }
        Ok(())
    }

    /// Gives the terminal a size in characters.
    pub(crate) fn resize(&self, columns: u16, rows: u16) {
        let size = Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
        // Nobody sees it then.
        let _ = tcsetwinsize(self.0.get_ref(), size);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_is_typed_is_echoed_and_read_by_lines() {
        let (user, program) = Terminal::open().expect("a terminal");
        let program = Terminal::watch(program).expect("is watched");
        user.resize(132, 43);
        let size = rustix::termios::tcgetwinsize(program.0.get_ref()).expect("a size");
        assert_eq!((size.ws_col, size.ws_row), (132, 43));
        user.write_all(b"hello\r").await.expect("types");
        let mut bytes = [0; 64];
        let len = program.read(&mut bytes).await.expect("reads");
        assert_eq!(&bytes[..len], b"hello\n");
        program.write_all(b"back\n").await.expect("writes");
        let mut seen = Vec::new();
        while !seen.ends_with(b"back\r\n") {
            let len = user.read(&mut bytes).await.expect("reads");
            seen.extend_from_slice(&bytes[..len]);
        }
        assert_eq!(seen, b"hello\r\nback\r\n");
        user.write_all(b"\x04").await.expect("types");
        assert_eq!(program.read(&mut bytes).await.expect("reads"), 0, "its end");
        drop(program);
        assert_eq!(user.read(&mut bytes).await.expect("reads"), 0, "nobody is left");
    }
}
