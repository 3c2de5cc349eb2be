//! Takes apart what was made, as a user who installs it does, and runs the program from each form.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, ensure};
use runtime::trees;

use super::target::Target;
use super::{Made, NAME, VERSION, output, target_folder};

/// What every package has to bring.
const EXPECTED: &[&str] = &[
    "/usr/bin/everynode",
    "/usr/lib/systemd/system/everynode-server.service",
    "/usr/lib/systemd/system/everynode-agent.service",
    "/etc/default/everynode-server",
    "/usr/share/man/man1/everynode.1.gz",
    "/usr/share/bash-completion/completions/everynode",
    "/usr/share/doc/everynode/copyright",
];

pub fn run(target: &Target, made: &Made) -> anyhow::Result<()> {
    let parent = target_folder()?.join("dist");
    trees::remove(&parent, "check").with_context(|| format!("cannot remove {}/check", parent.display()))?;
    let dir = parent.join("check");
    let scratch = |name: &str| {
        let dir = dir.join(name);
        fs::create_dir_all(&dir).with_context(|| format!("cannot make {}", dir.display())).map(|()| dir)
    };
    archive(target, &made.archive, &scratch("archive")?)?;
    deb(target, &made.deb, &scratch("deb")?)?;
    rpm(target, &made.rpm, &scratch("rpm")?)?;
    image(target, &made.image, &scratch("image")?)
}

fn archive(target: &Target, archive: &Path, dir: &Path) -> anyhow::Result<()> {
    output("tar", &["-xf", &text(archive), "-C", &text(dir)])?;
    program(target, &dir.join(format!("{NAME}-{VERSION}-{}", target.triple)).join("everynode"), archive)
}

/// Laid out below a folder, without its scripts, which would act on the machine.
fn deb(target: &Target, deb: &Path, dir: &Path) -> anyhow::Result<()> {
    if !is_there("dpkg-deb") {
        println!("not checked: {}: dpkg-deb is not here", deb.display());
        return Ok(());
    }
    let listed = output("dpkg-deb", &["--contents", &text(deb)])?;
    let path = |line: &str| line.split_whitespace().last().map(|path| format!("/{}", path.trim_start_matches("./")));
    let paths: Vec<String> = listed.lines().filter_map(path).collect();
    expect(&paths, deb)?;
    let about = output("dpkg-deb", &["--field", &text(deb), "Package", "Version", "Architecture"])?;
    ensure!(about.contains(target.architecture.debian), "{}: {about}", deb.display());
    output("dpkg-deb", &["--extract", &text(deb), &text(dir)])?;
    program(target, &dir.join("usr/bin/everynode"), deb)
}

fn rpm(target: &Target, rpm: &Path, dir: &Path) -> anyhow::Result<()> {
    if !is_there("rpm") {
        println!("not checked: {}: rpm is not here", rpm.display());
        return Ok(());
    }
    let query = |what: &str| output("rpm", &["--query", what, "--package", &text(rpm)]);
    let paths: Vec<String> = query("--list")?.lines().map(str::to_owned).collect();
    expect(&paths, rpm)?;
    let settings = query("--configfiles")?;
    ensure!(settings.contains("/etc/default/everynode-agent"), "{}: no settings: {settings}", rpm.display());
    output("rpm", &["--checksig", "--nosignature", &text(rpm)])?;
    let archive = Command::new("rpm2cpio").arg(rpm).output().context("cannot run rpm2cpio")?;
    // Not judged by its exit code: some versions end with 1 when all is written.
    ensure!(!archive.stdout.is_empty(), "{}: rpm2cpio: {}", rpm.display(), String::from_utf8_lossy(&archive.stderr));
    if !is_there("cpio") {
        println!("not run: {}: cpio is not here", rpm.display());
        return Ok(());
    }
    let cpio = dir.join("payload.cpio");
    fs::write(&cpio, &archive.stdout).with_context(|| format!("cannot write {}", cpio.display()))?;
    output("cpio", &["--extract", "--make-directories", "--quiet", "--directory", &text(dir), "--file", &text(&cpio)])?;
    program(target, &dir.join("usr/bin/everynode"), rpm)
}

/// Loaded by the program that is in it.
fn image(target: &Target, image: &Path, dir: &Path) -> anyhow::Result<()> {
    let layout = dir.join("layout");
    fs::create_dir_all(&layout).with_context(|| format!("cannot make {}", layout.display()))?;
    output("tar", &["-xf", &text(image), "-C", &text(&layout)])?;
    let layers = layers(&layout)?;
    let root = dir.join("root");
    fs::create_dir_all(&root).with_context(|| format!("cannot make {}", root.display()))?;
    for layer in layers {
        output("tar", &["-xzf", &text(&layer), "-C", &text(&root)])?;
    }
    let everynode = root.join("usr/bin/everynode");
    program(target, &everynode, image)?;
    let names = target.run(&everynode, &["load", "--image-dir", &text(&dir.join("images")), &text(image)])?;
    ensure!(names.contains(&format!("{NAME}:{VERSION}")), "{}: loaded as {names}", image.display());
    Ok(())
}

fn layers(layout: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let path = layout.join("manifest.json");
    let text = fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let images: serde_json::Value = serde_json::from_slice(&text).with_context(|| format!("{} is no JSON", path.display()))?;
    let layers = images[0]["Layers"].as_array().into_iter().flatten().filter_map(|layer| layer.as_str());
    Ok(layers.map(|layer| layout.join(layer)).collect())
}

fn expect(paths: &[String], package: &Path) -> anyhow::Result<()> {
    let missing: Vec<&&str> = EXPECTED.iter().filter(|expected| paths.iter().all(|path| path != *expected)).collect();
    ensure!(missing.is_empty(), "{} lacks {missing:?}", package.display());
    Ok(())
}

fn program(target: &Target, program: &Path, from: &Path) -> anyhow::Result<()> {
    let said = target.run(program, &["--version"])?;
    ensure!(said.trim() == format!("{NAME} {VERSION}"), "{} of {} says {said:?}", program.display(), from.display());
    println!("checked: {}", from.display());
    Ok(())
}

fn is_there(program: &str) -> bool {
    Command::new(program).arg("--version").output().is_ok_and(|output| output.status.success())
}

fn text(path: &Path) -> String {
    path.display().to_string()
}
