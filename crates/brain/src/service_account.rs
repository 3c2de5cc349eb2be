//! What every namespace has: an account `default` for its pods, and the certificate by which they
//! check the API server's.

use std::sync::Arc;

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::controller::{Controller, Step, Work};
use crate::model::{ConfigMap, Key};
use crate::picture::{Change, Kind, Picture};
use crate::request::{CONFIG_MAPS, Request, Resource, SERVICE_ACCOUNTS, Verb};

const ACCOUNT: &str = "default";
/// The ConfigMap with the certificate of the cluster's authority.
pub const ROOT_CERTIFICATE: &str = "kube-root-ca.crt";

const DATA_KEY: &str = "ca.crt";

#[derive(Debug)]
pub struct ServiceAccountController {
    /// The certificate of the cluster's authority.
    pub root_certificate_pem: String,
}

impl Controller for ServiceAccountController {
    fn name(&self) -> &'static str {
        "service-account-controller"
    }

    fn concerns(&mut self, _cluster: &Picture, change: &Change, add: &mut dyn FnMut(Key)) {
        let object = change.object();
        let namespace = match (object.kind(), &change.new) {
            (Kind::Namespace, Some(_)) => &object.meta().name,
            (Kind::Other(SERVICE_ACCOUNTS), None) if *object.meta().name == *ACCOUNT => &object.meta().namespace,
            (Kind::RootCertificate, _) => &object.meta().namespace,
            (Kind::Other(CONFIG_MAPS), None) if *object.meta().name == *ROOT_CERTIFICATE => &object.meta().namespace,
            _ => return,
        };
        add(Key { namespace: "".into(), name: namespace.clone() });
    }

    fn plan(&mut self, picture: &Picture, key: &Key, _now: Timestamp) -> Work {
        let namespace = &key.name;
        if picture.namespaces.get(namespace).is_none_or(|namespace| namespace.meta.is_deleted()) {
            return Work::default();
        }
        let is_there = |resource: Resource, name: &str| {
            picture.others.get(&resource).is_some_and(|objects| objects.contains_key(&Key::new(namespace, name)))
        };
        let create = |resource: Resource, name: &str, object: serde_json::Value| {
            Request::new(resource, Key::new(namespace, name), Verb::Create(Arc::new(object)))
        };
        let mut requests = Vec::new();
        if !is_there(SERVICE_ACCOUNTS, ACCOUNT) {
            let object = json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": ACCOUNT}});
            requests.push(create(SERVICE_ACCOUNTS, ACCOUNT, object));
        }
        requests.extend(picture.root_certificates.get(&Key::new(namespace, ROOT_CERTIFICATE)).and_then(|map| self.restore(map)));
        if !is_there(CONFIG_MAPS, ROOT_CERTIFICATE) {
            let text = "The certificate by which pods check the API server's. Kept by everynode.";
            let object = json!({
                "apiVersion": "v1", "kind": "ConfigMap",
                "metadata": {"name": ROOT_CERTIFICATE, "annotations": {"kubernetes.io/description": text}},
                "data": {DATA_KEY: self.root_certificate_pem},
            });
            requests.push(create(CONFIG_MAPS, ROOT_CERTIFICATE, object));
        }
        Work { steps: vec![Step::all_at_once(requests)], ..Work::default() }
    }
}

impl ServiceAccountController {
    /// Puts back what another client changed: the map holds the certificate and nothing else
    /// (`pkg/controller/certificates/rootcacertpublisher`).
    fn restore(&self, map: &ConfigMap) -> Option<Request> {
        let is_right = map.data.len() == 1 && map.data.get(DATA_KEY).is_some_and(|text| **text == *self.root_certificate_pem);
        if is_right || map.meta.is_deleted() {
            return None;
        }
        let mut data: serde_json::Map<String, Value> = map.data.keys().map(|name| (name.to_string(), Value::Null)).collect();
        data.insert(DATA_KEY.to_owned(), json!(self.root_certificate_pem));
        let patch = json!({"metadata": {"uid": map.meta.uid}, "data": data});
        Some(Request::new(CONFIG_MAPS, map.meta.key(), Verb::Merge(patch)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Meta, Namespace};
    use crate::picture::Object;

    fn namespace() -> Picture {
        let mut picture = Picture::default();
        let mut namespace = Namespace::default();
        namespace.meta.name = "ns".into();
        picture.put(Object::Namespace(Arc::new(namespace)));
        picture
    }

    /// With the account, and the map with that data.
    fn with_map(data: Value) -> Picture {
        let mut picture = namespace();
        let meta = |name: &str| Arc::new(Meta { namespace: "ns".into(), name: name.into(), ..Meta::default() });
        picture.put(Object::Other(SERVICE_ACCOUNTS, meta(ACCOUNT)));
        picture.put(Object::Other(CONFIG_MAPS, meta(ROOT_CERTIFICATE)));
        let map = json!({"metadata": {"name": ROOT_CERTIFICATE, "namespace": "ns", "uid": "u"}, "data": data});
        picture.put(Object::RootCertificate(Arc::new(serde_json::from_value(map).expect("a ConfigMap"))));
        picture
    }

    fn planned(picture: &Picture) -> Vec<String> {
        let mut controller = ServiceAccountController { root_certificate_pem: "PEM".to_owned() };
        let work = controller.plan(picture, &Key::new("", "ns"), crate::fixture::now());
        let requests = work.steps.iter().flat_map(|step| &step.requests);
        requests.map(|request| format!("{} {} {}", request.body().0, request.path(), request.body().2["data"])).collect()
    }

    #[test]
    fn a_namespace_gets_its_account_and_the_certificate() {
        let expected = ["POST /api/v1/namespaces/ns/serviceaccounts null", r#"POST /api/v1/namespaces/ns/configmaps {"ca.crt":"PEM"}"#];
        assert_eq!(planned(&namespace()), expected);
    }

    #[test]
    fn the_certificate_is_put_back_when_somebody_changed_it() {
        assert_eq!(planned(&with_map(json!({"ca.crt": "PEM"}))), Vec::<String>::new());
        let path = "PATCH /api/v1/namespaces/ns/configmaps/kube-root-ca.crt";
        assert_eq!(planned(&with_map(json!({"ca.crt": "other"}))), [format!(r#"{path} {{"ca.crt":"PEM"}}"#)]);
        assert_eq!(planned(&with_map(json!({"more": "x", "ca.crt": "PEM"}))), [format!(r#"{path} {{"ca.crt":"PEM","more":null}}"#)]);
        assert_eq!(planned(&with_map(Value::Null)), [format!(r#"{path} {{"ca.crt":"PEM"}}"#)]);
    }
}
