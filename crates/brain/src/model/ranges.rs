//! The ranges of Services' addresses, and the addresses that are taken.

use std::net::IpAddr;
use std::sync::Arc;

use jiff::Timestamp;
use kinds::address_range::AddressRange;
use serde::{Deserialize, Deserializer};

use super::{Key, Meta, absent_if_null};

#[derive(Debug, Clone, PartialEq)]
pub struct ServiceCidr {
    pub meta: Meta,
    pub ranges: Vec<AddressRange>,
    /// The condition Ready.
    pub ready: Option<ReadyCondition>,
}

#[derive(Debug, Clone, PartialEq, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ReadyCondition {
    #[serde(rename = "type", deserialize_with = "absent_if_null")]
    kind: Box<str>,
    #[serde(deserialize_with = "absent_if_null")]
    pub status: Box<str>,
    #[serde(deserialize_with = "absent_if_null")]
    pub reason: Box<str>,
    #[serde(deserialize_with = "absent_if_null")]
    pub message: Box<str>,
    pub last_transition_time: Option<Timestamp>,
}

impl<'de> Deserialize<'de> for ServiceCidr {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<ServiceCidr, D::Error> {
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
            #[serde(deserialize_with = "absent_if_null")]
            cidrs: Vec<Box<str>>,
        }
        #[derive(Default, Deserialize)]
        #[serde(default)]
        struct RawStatus {
            #[serde(deserialize_with = "absent_if_null")]
            conditions: Vec<ReadyCondition>,
        }
        let raw = Raw::deserialize(deserializer)?;
        Ok(ServiceCidr {
            meta: raw.metadata,
            ranges: raw.spec.cidrs.iter().filter_map(|text| AddressRange::parse(text)).collect(),
            ready: raw.status.conditions.into_iter().find(|condition| &*condition.kind == "Ready"),
        })
    }
}

#[derive(Debug, Clone, PartialEq)]
pub struct IpAddress {
    pub meta: Meta,
    /// The name; None for one that is no address.
    pub ip: Option<IpAddr>,
    pub parent: ParentReference,
}

/// The object that has an address.
#[derive(Debug, Clone, PartialEq, Default, Deserialize)]
#[serde(default)]
pub struct ParentReference {
    #[serde(deserialize_with = "absent_if_null")]
    group: Box<str>,
    #[serde(deserialize_with = "absent_if_null")]
    resource: Box<str>,
    #[serde(deserialize_with = "absent_if_null")]
    namespace: Arc<str>,
    #[serde(deserialize_with = "absent_if_null")]
    name: Arc<str>,
}

impl ParentReference {
    /// The Service, if it is one.
    pub fn service(&self) -> Option<Key> {
        let is_service = self.group.is_empty() && &*self.resource == "services";
        is_service.then(|| Key { namespace: self.namespace.clone(), name: self.name.clone() })
    }
}

impl<'de> Deserialize<'de> for IpAddress {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<IpAddress, D::Error> {
        #[derive(Default, Deserialize)]
        #[serde(default)]
        struct Raw {
            metadata: Meta,
            #[serde(deserialize_with = "absent_if_null")]
            spec: RawSpec,
        }
        #[derive(Default, Deserialize)]
        #[serde(rename_all = "camelCase", default)]
        struct RawSpec {
            #[serde(deserialize_with = "absent_if_null")]
            parent_ref: ParentReference,
        }
        let raw = Raw::deserialize(deserializer)?;
        Ok(IpAddress { ip: raw.metadata.name.parse().ok(), meta: raw.metadata, parent: raw.spec.parent_ref })
    }
}
