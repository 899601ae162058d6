//! Directories that are watched, whether or not they are there yet.

use std::io;
use std::path::Path;

use inotify::{EventStream, Inotify, WatchMask};

/// Bytes of inotify events read at once; any of them means another look.
const INOTIFY_BUFFER: usize = 4 << 10;
/// How often the directory's parents may appear while a watch is put up.
const CLIMBS: u32 = 64;

/// Events of what is in the directory, once it is whole: files that were closed, moved or removed; or
/// of the lowest of the directory's parents that is there, whenever something appears in it.
///
/// # Errors
/// The kernel's, such as too many instances.
pub(crate) fn watch_dir(dir: &Path) -> io::Result<EventStream<Vec<u8>>> {
    let inotify = Inotify::init()?;
    let gone = WatchMask::DELETE_SELF | WatchMask::MOVE_SELF;
    let appears = WatchMask::CREATE | WatchMask::MOVED_TO;
    let of_dir =
        appears | gone | WatchMask::CLOSE_WRITE | WatchMask::MOVED_FROM | WatchMask::DELETE;
    for _ in 0..CLIMBS {
        // Once a parent is watched, what appears below it is seen, or is there now.
        let mut below = dir;
        let found = loop {
            let mask = if below == dir { of_dir } else { appears | gone };
            match inotify.watches().add(below, mask) {
                Ok(_) => break below,
                Err(e) if e.kind() == io::ErrorKind::NotFound => {
                    below = below.parent().ok_or(e)?;
                }
                Err(e) => return Err(e),
            }
        };
        let next = dir.ancestors().take_while(|part| *part != found).last();
        if next.is_none_or(|next| !next.exists()) {
            break;
        }
    }
    inotify.into_event_stream(vec![0; INOTIFY_BUFFER])
}
