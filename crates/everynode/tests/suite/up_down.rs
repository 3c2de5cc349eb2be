//! Local clusters: `up`, `ls`, `status`, `down`, and that nothing is left behind.

use std::io::Read as _;
use std::process::{Command, Output};
use std::sync::{Arc, Mutex};

use rustix::pty::{OpenptFlags, grantpt, ioctl_tiocgptpeer, openpt, unlockpt};
use rustix::termios::{Winsize, tcsetwinsize};
use serde_json::Value;

use crate::support::{Home, wait_for};

const MANIFEST: &str = include_str!("../../../../examples/node-agent.yaml");
const FOREIGN: &str = "apiVersion: v1
kind: Config
clusters: [{name: prod, cluster: {server: 'https://prod.example.com'}}]
users: [{name: jane, user: {token: secret}}]
contexts: [{name: prod, context: {cluster: prod, user: jane}}]
current-context: prod
";

/// A home whose clusters end with it, also when a test fails.
struct Clusters(Home);

impl Clusters {
    fn new() -> Clusters {
        Clusters(Home::new())
    }

    fn run(&self, arguments: &[&str]) -> Output {
        self.0.everynode(arguments).output().expect("the program under test can be started")
    }

    /// stdout and stderr of a command that must succeed.
    fn succeed(&self, arguments: &[&str]) -> (String, String) {
        let output = self.run(arguments);
        let [stdout, stderr] = [&output.stdout, &output.stderr].map(|bytes| String::from_utf8_lossy(bytes).into_owned());
        assert_eq!(output.status.code(), Some(0), "everynode {arguments:?}\n{stdout}{stderr}");
        (stdout, stderr)
    }

    fn kubeconfig(&self) -> Value {
        let text = std::fs::read_to_string(self.0.kubeconfig()).expect("there is a kubeconfig");
        kinds::yaml::parse(&text).expect("the kubeconfig is YAML").0.into_value()
    }

    /// The process that serves a cluster.
    fn record(&self, name: &str) -> Value {
        let path = self.0.path(&format!(".local/state/everynode/clusters/{name}/cluster.json"));
        serde_json::from_slice(&std::fs::read(path).expect("the cluster has a record")).expect("it is JSON")
    }

    fn pid(&self, name: &str) -> u64 {
        self.record(name)["pid"].as_u64().expect("it names a process")
    }

    fn port(&self, name: &str) -> u16 {
        let record = self.record(name);
        let (_, port) = record["address"].as_str().and_then(|address| address.rsplit_once(':')).expect("it has an address with a port");
        port.parse().expect("ports are numbers")
    }
}

impl Drop for Clusters {
    fn drop(&mut self) {
        let _ = self.0.everynode(&["down", "--all"]).output();
    }
}

#[test]
fn up_starts_down_removes() {
    let clusters = Clusters::new();
    clusters.0.file("kubeconfig", FOREIGN);
    let before = clusters.kubeconfig();
    let manifest = clusters.0.file("agent.yaml", MANIFEST);
    let (stdout, _) = clusters.succeed(&["up", "--simulate", "2", "-f", manifest.to_str().unwrap()]);
    assert_eq!(stdout, "", "what happens goes to stderr");
    assert_eq!(clusters.kubeconfig()["current-context"], "everynode-everynode");
    let pid = clusters.pid("everynode");
    assert!(runs(pid));

    let (listed, _) = clusters.succeed(&["ls"]);
    let words: Vec<&str> = listed.lines().nth(1).expect("one cluster").split_whitespace().collect();
    assert_eq!((words[0], words[1], words[3]), ("everynode", "running", "2"), "{listed}");
    let (status, _) = clusters.succeed(&["status"]);
    assert!(status.contains("2 of 2 Ready"), "{status}");
    let words: Vec<Vec<&str>> = status.lines().map(|line| line.split_whitespace().collect()).collect();
    assert!(words.contains(&vec!["default", "node-agent", "2", "2", "2", "2", "2", "1"]), "{status}");
    assert!(
        words.iter().any(|words| words.starts_with(&["everynode-2", "Ready"]) && words.ends_with(&["1", "yes", "available"])),
        "{status}"
    );

    clusters.succeed(&["up", "--simulate", "2", "-f", manifest.to_str().unwrap()]);
    assert_eq!(clusters.pid("everynode"), pid, "a cluster that runs is left alone");

    clusters.succeed(&["down"]);
    assert!(!runs(pid));
    assert!(!clusters.0.path(".local/state/everynode/clusters/everynode").exists());
    let after = clusters.kubeconfig();
    for list in ["clusters", "users", "contexts"] {
        assert_eq!(after[list], before[list], "foreign {list} are as they were, and there are no others");
    }
    assert_ne!(after["current-context"], "everynode-everynode");
}

#[test]
fn down_of_nothing_is_no_error() {
    let clusters = Clusters::new();
    clusters.succeed(&["down"]);
    clusters.succeed(&["down", "--all"]);
    clusters.succeed(&["down", "--name", "other"]);
    assert!(!clusters.0.kubeconfig().exists());
}

/// `--data-dir` names any folder: only what everynode made is removed, and it makes nothing in a
/// folder that holds something else.
#[test]
fn folders_of_others_are_left_alone() {
    let clusters = Clusters::new();
    std::fs::create_dir_all(clusters.0.path("photos")).unwrap();
    clusters.0.file("photos/cat.jpg", "x");
    let photos = clusters.0.path("photos");
    let photos = photos.to_str().unwrap();
    for arguments in
        [&["down", "--data-dir", photos][..], &["up", "--simulate", "1", "--data-dir", photos], &["server", "--data-dir", photos]]
    {
        let output = clusters.run(arguments);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{arguments:?}: {said}");
        assert!(said.contains(photos) && said.lines().count() == 1, "{arguments:?}: {said}");
        let names: Vec<_> = std::fs::read_dir(photos).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(names, ["cat.jpg"], "{arguments:?}");
    }
    // One of another version, which had no marker.
    clusters.succeed(&["up", "--simulate", "1", "--name", "old"]);
    let dir = clusters.0.path(".local/state/everynode/clusters/old");
    std::fs::remove_file(dir.join(".everynode-data")).unwrap();
    clusters.succeed(&["down", "--name", "old"]);
    assert!(!dir.exists());
}

/// `--name` is typed by hand: beside the folder of another cluster it removes neither, and beside a
/// folder with nothing in it not the cluster of that name.
#[test]
fn a_name_beside_another_folder_removes_nothing() {
    let clusters = Clusters::new();
    let (one, two, keys) = (clusters.0.path("one"), clusters.0.path("two"), clusters.0.path("keys"));
    let (one, two, keys) = (one.to_str().unwrap(), two.to_str().unwrap(), keys.to_str().unwrap());
    clusters.succeed(&["up", "--simulate", "1", "--name", "one", "--data-dir", one]);
    std::fs::create_dir_all(clusters.0.path("keys/pki")).unwrap();
    clusters.0.file("keys/pki/ca.key", "x");
    for (arguments, said) in [
        (&["down", "--name", "two", "--data-dir", one][..], "is the data directory of cluster one, not of two"),
        (&["status", "--name", "two", "--data-dir", one], "is the data directory of cluster one, not of two"),
        (&["down", "--name", "one", "--data-dir", keys], "is no data directory of everynode"),
    ] {
        let output = clusters.run(arguments);
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.code() == Some(1) && error.contains(said) && error.lines().count() == 1, "{arguments:?}: {error}");
    }
    clusters.succeed(&["down", "--name", "one", "--data-dir", two]);
    assert!(std::fs::read_to_string(clusters.0.kubeconfig()).unwrap().contains("everynode-one"), "its context is still there");
    assert!(clusters.0.path("keys/pki/ca.key").exists() && clusters.0.path("one/store.redb").exists());
    clusters.succeed(&["down", "--name", "one", "--data-dir", one]);
    assert!(!clusters.0.path("one").exists());
}

/// Wherever `up` is interrupted, `down` finds the server that it started, also one that has not
/// said yet that it is there.
#[test]
fn an_interrupted_up_leaves_nothing_behind_its_down() {
    let clusters = Clusters::new();
    let dir = clusters.0.path(".local/state/everynode/clusters/everynode");
    for millis in [0, 1, 2, 4, 7, 11, 16, 22, 30, 40, 55, 75, 100, 150] {
        let mut up = clusters.0.everynode(&["up", "--simulate", "1"]).spawn().expect("the program under test can be started");
        std::thread::sleep(std::time::Duration::from_millis(millis));
        up.kill().expect("it is a child of ours");
        up.wait().expect("it ends");
        clusters.succeed(&["down"]);
        let left = serving(dir.to_str().unwrap());
        assert!(left.is_empty(), "interrupted after {millis} ms: processes {left:?} are left");
        assert!(!dir.exists());
    }
}

/// The processes that name that folder on their command line.
fn serving(dir: &str) -> Vec<String> {
    let processes = std::fs::read_dir("/proc").unwrap().flatten().map(|entry| entry.file_name().to_string_lossy().into_owned());
    let names_it = |pid: &String| std::fs::read_to_string(format!("/proc/{pid}/cmdline")).is_ok_and(|line| line.contains(dir));
    processes.filter(|name| name.parse::<u32>().is_ok()).filter(names_it).collect()
}

/// Several write the kubeconfig at a time, as kubectl does: with its lock, through links, each
/// leaving what the others wrote.
#[test]
fn clusters_that_start_together_share_a_kubeconfig() {
    let clusters = Clusters::new();
    clusters.0.file("real-config", FOREIGN);
    std::os::unix::fs::symlink("real-config", clusters.0.kubeconfig()).unwrap();
    let names: Vec<String> = (1..=5).map(|number| format!("c{number}")).collect();
    let ups: Vec<_> = names.iter().map(|name| clusters.0.everynode(&["up", "--simulate", "1", "--name", name]).spawn().unwrap()).collect();
    for up in ups {
        let output = up.wait_with_output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
    let config = clusters.kubeconfig();
    let contexts: Vec<&str> = config["contexts"].as_array().unwrap().iter().filter_map(|context| context["name"].as_str()).collect();
    assert!(contexts.contains(&"prod") && names.iter().all(|name| contexts.contains(&&*format!("everynode-{name}"))), "{contexts:?}");
    assert!(std::fs::symlink_metadata(clusters.0.kubeconfig()).unwrap().is_symlink());
    clusters.succeed(&["down", "--all"]);
    assert!(std::fs::symlink_metadata(clusters.0.kubeconfig()).unwrap().is_symlink());
    assert_eq!(clusters.kubeconfig()["contexts"].as_array().unwrap().len(), 1);
    // Another command's turn, which does not end.
    let lock = clusters.0.file("real-config.lock", "");
    let refused = clusters.run(&["up", "--simulate", "1"]);
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(!refused.status.success() && said.contains("real-config.lock"), "{said}");
    std::fs::remove_file(lock).unwrap();
}

#[test]
fn names_that_cannot_be_are_refused_at_once_and_long_ones_work() {
    let clusters = Clusters::new();
    for names in ["a,../../b", "a,a", "a,,b", "A", "a_b"] {
        let output = clusters.run(&["up", "--workers", "1", "--node-names", names]);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{names}: {said}");
        assert!(!clusters.0.path(".local/state/everynode/clusters/everynode").exists(), "{names}: something was made");
    }
    let name = "x".repeat(63);
    clusters.succeed(&["up", "--simulate", "2", "--name", &name]);
    clusters.succeed(&["down", "--name", &name]);
}

#[test]
fn a_reader_that_goes_away_is_no_panic() {
    let clusters = Clusters::new();
    let mut command = clusters.0.everynode(&["completions", "bash"]);
    let mut child = command.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
}

#[test]
fn clusters_of_different_names_live_side_by_side() {
    let clusters = Clusters::new();
    let (_, told) = clusters.succeed(&["up", "--name", "one", "--simulate", "1"]);
    assert!(told.contains("everynode status --name one\n"), "{told}");
    clusters.succeed(&["up", "--name", "two", "--simulate", "0"]);
    let (one, two) = (clusters.pid("one"), clusters.pid("two"));
    clusters.succeed(&["down", "--name", "one"]);
    assert!(!runs(one) && runs(two));
    assert_eq!(clusters.kubeconfig()["contexts"].as_array().map(Vec::len), Some(1));
    clusters.succeed(&["down", "--all"]);
    assert!(!runs(two));
}

#[test]
fn a_cluster_that_crashed_comes_up_again_with_its_state() {
    let clusters = Clusters::new();
    let manifest = clusters.0.file("map.yaml", "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: kept}\n");
    clusters.succeed(&["up", "--simulate", "1", "-f", manifest.to_str().unwrap()]);
    let pid = clusters.pid("everynode");
    kill(pid);
    let (listed, _) = clusters.succeed(&["ls"]);
    assert!(listed.contains("stopped"), "{listed}");
    let output = clusters.run(&["status"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("does not run"));
    clusters.succeed(&["up", "--simulate", "1"]);
    assert_ne!(clusters.pid("everynode"), pid);
    let admin = crate::support::Client::from_kubeconfig(&clusters.0.path(".local/state/everynode/clusters/everynode/admin.kubeconfig"));
    assert_eq!(admin.get("/api/v1/namespaces/default/configmaps/kept").code, 200);
}

#[test]
fn a_server_that_does_not_answer_is_started_again_when_it_has_ended() {
    let clusters = Clusters::new();
    clusters.succeed(&["up", "--simulate", "1"]);
    let (pid, port) = (clusters.pid("everynode"), clusters.port("everynode"));
    send(pid, rustix::process::Signal::STOP);
    let mut up = clusters.0.everynode(&["up", "--simulate", "1"]).spawn().expect("the program under test can be started");
    wait_for("a question to the server", || is_connected_to(port).then_some(()));
    send(pid, rustix::process::Signal::KILL);
    assert_eq!(up.wait().expect("one's own child can be waited for").code(), Some(0));
    assert_ne!(clusters.pid("everynode"), pid);
}

/// Whether something on this machine has a connection to that port of the loopback interface.
fn is_connected_to(port: u16) -> bool {
    let connections = std::fs::read_to_string("/proc/net/tcp").expect("the kernel lists them");
    // Local address, remote address, state; 01 is established.
    let established = format!(" 0100007F:{port:04X} 01 ");
    connections.contains(&established)
}

#[test]
fn a_manifest_that_cannot_be_applied_starts_nothing() {
    let clusters = Clusters::new();
    let manifest = clusters.0.file("bad.yaml", "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: a}\n");
    let output = clusters.run(&["up", "-f", manifest.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(1));
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(stderr.contains("bad.yaml, document 1: everynode has no kind \"Deployment\""), "{stderr}");
    assert!(!clusters.0.path(".local").exists());
}

#[test]
fn wrong_usage_ends_with_two() {
    let clusters = Clusters::new();
    assert_eq!(clusters.run(&["up", "--nonsense"]).status.code(), Some(2));
    assert_eq!(clusters.run(&["up", "--name", "Not A Name"]).status.code(), Some(1));
}

#[test]
fn the_board_is_drawn_on_a_terminal() {
    let clusters = Clusters::new();
    let manifest = clusters.0.file("agent.yaml", MANIFEST);
    let mut terminal = Terminal::run(clusters.0.everynode(&["up", "--simulate", "3", "-f", manifest.to_str().unwrap()]));
    assert_eq!(terminal.wait(), Some(0), "{}", terminal.text());
    let text = terminal.text();
    for wanted in ["DAEMONSET", "everynode-2", "✓ daemonset/node-agent runs on 3 nodes", "why ds/node-agent", "\u{1b}["] {
        assert!(text.contains(wanted), "{wanted:?} is missing in\n{text}");
    }

    let mut watching = Terminal::run(clusters.0.everynode(&["status", "--watch"]));
    wait_for("the board", || watching.text().contains("available").then_some(()));
    clusters.succeed(&["node", "add"]);
    wait_for("the new node", || watching.text().contains("everynode-4").then_some(()));
    assert!(watching.text().contains("\u{1b}["), "it is drawn in place");
    watching.process.kill().expect("it runs until it is told to end");
    watching.wait();
}

#[test]
fn the_board_is_lines_elsewhere() {
    let clusters = Clusters::new();
    let manifest = clusters.0.file("agent.yaml", &MANIFEST.replace("agent:builtin", "agent:does-not-exist"));
    let output = clusters.run(&["up", "--simulate", "2", "--timeout-seconds", "5", "-f", manifest.to_str().unwrap()]);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr.contains("daemonset/node-agent: 2 desired, 2 current, 2 updated, 0 ready, 0 available"), "{stderr}");
    assert!(stderr.contains("daemonset/node-agent on everynode-1: container agent waits: "), "{stderr}");
    assert!(!stderr.contains('\u{1b}'), "{stderr}");
}

#[test]
fn a_variable_names_the_default_cluster() {
    let clusters = Clusters::new();
    let run = |arguments: &[&str]| clusters.0.everynode(arguments).env("EVERYNODE_CLUSTER", "mine").output().expect("it can be started");
    let output = run(&["up", "--simulate", "1"]);
    assert!(output.status.success(), "{output:?}");
    assert!(!String::from_utf8_lossy(&output.stderr).contains("--name"), "what to type next is typed in the same shell");
    assert!(run(&["status"]).status.success());
    clusters.succeed(&["status", "--name", "mine"]);
    assert!(run(&["down", "--all"]).status.success());
}

/// A command on a terminal of 30 lines and 120 columns.
struct Terminal {
    process: std::process::Child,
    text: Arc<Mutex<String>>,
    reader: Option<std::thread::JoinHandle<()>>,
}

impl Terminal {
    fn run(mut command: Command) -> Terminal {
        // Not inherited by what the command leaves running: that would keep the terminal, and this
        // test, from ending.
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
        let master = openpt(flags).expect("a terminal can be made");
        grantpt(&master).and_then(|()| unlockpt(&master)).expect("a new terminal is its maker's");
        let end = ioctl_tiocgptpeer(&master, flags).expect("a terminal has another end");
        let size = Winsize { ws_row: 30, ws_col: 120, ws_xpixel: 0, ws_ypixel: 0 };
        tcsetwinsize(&end, size).expect("a terminal has a size");
        let slave = || end.try_clone().expect("a file can be opened twice");
        command.env("TERM", "xterm").stdin(slave()).stdout(slave()).stderr(slave());
        let process = command.spawn().expect("the program under test can be started");
        // The command holds them, too: with its own copies gone the end of the process is the end
        // of the text.
        drop((command, end));
        let text = Arc::new(Mutex::new(String::new()));
        let (mut master, shared) = (std::fs::File::from(master), text.clone());
        let reader = std::thread::spawn(move || {
            let mut bytes = [0; 4096];
            let mut all = Vec::new();
            while let Ok(count @ 1..) = master.read(&mut bytes) {
                all.extend_from_slice(&bytes[..count]);
                *shared.lock().expect("nobody panics while holding it") = String::from_utf8_lossy(&all).into_owned();
            }
        });
        Terminal { process, text, reader: Some(reader) }
    }

    fn text(&self) -> String {
        self.text.lock().expect("nobody panics while holding it").clone()
    }

    /// How it ended; all of the text is there.
    fn wait(&mut self) -> Option<i32> {
        let status = self.process.wait().expect("one's own child can be waited for");
        self.reader.take().map(std::thread::JoinHandle::join);
        status.code()
    }
}

/// SIGKILL to a server of this test, and its end.
fn kill(pid: u64) {
    send(pid, rustix::process::Signal::KILL);
    wait_for("the end of the server", || (!runs(pid)).then_some(()));
}

fn send(pid: u64, signal: rustix::process::Signal) {
    let raw = i32::try_from(pid).expect("process ids fit");
    let pid_of = rustix::process::Pid::from_raw(raw).expect("process ids are positive");
    rustix::process::kill_process(pid_of, signal).expect("the process runs");
}

/// Whether there is such a process, or only its remains that its parent has not collected yet.
/// A process whose first thread ended still runs while others of its threads are ending: they hold
/// its files and locks, and `everynode ls` says so.
fn runs(pid: u64) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let Some((_, rest)) = stat.rsplit_once(')') else { return false };
    let fields: Vec<&str> = rest.split_whitespace().collect();
    let threads: u32 = fields.get(17).and_then(|text| text.parse().ok()).unwrap_or_default();
    fields.first() != Some(&"Z") || threads > 1
}
