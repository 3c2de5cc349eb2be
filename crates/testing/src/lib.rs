//! What tests need of the machine, and what happens where it is missing.
//!
//! A test asks [`can_run`] first. Where something is missing, the test prints one line, leaves a
//! record in the file that `EVERYNODE_SKIPS` names, and returns; `cargo xtask ci` prints the count
//! of the records. With `EVERYNODE_TESTS=all` the test fails instead, unless an installation cannot
//! help ([`Need::Machine`]). [`decide`] is the rule; it takes what was found as arguments.

mod skips;

use std::ffi::OsString;
use std::fs::OpenOptions;
use std::io::Write as _;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::panic::Location;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::OnceLock;

pub use skips::summary;

/// Names the file to which tests that are skipped append their records.
pub const SKIPS: &str = "EVERYNODE_SKIPS";

/// `all`: a test that misses something fails.
pub const TESTS: &str = "EVERYNODE_TESTS";

/// What a test cannot do without.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Need<'a> {
    Root,
    /// Root may make namespaces, which many containers of CI systems forbid.
    Namespaces,
    /// On the PATH.
    Program {
        name: &'a str,
        /// Of Debian.
        package: &'a str,
    },
    /// At a fixed place.
    File {
        path: &'a str,
        package: &'a str,
    },
    /// Something that comes over the network; the test has tried.
    Download {
        what: &'a str,
        is_there: bool,
    },
    /// An environment variable that says where records of other clusters are. They are not on every
    /// machine.
    Variable(&'a str),
    /// A feature of the kernel or a file system, which no installation adds; the test has tried.
    Machine {
        what: &'a str,
        is_there: bool,
    },
}

/// What tests of several crates need.
pub const BUSYBOX: Need<'_> = Need::File { path: "/bin/busybox", package: "busybox-static" };
pub const KUBECTL: Need<'_> = Need::Program { name: "kubectl", package: "kubernetes-client" };
pub const REGISTRY: Need<'_> = Need::Program { name: "docker-registry", package: "docker-registry" };
pub const CONTAINERD: [Need<'_>; 4] = [
    Need::Program { name: "containerd", package: "containerd" },
    Need::Program { name: "ctr", package: "containerd" },
    Need::Program { name: "runc", package: "runc" },
    Need::File { path: "/usr/lib/cni/ptp", package: "containernetworking-plugins" },
];

/// Whether the calling test can run. If not, it returns: what is missing is printed and recorded,
/// or the test has failed already.
#[must_use]
#[track_caller]
pub fn can_run(needs: &[Need<'_>]) -> bool {
    let variable = std::env::var_os(TESTS);
    let wants_all = wants_all(variable.as_ref().map(|value| value.to_string_lossy()).as_deref());
    match decide(needs, is_there, wants_all) {
        Decision::Run => true,
        Decision::Skip { missing } => {
            skip(&test_name(Location::caller()), &missing);
            false
        }
        Decision::Fail { message } => panic!("{message}"),
    }
}

/// The value of a variable that the calling test needs. None: the test cannot run here.
#[track_caller]
pub fn variable(name: &str) -> Option<OsString> {
    if can_run(&[Need::Variable(name)]) { std::env::var_os(name) } else { None }
}

pub fn is_root() -> bool {
    std::fs::metadata("/proc/self").is_ok_and(|process| process.uid() == 0)
}

#[derive(Debug, PartialEq, Eq)]
enum Decision {
    Run,
    Skip { missing: String },
    Fail { message: String },
}

/// A typing error must not turn failures into skips.
fn wants_all(variable: Option<&str>) -> bool {
    match variable {
        None | Some("") => false,
        Some("all") => true,
        Some(other) => panic!("{TESTS} is {other:?}: set it to \"all\", or do not set it"),
    }
}

fn decide(needs: &[Need<'_>], is_there: impl Fn(&Need<'_>) -> bool, wants_all: bool) -> Decision {
    let missing: Vec<&Need<'_>> = needs.iter().filter(|need| !is_there(need)).collect();
    let remedies: Vec<String> = missing.iter().filter_map(|need| Some(format!("{need}: {}", need.remedy()?))).collect();
    if missing.is_empty() {
        Decision::Run
    } else if wants_all && !remedies.is_empty() {
        Decision::Fail { message: format!("{TESTS}=all, and this is missing:\n{}", remedies.join("\n")) }
    } else {
        let missing: Vec<String> = missing.iter().map(|need| need.to_string()).collect();
        Decision::Skip { missing: missing.join(", ") }
    }
}

impl Need<'_> {
    /// What to do about it; None where nothing can be done.
    fn remedy(&self) -> Option<String> {
        match self {
            Need::Root => Some("run the tests as root".to_owned()),
            Need::Namespaces => Some("run the tests on a machine or in a privileged container".to_owned()),
            Need::Program { package, .. } | Need::File { package, .. } => Some(format!("apt-get install {package}")),
            Need::Download { .. } => Some("run apt-get update, and check the network and the list of packages".to_owned()),
            Need::Variable(_) | Need::Machine { .. } => None,
        }
    }
}

impl std::fmt::Display for Need<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Need::Root => "root",
            Need::Namespaces => "the right to make namespaces",
            Need::Program { name, .. } => name,
            Need::File { path, .. } => path,
            Need::Variable(name) => name,
            Need::Download { what, .. } | Need::Machine { what, .. } => what,
        })
    }
}

fn is_there(need: &Need<'_>) -> bool {
    match need {
        Need::Root => is_root(),
        Need::Namespaces => can_make_namespaces(),
        Need::Program { name, .. } => is_on_path(name),
        Need::File { path, .. } => Path::new(path).exists(),
        Need::Variable(name) => std::env::var_os(name).is_some_and(|value| !value.is_empty()),
        Need::Download { is_there, .. } | Need::Machine { is_there, .. } => *is_there,
    }
}

fn is_on_path(program: &str) -> bool {
    let is_executable = |file: &Path| file.metadata().is_ok_and(|file| file.is_file() && file.permissions().mode() & 0o111 != 0);
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|dir| is_executable(&dir.join(program)))
}

fn can_make_namespaces() -> bool {
    static ALLOWED: OnceLock<bool> = OnceLock::new();
    *ALLOWED.get_or_init(|| {
        let mut unshare = Command::new("unshare");
        unshare.args(["--mount", "--net", "--uts", "--ipc", "true"]).stdout(Stdio::null()).stderr(Stdio::null());
        unshare.status().is_ok_and(|status| status.success())
    })
}

/// The harness names threads after tests, unless there is one thread for all of them.
fn test_name(place: &Location<'_>) -> String {
    let thread = std::thread::current();
    let name = thread.name().filter(|name| *name != "main").map(str::to_owned);
    name.unwrap_or_else(|| format!("{}:{}", place.file(), place.line()))
}

fn skip(test: &str, missing: &str) {
    // The harness keeps what the macros print of a test that passes, and shows what goes straight
    // to the stream. What cannot be printed is still recorded.
    let _ = writeln!(std::io::stderr(), "skipped: {test} needs {missing}");
    let Some(file) = std::env::var_os(SKIPS) else { return };
    let krate = std::env::var("CARGO_PKG_NAME").unwrap_or_default();
    let record = skips::record(&format!("{krate} {test}"), missing);
    // One write each: several processes append at the same time.
    let written = OpenOptions::new().create(true).append(true).open(&file).and_then(|mut file| file.write_all(record.as_bytes()));
    written.unwrap_or_else(|error| panic!("{SKIPS} names {}: {error}", Path::new(&file).display()));
}

#[cfg(test)]
mod tests {
    use super::*;

    const CGROUP: Need<'_> = Need::Machine { what: "cgroup v2", is_there: false };

    fn decided(needs: &[Need<'_>], present: &[Need<'_>], wants_all: bool) -> Decision {
        decide(needs, |need| present.contains(need), wants_all)
    }

    #[test]
    fn a_test_that_misses_nothing_runs() {
        for wants_all in [false, true] {
            assert_eq!(decided(&[], &[], wants_all), Decision::Run);
            assert_eq!(decided(&[Need::Root, KUBECTL], &[KUBECTL, BUSYBOX, Need::Root], wants_all), Decision::Run);
        }
    }

    #[test]
    fn a_test_is_skipped_for_all_that_is_missing() {
        let skipped = decided(&[Need::Root, KUBECTL, BUSYBOX, CGROUP], &[KUBECTL], false);
        assert_eq!(skipped, Decision::Skip { missing: "root, /bin/busybox, cgroup v2".to_owned() });
    }

    #[test]
    fn what_can_be_installed_fails_a_test_when_all_are_wanted() {
        let Decision::Fail { message } = decided(&[Need::Root, KUBECTL, CGROUP], &[Need::Root], true) else { panic!("it fails") };
        assert_eq!(message, "EVERYNODE_TESTS=all, and this is missing:\nkubectl: apt-get install kubernetes-client");
        let download = Need::Download { what: "a package", is_there: false };
        for need in [Need::Root, Need::Namespaces, BUSYBOX, REGISTRY, CONTAINERD[3], download] {
            assert!(matches!(decided(&[need], &[], true), Decision::Fail { .. }), "{need}");
        }
    }

    #[test]
    fn what_a_machine_does_not_have_never_fails_a_test() {
        for need in [CGROUP, Need::Variable("EVERYNODE_GOLDEN")] {
            assert_eq!(decided(&[need], &[], true), Decision::Skip { missing: need.to_string() });
        }
    }

    #[test]
    fn the_variable_has_one_value() {
        assert_eq!([None, Some(""), Some("all")].map(wants_all), [false, false, true]);
        assert!(std::panic::catch_unwind(|| wants_all(Some("ALL"))).is_err());
    }

    #[test]
    fn programs_and_files_are_looked_for() {
        assert!(is_there(&Need::Program { name: "sh", package: "dash" }));
        assert!(!is_there(&Need::Program { name: "everynode-no-such-program", package: "none" }));
        assert!(is_there(&Need::File { path: "/proc/self", package: "none" }));
        assert!(!is_there(&Need::File { path: "/everynode/no/such/file", package: "none" }));
        assert!(is_there(&Need::Variable("PATH")) && !is_there(&Need::Variable("EVERYNODE_NO_SUCH_VARIABLE")));
    }

    #[test]
    fn tests_are_named_after_their_threads() {
        let here = Location::caller();
        let named = std::thread::Builder::new().name("a::test".to_owned()).spawn(|| test_name(here)).expect("a thread starts");
        assert_eq!(named.join().expect("the thread does not panic"), "a::test");
        let nameless = std::thread::spawn(|| test_name(here)).join().expect("the thread does not panic");
        assert!(nameless.ends_with(&format!("lib.rs:{}", here.line())), "{nameless}");
    }
}
