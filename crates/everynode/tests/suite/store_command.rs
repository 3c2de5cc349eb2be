//! `everynode store`: a damaged store is named, repaired as far as it can be, and its objects leave
//! it as kubectl takes them.

use std::process::Output;

use serde_json::{Value, json};

use crate::support::{Server, spawn_server};

const CONFIG_MAPS: &str = "/api/v1/namespaces/default/configmaps";

fn store(server: &Server, arguments: &[&str]) -> (Output, String) {
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_everynode"));
    let output = command.arg("store").args(arguments).arg(server.home.data_dir()).output().expect("the program under test can be started");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    (output, said)
}

/// What a server says that does not start.
fn refusal(server: &Server) -> String {
    match spawn_server(&server.home, &[]) {
        Ok((mut process, _)) => {
            let _ = process.kill();
            let _ = process.wait();
            panic!("it started");
        }
        Err((_, said)) => said,
    }
}

#[test]
fn damage_is_found_and_what_is_left_is_saved() {
    let mut server = Server::api_alone();
    for number in 0..300 {
        let object = json!({"metadata": {"name": format!("map-{number:03}")}, "data": {"key": "x".repeat(500)}});
        server.admin().create(CONFIG_MAPS, &object);
    }
    let (running, said) = store(&server, &["check"]);
    assert!(running.status.code() == Some(1) && said.contains("in use by another process"), "{said}");
    server.terminate();

    let (whole, said) = store(&server, &["check"]);
    assert!(whole.status.success() && said.contains("the store is whole"), "{said}");
    let (exported, _) = store(&server, &["export"]);
    assert!(exported.status.success());
    let objects: Vec<Value> = String::from_utf8_lossy(&exported.stdout).lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(objects[0]["kind"], "Namespace", "what others need comes first");
    let maps: Vec<&Value> =
        objects.iter().filter(|object| object["metadata"]["name"].as_str().is_some_and(|name| name.starts_with("map-"))).collect();
    assert_eq!(maps.len(), 300);
    assert_eq!(
        *maps[0],
        json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "map-000", "namespace": "default"}, "data": {"key": "x".repeat(500)}})
    );

    let path = server.home.data_dir().join("store.redb");
    let mut bytes = std::fs::read(&path).unwrap();
    let at = bytes.windows(7).position(|window| window == b"map-150").expect("it is stored");
    bytes[at + 20] ^= 4;
    std::fs::write(&path, &bytes).unwrap();
    let (damaged, said) = store(&server, &["check"]);
    assert!(damaged.status.code() == Some(1) && said.contains("everynode store repair"), "{said}");
    let refused = refusal(&server);
    assert!(refused.contains("is damaged") && refused.contains("left as it is") && !refused.contains("panicked"), "{refused}");
    assert!(std::fs::read(&path).unwrap() == bytes, "neither changes the file");
    let (exported, _) = store(&server, &["export"]);
    assert_eq!(exported.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&exported.stdout).lines().count() >= objects.len() / 2);

    let (repaired, said) = store(&server, &["repair"]);
    assert!(repaired.status.success() && said.contains("store.redb.damaged"), "{said}");
    assert!(std::fs::read(server.home.data_dir().join("store.redb.damaged")).unwrap() == bytes, "the damaged file stays");
    server.run();
    let left = server.admin().get(CONFIG_MAPS).json()["items"].as_array().unwrap().len();
    assert!((150..=301).contains(&left), "{left} of 300 are left");
    server.terminate();
    let (again, said) = store(&server, &["repair"]);
    assert!(again.status.success() && said.contains("nothing was changed"), "{said}");
}
