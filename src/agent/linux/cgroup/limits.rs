//! What groups are made of, and what they may have.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;

/// The controllers that are used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Controller {
    /// Huge pages, of each size that the host has.
    HugePages,
    /// Shares or weight, and quota.
    Cpu,
    /// The limit, and the count of OOM kills.
    Memory,
    /// The number of processes.
    Pids,
}

impl Controller {
    pub(super) const ALL: [Self; 4] = [Self::HugePages, Self::Cpu, Self::Memory, Self::Pids];

    /// The kernel's name of it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::HugePages => "hugetlb",
            Self::Cpu => "cpu",
            Self::Memory => "memory",
            Self::Pids => "pids",
        }
    }

    /// Whether pods are worse off without it. Huge pages are none where the kernel cannot count
    /// them (upstream takes it as optional too).
    pub(super) fn is_needed(self) -> bool {
        self != Self::HugePages
    }
}

impl fmt::Display for Controller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A pod's quality of service class: which group its own stands in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Class {
    /// In `kubepods` itself.
    Guaranteed,
    /// In `kubepods/burstable`.
    Burstable,
    /// In `kubepods/besteffort`.
    BestEffort,
}

impl Class {
    pub(super) const ALL: [Self; 3] = [Self::Guaranteed, Self::Burstable, Self::BestEffort];

    pub(super) fn group(self) -> Option<&'static str> {
        match self {
            Self::Guaranteed => None,
            Self::Burstable => Some("burstable"),
            Self::BestEffort => Some("besteffort"),
        }
    }
}

/// What a group may have. What is not limited is set to "no limit" in a group that exists already.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Limits {
    /// `cpu.shares` of version 1; `None` leaves them as they are.
    pub(crate) cpu_shares: Option<u64>,
    /// `cpu.weight` of version 2; `None` leaves it as it is.
    pub(crate) cpu_weight: Option<u64>,
    /// Microseconds of cpu time in each period.
    pub(crate) cpu_quota_us: Option<u64>,
    /// The period of the quota.
    pub(crate) cpu_period_us: u64,
    /// Bytes of memory.
    pub(crate) memory_bytes: Option<u64>,
    /// Processes and threads.
    pub(crate) pids: Option<u64>,
    /// Memory in huge pages; `None` leaves it as it is.
    pub(crate) huge_pages: Option<HugePages>,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            cpu_shares: None,
            cpu_weight: None,
            cpu_quota_us: None,
            // The kernel's own.
            cpu_period_us: 100_000,
            memory_bytes: None,
            pids: None,
            huge_pages: None,
        }
    }
}

/// What a pod's group may have.
pub(crate) type PodLimits = Limits;

/// Memory in huge pages.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum HugePages {
    /// All there is (a class: upstream `setHugePagesUnbounded`).
    Unbounded,
    /// Bytes by the size of a page in bytes; of any other size none (upstream `maybeSetHugetlb`).
    Only(BTreeMap<u64, u64>),
}

/// Which kind of group limits are for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Level {
    /// All pods, a class or a pod.
    Inner,
    /// A container.
    Leaf,
}

/// One file of a group and what is written to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Setting {
    pub(super) file: Cow<'static, str>,
    pub(super) value: String,
    /// Whether it is no error that the kernel lacks the file or refuses the value.
    pub(super) optional: bool,
}

impl Setting {
    pub(super) fn new(file: impl Into<Cow<'static, str>>, value: impl ToString) -> Self {
        Self { file: file.into(), value: value.to_string(), optional: false }
    }

    pub(super) fn optional(file: impl Into<Cow<'static, str>>, value: impl ToString) -> Self {
        Self { optional: true, ..Self::new(file, value) }
    }
}
