//! What documents cost as they grow: four times the text may take some four times as long, never
//! sixteen times. So may objects with long lists, whatever is done with them.
//!
//! Time is that of this thread on a processor, so that other work on the machine does not count;
//! and only what takes long enough to stand out from noise is judged.

use std::collections::BTreeSet;

use jiff::Timestamp;
use kinds::decode::normalize;
use kinds::patch::managed_fields::record_update;
use kinds::patch::managers::{ManagerEntry, Operation};
use kinds::patch::{Findings, apply, json, strategic};
use kinds::pod_security::{self, Level, LevelVersion, Version};
use kinds::quantity::Quantity;
use kinds::rules::Part;
use kinds::schema::{PatchStrategy, Shape, TypeId, schema};
use kinds::selector::{FieldSelector, Selector};
use kinds::status::Status;
use kinds::table::{KINDS, Kind};
use kinds::{document, yaml};
use serde_json::{Map, Value, json};
use testing::Need;

/// One large piece of linear work takes as long as many small ones; a quadratic one as many times
/// as long as there are pieces.
const GROWTH_MAX: u64 = 2;

/// What is compared, and what takes long enough to be judged.
struct Sizes {
    small: usize,
    large: usize,
    nanoseconds_judged_min: u64,
}

const TEXTS: Sizes = Sizes { small: 500, large: 2000, nanoseconds_judged_min: 40_000_000 };

/// Few enough to do everything with every list that there is, enough for a square to be seen.
const ITEMS: Sizes = Sizes { small: 50, large: 500, nanoseconds_judged_min: 10_000_000 };

/// Time that this thread spent on a processor. None where the kernel does not count it.
fn spent() -> Option<u64> {
    std::fs::read_to_string("/proc/thread-self/schedstat").ok()?.split(' ').next()?.parse().ok()
}

fn cost(work: &dyn Fn(usize), size: usize) -> u64 {
    let start = spent().unwrap_or(0);
    work(size);
    spent().unwrap_or(0) - start
}

/// What grows too fast. Whatever looks so is measured again: a first run fills caches.
fn too_fast(work: &dyn Fn(usize), sizes: &Sizes) -> Option<String> {
    if !testing::can_run(&[Need::Machine { what: "a kernel that counts the time of threads", is_there: spent().is_some() }]) {
        return None;
    }
    let grows = || {
        let large = cost(work, sizes.large);
        if large < sizes.nanoseconds_judged_min {
            return None;
        }
        // As much work in small pieces: the kernel counts time in steps of milliseconds.
        let pieces = sizes.large / sizes.small;
        let small = cost(&|size| (0..pieces).for_each(|_| work(size)), sizes.small);
        (large > GROWTH_MAX * small).then(|| format!("{} ms in pieces, {} ms as one", small / 1_000_000, large / 1_000_000))
    };
    grows().and_then(|_| grows())
}

/// Texts by name, each of any size.
type Texts = Vec<(&'static str, Box<dyn Fn(usize) -> String>)>;

/// Texts that are made to be expensive, larger than any request may be in parts of what they are
/// made of.
#[test]
fn no_text_takes_the_square_of_its_length() {
    let many = |one: &str, size: usize| one.repeat(20 * size);
    let keys = |size: usize| -> String { (0..20 * size).map(|number| format!("k{number}: 1\n")).collect() };
    let texts: Texts = vec![
        ("keys", Box::new(keys)),
        ("duplicates", Box::new(move |size| many("k: 1\n", size))),
        ("flow", Box::new(move |size| format!("[{}]", many("a, ", size)))),
        ("flow of maps", Box::new(move |size| format!("[{}]", many("{a: 1}, ", size)))),
        ("comments", Box::new(move |size| many("# c\n", size))),
        ("folded", Box::new(move |size| format!("a: >\n{}", many("  b\n\n", size)))),
        ("quoted", Box::new(move |size| format!("a: \"{}\"", many("\\u0041", size)))),
        ("plain lines", Box::new(move |size| format!("a: b\n{}", many("  c\n", size)))),
        ("anchors", Box::new(|size| (0..size).map(|number| format!("a{number}: &x{number} 1\nb{number}: *x{number}\n")).collect())),
        (
            "merges",
            Box::new(|size| format!("a: &a {{x: 1}}\n{}", (0..size).map(|n| format!("b{n}: {{<<: *a, y: 2}}\n")).collect::<String>())),
        ),
        ("documents", Box::new(move |size| many("--- a\n", size))),
        ("tags", Box::new(move |size| many("- !t a\n", size))),
        ("spaces", Box::new(move |size| many("  \n", size))),
        ("open", Box::new(move |size| many("{", size))),
        ("question marks", Box::new(move |size| many("? a\n", size))),
        ("colons", Box::new(move |size| many(":", size))),
    ];
    let mut found = Vec::new();
    for (name, text) in &texts {
        found.extend(too_fast(&|size| drop(yaml::parse(&text(size))), &TEXTS).map(|how| format!("YAML {name}: {how}")));
    }
    let json_texts: Texts = vec![
        ("keys", Box::new(|size| format!("{{{}}}", (0..20 * size).map(|n| format!("\"k{n}\":1")).collect::<Vec<_>>().join(",")))),
        ("duplicates", Box::new(move |size| format!("{{{}}}", vec!["\"k\":1"; 20 * size].join(",")))),
        ("numbers", Box::new(move |size| format!("[{}]", many("1", size)))),
        ("spaces", Box::new(move |size| many(" ", size))),
        ("escapes", Box::new(move |size| format!("\"{}\"", many("\\u0041", size)))),
    ];
    for (name, text) in &json_texts {
        found.extend(too_fast(&|size| drop(document::parse_json(text(size).as_bytes())), &TEXTS).map(|how| format!("JSON {name}: {how}")));
    }
    let operations = |one: &str, size: usize| format!("[{}]", vec![one; size].join(","));
    let current = json!({"a": {"b": {}}, "l": (0..TEXTS.large).collect::<Vec<_>>()});
    for one in [
        r#"{"op":"add","path":"/l/0","value":1}"#,
        r#"{"op":"remove","path":"/l/0"}"#,
        r#"{"op":"move","from":"/a","path":"/a"}"#,
        r#"{"op":"test","path":"/l/0","value":0}"#,
    ] {
        found.extend(
            too_fast(&|size| drop(json::apply(&current, operations(one, size).as_bytes(), Findings::Listed)), &TEXTS)
                .map(|how| format!("{one}: {how}")),
        );
    }
    let selectors: Texts = vec![
        ("terms", Box::new(|size| (0..20 * size).map(|n| format!("k{n}=v")).collect::<Vec<_>>().join(","))),
        ("values", Box::new(|size| format!("k in ({})", (0..20 * size).map(|n| format!("v{n}")).collect::<Vec<_>>().join(",")))),
        ("marks", Box::new(move |size| many("!", size))),
        ("commas", Box::new(move |size| many(",", size))),
        ("escapes", Box::new(move |size| format!("a={}", many("\\,", size)))),
    ];
    for (name, text) in &selectors {
        found.extend(too_fast(&|size| drop(Selector::parse(&text(size))), &TEXTS).map(|how| format!("label selector {name}: {how}")));
        found.extend(too_fast(&|size| drop(FieldSelector::parse(&text(size))), &TEXTS).map(|how| format!("field selector {name}: {how}")));
    }
    for digits in ["1", "0", "1.", "1e", "-"] {
        found.extend(too_fast(&|size| drop(Quantity::parse(&many(digits, size))), &TEXTS).map(|how| format!("quantity {digits}: {how}")));
    }
    assert!(found.is_empty(), "these grow too fast:\n{}", found.join("\n"));
}

/// A list, or a map with free keys, somewhere in an object.
#[derive(Clone)]
struct Place {
    kind: &'static Kind,
    steps: Vec<Step>,
    shape: &'static Shape,
    patch: &'static PatchStrategy,
}

#[derive(Clone, Copy)]
enum Step {
    Field(&'static str),
    /// The only element of a list.
    Element,
}

/// Every list and map of every kind that clients write, each type's once.
fn places() -> Vec<Place> {
    let (mut found, mut seen) = (Vec::new(), BTreeSet::new());
    // Pods first: what templates have in common with them is looked at there.
    let mut kinds: Vec<&Kind> = KINDS.iter().filter(|kind| kind.has_verb("create")).collect();
    kinds.sort_by_key(|kind| kind.kind != "Pod");
    for kind in kinds {
        walk(kind, kind.type_id(), &mut Vec::new(), &mut seen, &mut found);
    }
    found
}

fn walk(kind: &'static Kind, id: TypeId, steps: &mut Vec<Step>, seen: &mut BTreeSet<(&'static str, &'static str)>, found: &mut Vec<Place>) {
    let of = schema().get(id);
    for field in of.fields.iter().filter(|field| !matches!(field.name, "managedFields" | "creationTimestamp")) {
        steps.push(Step::Field(field.name));
        let is_new = matches!(field.shape, Shape::List(_) | Shape::Map(_)) && seen.insert((of.name, field.name));
        if is_new {
            found.push(Place { kind, steps: steps.clone(), shape: &field.shape, patch: &field.patch });
        }
        match &field.shape {
            Shape::Struct(id) if steps.len() < 12 => walk(kind, *id, steps, seen, found),
            Shape::List(item) if is_new => {
                if let Shape::Struct(id) = **item {
                    steps.push(Step::Element);
                    walk(kind, id, steps, seen, found);
                    steps.pop();
                }
            }
            _ => {}
        }
        steps.pop();
    }
}

impl Place {
    fn name(&self) -> String {
        let steps = self.steps.iter().map(|step| match step {
            Step::Field(name) => format!(".{name}"),
            Step::Element => "[]".to_owned(),
        });
        format!("{}{}", self.kind.kind, steps.collect::<String>())
    }

    /// An object with this list filled.
    fn object(&self, items: &Value) -> Value {
        let mut object = json!({"apiVersion": self.kind.api_version(), "kind": self.kind.kind, "metadata": {"name": "a"}});
        if self.kind.namespaced {
            object["metadata"]["namespace"] = "d".into();
        }
        self.put(&mut object, items.clone());
        object
    }

    fn put(&self, object: &mut Value, items: Value) -> &Self {
        let mut here = object;
        for (at, step) in self.steps.iter().enumerate() {
            here = match step {
                Step::Field(name) => &mut here[*name],
                Step::Element => {
                    *here = json!([{"name": "c"}]);
                    &mut here[0]
                }
            };
            if here.is_null() && at + 1 < self.steps.len() && !matches!(self.steps[at + 1], Step::Element) {
                *here = json!({});
            }
        }
        *here = items;
        self
    }

    fn field(&self) -> &'static str {
        match self.steps.last() {
            Some(Step::Field(name)) => name,
            _ => "",
        }
    }

    /// The parts of an object whose writes look at the list.
    fn parts(&self) -> &'static [Part] {
        match &self.steps[..] {
            [Step::Field("status"), ..] => &[Part::Status],
            [Step::Field("spec"), Step::Field("ephemeralContainers"), ..] => &[Part::Main, Part::EphemeralContainers],
            [Step::Field("spec"), Step::Field("containers"), ..] if self.kind.kind == "Pod" => &[Part::Main, Part::Resize],
            _ => &[Part::Main],
        }
    }

    /// So many elements. They differ, or are all alike.
    fn items(&self, count: usize, alike: bool) -> Value {
        let number = |at: usize| if alike { 7 } else { at + 1 };
        match self.shape {
            Shape::Map(value) => (0..count).map(|at| (format!("k{at}"), sample(value, "", number(at), 0))).collect::<Map<_, _>>().into(),
            Shape::List(item) => (0..count).map(|at| sample(item, self.field(), number(at), 0)).collect(),
            _ => Value::Null,
        }
    }
}

/// A text that a field of that name likely accepts.
fn text(name: &str, number: usize) -> String {
    let address = format!("10.{}.{}.{}", number >> 16 & 255, number >> 8 & 255, number & 255);
    let name = name.to_lowercase();
    match &name {
        name if name.contains("cidr") || name.ends_with("ranges") => format!("{address}/32"),
        name if name.ends_with("ip") || name.ends_with("ips") || name.ends_with("addresses") => address,
        _ => format!("x{number}"),
    }
}

/// A value that fits, with all that is on it but what nests.
fn sample(shape: &Shape, name: &str, number: usize, depth: usize) -> Value {
    match shape {
        Shape::String => text(name, number).into(),
        Shape::Int32 | Shape::Int64 | Shape::Float64 | Shape::IntOrString => number.into(),
        Shape::Bool => false.into(),
        Shape::Bytes => "AAEC".into(),
        Shape::Time => "2026-01-02T03:04:05Z".into(),
        Shape::MicroTime => "2026-01-02T03:04:05.000006Z".into(),
        Shape::Quantity => number.to_string().into(),
        Shape::Any => json!({"x": number}),
        Shape::Struct(id) => {
            let fields = &schema().get(*id).fields;
            let nests = depth == 0 && fields.len() < 10;
            let wanted = fields.iter().filter(|field| nests || !matches!(field.shape, Shape::Struct(_) | Shape::List(_) | Shape::Map(_)));
            wanted.map(|field| (field.name.to_owned(), sample(&field.shape, field.name, number, depth + 1))).collect::<Map<_, _>>().into()
        }
        Shape::List(_) => json!([]),
        Shape::Map(_) => json!({}),
    }
}

/// Something that is done with objects, with a list of that many elements.
type Work = fn(&Place, &Value, &Value);

const WRITES: [(&str, Work); 2] = [
    ("create", |place, object, _| drop(created(place.kind, object))),
    ("update", |place, object, changed| {
        let (Some(old), Some(new)) = (created(place.kind, object), created(place.kind, changed)) else { return };
        for part in place.parts() {
            let mut new = new.clone();
            place.kind.rules.prepare_update(&mut new, &old, *part);
            record_update(place.kind, Some(&old), &mut new, &entry(place.kind));
            let errors = place.kind.rules.validate_update(&new, &old, *part);
            Status::invalid("", place.kind.kind, "a", &errors).to_value();
            place.kind.rules.warnings_update(&new, &old);
        }
    }),
];

const PATCHES: [(&str, Work); 2] = [
    ("apply", |place, object, changed| {
        let applied = |live: Option<&Value>, config: &Value| {
            let config = apply::parse_config(place.kind, config.to_string().as_bytes(), place.kind.kind).ok()?;
            apply::apply(place.kind, live, &config.object, &ManagerEntry { operation: Operation::Apply, ..entry(place.kind) }, true).ok()
        };
        let first = applied(None, object);
        drop(applied(first.as_ref().or(Some(object)), changed));
    }),
    ("strategic patch", |place, object, changed| {
        let patch = |patch: &Value| strategic::apply(object, patch.to_string().as_bytes(), place.kind.type_id(), Findings::Listed).is_ok();
        patch(changed);
        let Some(Step::Field(name)) = place.steps.last() else { return };
        let mut ordered = changed.clone();
        let owner = place.steps[..place.steps.len() - 1].iter().fold(&mut ordered, |here, step| match step {
            Step::Field(name) => &mut here[*name],
            Step::Element => &mut here[0],
        });
        let mut items = owner[*name].take();
        match place.patch {
            PatchStrategy::MergeByKey { .. } => {
                owner[*name] = items.clone();
                owner[format!("$setElementOrder/{name}")] = items.take();
                patch(&ordered);
                items = changed.clone();
                for item in place
                    .steps
                    .iter()
                    .fold(&mut items, |here, step| match step {
                        Step::Field(name) => &mut here[*name],
                        Step::Element => &mut here[0],
                    })
                    .as_array_mut()
                    .into_iter()
                    .flatten()
                {
                    item["$patch"] = "delete".into();
                }
                patch(&items);
            }
            PatchStrategy::MergeSet => {
                owner[format!("$deleteFromPrimitiveList/{name}")] = items;
                patch(&ordered);
            }
            PatchStrategy::Replace => {}
        }
    }),
];

fn entry(kind: &Kind) -> ManagerEntry {
    ManagerEntry {
        manager: "m".to_owned(),
        operation: Operation::Update,
        api_version: kind.api_version(),
        subresource: String::new(),
        time: "2026-01-02T03:04:05Z".to_owned(),
    }
}

/// What a create makes of an object, whatever is wrong with it. None where it does not even fit its
/// type.
fn created(kind: &Kind, object: &Value) -> Option<Value> {
    let object = normalize(object.clone(), kind.type_id()).ok()?;
    let mut object = kind.view.map_or_else(|| object.clone(), |view| (view.to_stored)(object.clone()));
    kind.rules.default(&mut object);
    record_update(kind, None, &mut object, &entry(kind));
    kind.rules.prepare_create(&mut object);
    let errors = kind.rules.validate_create(&object);
    Status::invalid("", kind.kind, "a", &errors).to_value();
    kind.rules.warnings_create(&object);
    kinds::columns::row(kind, &object, Timestamp::UNIX_EPOCH);
    let restricted = LevelVersion { level: Level::Restricted, version: Version::Latest };
    pod_security::violations(restricted, &object["metadata"], &object["spec"]);
    Some(object)
}

/// What grows too fast when it is done with objects that have one of their lists filled.
fn too_fast_with_lists(works: &[(&str, Work)]) -> Vec<String> {
    let mut found = Vec::new();
    for place in places() {
        for alike in [false, true] {
            let objects = [ITEMS.small, ITEMS.large].map(|count| {
                let items = place.items(count, alike);
                let mut reversed = items.clone();
                if let Some(items) = reversed.as_array_mut() {
                    items.reverse();
                }
                (count, place.object(&items), place.object(&reversed))
            });
            for (name, work) in works {
                let run = |size: usize| {
                    let (_, object, changed) = objects.iter().find(|(count, ..)| *count == size).expect("made above");
                    work(&place, object, changed);
                };
                let what = if alike { "alike" } else { "different" };
                found.extend(too_fast(&run, &ITEMS).map(|how| format!("{} of {}, {what}: {how}", name, place.name())));
            }
        }
    }
    found
}

#[test]
fn no_list_makes_a_write_take_the_square_of_its_length() {
    let found = too_fast_with_lists(&WRITES);
    assert!(found.is_empty(), "these grow too fast:\n{}", found.join("\n"));
}

#[test]
fn no_list_makes_a_patch_take_the_square_of_its_length() {
    let found = too_fast_with_lists(&PATCHES);
    assert!(found.is_empty(), "these grow too fast:\n{}", found.join("\n"));
}
