//! The difference of two texts as `diff -u` shows it, computed as Python's difflib does (Kubernetes
//! uses its Go port).

use std::cell::Cell;
use std::collections::HashMap;
use std::ops::Range;

const CONTEXT_LINES: usize = 3;
/// From this many lines on, lines that occur in more than one of a hundred are not matched first.
const POPULAR_FROM_LINES: usize = 200;
/// Looking for equal lines costs the square of their number or more. What is not found within this
/// many steps shows as changed.
const STEPS_MAX: usize = 1_000_000;

/// Hunks without a header naming files.
pub fn unified(old: &[String], new: &[String]) -> String {
    let mut text = String::new();
    for hunk in hunks(&changes(old, new)) {
        let (first, last) = (&hunk[0], &hunk[hunk.len() - 1]);
        let from = first.old.start.saturating_sub(CONTEXT_LINES);
        let lead = first.old.start - from;
        let trail = CONTEXT_LINES.min(old.len() - last.old.end);
        let (old_range, new_range) = (from..last.old.end + trail, first.new.start - lead..last.new.end + trail);
        text.push_str(&format!("@@ -{} +{} @@\n", show(&old_range), show(&new_range)));
        let mut at = from;
        for change in hunk {
            push(&mut text, ' ', &old[at..change.old.start]);
            push(&mut text, '-', &old[change.old.clone()]);
            push(&mut text, '+', &new[change.new.clone()]);
            at = change.old.end;
        }
        push(&mut text, ' ', &old[at..old_range.end]);
    }
    text
}

fn push(text: &mut String, sign: char, lines: &[String]) {
    for line in lines {
        text.push(sign);
        text.push_str(line);
        text.push('\n');
    }
}

fn show(range: &Range<usize>) -> String {
    match range.len() {
        1 => format!("{}", range.start + 1),
        0 => format!("{},0", range.start),
        len => format!("{},{len}", range.start + 1),
    }
}

#[derive(Clone, Debug, PartialEq)]
struct Change {
    old: Range<usize>,
    new: Range<usize>,
}

/// Changes with no more than twice the context between them are shown together.
fn hunks(changes: &[Change]) -> Vec<&[Change]> {
    changes.chunk_by(|a, b| b.old.start - a.old.end <= 2 * CONTEXT_LINES).collect()
}

fn changes(old: &[String], new: &[String]) -> Vec<Change> {
    let mut blocks = Vec::new();
    Matcher::new(old, new).blocks(&mut blocks);
    blocks.sort_unstable();
    blocks.push((old.len(), new.len(), 0));
    let mut changes = Vec::new();
    let (mut i, mut j) = (0, 0);
    for (a, b, len) in blocks {
        if i < a || j < b {
            changes.push(Change { old: i..a, new: j..b });
        }
        (i, j) = (a + len, b + len);
    }
    changes
}

struct Matcher<'a> {
    old: &'a [String],
    new: &'a [String],
    /// Where each line of `new` is, popular lines left out.
    places: HashMap<&'a str, Vec<usize>>,
    steps_left: Cell<usize>,
}

impl<'a> Matcher<'a> {
    fn new(old: &'a [String], new: &'a [String]) -> Matcher<'a> {
        let mut places: HashMap<&str, Vec<usize>> = HashMap::new();
        for (j, line) in new.iter().enumerate() {
            places.entry(line).or_default().push(j);
        }
        if new.len() >= POPULAR_FROM_LINES {
            let max = new.len() / 100 + 1;
            places.retain(|_, places| places.len() <= max);
        }
        Matcher { old, new, places, steps_left: Cell::new(STEPS_MAX) }
    }

    /// Runs of equal lines, in no order. Not recursive: texts of thousands of changes would end the
    /// stack.
    fn blocks(&self, found: &mut Vec<(usize, usize, usize)>) {
        let mut open = vec![(0..self.old.len(), 0..self.new.len())];
        while let Some((old, new)) = open.pop() {
            let (i, j, len) = self.longest(&old, &new);
            if len > 0 {
                found.push((i, j, len));
                open.push((old.start..i, new.start..j));
                open.push((i + len..old.end, j + len..new.end));
            }
        }
    }

    /// The longest run of equal lines; the first one of several.
    fn longest(&self, old: &Range<usize>, new: &Range<usize>) -> (usize, usize, usize) {
        let mut best = (old.start, new.start, 0);
        let mut lengths: HashMap<usize, usize> = HashMap::new();
        for i in old.clone() {
            let mut next = HashMap::new();
            let places = self.places.get(self.old[i].as_str()).map(Vec::as_slice).unwrap_or_default();
            let steps = places.len() + 1;
            if self.steps_left.get() < steps {
                break;
            }
            self.steps_left.set(self.steps_left.get() - steps);
            for &j in places.iter().filter(|j| new.contains(j)) {
                let len = 1 + j.checked_sub(1).and_then(|before| lengths.get(&before)).copied().unwrap_or_default();
                next.insert(j, len);
                if len > best.2 {
                    best = (i + 1 - len, j + 1 - len, len);
                }
            }
            lengths = next;
        }
        self.extend(best, old, new)
    }

    /// Popular lines next to the run belong to it.
    fn extend(&self, (mut i, mut j, mut len): (usize, usize, usize), old: &Range<usize>, new: &Range<usize>) -> (usize, usize, usize) {
        while i > old.start && j > new.start && self.old[i - 1] == self.new[j - 1] {
            (i, j, len) = (i - 1, j - 1, len + 1);
        }
        while i + len < old.end && j + len < new.end && self.old[i + len] == self.new[j + len] {
            len += 1;
        }
        (i, j, len)
    }
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use super::*;

    #[test]
    fn hunks_have_three_lines_of_context() {
        let lines = |text: &str| text.chars().map(String::from).collect::<Vec<_>>();
        expect![[r#"
            @@ -2,7 +2,8 @@
             b
             c
             d
            -e
            +X
            +Y
             f
             g
             h
        "#]]
        .assert_eq(&unified(&lines("abcdefghijkl"), &lines("abcdXYfghijkl")));
        assert_eq!(unified(&lines("abc"), &lines("abc")), "");
    }

    /// Ends on a small stack and within the steps, and is still a difference that makes one text of
    /// the other.
    #[test]
    fn a_difference_of_many_lines_ends() {
        let old: Vec<String> = (0..60_000).map(|line| line.to_string()).collect();
        let new: Vec<String> = (0..60_000).map(|line| if line % 2 == 0 { line.to_string() } else { format!("{line}x") }).collect();
        let matcher = Matcher::new(&old, &new);
        let mut blocks = Vec::new();
        matcher.blocks(&mut blocks);
        assert!(matcher.steps_left.get() <= 1 && !blocks.is_empty(), "{} steps left", matcher.steps_left.get());
        let (mut made, mut at) = (Vec::new(), 0);
        for change in changes(&old, &new) {
            made.extend_from_slice(&old[at..change.old.start]);
            made.extend_from_slice(&new[change.new]);
            at = change.old.end;
        }
        made.extend_from_slice(&old[at..]);
        assert!(made == new);
    }
}
