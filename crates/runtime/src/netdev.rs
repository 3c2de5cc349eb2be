//! The kernel's table of a network namespace's interfaces (`net/dev` in procfs).

use containers::SandboxStats;

/// What went through all interfaces but the loopback since they were made.
pub fn sum(sandbox_id: String, table: &str) -> SandboxStats {
    let mut sum = SandboxStats { sandbox_id, ..Default::default() };
    for (_, numbers) in table.lines().filter_map(|l| l.split_once(':')).filter(|(name, _)| name.trim() != "lo") {
        let numbers: Vec<u64> = numbers.split_whitespace().filter_map(|n| n.parse().ok()).collect();
        let at = |n: usize| numbers.get(n).copied().unwrap_or(0);
        sum.receive_bytes += at(0);
        sum.receive_errors += at(2);
        sum.transmit_bytes += at(8);
        sum.transmit_errors += at(10);
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_leave_out_the_loopback() {
        let table = "Inter-|   Receive  |  Transmit\n face |bytes\n    lo: 9 9 9 9 9 9 9 9 9 9 9\n  eth0: 1 2 3 4 5 6 7 8 10 11 12 0\n";
        let expected =
            SandboxStats { sandbox_id: "s".into(), receive_bytes: 1, receive_errors: 3, transmit_bytes: 10, transmit_errors: 12 };
        assert_eq!(sum("s".into(), table), expected);
    }
}
