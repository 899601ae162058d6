//! Which process listens on a port, as far as /proc shows it to us.

use std::fs;
use std::path::Path;

/// The kernel's tables of TCP sockets, which have one form.
const TABLES: [&str; 2] = ["/proc/net/tcp", "/proc/net/tcp6"];
/// A listening socket's state in them.
const LISTEN: &str = "0A";

/// A process that listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Listener {
    /// Its id.
    pub(crate) pid: u32,
    /// Its name.
    pub(crate) name: String,
}

/// The process that listens on the TCP port, whatever its address; `None` where it cannot be seen,
/// as another user's cannot.
pub(crate) fn of_port(port: u16) -> Option<Listener> {
    let tables = TABLES.iter().filter_map(|table| fs::read_to_string(table).ok());
    let sockets: Vec<String> = tables.flat_map(|table| sockets(&table, port)).collect();
    if sockets.is_empty() {
        return None;
    }
    fs::read_dir("/proc").ok()?.flatten().find_map(|process| {
        let pid = process.file_name().to_str()?.parse().ok()?;
        let open = fs::read_dir(process.path().join("fd")).ok()?;
        let mut links = open.flatten().filter_map(|file| fs::read_link(file.path()).ok());
        links.find(|link| sockets.iter().any(|socket| link == Path::new(socket)))?;
        let name = fs::read_to_string(process.path().join("comm")).unwrap_or_default();
        Some(Listener { pid, name: name.trim_end().to_owned() })
    })
}

/// How the descriptors of the sockets that listen on `port` are linked.
fn sockets(table: &str, port: u16) -> Vec<String> {
    let port = format!(":{port:04X}");
    let socket = |line: &str| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let (local, state, inode) = (fields.get(1)?, fields.get(3)?, fields.get(9)?);
        (local.ends_with(&port) && *state == LISTEN).then(|| format!("socket:[{inode}]"))
    };
    table.lines().skip(1).filter_map(socket).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_table_is_read() {
        let table = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n\
            \x20  0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 4711 1 0 100\n\
            \x20  1: 0100007F:1F90 0100007F:9C40 01 00000000:00000000 00:00000000 00000000     0        0 4712 1 0 100\n\
            \x20  2: 0100007F:1F91 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 4713 1 0 100\n";
        assert_eq!(sockets(table, 8080), ["socket:[4711]"]);
        assert_eq!(sockets(table, 80), Vec::<String>::new());
        assert_eq!(sockets("", 80), Vec::<String>::new());
    }
}
