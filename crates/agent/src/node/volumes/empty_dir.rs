//! emptyDir: a folder, or a file system in memory.

use std::path::Path;

use k8s_openapi::api::core::v1::EmptyDirVolumeSource;
use rustix::mount::MountFlags;

use super::{is_mount_point, ownership};
use crate::node::settings::make_closed_dir;

const MODE: u32 = 0o777;

pub fn set_up(path: &Path, source: &EmptyDirVolumeSource, group: Option<i64>) -> std::io::Result<()> {
    if path.exists() && (source.medium.as_deref() != Some("Memory") || is_mount_point(path)?) {
        return Ok(());
    }
    make_closed_dir(path)?;
    // Another medium is a hint that this node cannot follow: an ordinary folder, as kubelets
    // without huge pages have it.
    if source.medium.as_deref() == Some("Memory") {
        let limit = source.size_limit.as_ref().and_then(|limit| kinds::quantity::Quantity::parse(&limit.0).ok());
        mount_tmpfs(path, limit.map(|limit| limit.value()).filter(|&bytes| bytes > 0))?;
    }
    ownership::apply_dir(path, MODE, group)
}

pub fn mount_tmpfs(path: &Path, size_bytes: Option<i64>) -> std::io::Result<()> {
    let options = size_bytes.map_or_else(String::new, |size| format!("size={size}"));
    let options = std::ffi::CString::new(options)?;
    rustix::mount::mount("tmpfs", path, "tmpfs", MountFlags::empty(), Some(options.as_c_str())).map_err(std::io::Error::from)
}
