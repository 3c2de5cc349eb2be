//! IPAddresses: that an address of the cluster is taken, and by which object. The name is the
//! address.

use serde_json::Value;

use crate::cursor::Cursor;
use crate::names;

use super::check::{self, Errors};
use super::meta::{self, MetaRule};
use super::pod::go;
use super::service::addresses;
use super::{Part, Rules};

const NAME: MetaRule = MetaRule { namespaced: false, name: |name, _| addresses::canonical_ip(name) };

pub static RULES: IpAddressRules = IpAddressRules;

pub struct IpAddressRules;

impl Rules for IpAddressRules {
    fn default(&self, _object: &mut Value) {}

    fn validate_create(&self, object: &Value) -> Errors {
        let mut errors = meta::validate_leniently(object, NAME);
        errors.extend(validate_parent(&parent(object)));
        errors
    }

    fn validate_update(&self, object: &Value, old: &Value, _part: Part) -> Errors {
        let mut errors = meta::validate_update_generally(object, old);
        errors.extend(self.validate_create(object));
        errors.extend(meta::validate_update_leniently(object, old));
        let (now, before) = (parent(object), parent(old));
        if now.value() != before.value() {
            errors.push(now.invalid_value(go::print("ParentReference", now.value()), meta::FIELD_IMMUTABLE));
        }
        errors
    }
}

fn parent(object: &Value) -> Cursor<'_> {
    Cursor::root(object).field("spec").field("parentRef")
}

fn validate_parent(parent: &Cursor<'_>) -> Errors {
    // The zero value of the field, which decoding fills in.
    if ["group", "resource", "namespace", "name"].iter().all(|name| parent.field(name).str().is_empty()) {
        return vec![parent.required("")];
    }
    let mut errors = check::named_if_set(&parent.field("group"), names::dns1123_subdomain);
    for (name, is_required) in [("resource", true), ("name", true), ("namespace", false)] {
        let field = parent.field(name);
        match field.str() {
            "" => errors.extend(is_required.then(|| field.required(""))),
            _ => errors.extend(check::named(&field, names::path_segment)),
        }
    }
    errors
}

#[cfg(test)]
mod tests {
    use expect_test::expect;
    use serde_json::json;

    use super::super::testing::{create, update};
    use super::*;

    fn address(name: &str) -> Value {
        json!({"metadata": {"name": name}, "spec": {"parentRef": {"resource": "services", "namespace": "d", "name": "s"}}})
    }

    #[test]
    fn the_name_is_an_address_in_its_canonical_form() {
        assert_eq!(create("IPAddress", address("10.96.0.7")), "");
        assert_eq!(create("IPAddress", address("2001:db8::1")), "");
        for name in ["a", "10.96.0.07", "::ffff:10.96.0.7", "2001:db8:0::1", "10.96.0.0/16"] {
            assert_ne!(create("IPAddress", address(name)), "", "{name}");
        }
        expect![[r#"
            metadata.name: Invalid value: "2001:DB8::1": must be in canonical form ("2001:db8::1")
        "#]]
        .assert_eq(&create("IPAddress", address("2001:DB8::1")));
    }

    #[test]
    fn a_parent_is_named_in_full() {
        let with = |parent| json!({"metadata": {"name": "10.96.0.7"}, "spec": {"parentRef": parent}});
        assert_eq!(create("IPAddress", with(json!({}))), "spec.parentRef: Required value\n");
        assert_eq!(create("IPAddress", with(json!({"resource": "gateways", "group": "a.b", "name": "g"}))), "");
        expect![[r#"
            spec.parentRef.group: Invalid value: "_": a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')
            spec.parentRef.resource: Required value
            spec.parentRef.name: Invalid value: "a/b": may not contain '/'
        "#]]
        .assert_eq(&create("IPAddress", with(json!({"group": "_", "name": "a/b"}))));
    }

    #[test]
    fn a_parent_stays() {
        let change = |new: &mut Value| new["spec"]["parentRef"]["name"] = "t".into();
        expect![[r#"
            spec.parentRef: Invalid value: {"Group":"","Resource":"services","Namespace":"d","Name":"t"}: field is immutable
        "#]]
        .assert_eq(&update("IPAddress", address("10.96.0.7"), Part::Main, change).1);
        let label = |new: &mut Value| new["metadata"]["labels"] = json!({"a": "b"});
        assert_eq!(update("IPAddress", address("10.96.0.7"), Part::Main, label).1, "");
    }
}
