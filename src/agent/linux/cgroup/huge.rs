//! Huge pages: the sizes that the host has, and their files in a group.

use std::fs;
use std::path::Path;

use super::{HugePages, Setting, Version};

/// A directory for each size, `hugepages-SIZEkB`.
pub(super) const SIZES: &str = "/sys/kernel/mm/hugepages";
/// What upstream takes for no limit (`setHugePagesUnbounded`).
const UNBOUNDED: u64 = 1 << 62;

/// The sizes of pages in bytes that the host has, smallest first; none where it has no such pages.
pub(super) fn sizes(dir: &Path) -> Vec<u64> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    let mut sizes: Vec<u64> = entries
        .filter_map(|entry| {
            let name = entry.file_name();
            let kib = name.to_str()?.strip_prefix("hugepages-")?.strip_suffix("kB")?;
            kib.parse::<u64>().ok()?.checked_mul(1024)
        })
        .collect();
    sizes.sort_unstable();
    sizes
}

/// What is written for each size of pages.
pub(super) fn settings(version: Version, sizes: &[u64], pages: &HugePages) -> Vec<Setting> {
    let mut all = Vec::new();
    for size in sizes {
        let bytes = match pages {
            HugePages::Unbounded => UNBOUNDED,
            HugePages::Only(limits) => limits.get(size).copied().unwrap_or(0),
        };
        let name = name(*size);
        let (limit, reserved) = match version {
            Version::V1 => ("limit_in_bytes", "rsvd.limit_in_bytes"),
            Version::V2 => ("max", "rsvd.max"),
        };
        // Optional: the controller may be lent to another hierarchy (a hybrid host), and pages
        // of a size may be added while we run.
        all.push(Setting::optional(format!("hugetlb.{name}.{limit}"), bytes));
        // What is promised counts as well, since Linux 5.7.
        all.push(Setting::optional(format!("hugetlb.{name}.{reserved}"), bytes));
    }
    all
}

/// The size as the kernel names its files (`mem_fmt` of Linux's `hugetlb_cgroup.c`).
fn name(bytes: u64) -> String {
    match bytes {
        bytes if bytes >= 1 << 30 => format!("{}GB", bytes >> 30),
        bytes if bytes >= 1 << 20 => format!("{}MB", bytes >> 20),
        bytes => format!("{}KB", bytes >> 10),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_the_kernels_names_and_what_is_not_given_is_none() {
        let dir = tempfile::tempdir().expect("a directory");
        for name in ["hugepages-1048576kB", "hugepages-2048kB", "hugepages-64kB", "hugepages-xkB"] {
            fs::create_dir(dir.path().join(name)).expect("makes");
        }
        let found = sizes(dir.path());
        assert_eq!(found, [64 << 10, 2 << 20, 1 << 30]);
        assert_eq!(sizes(&dir.path().join("none")), [0_u64; 0]);
        let only = HugePages::Only([(2 << 20, 6 << 20)].into());
        let files = |version, pages: &HugePages| {
            let all = settings(version, &found, pages);
            assert!(all.iter().all(|setting| setting.optional));
            all.into_iter().map(|s| format!("{} {}", s.file, s.value)).collect::<Vec<_>>()
        };
        assert_eq!(
            files(Version::V2, &only),
            [
                "hugetlb.64KB.max 0",
                "hugetlb.64KB.rsvd.max 0",
                "hugetlb.2MB.max 6291456",
                "hugetlb.2MB.rsvd.max 6291456",
                "hugetlb.1GB.max 0",
                "hugetlb.1GB.rsvd.max 0",
            ]
        );
        let one = &files(Version::V1, &HugePages::Unbounded)[2];
        assert_eq!(one, "hugetlb.2MB.limit_in_bytes 4611686018427387904");
    }
}
