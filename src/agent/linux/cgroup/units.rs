//! Limits as properties of systemd's units (upstream `opencontainers/cgroups/systemd`). They are
//! written to the groups' files as well: systemd has no property for some, and some it writes only
//! after it has answered.

use super::{Level, Limits, Version};
use crate::linux::systemd::{INFINITY, Property};

/// What systemd rounds a quota of a second to, in microseconds: a hundredth of a cpu.
const QUOTA_STEP_US: u64 = 10_000;
/// The kernel's default of `cpu.weight`.
const CPU_WEIGHT: u64 = 100;
/// Microseconds of a second.
const SECOND_US: u64 = 1_000_000;

/// Has systemd enable the controllers, for a slice and for what stands in it.
pub(super) fn accounting(version: Version) -> Vec<Property> {
    let io = match version {
        Version::V1 => "BlockIOAccounting",
        Version::V2 => "IOAccounting",
    };
    let all = ["CPUAccounting", "MemoryAccounting", "TasksAccounting", io];
    all.map(|name| (name, true.into())).into()
}

/// What a new slice has before it is given limits: systemd takes a controller of version 2 away from
/// groups of which none says that it wants it.
pub(super) fn first(version: Version) -> Vec<Property> {
    match version {
        // Its weight would stand in the way of shares.
        Version::V1 => Vec::new(),
        Version::V2 => vec![("CPUWeight", CPU_WEIGHT.into())],
    }
}

/// The limits with a quota that systemd can keep: rounded up, so that what stands in the group can
/// have its own.
pub(super) fn rounded(limits: &Limits) -> Limits {
    let Some(quota) = limits.cpu_quota_us else { return limits.clone() };
    let period = limits.cpu_period_us.max(1);
    let second = quota.saturating_mul(SECOND_US) / period;
    let second = second.next_multiple_of(QUOTA_STEP_US);
    let quota = second.saturating_mul(period) / SECOND_US;
    Limits { cpu_quota_us: Some(quota), ..limits.clone() }
}

/// The properties of limits that are [`rounded`]. A unit that was there before is set free of what
/// does not limit it any more.
pub(super) fn limits(
    version: Version,
    limits: &Limits,
    level: Level,
    fresh: bool,
) -> Vec<Property> {
    let mut all = Vec::new();
    let (cpu, memory) = match version {
        Version::V1 => (("CPUShares", limits.cpu_shares), "MemoryLimit"),
        Version::V2 => (("CPUWeight", limits.cpu_weight), "MemoryMax"),
    };
    all.extend(cpu.1.map(|value| (cpu.0, value.into())));
    let mut limit = |name, value: Option<u64>| {
        if value.is_some() || !fresh {
            all.push((name, value.unwrap_or(INFINITY).into()));
        }
    };
    let period = limits.cpu_period_us.max(1);
    let second = limits.cpu_quota_us.map(|quota| quota.saturating_mul(SECOND_US) / period);
    // To the next step: the quota itself is in whole microseconds.
    let second = second.map(|quota| quota.next_multiple_of(QUOTA_STEP_US));
    limit("CPUQuotaPerSecUSec", second);
    limit("CPUQuotaPeriodUSec", second.map(|_| limits.cpu_period_us));
    limit(memory, limits.memory_bytes);
    // None at all is not taken (upstream).
    limit("TasksMax", limits.pids.map(|pids| pids.max(1)));
    if level == Level::Leaf && version == Version::V2 {
        // No swap (upstream's default `NoSwap`).
        all.push(("MemorySwapMax", 0_u64.into()));
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(properties: Vec<Property>) -> Vec<String> {
        properties.into_iter().map(|(name, value)| format!("{name}={value:?}")).collect()
    }

    #[test]
    fn limits_are_properties_and_quotas_whole_hundredths() {
        let given = Limits {
            cpu_shares: Some(512),
            cpu_weight: Some(20),
            cpu_quota_us: Some(12_345),
            cpu_period_us: 50_000,
            memory_bytes: Some(64 << 20),
            pids: Some(0),
            huge_pages: None,
        };
        let kept = rounded(&given);
        assert_eq!(kept.cpu_quota_us, Some(12_500));
        assert_eq!(rounded(&kept), kept);
        assert_eq!(
            shown(limits(Version::V2, &kept, Level::Leaf, true)),
            [
                "CPUWeight=U64(20)",
                "CPUQuotaPerSecUSec=U64(250000)",
                "CPUQuotaPeriodUSec=U64(50000)",
                "MemoryMax=U64(67108864)",
                "TasksMax=U64(1)",
                "MemorySwapMax=U64(0)",
            ]
        );
        let first = &shown(limits(Version::V1, &kept, Level::Inner, true))[0];
        assert_eq!(first, "CPUShares=U64(512)");
        let none = Limits::default();
        assert!(limits(Version::V2, &none, Level::Inner, true).is_empty());
        let free = shown(limits(Version::V1, &none, Level::Inner, false));
        let expected = ["CPUQuotaPerSecUSec", "CPUQuotaPeriodUSec", "MemoryLimit", "TasksMax"];
        assert_eq!(free, expected.map(|name| format!("{name}=U64({INFINITY})")));
    }
}
