//! Ranges of addresses, as ServiceCIDRs name them: `10.96.0.0/16`.
//!
//! A range holds its network address and, for IPv4, the one for broadcasts, but gives them to no
//! Service.

use std::net::{IpAddr, Ipv4Addr};
use std::ops::RangeInclusive;

use serde_json::{Value, json};

use crate::names;

/// The lower part of a range is given out last, so that people find free addresses there: a
/// sixteenth of the range within these bounds, nothing of ranges that are no larger than the lower
/// bound.
const STATIC_MIN: u64 = 16;
const STATIC_MAX: u64 = 256;
const STATIC_PARTS: u64 = 16;

/// The addresses of a network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct AddressRange {
    is_ipv4: bool,
    first: u128,
    last: u128,
}

/// The number of an address among those of its family.
fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(ip) => u32::from(ip).into(),
        IpAddr::V6(ip) => ip.into(),
    }
}

impl AddressRange {
    /// None for text that is not a network; bits beyond its length do not count.
    pub fn parse(text: &str) -> Option<AddressRange> {
        let (ip, bits) = names::parse_cidr(text)?;
        let width = if ip.is_ipv4() { 32 } else { 128 };
        let hosts = (u128::MAX >> (128 - width)).checked_shr(u32::from(bits)).unwrap_or(0);
        let first = number(ip) & !hosts;
        Some(AddressRange { is_ipv4: ip.is_ipv4(), first, last: first | hosts })
    }

    /// Can a Service have the address from this range?
    pub fn serves(&self, address: IpAddr) -> bool {
        let number = number(address);
        let is_reserved = number == self.first || (self.is_ipv4 && number == self.last);
        address.is_ipv4() == self.is_ipv4 && (self.first..=self.last).contains(&number) && !is_reserved
    }

    /// Is every address of `other` one of this range?
    pub fn contains(&self, other: &AddressRange) -> bool {
        self.is_ipv4 == other.is_ipv4 && self.first <= other.first && other.last <= self.last
    }

    /// Networks that share an address contain one another.
    pub fn overlaps(&self, other: &AddressRange) -> bool {
        self.contains(other) || other.contains(self)
    }

    /// The addresses that a Service can have, as numbers; none for IPv6.
    pub fn ipv4(&self) -> Option<RangeInclusive<u32>> {
        let end = |number: u128| u32::try_from(number).ok();
        let (first, last) = (end(self.first.checked_add(1)?)?, end(self.last.checked_sub(1)?)?);
        (self.is_ipv4 && first <= last).then_some(first..=last)
    }

    /// How many of the lowest addresses are given out last.
    pub fn static_count(&self) -> u32 {
        let size = u64::try_from(self.last - self.first).map_or(u64::MAX, |hosts| hosts.saturating_add(1));
        let count = if size <= STATIC_MIN { 0 } else { (size / STATIC_PARTS).clamp(STATIC_MIN, STATIC_MAX) };
        u32::try_from(count).expect("at most STATIC_MAX")
    }
}

/// `IPv4` or `IPv6`, as fields and labels name it.
pub fn family(address: IpAddr) -> &'static str {
    if address.is_ipv4() { "IPv4" } else { "IPv6" }
}

/// The text of an IPv4 address by its number.
pub fn ipv4_text(number: u32) -> String {
    Ipv4Addr::from(number).to_string()
}

/// Labels of the IPAddresses of Services.
pub const FAMILY_LABEL: &str = "ipaddress.kubernetes.io/ip-family";
pub const MANAGER_LABEL: &str = "ipaddress.kubernetes.io/managed-by";
/// Who made them, as the second label says.
pub const MANAGER: &str = "ipallocator.k8s.io";

/// The IPAddress of a Service with that address, as the API server makes it and the controller
/// repairs it.
pub fn ip_address_of_service(name: &str, family: &str, namespace: &str, service: &str) -> Value {
    json!({
        "metadata": {"name": name, "labels": {FAMILY_LABEL: family, MANAGER_LABEL: MANAGER}},
        "spec": {"parentRef": {"resource": "services", "namespace": namespace, "name": service}},
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(text: &str) -> AddressRange {
        AddressRange::parse(text).expect("ranges of tests are well formed")
    }

    fn serves(text: &str, address: &str) -> bool {
        range(text).serves(address.parse().expect("addresses of tests are well formed"))
    }

    #[test]
    fn network_and_broadcast_addresses_serve_no_service() {
        assert!(serves("10.96.0.0/16", "10.96.0.1") && serves("10.96.0.0/16", "10.96.255.254"));
        assert!(!serves("10.96.0.0/16", "10.96.0.0") && !serves("10.96.0.0/16", "10.96.255.255"));
        assert!(!serves("10.96.0.0/16", "10.97.0.1") && !serves("10.96.0.0/16", "::a60:1"));
        assert!(serves("2001:db8::/64", "2001:db8::ffff:ffff:ffff:ffff") && !serves("2001:db8::/64", "2001:db8::"));
        assert!(serves("0.0.0.0/0", "203.0.113.1") && !serves("0.0.0.0/0", "255.255.255.255"));
        assert!(serves("::/0", "::1") && !serves("10.0.0.1/32", "10.0.0.1"));
    }

    #[test]
    fn ranges_contain_smaller_ones_of_their_family() {
        assert!(range("10.96.0.0/16").contains(&range("10.96.128.0/17")) && !range("10.96.128.0/17").contains(&range("10.96.0.0/16")));
        assert!(range("10.96.128.0/17").overlaps(&range("10.96.0.0/16")) && !range("10.96.0.0/16").overlaps(&range("10.97.0.0/16")));
        assert!(!range("::/0").contains(&range("0.0.0.0/0")) && range("::/0").contains(&range("::/0")));
    }

    #[test]
    fn the_lower_part_grows_with_the_range() {
        let shown = |text: &str| (range(text).ipv4().map(|r| (ipv4_text(*r.start()), ipv4_text(*r.end()))), range(text).static_count());
        let ends = |first: &str, last: &str| Some((first.to_owned(), last.to_owned()));
        assert_eq!(shown("10.0.0.0/32"), (None, 0));
        assert_eq!(shown("10.0.0.0/31"), (None, 0));
        assert_eq!(shown("10.0.0.0/30"), (ends("10.0.0.1", "10.0.0.2"), 0));
        assert_eq!(shown("10.0.0.0/28"), (ends("10.0.0.1", "10.0.0.14"), 0));
        assert_eq!(shown("10.0.0.0/27"), (ends("10.0.0.1", "10.0.0.30"), 16));
        assert_eq!(shown("10.0.0.0/23"), (ends("10.0.0.1", "10.0.1.254"), 32));
        assert_eq!(shown("10.0.0.0/16"), (ends("10.0.0.1", "10.0.255.254"), 256));
        assert_eq!(shown("0.0.0.0/0"), (ends("0.0.0.1", "255.255.255.254"), 256));
        assert_eq!(shown("2001:db8::/64"), (None, 256));
    }
}
