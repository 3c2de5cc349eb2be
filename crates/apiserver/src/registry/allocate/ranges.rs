//! The ranges that the stored ServiceCIDRs name, as they are when a Service asks for an address.

use std::sync::{Arc, Mutex, PoisonError};

use kinds::address_range::AddressRange;
use kinds::cursor::Cursor;
use kinds::status::Status;
use kinds::table::{self, Kind};
use serde_json::Value;
use store::Revision;

use crate::registry::encoding::parse_stored;
use crate::registry::object::store_key;
use crate::registry::{Registry, store_failed};

/// One range of a ServiceCIDR.
#[derive(Debug, Clone, PartialEq)]
pub struct ServiceRange {
    pub text: Box<str>,
    pub addresses: AddressRange,
    /// Are addresses given out from it?
    pub is_ready: bool,
}

impl ServiceRange {
    pub fn of(text: &str, is_ready: bool) -> Option<ServiceRange> {
        AddressRange::parse(text).map(|addresses| ServiceRange { text: text.into(), addresses, is_ready })
    }
}

/// The ranges as they were read last. ServiceCIDRs are few and change hardly ever: each write of a
/// Service looks whether they are still those.
#[derive(Debug, Default)]
pub struct KnownRanges(Mutex<(Vec<Revision>, Arc<[ServiceRange]>)>);

fn service_cidrs() -> &'static Kind {
    table::by_resource("networking.k8s.io", "v1", "servicecidrs").expect("the table has ServiceCIDRs")
}

impl Registry {
    /// The ranges of all ServiceCIDRs, in the order of their names.
    pub(super) fn service_ranges(&self) -> Result<Arc<[ServiceRange]>, Status> {
        let page = self.store.range(&store_key(service_cidrs(), "", ""), None, None).map_err(store_failed)?;
        let versions: Vec<Revision> = page.entries.iter().map(|(_, entry)| entry.modified).collect();
        let mut known = self.ranges.0.lock().unwrap_or_else(PoisonError::into_inner);
        if known.0 != versions {
            let ranges = page.entries.iter().flat_map(|(_, entry)| ranges_of(&parse_stored(&entry.value))).collect();
            *known = (versions, ranges);
        }
        Ok(known.1.clone())
    }
}

fn ranges_of(service_cidr: &Value) -> Vec<ServiceRange> {
    let is_ready = is_ready(service_cidr);
    let cidrs = Cursor::root(service_cidr).field("spec").field("cidrs");
    cidrs.strs().filter_map(|text| ServiceRange::of(text, is_ready)).collect()
}

/// One whose controller has said nothing yet is used, as in Kubernetes.
fn is_ready(service_cidr: &Value) -> bool {
    let root = Cursor::root(service_cidr);
    let conditions = root.field("status").field("conditions");
    let ready = conditions.items().find(|condition| condition.field("type").str() == "Ready");
    let is_deleted = root.field("metadata").field("deletionTimestamp").exists();
    !is_deleted && ready.is_none_or(|condition| condition.field("status").str() == "True")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_range_is_used_while_it_is_ready_and_stays() {
        let with = |metadata: Value, conditions: Value| {
            let object =
                json!({"metadata": metadata, "spec": {"cidrs": ["10.0.0.0/24", "2001:db8::/64"]}, "status": {"conditions": conditions}});
            ranges_of(&object).iter().map(|range| range.is_ready).collect::<Vec<_>>()
        };
        let condition = |status: &str| json!([{"type": "Other", "status": "False"}, {"type": "Ready", "status": status}]);
        assert_eq!(with(json!({}), condition("True")), [true, true]);
        assert_eq!(with(json!({}), condition("False")), [false, false]);
        assert_eq!(with(json!({}), json!([])), [true, true]);
        assert_eq!(with(json!({"deletionTimestamp": "2026-01-02T03:04:05Z"}), condition("True")), [false, false]);
    }
}
