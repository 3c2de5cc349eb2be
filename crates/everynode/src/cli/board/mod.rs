//! The board of a cluster: its DaemonSets, and for every node how far it is. State goes in, lines
//! come out; who draws them is not known here.
//!
//! Why a node is not ready yet is said by [`brain::why`]; the board only arranges.

use std::collections::BTreeMap;

use brain::model::{Key, Node};
use brain::picture::Picture;
use brain::why::{NodeExplanation, Standing, why};
use jiff::Timestamp;

use super::table::{NOTHING, aligned};

/// Nodes of which a log gets a line at one look; a rollout over thousands must not fill it.
const NEWS_MAX: usize = 20;

/// Screens below this width have no place for everything.
const NARROW_COLUMNS: usize = 100;

/// What is known at one moment.
#[derive(Debug, Clone, PartialEq)]
pub struct Board {
    /// Where the server is.
    pub server: String,
    pub nodes: usize,
    pub nodes_ready: usize,
    pub sets: Vec<Set>,
    pub rows: Vec<Row>,
}

/// A DaemonSet as a whole.
#[derive(Debug, Clone, PartialEq)]
pub struct Set {
    pub key: Key,
    pub revision: i64,
    pub desired: usize,
    pub current: usize,
    pub updated: usize,
    pub ready: usize,
    pub available: usize,
    /// What holds it up.
    pub summary: Vec<String>,
}

/// A set on a node; or a node, where there is no set.
#[derive(Debug, Clone, PartialEq)]
pub struct Row {
    pub standing: Standing,
    pub node: String,
    /// Ready or NotReady, and whether it takes pods.
    pub state: String,
    pub set: Option<Key>,
    pub pod: Option<String>,
    pub revision: Option<i64>,
    pub is_ready: bool,
    /// What sort of reason it is.
    pub code: &'static str,
    pub reason: String,
}

/// How much fits on the screen; None: everything.
#[derive(Debug, Clone, Copy, Default)]
pub struct Room {
    pub lines: Option<usize>,
    pub columns: Option<usize>,
}

impl Board {
    /// The board of the sets that are wanted.
    pub fn of(cluster: &Picture, server: &str, wanted: impl Fn(&Key) -> bool, now: Timestamp) -> Board {
        let (mut sets, mut rows) = (Vec::new(), Vec::new());
        for (key, set) in cluster.sets.iter().filter(|(key, _)| wanted(key)) {
            let Some(explanation) = why(cluster, key, None, now) else { continue };
            rows.extend(explanation.nodes.into_iter().map(|node| row(cluster, key, node)));
            sets.push(Set {
                key: key.clone(),
                revision: explanation.revision,
                desired: set.status.desired_number_scheduled,
                current: set.status.current_number_scheduled,
                updated: set.status.updated_number_scheduled,
                ready: set.status.number_ready,
                available: set.status.number_available,
                summary: explanation.summary,
            });
        }
        if sets.is_empty() {
            rows.extend(cluster.nodes.values().map(|node| row_of_node(node)));
        }
        let nodes_ready = cluster.nodes.values().filter(|node| node.is_ready()).count();
        Board { server: server.to_owned(), nodes: cluster.nodes.len(), nodes_ready, sets, rows }
    }

    /// The board as text.
    pub fn lines(&self, room: Room) -> Vec<String> {
        let mut lines = vec![format!("server {}", self.server), format!("nodes  {} of {} Ready", self.nodes_ready, self.nodes)];
        let left = |lines: &[String]| room.lines.map(|all| all.saturating_sub(lines.len()));
        // Half of the screen at most: the nodes are what one looks for.
        lines.extend(self.set_lines(left(&lines).map(|left| left.div_ceil(2))));
        lines.extend(self.row_lines(left(&lines), room.columns.is_some_and(|columns| columns < NARROW_COLUMNS)));
        match room.columns {
            Some(columns) => lines.iter().map(|line| shortened(line, columns)).collect(),
            None => lines,
        }
    }

    fn set_lines(&self, room: Option<usize>) -> Vec<String> {
        let shown = fitting(self.sets.len(), room);
        if shown == 0 {
            return Vec::new();
        }
        let titles = ["NAMESPACE", "DAEMONSET", "DESIRED", "CURRENT", "UPDATED", "READY", "AVAILABLE", "REVISION"];
        let mut lines = vec![String::new()];
        lines.extend(aligned(&titles, &self.sets[..shown].iter().map(Set::cells).collect::<Vec<_>>()));
        if shown < self.sets.len() {
            lines.push(format!("and {}", counted(self.sets.len() - shown, "more DaemonSet")));
        }
        let summaries = self.sets[..shown].iter().flat_map(|set| set.summary.iter().map(|line| format!("{}: {line}", set.key.name)));
        let left = room.map_or(usize::MAX, |room| room.saturating_sub(lines.len()));
        lines.extend(summaries.take(left));
        lines
    }

    fn row_lines(&self, room: Option<usize>, is_narrow: bool) -> Vec<String> {
        let shown = fitting(self.rows.len(), room);
        if shown == 0 {
            return Vec::new();
        }
        let mut rows: Vec<&Row> = self.rows.iter().collect();
        if shown < rows.len() {
            rows.sort_by_key(|row| row.standing);
        }
        let (rows, hidden) = rows.split_at(shown);
        let columns: Vec<&Column> = COLUMNS.iter().filter(|column| (column.is_shown)(self.sets.len(), is_narrow)).collect();
        let titles: Vec<&str> = columns.iter().map(|column| column.title).collect();
        let cells: Vec<Vec<String>> = rows.iter().map(|row| columns.iter().map(|column| (column.cell)(row)).collect()).collect();
        let mut lines = vec![String::new()];
        lines.extend(aligned(&titles, &cells));
        lines.extend(rest(hidden));
        lines
    }

    /// Whether there is no news. Seconds that run down in a reason are not news.
    pub fn tells_the_same_as(&self, other: &Board) -> bool {
        let told = |board: &Board| {
            let rows = board.rows.iter().map(|row| Row { reason: String::new(), ..row.clone() });
            Board { rows: rows.collect(), ..board.clone() }
        };
        told(self) == told(other)
    }

    /// The lines for a log that saw the board before: counts that changed, and nodes that are
    /// stuck.
    pub fn news(&self, before: Option<&Board>) -> Vec<String> {
        let old_sets = before.map(|before| &before.sets[..]).unwrap_or_default();
        let is_news = |set: &&Set| !old_sets.contains(set) && (before.is_some() || set.is_begun());
        let mut lines: Vec<String> = self.sets.iter().filter(is_news).map(Set::line).collect();
        let old_rows = before.map(|before| &before.rows[..]).unwrap_or_default();
        let old: BTreeMap<_, _> = old_rows.iter().map(|row| ((&row.node, &row.set), row.code)).collect();
        let is_new = |row: &&Row| row.standing == Standing::Stuck && old.get(&(&row.node, &row.set)) != Some(&row.code);
        let stuck: Vec<&Row> = self.rows.iter().filter(is_new).collect();
        lines.extend(stuck.iter().take(NEWS_MAX).map(|row| row.line()));
        if stuck.len() > NEWS_MAX {
            lines.push(format!("and {} that cannot go on", counted(stuck.len() - NEWS_MAX, "more node")));
        }
        lines
    }
}

/// A column of the table of nodes.
struct Column {
    title: &'static str,
    /// With so many sets, on a screen that is narrow or not.
    is_shown: fn(usize, bool) -> bool,
    cell: fn(&Row) -> String,
}

const COLUMNS: [Column; 7] = [
    Column { title: "NODE", is_shown: |_, _| true, cell: |row| row.node.clone() },
    Column { title: "STATE", is_shown: |_, _| true, cell: |row| row.state.clone() },
    Column {
        title: "DAEMONSET",
        is_shown: |sets, _| sets > 1,
        cell: |row| row.set.as_ref().map_or_else(String::new, |key| key.name.to_string()),
    },
    // Of what there is it is the longest that is missed least; the reason wants its place.
    Column {
        title: "POD",
        is_shown: |sets, is_narrow| sets > 0 && !is_narrow,
        cell: |row| row.pod.clone().unwrap_or_else(|| NOTHING.to_owned()),
    },
    Column {
        title: "REVISION",
        is_shown: |sets, _| sets > 0,
        cell: |row| row.revision.map_or_else(|| NOTHING.to_owned(), |revision| revision.to_string()),
    },
    Column { title: "READY", is_shown: |sets, _| sets > 0, cell: |row| row.readiness().to_owned() },
    Column { title: "WHY", is_shown: |_, _| true, cell: |row| row.reason.clone() },
];

impl Set {
    /// Has its controller looked at it?
    fn is_begun(&self) -> bool {
        self.desired + self.current > 0
    }

    fn cells(&self) -> Vec<String> {
        let counts = [self.desired, self.current, self.updated, self.ready, self.available].map(|count| count.to_string());
        let names = [&self.key.namespace, &self.key.name].map(|text| text.to_string());
        names.into_iter().chain(counts).chain([self.revision.to_string()]).collect()
    }

    fn line(&self) -> String {
        let Set { key, revision, desired, current, updated, ready, available, .. } = self;
        let counts = format!("{desired} desired, {current} current, {updated} updated, {ready} ready, {available} available");
        format!("daemonset/{}: {counts} (revision {revision})", key.name)
    }
}

impl Row {
    fn readiness(&self) -> &'static str {
        match self.pod {
            None => NOTHING,
            Some(_) if self.is_ready => "yes",
            Some(_) => "no",
        }
    }

    fn line(&self) -> String {
        match &self.set {
            Some(key) => format!("daemonset/{} on {}: {}", key.name, self.node, self.reason),
            None => format!("node {}: {}", self.node, self.reason),
        }
    }
}

fn row(cluster: &Picture, set: &Key, on: NodeExplanation) -> Row {
    let pod = on.pod.as_deref().and_then(|name| cluster.pods.get(&Key::new(&set.namespace, name)));
    Row {
        standing: on.standing,
        state: cluster.nodes.get(&*on.node).map_or_else(|| "gone".to_owned(), |node| state(node)),
        node: on.node,
        set: Some(set.clone()),
        is_ready: pod.is_some_and(|pod| pod.is_ready()),
        pod: on.pod,
        revision: on.revision,
        code: on.code,
        reason: on.reason,
    }
}

fn row_of_node(node: &Node) -> Row {
    let message = node.condition("Ready").filter(|_| !node.is_ready()).map(|ready| ready.message.to_string());
    Row {
        standing: if node.is_ready() { Standing::Done } else { Standing::Stuck },
        node: node.meta.name.to_string(),
        state: state(node),
        set: None,
        pod: None,
        revision: None,
        is_ready: false,
        code: if node.is_ready() { "Ready" } else { "NodeDown" },
        reason: message.unwrap_or_default(),
    }
}

/// As `kubectl get nodes` has it.
fn state(node: &Node) -> String {
    let ready = if node.is_ready() { "Ready" } else { "NotReady" };
    if node.unschedulable { format!("{ready},SchedulingDisabled") } else { ready.to_owned() }
}

/// How many of so many rows are shown below an empty line and the titles, when a line has to say
/// how many there are besides.
fn fitting(rows: usize, room: Option<usize>) -> usize {
    match room {
        None => rows,
        Some(room) if rows + 2 <= room => rows,
        Some(room) => room.saturating_sub(3),
    }
}

fn rest(hidden: &[&Row]) -> Option<String> {
    if hidden.is_empty() {
        return None;
    }
    let undone = hidden.iter().filter(|row| row.standing < Standing::Done).count();
    let how = if undone == 0 { "all done".to_owned() } else { format!("{undone} not done") };
    Some(format!("and {}, {how}", counted(hidden.len(), "more row")))
}

fn counted(count: usize, noun: &str) -> String {
    if count == 1 { format!("1 {noun}") } else { format!("{count} {noun}s") }
}

/// The line, cut where the screen ends: a line that went on below would push others out.
fn shortened(line: &str, columns: usize) -> String {
    if line.chars().count() <= columns {
        return line.to_owned();
    }
    line.chars().take(columns.saturating_sub(1)).chain(['…']).collect()
}

#[cfg(test)]
mod tests;
