//! A package for Debian: an `ar` archive of a version, a tar about the package and a tar of its
//! files.

use anyhow::Context;

use super::contents::{Contents, Entry, folders};
use super::target::Architecture;
use super::{DESCRIPTION, NAME, SUMMARY, VERSION, compressed, tar};

pub fn make(contents: &Contents, architecture: Architecture) -> anyhow::Result<Vec<u8>> {
    let text = |path: &str, content: String, mode| Entry { path: path.to_owned(), content: content.into_bytes(), mode };
    let settings = contents.installed.iter().filter(|entry| entry.is_setting());
    let control = [
        text("control", control(contents, architecture), 0o644),
        text("conffiles", settings.map(|entry| format!("/{}\n", entry.path)).collect(), 0o644),
        text("postinst", contents.scripts.after_install.clone(), 0o755),
        text("prerm", contents.scripts.before_remove.clone(), 0o755),
        text("postrm", contents.scripts.after_remove.clone(), 0o755),
    ];
    let mut deb = b"!<arch>\n".to_vec();
    append(&mut deb, "debian-binary", b"2.0\n")?;
    append(&mut deb, "control.tar.gz", &compressed(&tar(&control)?)?)?;
    append(&mut deb, "data.tar.gz", &compressed(&tar(&contents.installed)?)?)?;
    Ok(deb)
}

fn control(contents: &Contents, architecture: Architecture) -> String {
    let bytes: usize = contents.installed.iter().map(|entry| entry.content.len()).sum();
    let kib = bytes.div_ceil(1024) + folders(&contents.installed).len();
    format!(
        "Package: {NAME}\nVersion: {VERSION}\nArchitecture: {}\nMaintainer: The everynode authors <everynode@localhost>\n\
         Installed-Size: {kib}\nRecommends: ca-certificates\nSection: admin\nPriority: optional\nDescription: {SUMMARY}\n {DESCRIPTION}\n",
        architecture.debian
    )
}

/// A member of an `ar` archive: a header of 60 bytes, and content that ends at an even place.
fn append(ar: &mut Vec<u8>, name: &str, content: &[u8]) -> anyhow::Result<()> {
    use std::io::Write as _;
    writeln!(ar, "{name:<16}{:<12}{:<6}{:<6}{:<8}{:<10}`", 0, 0, 0, 100_644, content.len()).context("cannot write a package")?;
    ar.extend_from_slice(content);
    if content.len() % 2 == 1 {
        ar.push(b'\n');
    }
    Ok(())
}
