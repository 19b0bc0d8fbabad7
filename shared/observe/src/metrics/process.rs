//! Metrics of the process, with the names that Prometheus' client libraries use.

use hookward_core::clock::Clock;
use procfs::WithCurrentSystemInfo as _;
use procfs::process::{LimitValue, Process};

use super::{MetricFamily, Snapshot};

/// State of this process.
pub struct ProcessSnapshot {
    started_seconds: f64,
}

impl ProcessSnapshot {
    /// Creates the snapshot of a process that starts now.
    #[must_use]
    pub fn new(clock: &Clock) -> Self {
        Self {
            started_seconds: clock.now().0 as f64 / 1000.0,
        }
    }
}

impl Snapshot for ProcessSnapshot {
    fn families(&self) -> Vec<MetricFamily> {
        let start = MetricFamily::gauge(
            "process_start_time_seconds",
            "Start of the process, in seconds since 1970",
        );
        let mut families = vec![start.value(self.started_seconds)];
        let Ok(process) = Process::myself() else {
            return families;
        };

        if let Ok(stat) = process.stat() {
            let ticks = (stat.utime + stat.stime) as f64;
            let cpu = MetricFamily::counter("process_cpu_seconds", "CPU time of the process");
            families.push(cpu.value(ticks / procfs::ticks_per_second() as f64));
            let memory =
                MetricFamily::gauge("process_resident_memory_bytes", "Memory of the process");
            families.push(memory.value(stat.rss_bytes().get() as f64));
        }
        if let Ok(count) = process.fd_count() {
            let open = MetricFamily::gauge("process_open_fds", "Open file descriptors");
            families.push(open.value(count as f64));
        }
        if let Ok(limits) = process.limits()
            && let LimitValue::Value(most) = limits.max_open_files.soft_limit
        {
            let limit =
                MetricFamily::gauge("process_max_fds", "Maximum number of open file descriptors");
            families.push(limit.value(most as f64));
        }
        families
    }
}
