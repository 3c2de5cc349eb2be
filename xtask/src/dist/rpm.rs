//! A package for RPM.

use anyhow::Context;
use rpm::{BuildConfig, CompressionType, Dependency, FileOptions, PackageBuilder};

use super::contents::Contents;
use super::target::Architecture;
use super::{DESCRIPTION, LICENSE, NAME, SUMMARY, VERSION};

pub fn make(contents: &Contents, architecture: Architecture) -> anyhow::Result<Vec<u8>> {
    let mut builder = PackageBuilder::new(NAME, VERSION, LICENSE, architecture.rpm, SUMMARY);
    builder.using_config(BuildConfig::v4().compression(CompressionType::Gzip).source_date(0_u32));
    builder.release("1").description(DESCRIPTION).build_host("localhost");
    builder.recommends(Dependency::any("ca-certificates"));
    builder.post_install_script(contents.scripts.after_install.as_str());
    builder.pre_uninstall_script(contents.scripts.before_remove.as_str());
    builder.post_uninstall_script(contents.scripts.after_remove.as_str());
    for entry in &contents.installed {
        let mode = u16::try_from(entry.mode).context("a mode is of 12 bits")?;
        let file = FileOptions::new(format!("/{}", entry.path)).permissions(mode);
        let file = if entry.is_setting() { file.config().noreplace() } else { file };
        let file = if entry.is_doc() { file.doc() } else { file };
        builder.with_file_contents(entry.content.clone(), file).with_context(|| format!("cannot package {}", entry.path))?;
    }
    let mut bytes = Vec::new();
    builder.build().and_then(|package| package.write(&mut bytes)).context("cannot write the package for RPM")?;
    Ok(bytes)
}
