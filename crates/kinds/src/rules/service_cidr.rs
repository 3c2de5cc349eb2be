//! ServiceCIDRs: the ranges from which Services get their addresses.

use std::net::IpAddr;

use serde_json::Value;

use crate::cursor::Cursor;
use crate::names;

use super::check::{self, Errors};
use super::meta::{self, CLUSTER_WIDE};
use super::pod::go;
use super::service::addresses;
use super::{Part, Rules};

pub static RULES: ServiceCidrRules = ServiceCidrRules;

pub struct ServiceCidrRules;

impl Rules for ServiceCidrRules {
    fn default(&self, _object: &mut Value) {}

    fn validate_create(&self, object: &Value) -> Errors {
        let mut errors = meta::validate_leniently(object, CLUSTER_WIDE);
        errors.extend(validate_spec(&Cursor::root(object).field("spec")));
        errors
    }

    /// Kubernetes leaves the status to whoever writes the object, too.
    fn prepare_update(&self, object: &mut Value, old: &Value, part: Part) {
        if part == Part::Status {
            meta::keep(object, old, "spec");
        }
    }

    fn validate_update(&self, object: &Value, old: &Value, part: Part) -> Errors {
        let mut errors = meta::validate_update_generally(object, old);
        errors.extend(meta::validate_update_leniently(object, old));
        if part == Part::Main {
            let cidrs = |object| Cursor::root(object).field("spec").field("cidrs");
            errors.extend(meta::immutable(&cidrs(object), &cidrs(old)));
        }
        errors
    }
}

fn validate_spec(spec: &Cursor<'_>) -> Errors {
    let cidrs = spec.field("cidrs");
    let shown = || go::print("ServiceCIDRSpec", spec.value());
    if cidrs.is_empty() {
        return vec![cidrs.required("at least one CIDR required")];
    }
    if cidrs.len() > 2 {
        return vec![cidrs.invalid_value(shown(), "may only hold up to 2 values")];
    }
    let families: Vec<IpAddr> = cidrs.strs().filter_map(names::parse_cidr).map(|(ip, _)| ip).collect();
    if cidrs.len() == 2 && (families.len() < 2 || !check::is_dual_stack(&families)) {
        let detail = "may specify no more than one IP for each IP family, i.e 192.168.0.0/24 and 2001:db8::/64";
        return vec![cidrs.invalid_value(shown(), detail)];
    }
    cidrs.items().flat_map(|cidr| check::findings(&cidr, addresses::canonical_cidr(cidr.str()))).collect()
}

#[cfg(test)]
mod tests {
    use expect_test::expect;
    use serde_json::json;

    use super::super::testing::{create, update};
    use super::*;

    fn with(cidrs: &[&str]) -> Value {
        json!({"spec": {"cidrs": cidrs}})
    }

    #[test]
    fn there_is_a_range_of_each_family_at_most() {
        assert_eq!(create("ServiceCIDR", with(&["10.0.0.0/16"])), "");
        assert_eq!(create("ServiceCIDR", with(&["2001:db8::/64", "10.0.0.0/16"])), "");
        assert_eq!(create("ServiceCIDR", with(&["0.0.0.0/0"])), "");
        assert_eq!(create("ServiceCIDR", json!({})), "spec.cidrs: Required value: at least one CIDR required\n");
        expect![[r#"
            spec.cidrs: Invalid value: {"CIDRs":["10.0.0.0/16","10.1.0.0/16"]}: may specify no more than one IP for each IP family, i.e 192.168.0.0/24 and 2001:db8::/64
        "#]]
        .assert_eq(&create("ServiceCIDR", with(&["10.0.0.0/16", "10.1.0.0/16"])));
        expect![[r#"
            spec.cidrs: Invalid value: {"CIDRs":["a","b","c"]}: may only hold up to 2 values
        "#]]
        .assert_eq(&create("ServiceCIDR", with(&["a", "b", "c"])));
    }

    #[test]
    fn a_range_is_in_its_canonical_form() {
        expect![[r#"
            spec.cidrs[0]: Invalid value: "10.0.0.1/16": must not have bits set beyond the prefix length
        "#]]
        .assert_eq(&create("ServiceCIDR", with(&["10.0.0.1/16"])));
        for bad in ["", "10.0.0.0", "10.0.0.0/33", "10.0.0.0/08", "010.0.0.0/8", "::ffff:10.0.0.0/104"] {
            assert_ne!(create("ServiceCIDR", with(&[bad])), "", "{bad}");
        }
        expect![[r#"
            spec.cidrs[0]: Invalid value: "2001:DB8::/64": must be in canonical form ("2001:db8::/64")
        "#]]
        .assert_eq(&create("ServiceCIDR", with(&["2001:DB8::/64"])));
    }

    #[test]
    fn ranges_stay_and_the_status_changes() {
        let change = |new: &mut Value| new["spec"]["cidrs"] = json!(["10.1.0.0/16"]);
        expect![[r#"
            spec.cidrs: Invalid value: ["10.1.0.0/16"]: field is immutable
        "#]]
        .assert_eq(&update("ServiceCIDR", with(&["10.0.0.0/16"]), Part::Main, change).1);
        let (new, errors) = update("ServiceCIDR", with(&["10.0.0.0/16"]), Part::Status, |new| {
            change(new);
            new["status"] = json!({"conditions": [{"type": "Ready", "status": "True"}]});
        });
        assert_eq!((errors.as_str(), &new["spec"]["cidrs"]), ("", &json!(["10.0.0.0/16"])));
        assert_eq!(new["status"]["conditions"][0]["type"], "Ready");
    }
}
