//! Where this program is, for starting it again, and what people call it.

use std::path::PathBuf;

use anyhow::Context;

/// What the kernel puts behind the path of a program whose file was replaced while it ran.
const REPLACED: &str = " (deleted)";

/// The path of this program. After an upgrade in place it is where the new one lies.
pub fn path() -> anyhow::Result<PathBuf> {
    let path = std::env::current_exe().context("cannot tell which program this is")?;
    let text = path.to_string_lossy();
    Ok(text.strip_suffix(REPLACED).map_or_else(|| path.clone(), PathBuf::from))
}

/// The name as it was typed: what to type for the next command.
pub fn typed() -> String {
    std::env::args().next().unwrap_or_else(|| "everynode".to_owned())
}
