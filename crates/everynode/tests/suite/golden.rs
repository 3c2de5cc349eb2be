//! The recorded answers of Kubernetes, where they are at hand: only known differences.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::support::Server;

/// Cases whose answers are known to differ, as AREA/CASE.
const KNOWN_DIFFERENCES: &[&str] = &[
    // Deployments and pod templates are left out on purpose.
    "defaulting/real-cilium-08-deployment",
    "tables/deployments",
    "tables/podtemplates",
    // Fewer roles than Kubernetes has, another administrator, another version.
    "tables/clusterroles-limit",
    "subresources/whoami",
    "validation/auth-anonymous-version",
    // Kubernetes refuses it because of the kind's strategy for updates.
    "validation/crev-revision-up",
    // The recorded cluster names its tokens' issuer and audience otherwise.
    "subresources/token-default",
    "subresources/token-pod",
    // Kubernetes allocates before it validates.
    "validation/differ-053-svc-headless-noports",
];

#[test]
fn answers_differ_from_kubernetes_only_where_it_is_known() {
    let Some(cases) = testing::variable("EVERYNODE_GOLDEN") else { return };
    let Some(replay) = testing::variable("EVERYNODE_GOLDEN_REPLAY") else { return };
    // Many cases wait for events that must not come: areas side by side take as long as the
    // longest.
    let unknown: Vec<String> = std::thread::scope(|scope| {
        let replays: Vec<_> = areas(Path::new(&cases)).into_iter().map(|area| scope.spawn(|| differences(&replay, area))).collect();
        replays.into_iter().flat_map(|replay| replay.join().expect("the replay finishes")).filter(|line| !is_known(line)).collect()
    });
    assert!(unknown.is_empty(), "{}", unknown.join("\n"));
}

fn areas(cases: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(cases).expect("EVERYNODE_GOLDEN is a folder");
    let areas: Vec<PathBuf> = entries.filter_map(|entry| entry.ok().map(|entry| entry.path())).filter(|path| path.is_dir()).collect();
    assert!(!areas.is_empty(), "EVERYNODE_GOLDEN has a folder for each area");
    areas
}

/// Replays an area against a server of its own; returns lines of verdict, area, case and reason.
fn differences(replay: &OsStr, area: PathBuf) -> Vec<String> {
    let server = Server::api_alone();
    let listed = server.home.path("failures");
    let mut command = Command::new(replay);
    command.arg("--kubeconfig").arg(server.home.data_dir().join("admin.kubeconfig")).arg("--list-failures").arg(&listed).arg(area);
    let output = command.output().expect("the replay can be started");
    let text = std::fs::read_to_string(&listed);
    let text = text.unwrap_or_else(|_| panic!("the replay broke off: {}", String::from_utf8_lossy(&output.stderr)));
    text.lines().filter(|line| line.starts_with("differs\t")).map(str::to_owned).collect()
}

fn is_known(line: &str) -> bool {
    let mut fields = line.split('\t').skip(1);
    let (area, case) = (fields.next().unwrap_or_default(), fields.next().unwrap_or_default());
    KNOWN_DIFFERENCES.contains(&format!("{area}/{case}").as_str())
}
