//! What documents cost as they grow: four times the text may take some four times as long, never sixteen times.
//!
//! Time is that of this thread on a processor, so that other work on the machine does not count; and only what takes long enough to be told
//! from noise is judged.

use kinds::patch::{Findings, json};
use kinds::quantity::Quantity;
use kinds::selector::{FieldSelector, Selector};
use kinds::{document, yaml};
use serde_json::json;

const SMALL: usize = 500;
const LARGE: usize = 4 * SMALL;

/// Linear work grows by 4, quadratic by 16.
const GROWTH_MAX: u64 = 10;

/// Below this a measurement says nothing.
const NANOSECONDS_JUDGED_MIN: u64 = 40_000_000;

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
fn too_fast(work: &dyn Fn(usize)) -> Option<String> {
    let grows = || {
        let (small, large) = (cost(work, SMALL), cost(work, LARGE));
        (large > NANOSECONDS_JUDGED_MIN && large > GROWTH_MAX * small)
            .then(|| format!("{} ms, then {} ms", small / 1_000_000, large / 1_000_000))
    };
    grows().and_then(|_| grows())
}

/// Texts by name, each of any size.
type Texts = Vec<(&'static str, Box<dyn Fn(usize) -> String>)>;

/// Texts that are made to be expensive, larger than any request may be in parts of what they are made of.
#[test]
fn no_text_takes_the_square_of_its_length() {
    if spent().is_none() {
        eprintln!("skipped: this kernel does not say how much time a thread has spent");
        return;
    }
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
        found.extend(too_fast(&|size| drop(yaml::parse(&text(size)))).map(|how| format!("YAML {name}: {how}")));
    }
    let json_texts: Texts = vec![
        ("keys", Box::new(|size| format!("{{{}}}", (0..20 * size).map(|n| format!("\"k{n}\":1")).collect::<Vec<_>>().join(",")))),
        ("duplicates", Box::new(move |size| format!("{{{}}}", vec!["\"k\":1"; 20 * size].join(",")))),
        ("numbers", Box::new(move |size| format!("[{}]", many("1", size)))),
        ("spaces", Box::new(move |size| many(" ", size))),
        ("escapes", Box::new(move |size| format!("\"{}\"", many("\\u0041", size)))),
    ];
    for (name, text) in &json_texts {
        found.extend(too_fast(&|size| drop(document::parse_json(text(size).as_bytes()))).map(|how| format!("JSON {name}: {how}")));
    }
    let operations = |one: &str, size: usize| format!("[{}]", vec![one; size].join(","));
    let current = json!({"a": {"b": {}}, "l": (0..LARGE).collect::<Vec<_>>()});
    for one in [
        r#"{"op":"add","path":"/l/0","value":1}"#,
        r#"{"op":"remove","path":"/l/0"}"#,
        r#"{"op":"move","from":"/a","path":"/a"}"#,
        r#"{"op":"test","path":"/l/0","value":0}"#,
    ] {
        found.extend(
            too_fast(&|size| drop(json::apply(&current, operations(one, size).as_bytes(), Findings::Listed)))
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
        found.extend(too_fast(&|size| drop(Selector::parse(&text(size)))).map(|how| format!("label selector {name}: {how}")));
        found.extend(too_fast(&|size| drop(FieldSelector::parse(&text(size)))).map(|how| format!("field selector {name}: {how}")));
    }
    for digits in ["1", "0", "1.", "1e", "-"] {
        found.extend(too_fast(&|size| drop(Quantity::parse(&many(digits, size)))).map(|how| format!("quantity {digits}: {how}")));
    }
    assert!(found.is_empty(), "these grow too fast:\n{}", found.join("\n"));
}
