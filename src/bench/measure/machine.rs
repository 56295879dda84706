//! Memory and CPU time of this process and of the machine, as the system reports them.

/// Bytes of this process's anonymous memory, if the system reports them.
pub(super) fn anonymous_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("RssAnon:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * 1024)
}

/// CPU seconds that all programs have used since the machine was started, if the system reports them.
pub(super) fn machine_cpu_seconds() -> Option<f64> {
    let ticks = busy_ticks(&std::fs::read_to_string("/proc/stat").ok()?)?;
    Some(ticks as f64 / rustix::param::clock_ticks_per_second() as f64)
}

/// The ticks in `/proc/stat` in which the processors were neither idle nor waiting for a disk.
fn busy_ticks(stat: &str) -> Option<u64> {
    let numbers = stat.lines().next()?.strip_prefix("cpu ")?;
    let mut ticks = 0_u64;
    // user nice system idle iowait irq softirq steal; the numbers after these are part of them.
    for (at, number) in numbers.split_whitespace().take(8).enumerate() {
        let number: u64 = number.parse().ok()?;
        if !matches!(at, 3 | 4) {
            ticks = ticks.checked_add(number)?;
        }
    }
    Some(ticks)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn busy_ticks_are_neither_idle_nor_waiting() {
        let stat = "cpu  1 20 300 4000 50000 600000 7000000 80000000 9 9\ncpu0 1 1 1 1\n";
        assert_eq!(busy_ticks(stat), Some(87_600_321));
        assert_eq!(busy_ticks("cpu  1 x\n"), None);
        assert_eq!(busy_ticks(""), None);
    }
}
