//! Which address the next pod gets.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use ipnet::Ipv4Net;

/// The range's own address, one kept for the node, and the broadcast address: never given to pods.
const RESERVED_AT_START: u32 = 2;
const RESERVED_AT_END: u32 = 1;

/// The first free address after `last`, round the range: one that was given back is used again only
/// when all others had their turn, so that clients which still know it do not reach another pod.
pub fn next_free(range: Ipv4Net, last: Option<Ipv4Addr>, taken: &BTreeSet<Ipv4Addr>) -> Option<Ipv4Addr> {
    let first = u32::from(range.network()).checked_add(RESERVED_AT_START)?;
    let end = u32::from(range.broadcast()).checked_sub(RESERVED_AT_END)?;
    let start = last.map(u32::from).filter(|last| (first..end).contains(last)).map_or(first, |last| last + 1);
    (start..=end).chain(first..start).map(Ipv4Addr::from).find(|address| !taken.contains(address))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn next(range: &str, last: Option<&str>, taken: &[&str]) -> Option<String> {
        let taken = taken.iter().map(|address| address.parse().expect("an address")).collect();
        let last = last.map(|last| last.parse().expect("an address"));
        next_free(range.parse().expect("a range"), last, &taken).map(|address| address.to_string())
    }

    #[test]
    fn starts_after_the_reserved_ones() {
        assert_eq!(next("10.244.1.0/24", None, &[]).as_deref(), Some("10.244.1.2"));
    }

    #[test]
    fn goes_on_after_the_last() {
        assert_eq!(next("10.244.1.0/24", Some("10.244.1.2"), &[]).as_deref(), Some("10.244.1.3"));
        assert_eq!(next("10.244.1.0/24", Some("10.244.1.2"), &["10.244.1.3"]).as_deref(), Some("10.244.1.4"));
    }

    #[test]
    fn begins_again_at_the_end_and_in_another_range() {
        assert_eq!(next("10.244.1.0/24", Some("10.244.1.254"), &[]).as_deref(), Some("10.244.1.2"));
        assert_eq!(next("10.244.1.0/24", Some("10.9.0.7"), &[]).as_deref(), Some("10.244.1.2"));
    }

    #[test]
    fn takes_the_last_freed_when_it_is_the_only_one() {
        assert_eq!(next("10.0.0.0/29", Some("10.0.0.6"), &["10.0.0.2", "10.0.0.3", "10.0.0.4", "10.0.0.5"]).as_deref(), Some("10.0.0.6"));
        assert_eq!(next("10.0.0.0/30", None, &["10.0.0.2"]), None);
        assert_eq!(next("10.0.0.0/32", None, &[]), None);
    }
}
