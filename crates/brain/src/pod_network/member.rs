//! What a Node object says about the node's part in the network.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use containers::WireGuardKey;
use ipnet::{IpNet, Ipv4Net};
use jiff::Timestamp;
use serde::Deserialize;
use serde_json::{Value, json};

use super::Held;
use crate::model::{Meta, NodeCondition, absent_if_null};

/// The public key of a node, as `wg` prints keys.
const KEY: &str = "everynode.dev/wireguard-public-key";

/// A node as it describes itself.
#[derive(Debug, Clone, PartialEq)]
pub struct Member {
    pub name: Arc<str>,
    pub uid: Arc<str>,
    pub created: Option<Timestamp>,
    /// `InternalIP`s.
    pub addresses: Vec<IpAddr>,
    pub pod_cidrs: Vec<IpNet>,
    pub key: Option<WireGuardKey>,
    /// The server has not heard of it for a while (Ready is Unknown).
    pub is_lost: bool,
    pub condition: Option<NodeCondition>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Raw {
    metadata: Meta,
    #[serde(deserialize_with = "absent_if_null")]
    spec: RawSpec,
    #[serde(deserialize_with = "absent_if_null")]
    status: RawStatus,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct RawSpec {
    #[serde(rename = "podCIDRs", deserialize_with = "absent_if_null")]
    pod_cidrs: Vec<String>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct RawStatus {
    #[serde(deserialize_with = "absent_if_null")]
    addresses: Vec<RawAddress>,
    #[serde(deserialize_with = "absent_if_null")]
    conditions: Vec<NodeCondition>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct RawAddress {
    #[serde(rename = "type")]
    kind: String,
    address: String,
}

impl Member {
    /// None for what is no Node object. What cannot be read of one is as if it were not there.
    pub fn read(node: &Value) -> Option<Member> {
        let raw = Raw::deserialize(node).ok()?;
        let internal = raw.status.addresses.iter().filter(|address| address.kind == "InternalIP");
        Some(Member {
            addresses: internal.filter_map(|address| address.address.parse().ok()).collect(),
            pod_cidrs: raw.spec.pod_cidrs.iter().filter_map(|range| range.parse().ok()).map(|range: IpNet| range.trunc()).collect(),
            key: raw.metadata.annotations.get(KEY).and_then(parse_key),
            is_lost: raw.status.conditions.iter().any(|condition| &*condition.kind == "Ready" && &*condition.status == "Unknown"),
            condition: raw.status.conditions.into_iter().find(|condition| &*condition.kind == super::condition::KIND),
            created: raw.metadata.creation_timestamp,
            name: raw.metadata.name,
            uid: raw.metadata.uid,
        })
    }

    /// Whether both are alike to the network: the condition only tells of it.
    pub fn is_same_member(&self, other: &Member) -> bool {
        let of = |member: &Member| {
            (member.uid.clone(), member.addresses.clone(), member.pod_cidrs.clone(), member.key, member.created, member.is_lost)
        };
        of(self) == of(other)
    }

    /// The older comes first.
    pub(super) fn age(&self) -> (Option<Timestamp>, Arc<str>, Arc<str>) {
        (self.created, self.uid.clone(), self.name.clone())
    }

    /// Whether it still claims what it had.
    pub(super) fn holds(&self, held: Option<&Held>) -> bool {
        held.is_some_and(|held| {
            let is_same_place =
                self.address().map(IpAddr::V4) == Some(held.address) && self.pod_cidr().map(IpNet::V4) == Some(held.pod_cidr);
            is_same_place && (held.key.is_none() || held.key == self.key)
        })
    }

    pub(super) fn address(&self) -> Option<Ipv4Addr> {
        self.addresses.iter().find_map(|address| match address {
            IpAddr::V4(address) => Some(*address),
            IpAddr::V6(_) => None,
        })
    }

    pub(super) fn pod_cidr(&self) -> Option<Ipv4Net> {
        self.pod_cidrs.iter().find_map(|range| match range {
            IpNet::V4(range) => Some(*range),
            IpNet::V6(_) => None,
        })
    }
}

fn parse_key(text: &str) -> Option<WireGuardKey> {
    Some(WireGuardKey(BASE64.decode(text).ok()?.try_into().ok()?))
}

/// A merge patch of the node with that uid that publishes its key.
pub fn key_annotation(uid: &str, key: &WireGuardKey) -> Value {
    json!({"metadata": {"uid": uid, "annotations": {KEY: BASE64.encode(key.0)}}})
}
