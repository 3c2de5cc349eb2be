//! What README and docs tell people to type works: every block that is fenced as `sh` is run.
//!
//! The blocks of a page are one bash session, in their order, with a home of its own, the program
//! under test as `everynode`, and the real kubectl. What cannot run in a test is fenced as `text`.
//! To add a command, write it; there is nothing to be done here.

use std::path::Path;
use std::process::{Command, Stdio};

use crate::support::Home;
use crate::support::cluster::REAL_NODES;

/// The folder of the workspace.
const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../..");

/// What a reader has and the test does not: cargo, which has built the program under test already,
/// and a cluster that is called `everynode`. Reports the line of the page at which a command fails:
/// a session has as many lines as its page.
const PRELUDE: &str = r#"
set -eE -o pipefail
trap 'echo "$PAGE:$LINENO: $BASH_COMMAND: exit code $?" >&2' ERR
cargo() {
    case "$1 $2" in
        "build --release") ;;
        "run --release") shift 3; everynode "$@" ;;
        *) echo "cargo $*: the test of the docs does not know this; fence it as text" >&2; return 1 ;;
    esac
}
"#;

#[test]
fn the_readme_does_what_it_says() {
    run_page("README.md");
}

#[test]
fn operations_does_what_it_says() {
    run_page("docs/operations.md");
}

/// Pages are tests of their own, side by side; a new one must not be forgotten.
#[test]
fn every_page_with_commands_has_its_test() {
    let docs = std::fs::read_dir(Path::new(ROOT).join("docs")).expect("there are docs");
    let pages = docs.map(|entry| format!("docs/{}", entry.expect("they can be listed").file_name().to_string_lossy()));
    let own = std::fs::read_to_string(Path::new(ROOT).join("crates/everynode/tests/suite/docs.rs")).expect("this file is there");
    for page in pages.chain(["README.md", "CONTRIBUTING.md", "ARCHITECTURE.md"].map(str::to_owned)).filter(|page| page.ends_with(".md")) {
        let has_commands = !session(&read(&page)).trim().is_empty();
        assert!(!has_commands || own.contains(&format!("run_page(\"{page}\")")), "{page} has commands and no test in docs.rs");
    }
}

fn read(page: &str) -> String {
    std::fs::read_to_string(Path::new(ROOT).join(page)).unwrap_or_else(|error| panic!("{page}: {error}"))
}

/// The lines of the blocks; an empty line for every other line of the page.
fn session(page: &str) -> String {
    let mut is_inside = false;
    let mut session = String::new();
    for line in page.lines() {
        match line.trim_end() {
            "```sh" => is_inside = true,
            "```" => is_inside = false,
            _ if is_inside => session.push_str(line),
            _ => {}
        }
        session.push('\n');
    }
    session
}

fn run_page(page: &str) {
    if !testing::can_run(&REAL_NODES) {
        return;
    }
    // Control groups and bridges are the machine's: its user may have a cluster of the default
    // name.
    let file = Path::new(page).file_stem().expect("a page has a name").to_string_lossy().to_lowercase();
    let cluster = format!("{file}-{}", std::process::id());
    let place = Place::new(&cluster);
    let script = session(&read(page));
    let script =
        script.replace("everynode-worker", &format!("{cluster}-worker")).replace("everynode-control", &format!("{cluster}-control"));
    let script = place.home.file("session.sh", &script);
    let output = place.command("bash").env("PAGE", page).arg(script).output().expect("bash can be started");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(output.status.success(), "{page}\n{}{}", text(&output.stdout), text(&output.stderr));
}

/// What a reader has at hand in the folder of a clone that is built. Clusters end with it.
struct Place {
    home: Home,
    cluster: String,
}

impl Place {
    fn new(cluster: &str) -> Place {
        let home = Home::new();
        for dir in ["bin", "target/release"] {
            std::fs::create_dir_all(home.path(dir)).expect("the temporary folder can be written to");
        }
        let link = |from: &str, to: &str| std::os::unix::fs::symlink(from, home.path(to)).expect("a link can be made");
        let program = env!("CARGO_BIN_EXE_everynode");
        link(program, "bin/everynode");
        link(program, "bin/kubectl-everynode");
        link(program, "target/release/everynode");
        link(&format!("{ROOT}/examples"), "examples");
        link(&format!("{ROOT}/packaging"), "packaging");
        home.file("prelude.sh", PRELUDE);
        Place { home, cluster: cluster.to_owned() }
    }

    fn command(&self, program: &str) -> Command {
        let mut command = self.home.command(program);
        let path = format!("{}:{}", self.home.path("bin").display(), std::env::var("PATH").unwrap_or_default());
        command.env("PATH", path).env("EVERYNODE_CLUSTER", &self.cluster).env("BASH_ENV", self.home.path("prelude.sh"));
        command
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = self.home.everynode(&["down", "--all"]).stdout(Stdio::null()).stderr(Stdio::null()).status();
    }
}
