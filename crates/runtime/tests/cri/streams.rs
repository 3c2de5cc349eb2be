//! Commands in containers, attachments and forwarded ports.

use std::time::Duration;

use containers::{Error, StreamRequest, TerminalSize};
use runtime::port::{Reader, Runtime as _};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

use crate::fixture::Daemon;
use crate::until::{LONG, until};

fn words(words: &[&str]) -> Vec<String> {
    words.iter().map(|&w| w.to_owned()).collect()
}

async fn whole(reader: Option<Reader>) -> String {
    let mut text = String::new();
    timeout(LONG, reader.unwrap().read_to_string(&mut text)).await.unwrap().unwrap();
    text
}

#[tokio::test(flavor = "multi_thread")]
async fn commands_to_their_end() {
    let Some(daemon) = Daemon::start().await else { return };
    let pod = daemon.sandbox_config("execs");
    let sandbox = daemon.sandbox(&pod).await;
    let id = daemon.run(&sandbox, &pod, &daemon.config("c", "sleep 1000").await).await;

    let output = daemon.client.exec_sync(&id, &words(&["sh", "-c", "echo out; echo err >&2; exit 5"]), None).await.unwrap();
    assert_eq!((output.stdout, output.stderr, output.exit_code), (b"out\n".to_vec(), b"err\n".to_vec(), 5));
    let sleep = words(&["sleep", "1000"]);
    let late = timeout(LONG, daemon.client.exec_sync(&id, &sleep, Some(Duration::from_millis(700))));
    let error = late.await.expect("the command has its time and no more").unwrap_err();
    assert!(matches!(error, Error::DeadlineExceeded(_)), "{error:?}");
    let error = daemon.client.exec_sync(&id, &words(&["/nope"]), None).await.unwrap_err();
    assert!(
        matches!(&error, Error::Failed(_) if error.to_string().contains("/nope") && !error.to_string().contains("rpc error")),
        "{error:?}"
    );
    let error = daemon.client.exec_sync("0123", &words(&["true"]), None).await.unwrap_err();
    assert_eq!(error, Error::NotFound { kind: "container", id: "0123".into() });
}

#[tokio::test(flavor = "multi_thread")]
async fn commands_with_streams() {
    let Some(daemon) = Daemon::start().await else { return };
    let pod = daemon.sandbox_config("streams");
    let sandbox = daemon.sandbox(&pod).await;
    let id = daemon.run(&sandbox, &pod, &daemon.config("c", "sleep 1000").await).await;

    // Standard input has an end, and what follows it still comes.
    let command = words(&["sh", "-c", "cat; echo end >&2; exit 4"]);
    let request = StreamRequest { command, stdin: true, stdout: true, stderr: true, tty: false };
    let mut session = daemon.client.exec(&id, &request).await.unwrap();
    let mut stdin = session.stdin.take().unwrap();
    let sent = "0123456789abcdef".repeat(20_000);
    let text = sent.clone();
    let sending = tokio::spawn(async move { stdin.write_all(text.as_bytes()).await.unwrap() });
    assert!(whole(session.stdout.take()).await == sent);
    sending.await.unwrap();
    assert_eq!(whole(session.stderr.take()).await, "end\n");
    assert_eq!(timeout(LONG, session.exit).await.unwrap(), Ok(4));

    let request = StreamRequest { command: words(&["/nope"]), stdout: true, ..Default::default() };
    let session = daemon.client.exec(&id, &request).await.unwrap();
    let error = timeout(LONG, session.exit).await.unwrap().unwrap_err();
    assert!(matches!(&error, Error::Failed(_) if error.to_string().contains("/nope")), "{error:?}");

    let command = words(&["sh", "-c", "until stty size | grep -q 45.123; do sleep 0.1; done; stty size; tty"]);
    let request = StreamRequest { command, stdin: true, stdout: true, stderr: false, tty: true };
    let session = daemon.client.exec(&id, &request).await.unwrap();
    session.resize.as_ref().unwrap().send(TerminalSize { columns: 123, rows: 45 }).await.unwrap();
    let text = whole(session.stdout).await;
    assert!(text.contains("45 123") && text.contains("/dev/pts/"), "{text:?}");
    assert_eq!(timeout(LONG, session.exit).await.unwrap(), Ok(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn attachments() {
    let Some(daemon) = Daemon::start().await else { return };
    let pod = daemon.sandbox_config("attach");
    let sandbox = daemon.sandbox(&pod).await;
    let mut config = daemon.config("c", "cat; echo bye; exit 6").await;
    (config.stdin, config.stdin_once) = (true, true);
    let id = daemon.run(&sandbox, &pod, &config).await;
    let request = StreamRequest { stdin: true, stdout: true, stderr: true, ..Default::default() };
    let mut session = daemon.client.attach(&id, &request).await.unwrap();
    let mut stdin = session.stdin.take().unwrap();
    stdin.write_all(b"hello\n").await.unwrap();
    let mut stdout = session.stdout.take().unwrap();
    let mut line = [0; 6];
    timeout(LONG, stdout.read_exact(&mut line)).await.unwrap().unwrap();
    assert_eq!(&line, b"hello\n");
    drop(stdin);
    assert_eq!(whole(Some(stdout)).await, "bye\n");
    assert_eq!(timeout(LONG, session.exit).await.unwrap(), Ok(0));
    assert_eq!(daemon.ended(&id).await.exit_code, 6);
}

#[tokio::test(flavor = "multi_thread")]
async fn forwarded_ports() {
    let Some(daemon) = Daemon::start().await else { return };
    let pod = daemon.sandbox_config("ports");
    let sandbox = daemon.sandbox(&pod).await;
    let script = "nc -ll -p 8080 -e sh -c 'read line; echo got $line'";
    let id = daemon.run(&sandbox, &pod, &daemon.config("c", script).await).await;
    // The port in hexadecimal digits.
    let looks = words(&["sh", "-c", "cat /proc/net/tcp /proc/net/tcp6 | grep -q :1F90"]);
    until("a listener", async || daemon.client.exec_sync(&id, &looks, None).await.unwrap().exit_code == 0).await;
    for round in 0..2 {
        let (reader, mut writer) = daemon.client.port_forward(&sandbox, 8080).await.unwrap();
        writer.write_all(format!("round {round}\n").as_bytes()).await.unwrap();
        assert_eq!(whole(Some(reader)).await, format!("got round {round}\n"));
    }
    let why = match daemon.client.port_forward(&sandbox, 9).await {
        Err(error) => error.to_string(),
        // On a machine under load the refusal arrives later.
        Ok((mut reader, _writer)) => timeout(LONG, reader.read_to_end(&mut Vec::new())).await.unwrap().unwrap_err().to_string(),
    };
    assert!(why.starts_with("failed to execute portforward") && why.contains("refused"), "{why}");
}
