//! CertificateApproval and what the server knows about a CertificateSigningRequest: who asks, and when something was decided.

use kinds::rules::Part;
use kinds::status::Status;
use serde_json::{Value, json};

use super::refuse;
use crate::auth::authorize::{Attributes, What};
use crate::registry::{Registry, Write};

const GROUP: &str = "certificates.k8s.io";

pub fn is_request(write: &Write<'_>) -> bool {
    write.kind.group == GROUP
}

/// Writes down who asks; a client cannot say so itself.
pub fn fill_requester(write: &Write<'_>, request: &mut Value) {
    request["spec"]["username"] = write.user.name.as_str().into();
    for (field, value) in [("uid", json!(write.user.uid)), ("groups", json!(write.user.groups)), ("extra", json!(write.user.extra))] {
        request["spec"][field] = value;
    }
}

/// Gives new conditions their times.
pub fn fill_times(write: &Write<'_>, request: &mut Value, old: &Value) {
    let now = kinds::decode::format_time(write.now);
    for condition in request["status"]["conditions"].as_array_mut().into_iter().flatten() {
        let before = old["status"]["conditions"].as_array().into_iter().flatten().find(|c| c["type"] == condition["type"]);
        if condition["lastUpdateTime"].is_null() {
            condition["lastUpdateTime"] = now.as_str().into();
        }
        if condition["lastTransitionTime"].is_null() {
            let unchanged = before.filter(|before| before["status"] == condition["status"]);
            condition["lastTransitionTime"] = unchanged.map_or_else(|| now.as_str().into(), |before| before["lastTransitionTime"].clone());
        }
    }
}

/// Only who may approve for a signer may approve.
pub fn check_approval(registry: &Registry, write: &Write<'_>, request: &Value) -> Result<(), Status> {
    if write.part != Some(Part::Approval) {
        return Ok(());
    }
    let signer = request["spec"]["signerName"].as_str().unwrap_or_default();
    let domain = signer.split('/').next().unwrap_or_default();
    let whole_domain = format!("{domain}/*");
    let may = |name: &str| {
        let what =
            What::Resource { group: GROUP, version: "*", resource: "signers", subresource: "", namespace: "", name, field_selector: "" };
        registry.authorize(&Attributes { user: write.user, verb: "approve", what }).allowed
    };
    if may(signer) || may(&whole_domain) {
        return Ok(());
    }
    Err(refuse(write, request, &format!("user not permitted to approve requests with signerName {signer:?}")))
}
