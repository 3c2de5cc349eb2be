//! The records of skipped tests: how one is written, and what all of them amount to.

use std::collections::{BTreeMap, BTreeSet};

/// A line: the test, a tab, what it misses.
pub fn record(test: &str, missing: &str) -> String {
    format!("{test}\t{missing}\n")
}

/// How many tests were skipped, and for what. A test that looked several times counts once.
pub fn summary(records: &str) -> String {
    let skips: BTreeSet<(&str, &str)> = records.lines().filter_map(|line| line.split_once('\t')).collect();
    let tests: BTreeSet<&str> = skips.iter().map(|(test, _)| *test).collect();
    let mut by_need: BTreeMap<&str, usize> = BTreeMap::new();
    for (_, missing) in &skips {
        *by_need.entry(missing).or_default() += 1;
    }
    let needs: Vec<String> = by_need.iter().map(|(missing, count)| format!("{missing} ({count})")).collect();
    match tests.len() {
        0 => "no test was skipped".to_owned(),
        1 => format!("1 test was skipped. Missing: {}", needs.join("; ")),
        count => format!("{count} tests were skipped. Missing: {}", needs.join("; ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_test_counts_once() {
        let records: String = [("a x", "root"), ("a x", "root"), ("b x", "root"), ("a y", "kubectl, root")]
            .into_iter()
            .map(|(test, missing)| record(test, missing))
            .collect();
        assert_eq!(summary(&records), "3 tests were skipped. Missing: kubectl, root (1); root (2)");
        assert_eq!(summary(&record("a x", "root")), "1 test was skipped. Missing: root (1)");
        assert_eq!(summary(""), "no test was skipped");
    }
}
