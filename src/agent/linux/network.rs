//! Network namespaces that are held by a mount, whoever else ends.
//!
//! Only a thread is ever moved into one, and that thread ends right after: no other thread of the
//! agent is touched, and none that is reused later.

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::thread;

use netlink_packet_core::{NLM_F_ACK, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{LinkFlags, LinkMessage};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};
use rustix::fs::statfs;
use rustix::io::Errno;
use rustix::mount::{
    MountPropagationFlags, UnmountFlags, mount_bind, mount_change, unmount as unmount_at,
};
use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};
use rustix::thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space, unshare_unsafe};

/// `f_type` of the file system of namespaces (`NSFS_MAGIC` of linux/magic.h).
const NSFS_MAGIC: i64 = 0x6e73_6673;
/// The index of the loopback interface in every network namespace.
const LOOPBACK_INDEX: u32 = 1;
/// Bytes of the kernel's answer to one request; it repeats the request.
const ANSWER_BYTES: usize = 4096;
/// Mounts on one place that are taken away; the agent makes one.
const STACKED_MOUNTS: u32 = 16;

/// Makes a new network namespace whose loopback interface is up, held by a mount on the file
/// `path`. `inside` runs in it before anybody can see it.
///
/// # Errors
/// The kernel's, or that of `inside`; nothing is mounted then.
pub(crate) fn hold_new(
    path: &Path,
    inside: impl FnOnce() -> io::Result<()> + Send,
) -> io::Result<()> {
    on_own_thread(|| {
        unshare_network()?;
        raise_loopback()?;
        inside()?;
        Ok(mount_bind("/proc/thread-self/ns/net", path)?)
    })
}

/// Runs `work` on a thread of its own in the network namespace that `path` holds.
///
/// # Errors
/// The kernel's, such as a file that is no network namespace; that of `work`.
pub(crate) fn inside<T: Send>(
    path: &Path,
    work: impl FnOnce() -> io::Result<T> + Send,
) -> io::Result<T> {
    let namespace = File::open(path)?;
    on_own_thread(|| {
        move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))?;
        work()
    })
}

/// A TCP socket of the network namespace that `path` holds, not connected yet: it stays of that
/// namespace, whoever uses it.
///
/// # Errors
/// As [`inside`].
pub(crate) fn socket_inside(path: &Path, family: AddressFamily) -> io::Result<OwnedFd> {
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    inside(path, || Ok(socket_with(family, SocketType::STREAM, flags, None)?))
}

/// Whether `path` holds a namespace.
pub(crate) fn is_held(path: &Path) -> bool {
    statfs(path).is_ok_and(|about| about.f_type == NSFS_MAGIC)
}

/// Lets go of the namespace that `path` holds and removes the file; nothing there is no error.
///
/// The removal of the file also takes away each copy of the mount in other mount namespaces.
///
/// # Errors
/// The kernel's.
pub(crate) fn release(path: &Path) -> io::Result<()> {
    unmount_all(path)?;
    match fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
        Ok(()) | Err(_) => Ok(()),
    }
}

/// Has what is mounted below the directory `dir` stay in this mount namespace: `dir` becomes a
/// mount of its own that passes nothing on. Once is enough, more do no harm.
///
/// # Errors
/// The kernel's.
pub(crate) fn keep_private(dir: &Path) -> io::Result<()> {
    match mount_change(dir, MountPropagationFlags::PRIVATE) {
        // No mount yet.
        Err(Errno::INVAL) => {}
        other => return Ok(other?),
    }
    mount_bind(dir, dir)?;
    Ok(mount_change(dir, MountPropagationFlags::PRIVATE)?)
}

/// Takes away all that is mounted on `path`; nothing there is no error.
///
/// # Errors
/// The kernel's.
pub(crate) fn unmount_all(path: &Path) -> io::Result<()> {
    for _ in 0..STACKED_MOUNTS {
        match unmount_at(path, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW) {
            Ok(()) => {}
            Err(Errno::INVAL | Errno::NOENT) => return Ok(()),
            Err(e) => return Err(e.into()),
        }
    }
    Ok(())
}

fn on_own_thread<T: Send>(work: impl FnOnce() -> io::Result<T> + Send) -> io::Result<T> {
    thread::scope(|scope| {
        let thread = thread::Builder::new().name("netns".to_owned()).spawn_scoped(scope, work)?;
        thread.join().map_err(|_| io::Error::other("the thread in the namespace panicked"))?
    })
}

#[expect(unsafe_code, reason = "the wrapper is unsafe for what other flags do")]
fn unshare_network() -> Result<(), Errno> {
    // SAFETY: of all flags only FILES is unsafe; this one moves the calling thread alone.
    unsafe { unshare_unsafe(UnshareFlags::NEWNET) }
}

/// What the loopback plugin does, without a program.
fn raise_loopback() -> io::Result<()> {
    let mut link = LinkMessage::default();
    link.header.index = LOOPBACK_INDEX;
    link.header.flags = LinkFlags::Up;
    link.header.change_mask = LinkFlags::Up;
    let mut request = NetlinkMessage::from(RouteNetlinkMessage::SetLink(link));
    request.header.flags = NLM_F_REQUEST | NLM_F_ACK;
    request.finalize();
    let mut bytes = vec![0; request.buffer_len()];
    request.serialize(&mut bytes);
    let socket = Socket::new(NETLINK_ROUTE)?;
    socket.connect(&SocketAddr::new(0, 0))?;
    socket.send(&bytes, 0)?;
    let mut answer = Vec::with_capacity(ANSWER_BYTES);
    socket.recv(&mut answer, 0)?;
    let answer = NetlinkMessage::<RouteNetlinkMessage>::deserialize(&answer);
    let answer = answer.map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e))?;
    let NetlinkPayload::Error(error) = answer.payload else {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "expected an acknowledgement"));
    };
    // An acknowledgement is an error without a code.
    if error.code.is_none() { Ok(()) } else { Err(error.to_io()) }
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use super::*;

    fn own() -> std::path::PathBuf {
        fs::read_link("/proc/thread-self/ns/net").expect("is there")
    }

    #[test]
    fn a_namespace_is_made_entered_and_released() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("one");
        let before = own();
        hold_new(&path, || Ok(())).expect_err("no file");
        File::create(&path).expect("makes");
        assert!(!is_held(&path));
        hold_new(&path, || Ok(())).expect("makes");
        assert!(is_held(&path) && !is_held(dir.path()) && !is_held(&dir.path().join("none")));
        let other = inside(&path, || {
            // The loopback interface is up.
            let listener = TcpListener::bind("127.0.0.1:0")?;
            TcpStream::connect(listener.local_addr()?)?;
            Ok(own())
        });
        assert_ne!(other.expect("runs"), before);
        assert_eq!(own(), before, "this thread stays");
        inside(dir.path(), || Ok(())).expect_err("no namespace");
        for _ in 0..2 {
            release(&path).expect("releases");
            assert!(!path.exists());
        }
    }

    #[test]
    fn what_fails_inside_holds_nothing() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("one");
        File::create(&path).expect("makes");
        let error = hold_new(&path, || Err(io::ErrorKind::StorageFull.into())).expect_err("fails");
        assert_eq!(error.kind(), io::ErrorKind::StorageFull);
        assert!(!is_held(&path));
        release(&path).expect("releases");
    }
}
