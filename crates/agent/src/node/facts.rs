//! What the machine is: processors, memory, disk, kernel, system. Read once; the figures of a Node
//! object.

use std::collections::BTreeMap;
use std::path::Path;

use k8s_openapi::api::core::v1::NodeSystemInfo;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use super::Settings;

#[derive(Debug, Clone)]
pub struct Machine {
    pub cpu_millis: i64,
    pub memory_bytes: i64,
    pub disk_bytes: i64,
    pub max_pods: u32,
    /// Without the versions of agent and runtime.
    pub info: NodeSystemInfo,
}

impl Machine {
    pub fn read(settings: &Settings) -> Machine {
        let system = rustix::system::uname();
        let machine_id = first_line("/etc/machine-id").or_else(|| first_line("/var/lib/dbus/machine-id")).unwrap_or_default();
        let system_uuid = first_line("/sys/class/dmi/id/product_uuid").unwrap_or_else(|| machine_id.clone());
        let info = NodeSystemInfo {
            architecture: architecture(&system.machine().to_string_lossy()).to_owned(),
            boot_id: first_line("/proc/sys/kernel/random/boot_id").unwrap_or_default(),
            kernel_version: system.release().to_string_lossy().into_owned(),
            machine_id,
            operating_system: "linux".to_owned(),
            os_image: os_image(&read("/etc/os-release").or_else(|| read("/usr/lib/os-release")).unwrap_or_default()),
            system_uuid,
            ..NodeSystemInfo::default()
        };
        let processors = std::thread::available_parallelism().map_or(1, |count| i64::try_from(count.get()).unwrap_or(1));
        Machine {
            cpu_millis: settings.cpu_millis.unwrap_or(processors * 1000),
            memory_bytes: settings.memory_bytes.unwrap_or_else(memory_bytes),
            disk_bytes: disk_bytes(&settings.root_dir),
            max_pods: settings.max_pods,
            info,
        }
    }

    /// `status.capacity`; everything is allocatable, nothing is held back for the system.
    pub fn capacity(&self) -> BTreeMap<String, Quantity> {
        let cpu = if self.cpu_millis % 1000 == 0 { (self.cpu_millis / 1000).to_string() } else { format!("{}m", self.cpu_millis) };
        let figures = [
            ("cpu", cpu),
            ("ephemeral-storage", format!("{}Ki", self.disk_bytes / 1024)),
            ("hugepages-1Gi", "0".to_owned()),
            ("hugepages-2Mi", "0".to_owned()),
            ("memory", format!("{}Ki", self.memory_bytes / 1024)),
            ("pods", self.max_pods.to_string()),
        ];
        figures.into_iter().map(|(name, text)| (name.to_owned(), Quantity(text))).collect()
    }
}

fn read(path: &str) -> Option<String> {
    std::fs::read_to_string(path).ok()
}

fn first_line(path: &str) -> Option<String> {
    let text = read(path)?;
    let line = text.lines().next()?.trim().to_owned();
    if line.is_empty() { None } else { Some(line) }
}

/// Go's name of an architecture.
pub fn architecture(machine: &str) -> &str {
    match machine {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        "armv7l" | "armv6l" => "arm",
        "i686" | "i386" => "386",
        other => other,
    }
}

fn os_image(os_release: &str) -> String {
    let line = os_release.lines().find_map(|line| line.strip_prefix("PRETTY_NAME="));
    line.map_or_else(|| "Linux".to_owned(), |name| name.trim_matches(['"', '\'']).to_owned())
}

fn memory_bytes() -> i64 {
    let text = read("/proc/meminfo").unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"));
    line.and_then(|line| line.split_whitespace().next()?.parse::<i64>().ok()).map_or(0, |kib| kib * 1024)
}

fn disk_bytes(dir: &Path) -> i64 {
    rustix::fs::statvfs(dir).map_or(0, |figures| i64::try_from(figures.f_blocks * figures.f_frsize).unwrap_or(i64::MAX))
}
