//! Recorded pods: reading them, and comparing what was seen with them. Knows nothing of clusters.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

/// A state that is over so soon may be missed in a recording.
const BRIEF_SECONDS: f64 = 3.0;

/// What was recorded until then must be seen; later steps of what goes on forever need not be.
const SURE_SECONDS: f64 = 25.0;

/// The node's name when the pods were recorded.
const NODE: &str = "peer-node";

pub struct Case {
    pub name: String,
    pub pod: Value,
    steps: Vec<Step>,
    /// Type, reason, message, part of the object.
    events: Vec<[String; 4]>,
    /// `CONTAINER/RESTART.log` and its lines.
    pub logs: Vec<(String, Vec<String>)>,
    /// The status that the pod had when it was deleted.
    pub before_deletion: Option<Value>,
}

/// A status without what cannot be the same.
#[derive(Debug, Clone, PartialEq)]
pub struct Step {
    pub seconds: f64,
    is_deleted: bool,
    pub status: Value,
}

impl Step {
    pub fn of(pod: &Value, is_deleted: bool, seconds: f64) -> Step {
        Step { seconds, is_deleted, status: normal(&pod["status"], pod["spec"]["hostNetwork"] == true) }
    }

    fn is_same(&self, other: &Step) -> bool {
        self.status == other.status && self.is_deleted == other.is_deleted
    }
}

pub fn read(dir: &Path) -> Vec<Case> {
    let entries = std::fs::read_dir(dir).unwrap_or_else(|error| panic!("{}: {error}", dir.display()));
    let mut paths: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "json"));
    paths.retain(|path| !path.file_name().is_some_and(|name| name.to_string_lossy().starts_with('_')));
    paths.sort();
    let cases: Vec<Case> = paths.iter().map(|path| read_case(&crate::support::cluster::read_json(path))).collect();
    assert!(cases.len() > 40, "{} has a file for each recorded pod", dir.display());
    cases
}

fn read_case(file: &Value) -> Case {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let on_host = file["pod"]["spec"]["hostNetwork"] == true;
    let list = |field: &str| file[field].as_array().cloned().unwrap_or_default();
    let mut steps: Vec<Step> = Vec::new();
    let mut before_deletion = None;
    for step in list("steps") {
        if step.get("deletion").is_some() && before_deletion.is_none() {
            before_deletion = steps.last().map(|step| step.status.clone());
        }
        let status = normal(&step["status"], on_host);
        let seconds = step["after_s"].as_f64().unwrap_or_default();
        push(&mut steps, Step { seconds, is_deleted: step["type"] == "DELETED", status });
    }
    let event = |event: &Value| [text(&event["type"]), text(&event["reason"]), mask(&text(&event["message"])), text(&event["object"])];
    let lines = |lines: &Value| lines.as_array().into_iter().flatten().map(text).collect();
    Case {
        name: text(&file["name"]),
        pod: file["pod"].clone(),
        steps,
        events: list("events").iter().map(event).filter(|event| event[1] != "Scheduled").collect(),
        logs: file["logs"].as_object().into_iter().flatten().map(|(name, log)| (name.clone(), lines(log))).collect(),
        before_deletion,
    }
}

/// Neighbours that are the same count once.
pub fn push(steps: &mut Vec<Step>, step: Step) {
    if !steps.last().is_some_and(|last| last.is_same(&step)) {
        steps.push(step);
    }
}

impl Case {
    pub fn pod_for(&self, node: &str) -> Value {
        let text = self.pod.to_string().replace(NODE, node);
        let mut pod: Value = serde_json::from_str(&text).expect("it was JSON");
        pod["apiVersion"] = "v1".into();
        pod["kind"] = "Pod".into();
        pod["metadata"]["namespace"] = "rec".into();
        pod["metadata"].as_object_mut().expect("it is an object").remove("resourceVersion");
        pod
    }
}

/// `brief`: a seen state that is over in so many seconds may be missing in the recording.
pub fn compare_statuses(case: &Case, seen: &[Step], brief: f64) -> Vec<String> {
    let reached = align(&case.steps, seen, brief);
    let ways = format!("    recorded: {}\n    seen:     {}", way(&case.steps), way(seen));
    let is_sure = |step: &Step| step.seconds < SURE_SECONDS;
    let is_through = |&(wanted, got): &(usize, usize)| {
        (got == seen.len() && !case.steps[wanted..].iter().any(is_sure))
            || (wanted == case.steps.len() && !case.steps.last().is_some_and(is_sure))
    };
    if reached.iter().any(is_through) {
        return Vec::new();
    }
    let &(wanted, got) = reached.iter().max_by_key(|(wanted, got)| wanted + got).expect("the beginning is always reached");
    match (case.steps.get(wanted), seen.get(got)) {
        (Some(a), Some(b)) => {
            let lines = difference(&a.status, &b.status, "status").join("; ");
            vec![format!("status {got} is not the recorded {wanted}: {lines}\n{ways}")]
        }
        (Some(_), None) => vec![format!("the recorded status {wanted} was not seen\n{ways}")],
        (None, _) => vec![format!("there were more statuses than recorded, from {got} on\n{ways}")],
    }
}

/// How far one can come in both sequences, passing what is the same in both and, in either, what
/// may be missed.
fn align(recorded: &[Step], seen: &[Step], brief: f64) -> Vec<(usize, usize)> {
    let mut reached = vec![(0, 0)];
    let mut at = 0;
    while let Some(&(wanted, got)) = reached.get(at) {
        at += 1;
        let is_same = recorded.get(wanted).zip(seen.get(got)).is_some_and(|(a, b)| a.is_same(b));
        let next = [
            is_same.then_some((wanted + 1, got + 1)),
            (is_brief(seen, got, brief) || seen.get(got).is_some_and(is_back_off)).then_some((wanted, got + 1)),
            is_brief(recorded, wanted, BRIEF_SECONDS).then_some((wanted + 1, got)),
        ];
        for next in next.into_iter().flatten() {
            if !reached.contains(&next) {
                reached.push(next);
            }
        }
    }
    reached
}

const CONTAINERS: [&str; 2] = ["initContainerStatuses", "containerStatuses"];

/// The kubelet shows a back-off when it looks at the pod again, which may be when it is over; here
/// it is shown at once.
fn is_back_off(step: &Step) -> bool {
    let statuses = CONTAINERS.iter().flat_map(|list| step.status[*list].as_array().into_iter().flatten());
    statuses.into_iter().any(|status| status["state"]["waiting"]["reason"] == "CrashLoopBackOff")
}

/// Phases and states of containers in a line, with times.
fn way(steps: &[Step]) -> String {
    let states = |step: &Step| -> String {
        let lists = CONTAINERS.map(|list| step.status[list].as_array().cloned().unwrap_or_default());
        let state = |status: &Value| status["state"].as_object().and_then(|state| state.keys().next().cloned()).unwrap_or_default();
        lists.iter().flatten().map(|status| format!(" {}{}", state(status), status["restartCount"])).collect()
    };
    let phase = |step: &Step| step.status["phase"].as_str().unwrap_or_default().to_owned();
    steps.iter().map(|step| format!("{:.1} {}{}, ", step.seconds, phase(step), states(step))).collect()
}

/// A container of it is in another state soon after, or the pod in another phase when its
/// containers have ended.
fn is_brief(steps: &[Step], index: usize, seconds: f64) -> bool {
    let (Some(step), Some(next)) = (steps.get(index), steps.get(index + 1)) else { return false };
    let pairs = CONTAINERS
        .iter()
        .flat_map(|list| step.status[*list].as_array().into_iter().flatten().zip(next.status[*list].as_array().into_iter().flatten()));
    let mut pairs = pairs.filter(|(now, _)| now["state"].get("waiting").is_none());
    next.seconds - step.seconds < seconds
        && pairs.any(|(now, then)| now["state"] != then["state"] || step.status["phase"] != next.status["phase"])
}

pub fn compare_events(case: &Case, listed: &Value, node: &str) -> Vec<String> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let items = listed["items"].as_array().into_iter().flatten();
    // The node of the records had the cluster's resolver, and that of the test has none.
    let is_recorded = |event: &&Value| event["reason"] != "Scheduled" && event["reason"] != "MissingClusterDNS";
    let of_case = items.filter(|event| event["involvedObject"]["name"] == case.name.as_str()).filter(is_recorded);
    let seen: Vec<[String; 4]> = of_case
        .map(|event| {
            let message = mask(&text(&event["message"]).replace(node, NODE));
            [text(&event["type"]), text(&event["reason"]), message, text(&event["involvedObject"]["fieldPath"])]
        })
        .collect();
    let missing = case.events.iter().filter(|event| !seen.contains(event)).map(|event| format!("event is missing: {event:?}"));
    let others = seen.iter().filter(|event| !case.events.contains(event)).map(|event| format!("event was not recorded: {event:?}"));
    missing.chain(others).collect()
}

/// The log with the most lines of what a container wrote in its lives; they say the same each time.
pub fn newest_log(dir: &Path) -> Option<PathBuf> {
    let entries = std::fs::read_dir(dir).ok()?.flatten().map(|entry| entry.path());
    entries.max_by_key(|path| std::fs::metadata(path).map_or(0, |metadata| metadata.len()))
}

/// Lines of each stream in their order; between streams the order is not certain.
pub fn compare_log(file: &str, recorded: &[String], text: &str, node: &str) -> Vec<String> {
    let mut differences = Vec::new();
    for stream in ["stdout", "stderr"] {
        let of_stream = |line: &String| line.split(' ').nth(1) == Some(stream);
        let wanted: Vec<String> = recorded.iter().map(|line| mask_log(line)).filter(of_stream).collect();
        let got: Vec<String> = text.lines().map(|line| mask_log(&line.replace(node, NODE))).filter(of_stream).collect();
        let missing = wanted.iter().filter(|line| !got.contains(line)).map(|line| format!("log {file} lacks {line:?}"));
        let others = got.iter().filter(|line| !wanted.contains(line)).map(|line| format!("log {file} has {line:?}"));
        let found: Vec<String> = missing.chain(others).collect();
        if found.is_empty() && wanted != got {
            differences.push(format!("log {file} has another order: {got:?}"));
        }
        differences.extend(found);
    }
    differences
}

/// Dates as `ls` prints them become one.
fn mask_log(line: &str) -> String {
    let mut words: Vec<String> = mask(line).split(' ').map(str::to_owned).collect();
    for at in 0..words.len().saturating_sub(2) {
        let is_clock = words[at + 2].len() == 5 && words[at + 2].as_bytes()[2] == b':';
        if is_clock && words[at].len() == 3 && words[at + 1].parse::<u8>().is_ok() {
            words[at] = "<date>".to_owned();
            words[at + 1] = String::new();
            words[at + 2] = String::new();
        }
    }
    words.join(" ")
}

fn normal(status: &Value, on_host: bool) -> Value {
    let mut status = status.clone();
    let Some(fields) = status.as_object_mut() else { return status };
    for field in ["hostIP", "hostIPs", "resources"] {
        fields.remove(field);
    }
    if on_host {
        fields.remove("podIP");
        fields.remove("podIPs");
    } else if fields.contains_key("podIP") {
        fields.insert("podIP".to_owned(), "<podIP>".into());
        fields.insert("podIPs".to_owned(), json!([{"ip": "<podIP>"}]));
    }
    walk(&mut status);
    status
}

fn walk(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            for field in ["lastProbeTime", "lastTransitionTime", "startTime", "startedAt", "finishedAt"] {
                fields.remove(field);
            }
            for field in ["containerID", "imageID"] {
                if fields.get(field).is_some_and(|id| id != "") {
                    fields.insert(field.to_owned(), "<id>".into());
                }
            }
            fields.values_mut().for_each(walk);
        }
        Value::Array(items) => items.iter_mut().for_each(walk),
        Value::String(text) => *text = mask(text),
        _ => {}
    }
}

/// Where two trees differ.
fn difference(a: &Value, b: &Value, path: &str) -> Vec<String> {
    match (a, b) {
        (Value::Object(a), Value::Object(b)) => {
            let mut keys: Vec<&String> = a.keys().chain(b.keys()).collect();
            keys.sort();
            keys.dedup();
            let get = |fields: &serde_json::Map<String, Value>, key: &String| fields.get(key).cloned().unwrap_or_default();
            keys.iter().flat_map(|key| difference(&get(a, key), &get(b, key), &format!("{path}.{key}"))).collect()
        }
        (Value::Array(a), Value::Array(b)) if a.len() == b.len() => {
            a.iter().zip(b).enumerate().flat_map(|(at, (a, b))| difference(a, b, &format!("{path}[{at}]"))).collect()
        }
        (a, b) if a == b => Vec::new(),
        (a, b) => vec![format!("{path} recorded {a}, is {b}")],
    }
}

/// runc's and containerd's names for themselves in front of a cause.
const PREFIX: &str = "failed to create containerd task: failed to create shim task: OCI runtime create failed: runc create failed: ";

/// Replaces uids, ids, times and pod addresses.
fn mask(text: &str) -> String {
    let text = text.replace(PREFIX, "").replace("no such file or directory: unknown", "no such file or directory");
    let mut masked = String::new();
    let mut rest = text.as_str();
    while let Some(next) = rest.chars().next() {
        let is_word = masked.chars().next_back().is_some_and(|last| last.is_ascii_alphanumeric());
        match (!is_word).then(|| placeholder(rest)).flatten() {
            Some((length, word)) => {
                masked += word;
                rest = &rest[length..];
            }
            None => {
                masked.push(next);
                rest = &rest[next.len_utf8()..];
            }
        }
    }
    masked
}

/// What the text begins with, if it is one of those: its length and the word that stands for it.
fn placeholder(text: &str) -> Option<(usize, &'static str)> {
    let fits = |pattern: &str| {
        let is_fit = |(want, byte): (u8, u8)| match want {
            b'x' => byte.is_ascii_hexdigit(),
            b'0' => byte.is_ascii_digit(),
            other => other == byte,
        };
        text.len() >= pattern.len() && pattern.bytes().zip(text.bytes()).all(is_fit)
    };
    if fits("xxxxxxxx-xxxx-xxxx-xxxx-xxxxxxxxxxxx") {
        return Some((36, "<uid>"));
    }
    let hex = text.bytes().take_while(u8::is_ascii_hexdigit).count();
    if hex == 64 {
        return Some((64, "<id>"));
    }
    if fits("0000-00-00T00:00:00") {
        let length = 19 + text[19..].bytes().take_while(|byte| matches!(byte, b'.' | b'0'..=b'9')).count();
        let zone = usize::from(text[length..].starts_with('Z'));
        return Some((length + zone, "<time>"));
    }
    let address = text.bytes().take_while(|byte| matches!(byte, b'.' | b'0'..=b'9')).count();
    let is_address = text[..address].parse::<std::net::Ipv4Addr>().is_ok_and(|address| address.octets()[0] == 10);
    is_address.then_some((address, "<podIP>"))
}
