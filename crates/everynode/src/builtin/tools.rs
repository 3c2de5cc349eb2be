//! Tools for looking around in a container that has no shell.

use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::time::Duration;

use super::http;

const FOLLOW_PERIOD: Duration = Duration::from_millis(200);

type Done = Result<(), String>;

fn about<'a>(path: &'a str) -> impl Fn(std::io::Error) -> String + 'a {
    move |error| format!("{path}: {error}")
}

/// Standard input without arguments.
pub fn cat(paths: &[String]) -> Done {
    let mut out = std::io::stdout().lock();
    if paths.is_empty() {
        return std::io::copy(&mut std::io::stdin().lock(), &mut out).map(drop).map_err(|error| error.to_string());
    }
    for path in paths {
        let mut file = std::fs::File::open(path).map_err(about(path))?;
        std::io::copy(&mut file, &mut out).map_err(about(path))?;
    }
    Ok(())
}

pub fn echo(words: &[String]) -> Done {
    println!("{}", words.join(" "));
    Ok(())
}

pub fn env() -> Done {
    let mut all: Vec<String> = std::env::vars_os().map(|(name, value)| format!("{}={}", name.display(), value.display())).collect();
    all.sort();
    println!("{}", all.join("\n"));
    Ok(())
}

/// Prints a file and what is added to it, over rotation, until it is ended.
pub fn follow(paths: &[String]) -> Done {
    let [path] = paths else { return Err("say which file".to_owned()) };
    let mut file = std::fs::File::open(path).map_err(about(path))?;
    let mut out = std::io::stdout().lock();
    loop {
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).map_err(about(path))?;
        out.write_all(&bytes).and_then(|()| out.flush()).map_err(|error| error.to_string())?;
        let read = file.stream_position().map_err(about(path))?;
        let is_other = match (std::fs::metadata(path), file.metadata()) {
            (Ok(named), Ok(open)) => named.ino() != open.ino(),
            _ => false,
        };
        if is_other {
            file = std::fs::File::open(path).map_err(about(path))?;
        } else if file.metadata().is_ok_and(|meta| meta.len() < read) {
            file.seek(SeekFrom::Start(0)).map_err(about(path))?;
        }
        std::thread::sleep(FOLLOW_PERIOD);
    }
}

/// The body of an http:// address; an error unless the status is 200.
pub fn get(urls: &[String]) -> Done {
    let [url] = urls else { return Err("say which address".to_owned()) };
    let (status, body) = http::get(url)?;
    std::io::stdout().write_all(&body).map_err(|error| error.to_string())?;
    if status.split_whitespace().nth(1) == Some("200") { Ok(()) } else { Err(status) }
}

pub fn hostname() -> Done {
    println!("{}", crate::roles::hostname());
    Ok(())
}

pub fn id() -> Done {
    let groups = nix::unistd::getgroups().map_err(|error| error.to_string())?;
    let groups: Vec<String> = groups.iter().map(ToString::to_string).collect();
    println!("uid={} gid={} groups={}", nix::unistd::getuid(), nix::unistd::getgid(), groups.join(","));
    Ok(())
}

/// Mode, owner, size and name, one a line.
pub fn ls(paths: &[String]) -> Done {
    let here = [".".to_owned()];
    for path in if paths.is_empty() { &here[..] } else { paths } {
        let meta = std::fs::symlink_metadata(path).map_err(about(path))?;
        if !meta.is_dir() {
            println!("{}", line(Path::new(path), &meta));
            continue;
        }
        let mut entries: Vec<_> = std::fs::read_dir(path).map_err(about(path))?.flatten().collect();
        entries.sort_by_key(std::fs::DirEntry::file_name);
        for entry in entries {
            let meta = std::fs::symlink_metadata(entry.path()).map_err(about(path))?;
            println!("{}", line(&entry.path(), &meta));
        }
    }
    Ok(())
}

fn line(path: &Path, meta: &std::fs::Metadata) -> String {
    let kind = match meta.mode() & 0o170_000 {
        0o040_000 => 'd',
        0o120_000 => 'l',
        0o100_000 => '-',
        _ => '?',
    };
    let name = path.file_name().map_or_else(|| path.display().to_string(), |name| name.to_string_lossy().into_owned());
    let target = std::fs::read_link(path).map_or_else(|_| String::new(), |target| format!(" -> {}", target.display()));
    format!("{kind}{:04o} {:>5} {:>5} {:>10} {name}{target}", meta.mode() & 0o7777, meta.uid(), meta.gid(), meta.len())
}

pub fn sleep(arguments: &[String]) -> Done {
    let [text] = arguments else { return Err("say how many seconds".to_owned()) };
    let seconds: f64 = text.parse().map_err(|_| format!("{text:?} is no number of seconds"))?;
    let duration = Duration::try_from_secs_f64(seconds).map_err(|error| error.to_string())?;
    std::thread::sleep(duration);
    Ok(())
}
