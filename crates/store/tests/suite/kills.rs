//! A process that writes under load is killed again and again; every commit that it got an answer
//! for has to be there.
//!
//! The test starts its own binary as the child. A kill keeps what the kernel was given, so this is
//! about the order of answers and writes and about opening an unclosed file; `power_cuts` tests
//! lost and torn writes.

use std::collections::BTreeMap;
use std::env;
use std::io::{BufRead, BufReader, Write as _};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;

use store::file::Options;
use store::{Backend, Revision, Txn, file};

use crate::support::{erase, write};

const FILE_VARIABLE: &str = "EVERYNODE_STORE_KILL_FILE";
const THREADS: u64 = 6;
const ROUNDS: usize = 20;
/// Keys each thread goes round in.
const RING: u64 = 20;

/// Step `n` of a thread: counts, writes one key of its ring and deletes the one opposite, all in
/// one transaction.
fn step(thread: u64, n: u64) -> Txn {
    let writes = vec![
        write(&format!("{thread}/count"), &n.to_string()),
        write(&format!("{thread}/ring/{}", n % RING), &n.to_string()),
        erase(&format!("{thread}/ring/{}", (n + RING / 2) % RING)),
    ];
    let guards = vec![];
    Txn { guards, writes }
}

/// What the keys of a thread hold after its step `n`.
fn expected_ring(thread: u64, n: u64) -> BTreeMap<String, String> {
    let kept = n.saturating_sub(RING / 2 - 1).max(1)..=n;
    kept.map(|n| (format!("{thread}/ring/{}", n % RING), n.to_string())).collect()
}

fn count(store: &dyn Backend, thread: u64) -> u64 {
    let key = format!("{thread}/count");
    let entry = store.get(key.as_bytes()).expect("works");
    entry.map_or(0, |entry| {
        let text = std::str::from_utf8(&entry.value).expect("digits");
        text.parse().expect("digits")
    })
}

/// Does nothing unless the test below started it.
#[test]
fn child_that_writes_until_it_is_killed() {
    let Some(path) = env::var_os(FILE_VARIABLE) else {
        return;
    };
    let store = file::open(&path, Options::default()).expect("opens after a kill");
    thread::scope(|scope| {
        for thread in 0..THREADS {
            let store = &store;
            scope.spawn(move || {
                for n in count(store, thread) + 1.. {
                    let committed = store.commit(step(thread, n)).wait().expect("commits");
                    let line = format!("ack {thread} {n} {}\n", committed.revision);
                    // Not `println!`, which the test harness captures. The parent is gone when this
                    // fails.
                    if std::io::stdout().write_all(line.as_bytes()).is_err() {
                        std::process::exit(1);
                    }
                }
            });
        }
    });
}

/// Kills the child also when the test panics.
struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        // It may be gone already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[derive(Default)]
struct Acknowledged {
    count: BTreeMap<u64, u64>,
    revision: u64,
    lines: usize,
}

impl Acknowledged {
    fn note(&mut self, line: &str) {
        let numbers: Option<Vec<u64>> = line
            .strip_suffix('\n')
            .and_then(|line| line.strip_prefix("ack "))
            .and_then(|rest| rest.split(' ').map(|number| number.parse().ok()).collect());
        // Other lines are the test harness's, or cut short by the kill.
        if let Some([thread, n, revision]) = numbers.as_deref() {
            self.count.insert(*thread, *n);
            self.revision = self.revision.max(*revision);
            self.lines += 1;
        }
    }
}

/// Runs the child until it has acknowledged so many commits, kills it, and returns all it
/// acknowledged.
fn run_and_kill(path: &Path, lines: usize) -> Acknowledged {
    let child = Command::new(env::current_exe().expect("this test has a binary"))
        .args(["--exact", "kills::child_that_writes_until_it_is_killed", "--nocapture"])
        .env(FILE_VARIABLE, path)
        .stdout(Stdio::piped())
        .spawn()
        .expect("starts");
    let mut child = Killed(child);
    let mut output = BufReader::new(child.0.stdout.take().expect("piped"));
    let mut acknowledged = Acknowledged::default();
    let mut line = String::new();
    while output.read_line(&mut line).expect("UTF-8") > 0 {
        acknowledged.note(&line);
        line.clear();
        if acknowledged.lines == lines {
            child.0.kill().expect("still runs");
        }
    }
    assert!(acknowledged.lines >= lines, "the child ended by itself");
    acknowledged
}

fn check(path: &Path, acknowledged: &Acknowledged, round: usize) {
    let store = file::open(path, Options::default()).expect("opens after a kill");
    assert!(store.revision() >= Revision(acknowledged.revision), "round {round}");
    let mut total = 0;
    for thread in 0..THREADS {
        let stored = count(&store, thread);
        let told = acknowledged.count.get(&thread).copied().unwrap_or(0);
        // At most one step of each thread is under way.
        assert!(stored >= told, "round {round}: lost step {told} of {thread}");
        assert!(told == 0 || stored <= told + 1, "round {round}");
        let page = store.range(format!("{thread}/ring/").as_bytes(), None, None).expect("works");
        let ring: BTreeMap<String, String> = page
            .entries
            .iter()
            .map(|(key, entry)| {
                let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).expect("ASCII");
                (text(key), text(&entry.value))
            })
            .collect();
        assert_eq!(ring, expected_ring(thread, stored), "round {round}");
        total += stored;
    }
    assert_eq!(store.revision(), Revision(1 + total), "round {round}");
}

#[test]
fn a_killed_process_loses_no_acknowledged_commit() {
    let directory = tempfile::tempdir().expect("a place for the file");
    let path = directory.path().join("store.redb");
    for round in 0..ROUNDS {
        // Between hardly anything and some groups of commits.
        let lines = 1 + round * 37 % 150;
        let acknowledged = run_and_kill(&path, lines);
        check(&path, &acknowledged, round);
    }
}
