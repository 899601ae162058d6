//! What the bench runs on, and whether it has the machine to itself.

use std::fmt;
use std::fs;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::{Value, json};

/// How long the processors are looked at.
const LOOK: Duration = Duration::from_secs(1);
/// Above this share of the processors' time that others use, times are not to be trusted.
const BUSY_MAX: f64 = 0.1;

/// The machine at one moment.
pub(crate) struct Machine {
    processor: String,
    cores: usize,
    memory_mib: u64,
    kernel: String,
    load: String,
    /// Share of the processors' time that was in use while the bench slept.
    busy: f64,
}

impl Machine {
    /// Looks at the machine, for a second in which the bench does nothing.
    pub(crate) fn look() -> Result<Self> {
        let before = Ticks::now()?;
        thread::park_timeout(LOOK);
        let passed = Ticks::now()?.since(&before);
        let read = |path: &str| fs::read_to_string(path).context(path.to_owned());
        let field = |text: &str, name: &str| {
            let line = text.lines().find(|line| line.starts_with(name))?;
            Some(line.split_once(':')?.1.trim().to_owned())
        };
        let memory = field(&read("/proc/meminfo")?, "MemTotal");
        let memory = memory.and_then(|kib| kib.split(' ').next()?.parse::<u64>().ok());
        let load = read("/proc/loadavg")?;
        Ok(Self {
            processor: field(&read("/proc/cpuinfo")?, "model name").unwrap_or_default(),
            cores: thread::available_parallelism()?.get(),
            memory_mib: memory.unwrap_or(0) / 1024,
            kernel: read("/proc/sys/kernel/osrelease")?.trim().into(),
            load: load.split(' ').take(3).collect::<Vec<_>>().join(" "),
            busy: passed.busy as f64 / passed.all.max(1) as f64,
        })
    }

    /// That the machine has other work, if it does.
    pub(crate) fn warning(&self) -> Option<String> {
        (self.busy > BUSY_MAX).then(|| {
            format!(
                "WARNING: {:.0} % of the processors' time was in use by others: trust ratios, not \
                 times",
                self.busy * 100.0
            )
        })
    }

    /// The same, for programs.
    pub(crate) fn json(&self) -> Value {
        json!({
            "processor": self.processor,
            "cores": self.cores,
            "memory_mib": self.memory_mib,
            "kernel": self.kernel,
            "load": self.load,
            "busy_with_others": self.busy,
            "quiet": self.warning().is_none(),
        })
    }
}

impl fmt::Display for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}, {} cores, {} MiB, Linux {}, load {}",
            self.processor, self.cores, self.memory_mib, self.kernel, self.load
        )
    }
}

/// Ticks of all processors together since boot.
struct Ticks {
    busy: u64,
    all: u64,
}

impl Ticks {
    fn now() -> Result<Self> {
        let stat = fs::read_to_string("/proc/stat").context("/proc/stat")?;
        let first = stat.lines().next().unwrap_or_default();
        let ticks: Vec<u64> = first.split_whitespace().skip(1).flat_map(str::parse).collect();
        // user nice system idle iowait irq softirq steal; guests' are in user's already.
        let all = ticks.iter().take(8).sum();
        let idle: u64 = ticks.iter().skip(3).take(2).sum();
        Ok(Self { busy: all - idle, all })
    }

    fn since(&self, before: &Self) -> Self {
        Self { busy: self.busy - before.busy, all: self.all - before.all }
    }
}
