//! Whether an output is as expected, and how to show that it is not.

/// Stands for any lines, also for none.
const ANY_LINES: &str = "...";

pub fn matches(expected: &[String], got: &[String]) -> bool {
    let Some((first, rest)) = expected.split_first() else { return got.is_empty() };
    if first == ANY_LINES {
        return (0..=got.len()).any(|skipped| matches(rest, &got[skipped..]));
    }
    got.first() == Some(first) && matches(rest, &got[1..])
}

/// All lines of both: `-` is expected and missing, `+` is there and not expected.
pub fn diff(expected: &[String], got: &[String]) -> String {
    let lengths = common_lengths(expected, got);
    let (mut left, mut right) = (0, 0);
    let mut shown = String::new();
    while left < expected.len() || right < got.len() {
        let is_same = left < expected.len() && right < got.len() && expected[left] == got[right];
        let (mark, line) = if is_same {
            (left, right) = (left + 1, right + 1);
            (' ', &expected[left - 1])
        } else if right == got.len() || left < expected.len() && lengths[left + 1][right] >= lengths[left][right + 1] {
            left += 1;
            ('-', &expected[left - 1])
        } else {
            right += 1;
            ('+', &got[right - 1])
        };
        shown.push_str(&format!("{mark} {line}\n"));
    }
    shown
}

/// For each pair of ends, how many lines they have in common in the same order.
fn common_lengths(a: &[String], b: &[String]) -> Vec<Vec<usize>> {
    let mut lengths = vec![vec![0; b.len() + 1]; a.len() + 1];
    for (i, left) in a.iter().enumerate().rev() {
        for (j, right) in b.iter().enumerate().rev() {
            lengths[i][j] = if left == right { lengths[i + 1][j + 1] + 1 } else { lengths[i + 1][j].max(lengths[i][j + 1]) };
        }
    }
    lengths
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(text: &str) -> Vec<String> {
        text.split_whitespace().map(str::to_owned).collect()
    }

    #[test]
    fn three_dots_stand_for_any_lines() {
        let check = |expected: &str, got: &str| matches(&lines(expected), &lines(got));
        assert!(check("a b", "a b") && check("", ""));
        assert!(!check("a b", "a") && !check("a", "a b") && !check("", "a"));
        assert!(check("a ... d", "a b c d") && check("a ... d", "a d") && check("... b ... d ...", "a b c d"));
        assert!(!check("a ... d", "a b c") && !check("... d ... b ...", "a b c d"));
    }

    #[test]
    fn a_diff_shows_both() {
        assert_eq!(diff(&lines("a b c"), &lines("a x c d")), "  a\n- b\n+ x\n  c\n+ d\n");
    }
}
