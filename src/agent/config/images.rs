//! How images are pulled and when they go.

use std::path::PathBuf;
use std::time::Duration;

use super::credential_provider::{self, CredentialProvider};
use super::findings::Findings;
use super::flags::NodeFlags;
use super::types::KubeletConfiguration;
use super::{Rate, non_zero};

/// Upstream's defaults (`SetDefaults_KubeletConfiguration`).
const PULL_QPS: i32 = 5;
const PULL_BURST: i32 = 10;
const HIGH_PERCENT: i32 = 85;
const LOW_PERCENT: i32 = 80;
const MIN_AGE: Duration = Duration::from_secs(2 * 60);

/// How images are pulled and when they go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ImageConfig {
    /// Pulls at a time; `None`: no bound (`serializeImagePulls`, `maxParallelImagePulls`).
    pub(crate) at_once: Option<usize>,
    /// Most pulls begun (`registryPullQPS`, `registryBurst`).
    pub(crate) pulls: Rate,
    /// An image known for less long is not removed.
    pub(crate) min_age: Duration,
    /// An image not used for longer is removed; zero: none is.
    pub(crate) max_age: Duration,
    /// Percent of the disk in use from which images are removed; 100: none are.
    pub(crate) high_percent: u32,
    /// Percent to which they are.
    pub(crate) low_percent: u32,
    /// Programs that know credentials of registries.
    pub(crate) providers: Vec<CredentialProvider>,
}

/// Reads the part; what is wrong is found and stands as its default.
pub(super) fn images(
    flags: &NodeFlags,
    file: &KubeletConfiguration,
    findings: &mut Findings,
) -> ImageConfig {
    let parallel = file.max_parallel_image_pulls.and_then(|most| usize::try_from(most).ok());
    let serial = file.serialize_image_pulls.unwrap_or(parallel.is_none_or(|most| most <= 1));
    // Their bounds are looked at elsewhere.
    let number = |given: Option<i32>, default| u32::try_from(given.unwrap_or(default)).unwrap_or(0);
    let dir = |flag: &Option<PathBuf>| flag.clone().filter(|path| !path.as_os_str().is_empty());
    let config = dir(&flags.image_credential_provider_config);
    let programs = dir(&flags.image_credential_provider_bin_dir);
    ImageConfig {
        at_once: if serial { Some(1) } else { parallel },
        pulls: Rate {
            per_second: number(file.registry_pull_qps, PULL_QPS),
            burst: number(Some(non_zero(file.registry_burst, PULL_BURST)), PULL_BURST),
        },
        min_age: findings.duration("imageMinimumGCAge", file.image_minimum_gc_age, MIN_AGE),
        max_age: findings.duration("imageMaximumGCAge", file.image_maximum_gc_age, Duration::ZERO),
        high_percent: number(file.image_gc_high_threshold_percent, HIGH_PERCENT),
        low_percent: number(file.image_gc_low_threshold_percent, LOW_PERCENT),
        providers: credential_provider::providers(config, programs, findings),
    }
}
