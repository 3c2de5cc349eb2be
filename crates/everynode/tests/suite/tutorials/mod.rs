//! The tutorials in `tests/e2e`, command by command: the real kubectl, real nodes, real containers,
//! output compared.
//!
//! A transcript reads like a terminal session (its format: [`transcript`]; what is masked:
//! [`masks`]). `UPDATE_EXPECT=1` writes what was seen into it. Variables of a session: `CLUSTER`,
//! the name for everynode's `--name`.

mod expectation;
mod images;
mod masks;
mod session;
mod tables;
mod transcript;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use testing::Need;

use crate::support::Cluster;
use images::Images;
use session::Session;
use transcript::{Step, Transcript};

/// How long a repeated command gets to print what is expected.
const PATIENCE: Duration = Duration::from_secs(90);
/// When expectations are replaced: how long the output of a repeated command has to stay the same
/// to be the new one. The slowest things are metrics and pods of nodes that are gone.
const SETTLED: Duration = Duration::from_secs(45);
/// Same for a new command, of which nothing is known.
const SETTLED_NEW: Duration = Duration::from_secs(3);
const PAUSE: Duration = Duration::from_millis(200);

/// A tutorial, and what has to be there before its first command.
struct Tutorial {
    /// In tests/e2e.
    transcript: &'static str,
    /// Of the control plane and of the workers.
    nodes: &'static [&'static str],
    images: &'static [&'static str],
    /// In examples: a copy is the working directory.
    folder: &'static str,
    /// The cluster has the built-in DaemonSets, which the document looks at.
    addons: bool,
}

#[test]
fn tutorial_1_daemonsets() {
    play(&Tutorial {
        transcript: "1-tutorial-09-daemonsets.txt",
        nodes: &["learning-control-plane", "learning-worker", "learning-worker2"],
        images: &["busybox.tar", "fluentd.tar", "node-exporter.tar"],
        folder: "tutorial-1",
        addons: false,
    });
}

#[test]
fn tutorial_2_explained() {
    play(&Tutorial {
        transcript: "2-daemonset-explained.txt",
        nodes: &["minikube", "minikube-m02", "minikube-m03"],
        images: &["busybox.tar"],
        folder: "tutorial-2",
        addons: false,
    });
}

#[test]
fn tutorial_3_notes() {
    play(&Tutorial {
        transcript: "3-daemonset-notes.txt",
        nodes: &["minikube", "minikube-m02", "minikube-m03"],
        images: &["busybox.tar", "fluentd.tar"],
        folder: "tutorial-3",
        addons: false,
    });
}

#[test]
fn tutorial_4_advanced() {
    play(&Tutorial {
        transcript: "4-advanced-section-13.txt",
        nodes: &["minikube", "minikube-m02", "minikube-m03"],
        images: &["busybox.tar", "fluentd.tar"],
        folder: "tutorial-4",
        addons: false,
    });
}

#[test]
fn tutorial_5_workshop() {
    play(&Tutorial {
        transcript: "5-workshop-12-daemonsets.txt",
        nodes: &["kind-control-plane", "kind-worker", "kind-worker2", "kind-worker3"],
        images: &["demo.tar"],
        folder: "tutorial-5",
        addons: true,
    });
}

fn play(tutorial: &Tutorial) {
    let path = repository().join("tests/e2e").join(tutorial.transcript);
    let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let transcript = Transcript::parse(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let Some(cluster) = Cluster::prepare_or_skip(tutorial.folder) else { return };
    let images = Images::build();
    if let Err(reason) = &images {
        eprintln!("{reason}");
    }
    if !testing::can_run(&[Need::Download { what: "packages of examples/images/build", is_there: images.is_ok() }]) {
        return;
    }
    let images = images.expect("they were built");
    match tutorial.addons {
        true => cluster.up_named_with_addons(tutorial.nodes),
        false => cluster.up_named(tutorial.nodes),
    }
    cluster.wait_for_service_account();
    for image in tutorial.images {
        cluster.load(&images.archive(image));
    }
    let mut session = session(&cluster, tutorial.folder);
    if std::env::var_os("UPDATE_EXPECT").is_some() {
        update(&transcript, &mut session, &path);
    } else {
        compare(&transcript, &mut session, &path);
    }
}

/// In a copy of the tutorial's folder, with `everynode` and `kubectl` to be found, and nothing of
/// the machine's user.
fn session(cluster: &Cluster, folder: &str) -> Session {
    let work = cluster.home.path(folder);
    copy_folder(&repository().join("examples").join(folder), &work);
    let programs = cluster.home.path("programs");
    std::fs::create_dir_all(&programs).expect("the temporary folder can be written to");
    std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_everynode"), programs.join("everynode"))
        .expect("the temporary folder can be written to");
    let mut search_path = std::ffi::OsString::from(programs);
    search_path.push(":");
    search_path.push(std::env::var_os("PATH").unwrap_or_default());
    let mut bash = cluster.home.command("bash");
    bash.current_dir(work).env("PATH", search_path).env("CLUSTER", &cluster.name).env("LC_ALL", "C");
    bash.env("KUBECONFIG", cluster.dir().join("admin.kubeconfig"));
    Session::start(bash, &cluster.home.path("session"))
}

fn copy_folder(from: &Path, to: &Path) {
    let copied = Command::new("cp").arg("-r").arg(from).arg(to).status();
    assert!(copied.is_ok_and(|status| status.success()), "{} can be copied", from.display());
}

fn compare(transcript: &Transcript, session: &mut Session, path: &Path) {
    for step in &transcript.steps {
        let (got, is_right) = run(step, session, PATIENCE);
        if !is_right {
            let shown: Vec<String> = step.forms.iter().map(|form| expectation::diff(form, &got)).collect();
            let state =
                session.run("kubectl get nodes,daemonsets,pods -A -o wide; kubectl get events -A --sort-by=.metadata.creationTimestamp");
            panic!("{}:{}: {}\n{}\n{state}", path.display(), step.line, step.command, shown.join("or:\n"));
        }
    }
}

fn update(transcript: &Transcript, session: &mut Session, path: &Path) {
    let mut outputs = Vec::new();
    for (at, step) in transcript.steps.iter().enumerate() {
        let settled = if step.forms[0].is_empty() { SETTLED_NEW } else { SETTLED };
        let (got, is_right) = run(step, session, settled);
        if !is_right {
            outputs.push((at, got));
        }
    }
    std::fs::write(path, transcript.with_outputs(&outputs)).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
}

/// The masked output and whether it is as expected. A repeated command is also given up when
/// nothing has changed for so long.
fn run(step: &Step, session: &mut Session, settled: Duration) -> (Vec<String>, bool) {
    let start = Instant::now();
    let (mut last, mut last_change) = (Vec::new(), start);
    loop {
        let got = masks::mask(&session.run(&step.command));
        let is_right = is_expected(step, &got);
        if got != last {
            last_change = Instant::now();
        }
        if is_right || !step.is_repeated || last_change.elapsed() > settled || start.elapsed() > PATIENCE {
            return (got, is_right);
        }
        last = got;
        std::thread::sleep(PAUSE);
    }
}

fn is_expected(step: &Step, got: &[String]) -> bool {
    step.forms.iter().any(|form| expectation::matches(form, got))
}

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}
