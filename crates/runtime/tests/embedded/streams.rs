//! Logs, commands in running containers, attaching, terminals, ports.

use std::time::Duration;

use containers::{Error, StreamRequest, TerminalSize};
use runtime::port::{Reader, Runtime as _};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::fixture::Node;
use crate::until::{LONG, until};

fn words(list: &[&str]) -> Vec<String> {
    list.iter().map(|w| (*w).to_owned()).collect()
}

async fn read_until(reader: &mut Reader, text: &str) -> String {
    let mut seen = Vec::new();
    let read = async {
        while !String::from_utf8_lossy(&seen).contains(text) {
            if reader.read_buf(&mut seen).await.unwrap() == 0 {
                break;
            }
        }
    };
    let _ = tokio::time::timeout(LONG, read).await;
    let seen = String::from_utf8_lossy(&seen).into_owned();
    assert!(seen.contains(text), "{text:?} not in {seen:?}");
    seen
}

#[tokio::test(flavor = "multi_thread")]
async fn logs_have_the_format_of_cri() {
    let Some(node) = Node::new().await else { return };
    let left = node.run_script("echo out; echo err >&2; head -c 20000 /dev/zero | tr '\\0' x; echo; printf rest").await;
    let mut shown: Vec<String> = left
        .log
        .lines()
        .map(|l| {
            let parts: Vec<&str> = l.splitn(4, ' ').collect();
            assert!(parts[0].parse::<jiff::Timestamp>().is_ok() && parts[0].len() == 30, "{}", parts[0]);
            format!("{} {} {}", parts[1], parts[2], if parts[3].len() > 10 { parts[3].len().to_string() } else { parts[3].to_owned() })
        })
        .collect();
    shown.sort();
    assert_eq!(shown, ["stderr F err", "stdout F 3616", "stdout F out", "stdout P 16384", "stdout P rest"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn logs_follow_a_rotation() {
    let Some(node) = Node::new().await else { return };
    let id = node.start(&node.script("while :; do echo tick; sleep 0.05; done")).await;
    node.wait_log(&id, "tick").await;
    let path = node.runtime.container(&id).await.unwrap().log_path;
    std::fs::rename(&path, path.with_extension("old")).unwrap();
    node.runtime.reopen_log(&id).await.unwrap();
    node.wait_log(&id, "tick").await;
    node.runtime.remove_container(&id).await.unwrap();
    assert!(path.exists(), "logs stay");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_loses_lines_only() {
    let Some(node) = Node::new().await else { return };
    let (logs, none) = (node.place.dir.path().join("logs"), None::<&str>);
    nix::mount::mount(Some("t"), &logs, Some("tmpfs"), nix::mount::MsFlags::empty(), Some("size=64k")).unwrap();
    nix::mount::mount(none, &logs, none, nix::mount::MsFlags::MS_PRIVATE, none).unwrap();
    let left =
        node.run_script("i=0; while test $i -lt 3000; do echo a line that takes some room in the log; i=$((i+1)); done; exit 5").await;
    assert_eq!(left.status.exit_code, 5);
    assert!(left.lines().len() > 100);
}

#[tokio::test(flavor = "multi_thread")]
async fn commands_to_their_end() {
    let Some(node) = Node::new().await else { return };
    let mut config = node.script("sleep 60");
    config.env = vec![("OWN".into(), "value".into())];
    config.security.run_as_user = Some(33);
    let id = node.start(&config).await;
    let run = |script: &str, limit: Option<u64>| {
        let command = words(&["/bin/sh", "-c", script]);
        let (runtime, id) = (node.runtime.clone(), id.clone());
        async move { runtime.exec_sync(&id, &command, limit.map(Duration::from_millis)).await }
    };
    let output = run("echo $OWN $(id -u) $HOME; echo bad >&2; exit 17", None).await.unwrap();
    assert_eq!((output.exit_code, output.stdout.as_slice(), output.stderr.as_slice()), (17, &b"value 33 /home/web\n"[..], &b"bad\n"[..]));
    assert_eq!(run("echo hi > /dev/stdout", None).await.unwrap().stdout, b"hi\n", "streams belong to the user");
    assert_eq!(run("kill -9 $$", None).await.unwrap().exit_code, 137);
    let late = tokio::time::timeout(LONG, run("sleep 3000", Some(300))).await.expect("the command has its time and no more");
    assert_eq!(late, Err(Error::DeadlineExceeded("command timed out: timeout 0.3s exceeded".into())));
    let missing = node.runtime.exec_sync(&id, &words(&["nope"]), None).await;
    let text = "exec failed: unable to start container process: exec: \"nope\": executable file not found in $PATH";
    assert_eq!(missing, Err(Error::Failed(text.into())));
    let processes = String::from_utf8(run("ps -o args", None).await.unwrap().stdout).unwrap();
    assert_eq!(processes.matches("sleep 3000").count(), 0, "killed: {processes}");
    node.runtime.remove_container(&id).await.unwrap();
    assert!(matches!(node.runtime.exec_sync(&id, &words(&["true"]), None).await, Err(Error::NotFound { .. })));
}

#[tokio::test(flavor = "multi_thread")]
async fn commands_with_streams() {
    let Some(node) = Node::new().await else { return };
    let id = node.start(&node.script("sleep 60")).await;
    let request = StreamRequest { command: words(&["wc", "-c"]), stdin: true, stdout: true, ..Default::default() };
    let mut session = node.runtime.exec(&id, &request).await.unwrap();
    let mut stdin = session.stdin.take().unwrap();
    let sent = tokio::spawn(async move { stdin.write_all(&vec![b'x'; 3_000_000]).await });
    read_until(session.stdout.as_mut().unwrap(), "3000000").await;
    sent.await.unwrap().unwrap();
    assert_eq!(session.exit.await, Ok(0));

    let request = StreamRequest { command: words(&["/bin/sh"]), stdin: true, stdout: true, tty: true, ..Default::default() };
    let mut session = node.runtime.exec(&id, &request).await.unwrap();
    session.resize.as_ref().unwrap().send(TerminalSize { columns: 111, rows: 33 }).await.unwrap();
    let stdin = session.stdin.as_mut().unwrap();
    // The terminal shows the line, too.
    stdin.write_all(b"until stty size | grep -q 33.111; do sleep 0.05; done; stty size; tty; exit 5\n").await.unwrap();
    let out = session.stdout.as_mut().unwrap();
    let seen = read_until(out, "/dev/pts/").await;
    assert!(seen.contains("33 111"), "{seen}");
    let mut rest = Vec::new();
    out.read_to_end(&mut rest).await.unwrap();
    assert_eq!(session.exit.await, Ok(5));
}

#[tokio::test(flavor = "multi_thread")]
async fn attaching() {
    let Some(node) = Node::new().await else { return };
    let mut config = node.script("while read line; do echo got $line; echo err $line >&2; done; echo end; exit 4");
    (config.stdin, config.stdin_once) = (true, true);
    let id = node.start(&config).await;
    let request = StreamRequest { stdin: true, stdout: true, stderr: true, ..Default::default() };
    let mut session = node.runtime.attach(&id, &request).await.unwrap();
    session.stdin.as_mut().unwrap().write_all(b"one\n").await.unwrap();
    read_until(session.stdout.as_mut().unwrap(), "got one").await;
    read_until(session.stderr.as_mut().unwrap(), "err one").await;
    drop(session.stdin.take());
    read_until(session.stdout.as_mut().unwrap(), "end").await;
    assert_eq!(session.exit.await, Ok(0));
    let left = node.wait(&id).await;
    assert_eq!(left.status.exit_code, 4);
    assert!(left.log.contains("stdout F got one") && left.log.contains("stderr F err one"));
}

#[tokio::test(flavor = "multi_thread")]
async fn attaching_to_a_terminal() {
    let Some(node) = Node::new().await else { return };
    let mut config =
        node.script("echo $TERM; read line; until stty size | grep -q 20.90; do sleep 0.05; done; stty size; echo got $line; exit 6");
    (config.stdin, config.tty) = (true, true);
    let id = node.start(&config).await;
    node.wait_log(&id, "xterm").await;
    let request = StreamRequest { stdin: true, stdout: true, tty: true, ..Default::default() };
    let mut session = node.runtime.attach(&id, &request).await.unwrap();
    session.resize.as_ref().unwrap().send(TerminalSize { columns: 90, rows: 20 }).await.unwrap();
    session.stdin.as_mut().unwrap().write_all(b"hello\n").await.unwrap();
    let seen = read_until(session.stdout.as_mut().unwrap(), "got hello").await;
    assert!(seen.contains("20 90"), "{seen}");
    assert_eq!(node.wait(&id).await.status.exit_code, 6);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_reads_nothing_does_not_stop_the_container() {
    let Some(node) = Node::new().await else { return };
    let mut config = node.script("read line; head -c 3000000 /dev/zero | tr '\\0' '\\n'; exit 0");
    config.stdin = true;
    let id = node.start(&config).await;
    let request = StreamRequest { stdin: true, stdout: true, ..Default::default() };
    let mut session = node.runtime.attach(&id, &request).await.unwrap();
    session.stdin.as_mut().unwrap().write_all(b"go\n").await.unwrap();
    assert_eq!(node.wait(&id).await.status.exit_code, 0);
    drop(session);
}

#[tokio::test(flavor = "multi_thread")]
async fn ports() {
    let Some(node) = Node::new().await else { return };
    let id = node.start(&node.script("echo listening; nc -l -p 8080 -e /bin/cat")).await;
    node.wait_log(&id, "listening").await;
    let mut connection = None;
    until("a listener", async || {
        connection = node.runtime.port_forward(&node.sandbox, 8080).await.ok();
        connection.is_some()
    })
    .await;
    let (mut reader, mut writer) = connection.unwrap();
    writer.write_all(b"through\n").await.unwrap();
    read_until(&mut reader, "through").await;
    assert!(node.runtime.port_forward(&node.sandbox, 8081).await.is_err());
}
