//! Makes something wrong of something right: trees, texts, bytes.

use serde_json::{Map, Value, json};

use super::random::Random;
use super::texts;

/// As deep as mutation nests; parsers refuse less.
const NESTING_MAX: usize = 300;

/// Changes up to `times` places of the tree.
pub fn tree(value: &mut Value, random: &mut Random, times: usize) {
    for _ in 0..random.below(times + 1) {
        change(value, random);
    }
}

/// Walks down to a random place and changes what is there.
fn change(value: &mut Value, random: &mut Random) {
    let stop = random.once_in(5);
    match value {
        Value::Object(fields) if !stop && !fields.is_empty() => {
            let at = random.below(fields.len());
            let child = fields.values_mut().nth(at).expect("chosen below the length");
            change(child, random);
        }
        Value::Array(items) if !stop && !items.is_empty() => {
            let at = random.below(items.len());
            change(&mut items[at], random);
        }
        here => replace(here, random),
    }
}

fn replace(value: &mut Value, random: &mut Random) {
    match (random.below(6), &mut *value) {
        (0, Value::Object(fields)) => remove_field(fields, random),
        (1, Value::Object(fields)) => {
            fields.insert((*random.pick(texts::STRINGS)).to_owned(), scalar(random));
        }
        (0, Value::Array(items)) => items.clear(),
        // A second item with the same keys.
        (1 | 2, Value::Array(items)) if !items.is_empty() => {
            let copy = items[random.below(items.len())].clone();
            items.push(copy);
        }
        (3, _) if random.once_in(20) => *value = nested(random),
        (4, Value::String(text)) => *text = spliced(text, random),
        _ => *value = scalar(random),
    }
}

fn remove_field(fields: &mut Map<String, Value>, random: &mut Random) {
    let name = fields.keys().nth(random.below(fields.len().max(1))).cloned();
    if let Some(name) = name {
        fields.remove(&name);
    }
}

/// Any JSON value without structure, or an empty structure.
pub fn scalar(random: &mut Random) -> Value {
    match random.below(10) {
        0 => Value::Null,
        1 => json!({}),
        2 => json!([]),
        3 => random.once_in(2).into(),
        4 => texts::int64(random).into(),
        5 => u64::MAX.into(),
        6 => (*random.pick(&[0.5, -0.0, 1e300, 5e-324, 1e19])).into(),
        7 => (*random.pick(texts::QUANTITIES)).into(),
        _ => (*random.pick(texts::STRINGS)).into(),
    }
}

fn nested(random: &mut Random) -> Value {
    let object = random.once_in(2);
    (0..random.below(NESTING_MAX)).fold(json!(1), |inner, _| if object { json!({"a": inner}) } else { json!([inner]) })
}

/// The text with another one put into it, or repeated, or cut.
pub fn spliced(text: &str, random: &mut Random) -> String {
    let places: Vec<usize> = text.char_indices().map(|(at, _)| at).chain([text.len()]).collect();
    let at = *random.pick(&places);
    match random.below(4) {
        0 => text[..at].to_owned(),
        1 => text[at..].to_owned(),
        2 => text.repeat(random.below(9)),
        _ => format!("{}{}{}", &text[..at], random.pick(texts::STRINGS), &text[at..]),
    }
}

/// Changes up to `times` places of a message: bits, runs of bytes, its end.
pub fn bytes(bytes: &mut Vec<u8>, random: &mut Random, times: usize) {
    for _ in 0..random.below(times + 1) {
        if bytes.is_empty() {
            return;
        }
        let at = random.below(bytes.len());
        match random.below(7) {
            0 => bytes.truncate(at),
            1 => bytes[at] ^= 1 << random.below(8),
            2 => bytes[at] = *random.pick(b"{}[]\",:\\0-9eE.&*!|>#%@`'\n\t \x00\xff\x80\xc3"),
            3 => {
                let end = at + random.below((bytes.len() - at).min(16));
                bytes.drain(at..end);
            }
            4 => {
                let end = at + random.below((bytes.len() - at).min(64));
                let copy = bytes[at..end].to_vec();
                bytes.splice(at..at, copy);
            }
            5 => {
                let number = *random.pick(&[
                    "1e999",
                    "-0",
                    "18446744073709551616",
                    "1e-400",
                    "00",
                    "0x",
                    "\\u0000",
                    "\\ud800",
                    "\\udc00\\ud800",
                    "99999999999999999999999",
                ]);
                bytes.splice(at..at, number.bytes());
            }
            _ => bytes.insert(at, random.next().to_le_bytes()[0]),
        }
    }
}
