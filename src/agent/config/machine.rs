//! What of the machine a configuration depends on.

use std::fs::File;
use std::io::Read;

/// Magic number of the second version's file system (`CGROUP2_SUPER_MAGIC` of Linux).
const CGROUP2_MAGIC: i64 = 0x6367_7270;
/// Where control groups are mounted.
const CGROUPS: &str = "/sys/fs/cgroup";
/// The table of swap areas: a heading, then a line each.
const SWAPS: &str = "/proc/swaps";
/// Bytes of that table that are read: a heading and a first line.
const SWAPS_BYTES: u64 = 4096;

/// Three facts.
#[derive(Clone, Debug, Default)]
pub(super) struct Machine {
    /// The host name, as the kernel has it.
    pub(super) hostname: String,
    /// Control groups of the first version are mounted.
    pub(super) cgroup_v1: bool,
    /// Swap is on.
    pub(super) swap: bool,
}

impl Machine {
    /// Looks at this one. What cannot be seen is taken not to be there: who needs it will say.
    pub(super) fn look() -> Self {
        let magic = rustix::fs::statfs(CGROUPS).ok().map(|fs| fs.f_type);
        let mut swaps = String::new();
        if let Ok(file) = File::open(SWAPS) {
            // A part of the table is enough, and a failure is no swap.
            let _ = file.take(SWAPS_BYTES).read_to_string(&mut swaps);
        }
        Self {
            hostname: rustix::system::uname().nodename().to_string_lossy().into_owned(),
            cgroup_v1: magic.is_some_and(|magic| i128::from(magic) != i128::from(CGROUP2_MAGIC)),
            swap: swaps.lines().nth(1).is_some(),
        }
    }
}
