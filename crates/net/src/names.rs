//! Names of network interfaces: a fixed prefix says whose they are, a hash says for what.
//!
//! The kernel allows 15 bytes. The same input always gives the same name, so that a later process
//! finds what an earlier one made.

use sha2::{Digest, Sha256};

/// The host's end of a pod's link: `evp` and 12 digits.
pub const POD_PREFIX: &str = "evp";
/// The bridge of a local cluster: `evb` and 8 digits.
pub const BRIDGE_PREFIX: &str = "evb";
/// The host's end of a local node's link: `evn`, 6 digits for the cluster, 6 for the node.
pub const NODE_PREFIX: &str = "evn";

/// A node's tunnel for pods of other nodes.
pub const VXLAN_DEVICE: &str = "everynode-vxlan";
/// The same, encrypted.
pub const WIREGUARD_DEVICE: &str = "everynode-wg";

pub fn pod_link(sandbox_id: &str) -> String {
    format!("{POD_PREFIX}{}", digits(sandbox_id, 12))
}

pub fn bridge(cluster: &str) -> String {
    format!("{BRIDGE_PREFIX}{}", digits(cluster, 8))
}

/// What the names of all links of a cluster's nodes begin with.
pub fn node_links(cluster: &str) -> String {
    format!("{NODE_PREFIX}{}", digits(cluster, 6))
}

pub fn node_link(cluster: &str, node: &str) -> String {
    format!("{}{}", node_links(cluster), digits(node, 6))
}

/// The hardware address of a bridge or of a node's `eth0`, by the name of its link. Always the
/// same, so that neighbours who remember it are right after it was made anew.
pub fn hardware_address(link_name: &str) -> [u8; 6] {
    let hash = Sha256::digest(link_name.as_bytes());
    // Two bits say: of one interface, and not from a maker's range.
    [hash[0] & 0xfc | 0x02, hash[1], hash[2], hash[3], hash[4], hash[5]]
}

fn digits(text: &str, count: usize) -> String {
    let hash = Sha256::digest(text.as_bytes());
    let mut digits = hex::encode(hash);
    digits.truncate(count);
    digits
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_fit_and_stay_the_same() {
        assert_eq!(pod_link("a"), "evpca978112ca1b");
        assert_eq!(bridge("a"), "evbca978112");
        assert_eq!(node_link("a", "b"), "evnca97813e23e8");
        assert_eq!(hardware_address("evbca978112")[0] & 3, 2);
        let names = [&pod_link("a"), &bridge("a"), &node_link("a", "b"), VXLAN_DEVICE, WIREGUARD_DEVICE];
        assert!(names.iter().all(|name| name.len() <= 15));
    }
}
