//! What of the machine is kept from pods: reservations, and the thresholds of eviction.

use std::collections::BTreeMap;

use copepod_pod::quantity::Quantity;

use super::findings::Findings;
use super::quantity;
use super::types::KubeletConfiguration;

/// Resources that may be reserved (upstream `parseResourceList`).
const RESERVABLE: [&str; 4] = ["cpu", "memory", "ephemeral-storage", "pid"];
/// Thresholds where none are given (upstream `DefaultEvictionHard`).
const EVICTION_HARD: [(&str, &str); 5] = [
    ("memory.available", "100Mi"),
    ("nodefs.available", "10%"),
    ("nodefs.inodesFree", "5%"),
    ("imagefs.available", "15%"),
    ("imagefs.inodesFree", "5%"),
];

/// What of the machine is kept from pods.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Reserved {
    /// For the system, by resource: `systemReserved`.
    pub(crate) system: BTreeMap<String, Quantity>,
    /// For the cluster's programs, by resource: `kubeReserved`.
    pub(crate) kube: BTreeMap<String, Quantity>,
    /// Free at all times, by signal: `evictionHard`.
    pub(crate) eviction_hard: BTreeMap<Signal, Threshold>,
}

/// What runs out (upstream `pkg/kubelet/eviction/api`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Signal {
    /// `memory.available`
    MemoryAvailable,
    /// `nodefs.available`
    NodeFsAvailable,
    /// `nodefs.inodesFree`
    NodeFsInodesFree,
    /// `imagefs.available`
    ImageFsAvailable,
    /// `imagefs.inodesFree`
    ImageFsInodesFree,
    /// `containerfs.available`
    ContainerFsAvailable,
    /// `containerfs.inodesFree`
    ContainerFsInodesFree,
    /// `allocatableMemory.available`
    AllocatableMemoryAvailable,
    /// `pid.available`
    PidAvailable,
}

impl Signal {
    /// The signal of a name.
    pub(crate) fn parse(name: &str) -> Option<Self> {
        Some(match name {
            "memory.available" => Self::MemoryAvailable,
            "nodefs.available" => Self::NodeFsAvailable,
            "nodefs.inodesFree" => Self::NodeFsInodesFree,
            "imagefs.available" => Self::ImageFsAvailable,
            "imagefs.inodesFree" => Self::ImageFsInodesFree,
            "containerfs.available" => Self::ContainerFsAvailable,
            "containerfs.inodesFree" => Self::ContainerFsInodesFree,
            "allocatableMemory.available" => Self::AllocatableMemoryAvailable,
            "pid.available" => Self::PidAvailable,
            _ => return None,
        })
    }
}

/// How much has to stay free.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Threshold {
    /// So much.
    Quantity(Quantity),
    /// This part of the whole, 0 to 1.
    Part(f32),
}

/// Reads the part; what is wrong is found and left out.
pub(super) fn reserved(file: &KubeletConfiguration, findings: &mut Findings) -> Reserved {
    let defaults = || {
        let owned = |(signal, value): &(&str, &str)| ((*signal).to_owned(), (*value).to_owned());
        EVICTION_HARD.iter().map(owned)
    };
    let hard = match &file.eviction_hard {
        None => defaults().collect(),
        Some(given) if file.merge_default_eviction_settings == Some(true) => {
            defaults().chain(given.clone()).collect()
        }
        Some(given) => given.clone(),
    };
    Reserved {
        system: resources("systemReserved", file.system_reserved.as_ref(), findings),
        kube: resources("kubeReserved", file.kube_reserved.as_ref(), findings),
        eviction_hard: thresholds("evictionHard", &hard, findings),
    }
}

fn resources(
    field: &str,
    given: Option<&BTreeMap<String, String>>,
    findings: &mut Findings,
) -> BTreeMap<String, Quantity> {
    let mut list = BTreeMap::new();
    for (name, text) in given.into_iter().flatten() {
        let at = format!("{field}.{name}");
        if !RESERVABLE.contains(&name.as_str()) {
            let all = RESERVABLE.join(", ");
            findings.field(&at, format!("cannot reserve {name:?} resource: expected {all}"));
            continue;
        }
        match quantity(text) {
            Ok(amount) if amount.is_negative() => {
                let text = format!("resource quantity for {name:?} cannot be negative: {text}");
                findings.field(&at, text);
            }
            Ok(amount) => {
                list.insert(name.clone(), amount);
            }
            Err(error) => findings.field(&at, error),
        }
    }
    list
}

/// Thresholds by signal; 0% and 100% are none (upstream `parseThresholdStatement`).
pub(super) fn thresholds(
    field: &str,
    given: &BTreeMap<String, String>,
    findings: &mut Findings,
) -> BTreeMap<Signal, Threshold> {
    let mut list = BTreeMap::new();
    for (name, text) in given {
        let at = format!("{field}.{name}");
        let Some(signal) = Signal::parse(name) else {
            findings.field(&at, format!("unsupported eviction signal {name}"));
            continue;
        };
        match threshold(name, text) {
            Ok(Some(threshold)) => {
                list.insert(signal, threshold);
            }
            Ok(None) => {}
            Err(error) => findings.field(&at, error),
        }
    }
    list
}

fn threshold(signal: &str, text: &str) -> Result<Option<Threshold>, String> {
    if text == "0%" || text == "100%" {
        return Ok(None);
    }
    if let Some(part) = percentage(text)? {
        if part.is_nan() || part < 0.0 {
            return Err(format!("eviction percentage threshold {signal} must be >= 0%: {text}"));
        }
        if part > 1.0 {
            return Err(format!("eviction percentage threshold {signal} must be <= 100%: {text}"));
        }
        return Ok(Some(Threshold::Part(part)));
    }
    let amount = quantity(text)?;
    if amount.is_negative() || amount.is_zero() {
        return Err(format!("eviction threshold {signal} must be positive: {amount}"));
    }
    Ok(Some(Threshold::Quantity(amount)))
}

/// The part that a percentage stands for; nothing for what is none.
pub(super) fn percentage(text: &str) -> Result<Option<f32>, String> {
    if !text.ends_with('%') {
        return Ok(None);
    }
    let number = text.trim_end_matches('%').parse::<f32>();
    number.map(|number| Some(number / 100.0)).map_err(|_| format!("{text:?} is no percentage"))
}
