//! What is different in every run gets a name instead: `<age>`, `<id>`, `<node-ip>`. Everything
//! else is compared as it is.
//!
//! In tables the name of a column decides; in other text the shape of a word. Masks change lengths,
//! so tables are set anew.

use std::sync::LazyLock;

use regex::Regex;

use super::tables::{self, Table};

/// Generated names are made of letters and digits without vowels and without what looks like
/// something else.
const WORDS: &[(&str, &str)] = &[
    (r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", "<uid>"),
    // Containers and digests of images.
    (r"\b[0-9a-f]{64}\b", "<hash>"),
    (r"\b\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)", "<time>"),
    (r"\b[A-Z][a-z]{2}, \d\d [A-Z][a-z]{2} \d{4} \d\d:\d\d:\d\d [+-]\d{4}", "<time>"),
    // Local clusters take the first networks that are free.
    (r"\b172\.30\.\d+\.\d+\b", "<node-ip>"),
    (r"\b10\.2[0-4]\d\.\d+\.\d+\b", "<pod-ip>"),
    // Revisions, then pods: both are the name of their set and something generated.
    (r"(controller-revision-hash[=:] ?)[a-z0-9]+", "$1<hash>"),
    (r"([a-z0-9-]*[a-z0-9]-)[2456789bcdfghjklmnpqrstvwxz]{8,10}([^a-z0-9-]|$)", "$1<hash>$2"),
    (r"([a-z0-9-]*[a-z0-9]-)[2456789bcdfghjklmnpqrstvwxz]{5}([^a-z0-9-]|$)", "$1<id>$2"),
    (r"\(\d+%\)", "(<n>%)"),
    (r"\bv1\.\d+\.\d+\+everynode[-.0-9]*\d", "<version>"),
    // Said by kubectl since 1.34.
    (r"\b(deleted) from [a-z0-9-]+ namespace$", "$1"),
];

/// Columns whose cells say how old something is, how much it uses, or what machine this is.
const COLUMNS: &[(&str, &str)] = &[
    ("AGE", "<age>"),
    ("Age", "<age>"),
    ("LAST SEEN", "<age>"),
    ("CPU(cores)", "<cpu>"),
    ("CPU%", "<percent>"),
    ("CPU(%)", "<percent>"),
    ("MEMORY(bytes)", "<memory>"),
    ("MEMORY%", "<percent>"),
    ("MEMORY(%)", "<percent>"),
    ("OS-IMAGE", "<os>"),
    ("KERNEL-VERSION", "<kernel>"),
    ("CONTAINER-RUNTIME", "<runtime>"),
];
/// Columns in which a count is followed by a time: the count stays.
const RESTARTS: &str = "RESTARTS";

static WORD_MASKS: LazyLock<Vec<(Regex, &str)>> = LazyLock::new(|| compile(WORDS));
static AGO: LazyLock<Regex> = LazyLock::new(|| Regex::new(r"\([0-9a-z]+ ago\)").expect("the expression is well-formed"));

fn compile(masks: &[(&'static str, &'static str)]) -> Vec<(Regex, &'static str)> {
    masks.iter().map(|(shape, name)| (Regex::new(shape).expect("the expression is well-formed"), *name)).collect()
}

/// The lines of an output with all masks, without blanks at their ends and without empty lines at
/// the end.
pub fn mask(output: &str) -> Vec<String> {
    let lines: Vec<&str> = output.lines().collect();
    let mut masked = Vec::new();
    let mut at = 0;
    while at < lines.len() {
        if let Some(table) = Table::read(&lines[at..]) {
            at += table.lines;
            masked.extend(mask_table(table));
        } else {
            masked.push(mask_words(lines[at]).trim_end().to_owned());
            at += 1;
        }
    }
    let len = masked.iter().rposition(|line| !line.is_empty()).map_or(0, |last| last + 1);
    masked.truncate(len);
    masked
}

fn mask_words(text: &str) -> String {
    WORD_MASKS.iter().fold(text.to_owned(), |text, (shape, name)| shape.replace_all(&text, *name).into_owned())
}

fn mask_cell(column: &str, cell: &str) -> String {
    match COLUMNS.iter().find(|(name, _)| *name == column) {
        Some((_, mask)) if !cell.is_empty() => (*mask).to_owned(),
        _ if column == RESTARTS => AGO.replace(cell, "(<age> ago)").into_owned(),
        _ => mask_words(cell),
    }
}

/// Rows whose order comes from generated names are put into the order of the rest.
fn mask_table(table: Table) -> Vec<String> {
    let mask_row = |row: &Vec<String>| table.header.iter().zip(row).map(|(column, cell)| mask_cell(column, cell)).collect();
    let mut rows: Vec<Vec<String>> = table.rows.iter().map(mask_row).collect();
    if rows.iter().flatten().any(|cell| cell.contains("<id>")) {
        rows.sort();
    }
    tables::align(&table, &rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(output: &str, expected: &str) {
        let masked: String = mask(output).iter().map(|line| format!("{line}\n")).collect();
        assert_eq!(masked, expected);
    }

    #[test]
    fn pods_are_sorted_by_what_does_not_change() {
        check(
            "NAME                READY   STATUS    RESTARTS      AGE   IP           NODE           NOMINATED NODE\n\
             demo-daemon-pw67k   1/1     Running   0             15m   10.244.3.3   kind-worker2   <none>\n\
             demo-daemon-x77qp   0/1     Error     1 (23m ago)   15m   10.244.1.3   kind-worker    <none>\n",
            "NAME               READY   STATUS    RESTARTS        AGE     IP         NODE           NOMINATED NODE\n\
             demo-daemon-<id>   0/1     Error     1 (<age> ago)   <age>   <pod-ip>   kind-worker    <none>\n\
             demo-daemon-<id>   1/1     Running   0               <age>   <pod-ip>   kind-worker2   <none>\n",
        );
    }

    #[test]
    fn names_of_nodes_and_counts_stay() {
        check(
            "NAME         DESIRED   CURRENT   NODE SELECTOR   AGE\nnode-agent   3         2         disktype=ssd    5s\n",
            "NAME         DESIRED   CURRENT   NODE SELECTOR   AGE\nnode-agent   3         2         disktype=ssd    <age>\n",
        );
        check("node/learning-control-plane labeled\n", "node/learning-control-plane labeled\n");
        check("REVISION  CHANGE-CAUSE\n1         <none>\n", "REVISION   CHANGE-CAUSE\n1          <none>\n");
    }

    #[test]
    fn events_of_a_description() {
        check(
            "Events:\n  Type    Reason            Age               From                  Message\n  \
             ----    ------            ----              ----                  -------\n  \
             Normal  SuccessfulCreate  5s (x2 over 7s)   daemonset-controller  Created pod: node-agent-9xk2w\n",
            "Events:\n  Type     Reason             Age     From                   Message\n  \
             ----     ------             ----    ----                   -------\n  \
             Normal   SuccessfulCreate   <age>   daemonset-controller   Created pod: node-agent-<id>\n",
        );
    }

    #[test]
    fn words() {
        check("Start Time:  Sat, 21 Nov 2026 16:33:00 +0000\n", "Start Time:  <time>\n");
        check("at 2026-11-21T16:33:00.123456Z and 2026-11-21T16:33:00Z\n", "at <time> and <time>\n");
        check("uid: 0f9d4c2e-1b7a-4d43-9c53-1f2f3a4b5c6d\n", "uid: <uid>\n");
        check("node 172.30.3.2, pod 10.243.0.7:9100, no 8.8.8.8\n", "node <node-ip>, pod <pod-ip>:9100, no 8.8.8.8\n");
        check("pod \"node-agent-4zx8b\" deleted\n", "pod \"node-agent-<id>\" deleted\n");
        check("pod \"node-agent-4zx8b\" deleted from default namespace\n", "pod \"node-agent-<id>\" deleted\n");
        check("agent-bqzz4 agent-bqzz4\n", "agent-<id> agent-<id>\n");
        check("/ns_agent-bqzz4_0f9d4c2e-1b7a-4d43-9c53-1f2f3a4b5c6d/0.log\n", "/ns_agent-<id>_<uid>/0.log\n");
        check("[pod/fluentd-bqzz4/fluentd] done\n", "[pod/fluentd-<id>/fluentd] done\n");
        check("controllerrevision.apps/node-agent-79d6d9b9f7\n", "controllerrevision.apps/node-agent-<hash>\n");
        check("controller-revision-hash=6d4b75cb6d\n", "controller-revision-hash=<hash>\n");
        check("cpu 50m (2%)\n", "cpu 50m (<n>%)\n");
    }
}
