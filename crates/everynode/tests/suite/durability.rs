//! What was acknowledged is there, whatever happens to the process.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::{Value, json};

use crate::support::{Client, Server, wait_for};

const ROUNDS: usize = 8;
const WRITERS: usize = 4;
const CONFIG_MAPS: &str = "/api/v1/namespaces/default/configmaps";

/// What the clients know: what they tried, and which answers they got.
#[derive(Default)]
struct Known {
    tried: BTreeSet<String>,
    acknowledged: BTreeMap<String, Value>,
}

#[test]
fn acknowledged_objects_survive_kills() {
    let mut server = Server::api_alone();
    let roles = server.admin().get("/apis/rbac.authorization.k8s.io/v1/clusterroles").json()["items"].clone();
    let mut known = Known::default();
    let mut last_revision = 0;
    for round in 0..ROUNDS {
        // Different each time, so that kills hit different moments of a write.
        write_until_killed(&mut server, round, 20 + 7 * round, &mut known);
        server.run();
        let list = server.admin().get(CONFIG_MAPS).json();
        last_revision = check_revisions(&list, last_revision);
        check_objects(&list, &known);
        assert_eq!(server.admin().get("/apis/rbac.authorization.k8s.io/v1/clusterroles").json()["items"], roles, "round {round}");
    }
    assert!(known.acknowledged.len() >= 20 * ROUNDS, "the rounds were rounds of writing");
}

/// Lets writers write until `acknowledged_min` writes are acknowledged, then kills the server under
/// them.
fn write_until_killed(server: &mut Server, round: usize, acknowledged_min: usize, known: &mut Known) {
    let (client, acknowledged) = (&server.admin(), &AtomicUsize::new(0));
    std::thread::scope(|scope| {
        let writers: Vec<_> =
            (0..WRITERS).map(|writer| scope.spawn(move || write(client, &format!("r{round}-w{writer}"), acknowledged))).collect();
        wait_for("acknowledged writes", || (acknowledged.load(Ordering::Relaxed) >= acknowledged_min).then_some(()));
        server.kill();
        for writer in writers {
            let wrote = writer.join().expect("writers do not panic");
            known.tried.extend(wrote.tried);
            known.acknowledged.extend(wrote.acknowledged);
        }
    });
}

/// Creates one ConfigMap after another until the server is gone.
fn write(client: &Client, prefix: &str, acknowledged: &AtomicUsize) -> Known {
    let mut known = Known::default();
    let Ok(mut connection) = client.connect() else { return known };
    for number in 0.. {
        let name = format!("{prefix}-{number}");
        known.tried.insert(name.clone());
        let body = json!({"metadata": {"name": name}, "data": data_of(&name)}).to_string();
        let Ok(answer) = connection.ask("POST", CONFIG_MAPS, "application/json", body.as_bytes()) else { break };
        assert_eq!(answer.code, 201, "{}", answer.text());
        known.acknowledged.insert(name, answer.json());
        acknowledged.fetch_add(1, Ordering::Relaxed);
    }
    known
}

/// Of different lengths, some longer than a page of the store.
fn data_of(name: &str) -> Value {
    let length = name.bytes().map(usize::from).sum::<usize>() * 7 % 6000;
    json!({"name": name, "filling": name.chars().cycle().take(length).collect::<String>()})
}

/// Revisions never go back; returns that of the list.
fn check_revisions(list: &Value, last: u64) -> u64 {
    let revision = revision_of(list);
    assert!(revision >= last, "the store is at {revision}, it was at {last}");
    for item in items(list) {
        assert!(revision_of(item) <= revision, "{item} is newer than its list ({revision})");
    }
    revision
}

fn check_objects(list: &Value, known: &Known) {
    let found: BTreeMap<&str, &Value> = items(list).iter().map(|item| (name_of(item), item)).collect();
    for (name, acknowledged) in &known.acknowledged {
        let item = found.get(name.as_str()).unwrap_or_else(|| panic!("{name} was acknowledged and is gone"));
        assert_eq!(item["metadata"], acknowledged["metadata"]);
        assert_eq!(item["data"], acknowledged["data"]);
    }
    for (name, item) in found {
        assert!(known.tried.contains(name), "nobody made {name}");
        assert_eq!(item["data"], data_of(name), "{name}");
    }
}

fn items(list: &Value) -> &[Value] {
    list["items"].as_array().map(Vec::as_slice).unwrap_or_default()
}

fn name_of(object: &Value) -> &str {
    object["metadata"]["name"].as_str().unwrap_or_default()
}

fn revision_of(object: &Value) -> u64 {
    object["metadata"]["resourceVersion"].as_str().and_then(|text| text.parse().ok()).expect("objects have revisions")
}
