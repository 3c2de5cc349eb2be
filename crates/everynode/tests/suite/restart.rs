//! Starting, ending and starting again: what survives, what is refused, and with which words.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use serde_json::json;

use crate::support::{Home, Server, spawn_server, wait_for};

const CONFIG_MAPS: &str = "/api/v1/namespaces/default/configmaps";

#[test]
fn state_survives_an_orderly_end() {
    let mut server = Server::api_alone();
    let made = server.admin().create(CONFIG_MAPS, &json!({"metadata": {"name": "kept"}, "data": {"key": "value"}}));
    assert_eq!(server.terminate().code(), Some(0));
    server.run();
    assert_eq!(server.admin().get(&format!("{CONFIG_MAPS}/kept")).json(), made);
}

#[test]
fn a_token_outlives_the_process_that_signed_it() {
    let mut server = Server::api_alone();
    let admin = server.admin();
    admin.create("/api/v1/namespaces/default/serviceaccounts", &json!({"metadata": {"name": "robot"}}));
    let token = admin.create("/api/v1/namespaces/default/serviceaccounts/robot/token", &json!({"spec": {}}));
    let token = token["status"]["token"].as_str().expect("there is a token").to_owned();
    server.terminate();
    server.run();
    assert_eq!(server.anonymous().with_token(&token).get("/api").code, 200);
}

#[test]
fn a_second_server_on_the_same_data_is_refused() {
    let server = Server::api_alone();
    let (status, stderr) = spawn_server(&server.home, &["--controllers", "none"]).expect_err("the data is in use");
    assert_eq!(status.code(), Some(1), "{stderr}");
    assert!(stderr.starts_with("error: ") && stderr.contains("runs already"), "{stderr}");
    assert_eq!(server.admin().get("/readyz").code, 200);
}

#[test]
fn open_watches_end_with_the_server_and_do_not_hold_it() {
    let mut server = Server::api_alone();
    let mut watch = server.admin().connect().unwrap();
    watch.send("GET", &format!("{CONFIG_MAPS}?watch=true"), "", b"").unwrap();
    assert_eq!(watch.head().unwrap(), (200, None));
    assert_eq!(server.terminate().code(), Some(0));
    while watch.chunk().expect("the stream ends in good order").is_some() {}
}

#[test]
fn a_data_directory_that_cannot_be_made_is_named() {
    // Not even root may make a directory there.
    let stderr = refused(Path::new("/proc/everynode"));
    assert!(stderr.contains("cannot make the data directory /proc/everynode"), "{stderr}");
}

#[test]
fn a_file_is_no_data_directory() {
    let home = Home::new();
    let file = home.file("occupied", "mine");
    let stderr = refused(&file);
    assert!(stderr.contains(&file.display().to_string()), "{stderr}");
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "mine");
}

#[test]
fn an_address_in_use_is_named() {
    let server = Server::api_alone();
    let home = Home::new();
    let output = home.everynode(&["server", "--listen", &server.address().to_string(), "--data-dir", "data"]).output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    assert!(stderr.contains(&format!("cannot listen on {}", server.address())), "{stderr}");
}

#[test]
fn secrets_on_disk_are_the_owners_alone() {
    let server = Server::api_alone();
    let data = server.home.data_dir();
    let mode = |path: &Path| std::fs::metadata(path).expect("the file is there").permissions().mode() & 0o777;
    assert_eq!(mode(&data), 0o700);
    assert_eq!(mode(&data.join("admin.kubeconfig")), 0o600);
    for key in ["pki/ca.key", "pki/sa.key"] {
        assert_eq!(mode(&data.join(key)), 0o600, "{key}");
    }
}

#[test]
fn a_signal_during_the_start_ends_it() {
    let home = Home::new();
    let mut command = home.everynode(&["server", "--listen", "127.0.0.1:0", "--data-dir", "data"]);
    let mut process = command.stdout(std::process::Stdio::null()).spawn().unwrap();
    wait_for("the data directory", || home.data_dir().exists().then_some(()));
    rustix::process::kill_process(rustix::process::Pid::from_child(&process), rustix::process::Signal::TERM).unwrap();
    wait_for("the end of the server", || process.try_wait().unwrap());
}

/// A start that must fail; returns what it says.
fn refused(data_dir: &Path) -> String {
    let home = Home::new();
    let output = home.everynode(&["server", "--listen", "127.0.0.1:0", "--data-dir"]).arg(data_dir).output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    stderr
}
