//! What this machine is and has, as the kernel and a few files of the host say it.

use std::fs::{self, File};
use std::io::Read;
use std::net::IpAddr;
use std::path::Path;

use rustix::fs::statvfs;
use rustix::system::uname;

/// Bytes read of any file here: the longest is `/etc/hosts`, which some fill with lists of names.
const FILE_MAX: u64 = 1 << 20;
/// Sizes of huge pages that are looked at; no architecture has more than six.
const HUGE_PAGE_SIZES_MAX: usize = 16;
/// Entries looked at where the kernel lists processors: it is built for 8192 of them at most.
const CPUS_MAX: usize = 10_000;
/// What upstream calls an operating system that does not say its name.
const UNKNOWN_OS: &str = "Linux";

/// The facts of a machine that a node reports. What cannot be read is empty or zero.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Machine {
    /// Processors that are online.
    pub(crate) cores: u64,
    /// Bytes of memory that the kernel manages.
    pub(crate) memory_bytes: u64,
    /// Bytes of swap space.
    pub(crate) swap_bytes: u64,
    /// Bytes of the file system that holds what pods write; `None` where that is not known.
    pub(crate) storage_bytes: Option<u64>,
    /// Each size of huge pages in bytes with how many of them there are.
    pub(crate) huge_pages: Vec<(u64, u64)>,
    /// `/etc/machine-id`, else D-Bus's.
    pub(crate) machine_id: String,
    /// The firmware's, else the machine id.
    pub(crate) system_uuid: String,
    /// Another one after each boot.
    pub(crate) boot_id: String,
    /// As `uname -r` says it.
    pub(crate) kernel_version: String,
    /// The distribution's name for itself.
    pub(crate) os_image: String,
    /// The architecture in Go's words (`amd64`).
    pub(crate) arch: &'static str,
}

impl Machine {
    /// Reads all facts; `storage` is a directory on the file system that pods write to. Takes some
    /// fifteen short reads, none of a device.
    pub(crate) fn read(storage: &Path) -> Self {
        let meminfo = text("/proc/meminfo");
        let machine_id = first(&["/etc/machine-id", "/var/lib/dbus/machine-id"]);
        let system_uuid = first(&[
            "/sys/class/dmi/id/product_uuid",
            "/proc/device-tree/system-id",
            "/proc/device-tree/vm,uuid",
        ]);
        Self {
            cores: online(&text("/sys/devices/system/cpu/online")).unwrap_or_else(|| {
                std::thread::available_parallelism().map_or(1, |n| n.get().try_into().unwrap_or(1))
            }),
            memory_bytes: kibibytes(&meminfo, "MemTotal:"),
            swap_bytes: kibibytes(&meminfo, "SwapTotal:"),
            storage_bytes: statvfs(storage)
                .ok()
                .map(|about| about.f_blocks.saturating_mul(about.f_frsize)),
            huge_pages: huge_pages(Path::new("/sys/kernel/mm/hugepages")),
            system_uuid: if system_uuid.is_empty() { machine_id.clone() } else { system_uuid },
            machine_id,
            boot_id: first(&["/proc/sys/kernel/random/boot_id"]),
            kernel_version: uname().release().to_string_lossy().into_owned(),
            os_image: pretty_name(&first(&["/etc/os-release", "/usr/lib/os-release"])),
            arch: go_arch(std::env::consts::ARCH),
        }
    }
}

/// How many processes and threads there may be at once (upstream `pidlimit.Stats`); `None` where
/// that cannot be read.
pub(crate) fn pids_max() -> Option<u64> {
    let of = |name: &str| text(format!("/proc/sys/kernel/{name}")).trim().parse::<u64>().ok();
    [of("pid_max"), of("threads-max")].into_iter().flatten().min()
}

/// The addresses that `/etc/hosts` has for a name.
pub(crate) fn hosts_addresses(name: &str) -> Vec<IpAddr> {
    read_hosts(&text("/etc/hosts"), name)
}

/// Go's name (`GOARCH`) of what Rust calls an architecture.
pub(crate) fn go_arch(arch: &'static str) -> &'static str {
    match arch {
        "x86_64" => "amd64",
        "x86" => "386",
        "aarch64" => "arm64",
        "powerpc64" if cfg!(target_endian = "little") => "ppc64le",
        "powerpc64" => "ppc64",
        "loongarch64" => "loong64",
        // arm, riscv64, s390x are the same in both.
        other => other,
    }
}

/// A file's text up to [`FILE_MAX`]; empty where it cannot be read.
fn text(path: impl AsRef<Path>) -> String {
    let mut bytes = Vec::new();
    if let Ok(file) = File::open(path) {
        // A part is as good as nothing: what is missing is not found in it.
        let _ = file.take(FILE_MAX).read_to_end(&mut bytes);
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// The text of the first of these files that has any, without white space (and the NUL that the
/// device tree ends its texts with) around it.
fn first(paths: &[&str]) -> String {
    let texts = paths.iter().map(text);
    let mut trimmed =
        texts.map(|text| text.trim_matches(|c: char| c.is_whitespace() || c == '\0').to_owned());
    trimmed.find(|text| !text.is_empty()).unwrap_or_default()
}

/// How many processors a list such as `0-3,5` names.
fn online(list: &str) -> Option<u64> {
    let mut count = 0_u64;
    for range in list.trim().split(',') {
        let (from, to) = range.split_once('-').unwrap_or((range, range));
        let (from, to) = (from.parse::<u64>().ok()?, to.parse::<u64>().ok()?);
        count = count.checked_add(to.checked_sub(from)?.checked_add(1)?)?;
    }
    (count > 0).then_some(count)
}

/// A line of `/proc/meminfo` in bytes.
fn kibibytes(meminfo: &str, key: &str) -> u64 {
    let line = meminfo.lines().find_map(|line| line.strip_prefix(key));
    let number = line.and_then(|rest| rest.split_whitespace().next()?.parse::<u64>().ok());
    number.unwrap_or(0).saturating_mul(1024)
}

/// Each size of huge pages with its number, from directories named `hugepages-2048kB`.
fn huge_pages(dir: &Path) -> Vec<(u64, u64)> {
    let Ok(entries) = fs::read_dir(dir) else { return Vec::new() };
    let mut sizes: Vec<_> = entries
        .flatten()
        .take(HUGE_PAGE_SIZES_MAX)
        .filter_map(|entry| {
            let name = entry.file_name();
            let size = name.to_str()?.strip_prefix("hugepages-")?.strip_suffix("kB")?;
            let count = text(entry.path().join("nr_hugepages")).trim().parse().ok()?;
            Some((size.parse::<u64>().ok()?.checked_mul(1024)?, count))
        })
        .collect();
    sizes.sort_unstable();
    sizes
}

/// The directories by which processors tell their temperature, of no concern to containers (upstream
/// `defaultMaskedPaths`).
pub(crate) fn thermal_paths() -> Vec<String> {
    let Ok(entries) = fs::read_dir("/sys/devices/system/cpu") else { return Vec::new() };
    let path = |entry: fs::DirEntry| {
        let name = entry.file_name().into_string().ok()?;
        let number = name.strip_prefix("cpu")?.parse::<u32>().ok()?;
        let path = entry.path().join("thermal_throttle");
        path.exists().then(|| (number, path.to_string_lossy().into_owned()))
    };
    let mut paths: Vec<_> = entries.flatten().take(CPUS_MAX).filter_map(path).collect();
    paths.sort_unstable();
    paths.into_iter().map(|(_, path)| path).collect()
}

/// `PRETTY_NAME` of an os-release file, without its quotes.
fn pretty_name(os_release: &str) -> String {
    let mut lines = os_release.lines();
    let value = lines.find_map(|line| line.trim().strip_prefix("PRETTY_NAME="));
    let name = value.unwrap_or_default().trim().trim_matches(['"', '\'']);
    if name.is_empty() { UNKNOWN_OS.to_owned() } else { name.to_owned() }
}

/// The addresses of the lines of a hosts file that have `name`, without regard to case.
fn read_hosts(hosts: &str, name: &str) -> Vec<IpAddr> {
    let entries = hosts.lines().filter_map(|line| {
        let line = line.split('#').next()?;
        let (address, names) = line.trim().split_once(char::is_whitespace)?;
        let has = names.split_whitespace().any(|other| other.eq_ignore_ascii_case(name));
        if has { address.parse().ok() } else { None }
    });
    entries.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_machine_has_what_every_machine_has() {
        let machine = Machine::read(Path::new("/"));
        assert!(machine.cores > 0 && machine.memory_bytes > 1 << 20, "{machine:?}");
        assert!(machine.storage_bytes.is_some_and(|bytes| bytes > 1 << 20), "{machine:?}");
        assert_eq!(machine.boot_id.len(), 36, "{machine:?}");
        assert!(!machine.kernel_version.is_empty() && !machine.os_image.is_empty(), "{machine:?}");
    }

    #[test]
    fn processors_online() {
        for (list, count) in [
            ("0\n", Some(1)),
            ("0-3,5\n", Some(5)),
            ("0-1,4-7", Some(6)),
            ("", None),
            ("3-1", None),
            ("0-18446744073709551615", None),
            ("x", None),
        ] {
            assert_eq!(online(list), count, "{list:?}");
        }
    }

    #[test]
    fn files_of_the_host() {
        let meminfo = "MemTotal:       16374044 kB\nSwapTotal:             0 kB\nSwapFree: 1 kB\n";
        assert_eq!(kibibytes(meminfo, "MemTotal:"), 16_374_044 * 1024);
        assert_eq!(kibibytes(meminfo, "SwapTotal:"), 0);
        assert_eq!(kibibytes("MemTotal: much", "MemTotal:"), 0);
        assert_eq!(
            pretty_name("NAME=x\nPRETTY_NAME=\"Debian GNU/Linux 13\"\n"),
            "Debian GNU/Linux 13"
        );
        assert_eq!(pretty_name("PRETTY_NAME='A'"), "A");
        assert_eq!(pretty_name("NAME=x"), "Linux");
        let hosts =
            "127.0.0.1 localhost\n10.0.0.7\tnode-1.example Node-1 # node-2\n::7 node-1\nnode-1 x\n";
        let addresses =
            read_hosts(hosts, "node-1").iter().map(ToString::to_string).collect::<Vec<_>>();
        assert_eq!(addresses, ["10.0.0.7", "::7"]);
        assert!(read_hosts(hosts, "node-2").is_empty());
        assert_eq!(
            [go_arch("x86_64"), go_arch("aarch64"), go_arch("riscv64")],
            ["amd64", "arm64", "riscv64"]
        );
    }

    #[test]
    fn sizes_of_huge_pages() {
        let dir = tempfile::tempdir().expect("a directory");
        for (name, count) in
            [("hugepages-1048576kB", "0\n"), ("hugepages-2048kB", "5\n"), ("x", "1")]
        {
            fs::create_dir(dir.path().join(name)).expect("makes it");
            fs::write(dir.path().join(name).join("nr_hugepages"), count).expect("writes");
        }
        assert_eq!(huge_pages(dir.path()), [(2 << 20, 5), (1 << 30, 0)]);
        assert!(huge_pages(&dir.path().join("none")).is_empty());
    }
}
