//! What of /proc and /sys is kept from containers: hidden, or not to be written.

const HIDDEN: [&str; 12] = [
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/sys/devices/virtual/powercap",
    "/sys/firmware",
];

pub const READ_ONLY: [&str; 5] = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

/// With the folders that tell how hot each processor is: a way to watch what others compute.
pub fn hidden() -> Vec<String> {
    let processors = std::fs::read_dir("/sys/devices/system/cpu").into_iter().flatten().flatten();
    let throttles = processors.map(|entry| entry.path().join("thermal_throttle")).filter(|path| path.is_dir());
    HIDDEN.iter().map(|path| (*path).to_owned()).chain(throttles.map(|path| path.to_string_lossy().into_owned())).collect()
}
