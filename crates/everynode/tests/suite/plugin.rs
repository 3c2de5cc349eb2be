//! What is around the commands: kubectl's plugin, shells' completions, manual pages.

use std::process::{Command, Stdio};

use testing::Need;

use crate::support::{Home, Kubectl, Server, kubectl_or_skip, wait_for};

const MANIFEST: &str = include_str!("../../../../examples/node-agent.yaml");
const SET: &str = "/apis/apps/v1/namespaces/default/daemonsets/node-agent";

/// A home with the link that makes this program kubectl's plugin, and the PATH to find it.
fn with_plugin() -> (Home, String) {
    let home = Home::new();
    let dir = home.path("bin");
    std::fs::create_dir(&dir).expect("the temporary folder can be written to");
    std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_everynode"), dir.join("kubectl-everynode")).expect("a link can be made");
    let path = format!("{}:{}", dir.display(), std::env::var("PATH").unwrap_or_default());
    (home, path)
}

fn fleet(server: &Server) {
    let set = kinds::yaml::parse(MANIFEST).expect("the example is YAML").0.into_value();
    server.admin().create("/apis/apps/v1/namespaces/default/daemonsets", &set);
    wait_for("two pods", || (server.admin().get(SET).json()["status"]["numberAvailable"] == 2).then_some(()));
}

#[test]
fn kubectl_everynode_asks_the_cluster_that_kubectl_asks() {
    let Some(server) = kubectl_or_skip(&["--simulate", "2"]) else { return };
    fleet(&server);
    let (home, path) = with_plugin();
    let manifest = home.file("agent.yaml", MANIFEST);
    let kubectl = Kubectl::new(&home, server.kubeconfig());
    let ask = |line: &str| kubectl.with_env(line, &[("PATH", &path)]);
    let why = ask("everynode why ds/node-agent");
    assert!(why.contains("everynode-2") && why.contains("available"), "{why}");
    let plan = ask(&format!("everynode plan -f {}", manifest.display()));
    assert!(plan.contains("unchanged: 2 pods"), "{plan}");
    let status = ask("everynode status");
    assert!(status.contains("nodes  2 of 2 Ready") && status.contains(&server.address().to_string()), "{status}");
    assert!(!ask("everynode status -n kube-system").contains("node-agent"));
    let help = ask("everynode --help");
    assert!(help.contains("Usage: kubectl everynode") && !help.contains("down"), "{help}");
    let output = kubectl.output(&["everynode", "down"], "", &[("PATH", &path)]);
    assert!(!output.status.success(), "there are questions only");
}

#[test]
fn status_asks_another_cluster_when_it_is_named() {
    let (home, server) = (Home::new(), Server::start(&["--simulate", "2"]));
    fleet(&server);
    let kubeconfig = server.kubeconfig();
    let ask = |arguments: &[&str]| {
        let mut command = home.everynode(arguments);
        command.arg("--kubeconfig").arg(&kubeconfig).output().expect("the program under test can be started")
    };
    let output = ask(&["status"]);
    let status = String::from_utf8_lossy(&output.stdout);
    assert!(status.contains("nodes  2 of 2 Ready") && status.contains("node-agent"), "{status}");
    let output = ask(&["status", "--name", "other"]);
    assert!(String::from_utf8_lossy(&output.stderr).contains("give one or the other"));
}

#[test]
fn completions_are_scripts() {
    let home = Home::new();
    for shell in ["bash", "zsh", "fish"] {
        let output = home.everynode(&["completions", shell]).output().expect("the program under test can be started");
        let script = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success() && script.contains("everynode") && script.contains("why"), "{shell}: {script}");
    }
}

#[test]
fn bash_reads_its_completions() {
    check_completions("bash");
}

#[test]
fn zsh_reads_its_completions() {
    check_completions("zsh");
}

#[test]
fn fish_reads_its_completions() {
    check_completions("fish");
}

fn check_completions(shell: &str) {
    if !testing::can_run(&[Need::Program { name: shell, package: shell }]) {
        return;
    }
    let home = Home::new();
    let script = home.everynode(&["completions", shell]).output().expect("the program under test can be started").stdout;
    let file = home.file(&format!("completions.{shell}"), &String::from_utf8_lossy(&script));
    let checked = Command::new(shell).arg("-n").arg(&file).stderr(Stdio::piped()).output().expect("the shell can be started");
    assert!(checked.status.success(), "{shell}: {}", String::from_utf8_lossy(&checked.stderr));
}

#[test]
fn every_subcommand_has_a_manual_page() {
    let home = Home::new();
    let dir = home.path("man");
    let output = home.everynode(&["man"]).arg(&dir).output().expect("the program under test can be started");
    assert!(output.status.success(), "{output:?}");
    for page in ["everynode.1", "everynode-up.1", "everynode-why.1", "everynode-node-add.1", "everynode-agent.1", "everynode-addons.1"] {
        let text = std::fs::read_to_string(dir.join(page)).unwrap_or_else(|error| panic!("{page}: {error}"));
        assert!(text.contains(".SH NAME") && text.len() > 200, "{page}: {text}");
    }
    assert!(!dir.join("everynode-local-node.1").exists(), "hidden commands are hidden here, too");
    if !testing::can_run(&[Need::Program { name: "man", package: "man-db" }]) {
        return;
    }
    let mut man = Command::new("man");
    let formatted = man.arg("-l").arg(dir.join("everynode-up.1")).env("MANPAGER", "cat").output().expect("man can be started");
    assert!(formatted.status.success() && !formatted.stdout.is_empty(), "{formatted:?}");
}

#[test]
fn addons_are_printed_for_clusters_that_others_made() {
    let Some(server) = crate::support::kubectl_or_skip(&["--simulate", "2"]) else { return };
    let home = Home::new();
    let wrong =
        home.everynode(&["addons", "--server", "https://x:1", "--cluster-cidr", "10.244.0.0/16"]).output().expect("it can be started");
    assert_eq!(wrong.status.code(), Some(1));
    let said = String::from_utf8_lossy(&wrong.stderr).into_owned();
    assert_eq!(said, "error: --server \"https://x:1\" is no host and port, as in 192.0.2.10:6443\n");
    let printed =
        home.everynode(&["addons", "--server", "192.0.2.10:6443", "--cluster-cidr", "10.244.0.0/16"]).output().expect("it can be started");
    assert!(printed.status.success(), "{printed:?}");
    let applied = server.kubectl().stdin("apply -f -", &String::from_utf8_lossy(&printed.stdout));
    for object in ["daemonset.apps/kube-proxy created", "daemonset.apps/node-dns created", "service/kube-dns created"] {
        assert!(applied.contains(object), "{object} is missing in {applied}");
    }
    // Once more changes nothing.
    let again = server.kubectl().stdin("apply -f -", &String::from_utf8_lossy(&printed.stdout));
    assert!(again.lines().all(|line| line.ends_with("unchanged")), "{again}");
}
