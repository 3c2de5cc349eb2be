//! `cargo xtask fuzz`: requests that are nearly right, through everything that needs no I/O and to
//! a server in this process, until something panics, or the server is at fault.
//!
//! In: seconds and a seed. A case is determined by the seed and its number, so that every finding
//! can be replayed alone. Out: the panics, with stage, input and command; exit code 1 if there are
//! any. Debug assertions are on, as `cargo xtask` builds for development.

mod examples;
mod message;
mod mutation;
mod random;
mod requests;
mod stages;
mod texts;

use std::backtrace::Backtrace;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, PanicHookInfo, catch_unwind};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use clap::Args;
use kinds::table::{KINDS, Kind};
use serde_json::{Value, json};

use random::Random;
use requests::Base;
use stages::{Format, PatchType, Trace};

/// Requests are handled on threads of this size; a case that needs more ends the process, and the
/// name of the thread tells which it was.
const STACK_BYTES: usize = 2 << 20;
const CASES_PER_THREAD: u64 = 64;

/// So many different panics are enough for one run.
const PANICS_MAX: usize = 20;

/// A case with a server costs as much as so many others.
const REQUESTS_ONCE_IN: usize = 100;

/// A case that takes longer is worth a look.
const SLOW: Duration = Duration::from_millis(500);

#[derive(Args)]
pub struct Fuzz {
    /// How long to go on.
    #[arg(long, default_value_t = 60)]
    seconds: u64,

    #[arg(long, default_value_t = 1)]
    seed: u64,

    /// Only this case of the seed.
    #[arg(long)]
    case: Option<u64>,

    /// A folder of recorded cases, whose objects are changed. Without it a few small objects are.
    #[arg(long, env = "EVERYNODE_GOLDEN")]
    recorded: Option<PathBuf>,

    /// Only requests to a server.
    #[arg(long)]
    requests: bool,
}

/// What all cases of a run have in common.
struct Setting {
    seed: u64,
    bases: Vec<Base>,
    requests_only: bool,
}

thread_local! {
    /// What the hook heard of the last panic of this thread.
    static HEARD: RefCell<String> = const { RefCell::new(String::new()) };
}

impl Fuzz {
    pub fn run(self) -> anyhow::Result<()> {
        std::panic::set_hook(Box::new(|info: &PanicHookInfo<'_>| HEARD.with(|heard| *heard.borrow_mut() = heard_of(info))));
        let bases = requests::bases(self.recorded.as_deref())?;
        let setting = Arc::new(Setting { seed: self.seed, bases, requests_only: self.requests });
        let deadline = Instant::now() + Duration::from_secs(self.seconds);
        let mut panics = BTreeMap::new();
        let (first, count) = self.case.map_or((0, CASES_PER_THREAD), |case| (case, 1));
        let mut end = first;
        while end == first || (self.case.is_none() && Instant::now() < deadline && panics.len() < PANICS_MAX) {
            for panic in run_cases(&setting, end..end + count)? {
                panics.entry((panic.place().to_owned(), panic.stage)).or_insert(panic);
            }
            end += count;
        }
        let _ = std::panic::take_hook();
        for panic in panics.values() {
            eprintln!("{panic}");
        }
        let cases = end - first;
        println!("seed {}: {cases} cases, {} panics", self.seed, panics.len());
        if panics.is_empty() { Ok(()) } else { bail!("{} different panics", panics.len()) }
    }
}

/// What a panic says, and which lines of ours led there.
fn heard_of(info: &PanicHookInfo<'_>) -> String {
    const LINES_MAX: usize = 4;
    let backtrace = Backtrace::force_capture().to_string();
    let ours = backtrace.lines().map(str::trim).filter(|line| line.starts_with("at ") && line.contains("crates/"));
    ours.take(LINES_MAX).fold(info.to_string(), |heard, line| format!("{heard}\n  {line}"))
}

/// A case that panicked.
struct Panic {
    seed: u64,
    case: u64,
    stage: &'static str,
    subject: String,
    input: Vec<u8>,
    heard: String,
}

impl Panic {
    /// The line that panicked; panics with the same one are likely the same.
    fn place(&self) -> &str {
        self.heard.lines().find(|line| line.trim_start().starts_with("at ")).unwrap_or(&self.heard)
    }
}

impl std::fmt::Display for Panic {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        writeln!(f, "== {}", self.heard)?;
        writeln!(f, "seed {}, case {}, {}, in stage {:?}, with", self.seed, self.case, self.subject, self.stage)?;
        writeln!(f, "{}", self.input.escape_ascii())?;
        write!(f, "replay: cargo xtask fuzz --seed {} --case {}", self.seed, self.case)
    }
}

/// Runs cases on a thread like those of the server.
fn run_cases(setting: &Arc<Setting>, cases: std::ops::Range<u64>) -> anyhow::Result<Vec<Panic>> {
    let setting = setting.clone();
    let name = format!("seed {} cases {}..{}", setting.seed, cases.start, cases.end);
    let all = move || cases.filter_map(|case| run_case(&setting, case)).collect();
    let thread = std::thread::Builder::new().name(name).stack_size(STACK_BYTES).spawn(all).context("cannot start a thread")?;
    thread.join().map_err(|_| anyhow::anyhow!("the fuzzer itself panicked"))
}

fn run_case(setting: &Setting, case: u64) -> Option<Panic> {
    let seed = setting.seed;
    let trace = Trace { slow: SLOW.into(), ..Trace::default() };
    let started = Instant::now();
    let outcome = catch_unwind(AssertUnwindSafe(|| perform(setting, &mut Random::of(seed, case), &trace)));
    if started.elapsed() > trace.slow.get() {
        let (subject, stage) = (trace.subject.borrow(), trace.stage.get());
        eprintln!("slow: seed {seed} case {case} took {:?} ({subject}, last stage {stage:?})", started.elapsed());
    }
    outcome.err().map(|_| Panic {
        seed,
        case,
        stage: trace.stage.get(),
        subject: trace.subject.take(),
        input: trace.input.take(),
        heard: HEARD.with(RefCell::take),
    })
}

/// One case: chooses what it is about, makes the input, does what the server would.
fn perform(setting: &Setting, random: &mut Random, trace: &Trace) {
    match random.below(20) {
        _ if setting.requests_only => requests::perform(&setting.bases, random, trace),
        // As much work as all the others.
        _ if random.once_in(REQUESTS_ONCE_IN) => requests::perform(&setting.bases, random, trace),
        0 => query(random, trace),
        1..10 => body(random, trace),
        10..13 => replacement(random, trace),
        _ => patch(random, trace),
    }
}

fn query(random: &mut Random, trace: &Trace) {
    let text = mutated_text(texts::SELECTORS, random);
    let tree = json!({
        "matchLabels": {"a": mutation::scalar(random)},
        "matchExpressions": [{"key": mutated_text(texts::STRINGS, random), "operator": random.pick(texts::STRINGS), "values": [mutation::scalar(random)]}],
        "nodeSelectorTerms": [{"matchExpressions": [{"key": "b", "operator": random.pick(&["Gt", "Lt", "In"]), "values": [mutation::scalar(random)]}]}],
    });
    trace.begin("a selector".to_owned(), text.as_bytes());
    stages::selector(&text, &tree, trace);
    let (a, b) = (mutated_text(texts::QUANTITIES, random), mutated_text(texts::QUANTITIES, random));
    trace.begin(format!("a quantity, with {b:?}"), a.as_bytes());
    stages::quantity(&a, &b, trace);
}

fn mutated_text(from: &[&str], random: &mut Random) -> String {
    let mut text = (*random.pick(from)).to_owned();
    for _ in 0..random.below(3) {
        text = mutation::spliced(&text, random);
    }
    text
}

/// A kind that clients may create; the others are never decoded.
fn pick_kind(random: &mut Random) -> &'static Kind {
    let kinds: Vec<&'static Kind> = KINDS.iter().filter(|kind| kind.has_verb("create")).collect();
    kinds[random.below(kinds.len())]
}

fn body(random: &mut Random, trace: &Trace) {
    let kind = pick_kind(random);
    let object = mutated_object(kind, random);
    let (format, body) = written(kind, &object, random);
    trace.begin(format!("POST of a {kind:?} as {format:?}"), &body);
    stages::create(kind, format, &body, trace);
}

fn replacement(random: &mut Random, trace: &Trace) {
    let (kind, old) = stored_example(random, trace);
    let mut object = old.clone();
    mutation::tree(&mut object, random, 6);
    let (format, body) = written(kind, &object, random);
    let part = *random.pick(&stages::parts_of(kind));
    trace.begin(format!("PUT of {part:?} of a {kind:?} as {format:?}"), &body);
    stages::replace(kind, &old, format, &body, part, trace);
}

fn patch(random: &mut Random, trace: &Trace) {
    let (kind, old) = stored_example(random, trace);
    let patch_type = *random.pick(&[PatchType::Json, PatchType::Merge, PatchType::Strategic, PatchType::Apply]);
    let mut patch = match patch_type {
        PatchType::Json => operations(&old, random),
        PatchType::Merge => mutated_object(kind, random),
        PatchType::Strategic => directed(mutated_object(kind, random), random),
        PatchType::Apply => mutated_object(kind, random),
    };
    if random.once_in(4) {
        mutation::tree(&mut patch, random, 3);
    }
    let mut body = patch.to_string().into_bytes();
    if random.once_in(8) {
        mutation::bytes(&mut body, random, 3);
    }
    let part = *random.pick(&stages::parts_of(kind));
    trace.begin(format!("{patch_type:?} patch of {part:?} of a {kind:?}"), &body);
    stages::patch(kind, &old, patch_type, &body, part, trace);
}

/// An object that its kind accepts, as it would be stored.
fn stored_example(random: &mut Random, trace: &Trace) -> (&'static Kind, Value) {
    let kind = pick_kind(random);
    let mut object = examples::small(kind);
    // Half of the changes leave it valid in a new way; the others are refused.
    mutation::tree(&mut object, random, 2);
    let text = object.to_string();
    trace.begin(format!("POST of a {kind:?} as an example"), text.as_bytes());
    let valid = || stages::create(kind, Format::Json, examples::small(kind).to_string().as_bytes(), trace);
    let stored = stages::create(kind, Format::Json, text.as_bytes(), trace).or_else(valid);
    (kind, stored.unwrap_or_else(|| examples::small(kind)))
}

fn mutated_object(kind: &Kind, random: &mut Random) -> Value {
    let mut object = if random.once_in(3) { examples::generated(kind, random) } else { examples::small(kind) };
    mutation::tree(&mut object, random, 6);
    // Without its type an object goes no further.
    if let (Some(fields), false) = (object.as_object_mut(), random.once_in(20)) {
        fields.insert("apiVersion".to_owned(), kind.api_version().into());
        fields.insert("kind".to_owned(), kind.kind.into());
    }
    object
}

fn written(kind: &Kind, object: &Value, random: &mut Random) -> (Format, Vec<u8>) {
    let format = *random.pick(&[Format::Json, Format::Yaml, Format::Protobuf]);
    let mut body = match format {
        Format::Json => object.to_string().into_bytes(),
        Format::Yaml => kinds::yaml::write(object).into_bytes(),
        Format::Protobuf => message::write(kind, object),
    };
    if random.once_in(3) {
        mutation::bytes(&mut body, random, 4);
    }
    (format, body)
}

/// Operations on paths that exist, or nearly.
fn operations(object: &Value, random: &mut Random) -> Value {
    let operation = |random: &mut Random| {
        let op = *random.pick(&["add", "remove", "replace", "move", "copy", "test", "x"]);
        json!({"op": op, "path": pointer(object, random), "from": pointer(object, random), "value": mutation::scalar(random)})
    };
    (0..random.below(5)).map(|_| operation(random)).collect()
}

fn pointer(object: &Value, random: &mut Random) -> String {
    let (mut path, mut here) = (String::new(), object);
    while !random.once_in(5) {
        let (step, next) = match here {
            Value::Object(fields) if !fields.is_empty() => {
                let (name, value) = fields.iter().nth(random.below(fields.len())).expect("chosen below the length");
                (name.replace('~', "~0").replace('/', "~1"), value)
            }
            Value::Array(items) if !items.is_empty() => {
                let at = random.below(items.len());
                (at.to_string(), &items[at])
            }
            _ => break,
        };
        path = format!("{path}/{step}");
        here = next;
    }
    match random.below(6) {
        0 => format!("{path}/-"),
        1 => format!("{path}/{}", random.pick(&["0", "-1", "99", "~", "~2", "", "a", "18446744073709551616", "é"])),
        _ => path,
    }
}

/// The patch with directives of strategic merge at some of its places.
fn directed(mut patch: Value, random: &mut Random) -> Value {
    direct(&mut patch, random);
    patch
}

fn direct(value: &mut Value, random: &mut Random) {
    match value {
        Value::Object(fields) => {
            let names: Vec<String> = fields.keys().cloned().collect();
            fields.values_mut().for_each(|child| direct(child, random));
            if random.once_in(6) && !names.is_empty() {
                let name = random.pick(&names);
                let (key, value) = match random.below(5) {
                    0 => ("$patch".to_owned(), json!(random.pick(&["delete", "replace", "merge", "x"]))),
                    1 => ("$retainKeys".to_owned(), json!([name, mutation::scalar(random)])),
                    2 => (format!("$setElementOrder/{name}"), json!([mutation::scalar(random), {"name": "c"}])),
                    3 => (format!("$deleteFromPrimitiveList/{name}"), json!([mutation::scalar(random)])),
                    _ => (format!("$setElementOrder/{name}"), mutation::scalar(random)),
                };
                fields.insert(key, value);
            }
        }
        Value::Array(items) => {
            items.iter_mut().for_each(|item| direct(item, random));
            if random.once_in(6) {
                items.push(json!({"$patch": random.pick(&["delete", "replace", "merge"]), "name": "c"}));
            }
        }
        _ => {}
    }
}
