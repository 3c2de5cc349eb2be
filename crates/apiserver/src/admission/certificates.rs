//! CertificateApproval, CertificateSigning, CertificateSubjectRestriction, and what the server
//! knows about a CertificateSigningRequest: who asks, and when something was decided.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use kinds::rules::Part;
use kinds::status::Status;
use serde_json::{Value, json};
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::prelude::FromDer;
use x509_parser::x509::AttributeTypeAndValue;

use super::refuse;
use crate::auth::authorize::Authorizer;
use crate::request::{Attributes, MASTERS, What, WriteRequest};

const GROUP: &str = "certificates.k8s.io";

const CLIENT_SIGNER: &str = "kubernetes.io/kube-apiserver-client";
const NODE_SIGNERS: [&str; 2] = ["kubernetes.io/kubelet-serving", "kubernetes.io/kube-apiserver-client-kubelet"];

pub fn is_request(write: &WriteRequest<'_>) -> bool {
    write.kind.group == GROUP
}

/// Writes down who asks; a client cannot say so itself.
pub fn fill_requester(write: &WriteRequest<'_>, request: &mut Value) {
    request["spec"]["username"] = write.user.name.as_str().into();
    for (field, value) in [("uid", json!(write.user.uid)), ("groups", json!(write.user.groups)), ("extra", json!(write.user.extra))] {
        request["spec"][field] = value;
    }
}

/// Gives new conditions their times.
pub fn fill_times(write: &WriteRequest<'_>, request: &mut Value, old: &Value) {
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
pub fn check_approval(authorizer: &Authorizer, write: &WriteRequest<'_>, request: &Value) -> Result<(), Status> {
    if write.part != Some(Part::Approval) {
        return Ok(());
    }
    check_right(authorizer, write, request, "approve")
}

/// Only who may sign for a signer may say what was signed, or that signing failed.
pub fn check_signing(authorizer: &Authorizer, write: &WriteRequest<'_>, request: &Value, old: &Value) -> Result<(), Status> {
    let same = |field: &str| request["status"][field] == old["status"][field];
    if write.part != Some(Part::Status) || same("certificate") && same("conditions") {
        return Ok(());
    }
    check_right(authorizer, write, old, "sign")
}

/// Holds a right on the signer of a request, or on all of its domain.
fn check_right(authorizer: &Authorizer, write: &WriteRequest<'_>, request: &Value, verb: &str) -> Result<(), Status> {
    let signer = request["spec"]["signerName"].as_str().unwrap_or_default();
    let domain = signer.split('/').next().unwrap_or_default();
    let whole_domain = format!("{domain}/*");
    let may = |name: &str| {
        let what =
            What::Resource { group: GROUP, version: "*", resource: "signers", subresource: "", namespace: "", name, field_selector: "" };
        authorizer.authorize(&Attributes { user: write.user, verb, what }).allowed
    };
    if may(signer) || may(&whole_domain) {
        return Ok(());
    }
    Err(refuse(write, request, &format!("user not permitted to {verb} requests with signerName {signer:?}")))
}

/// CertificateSubjectRestriction: no certificate for clients of the API server makes its holder a
/// master.
pub fn check_subject(write: &WriteRequest<'_>, request: &Value) -> Result<(), Status> {
    if !is_request(write) || request["spec"]["signerName"] != CLIENT_SIGNER {
        return Ok(());
    }
    let subject = Subject::of(request).map_err(|why| refuse(write, request, &why))?;
    match subject.organizations.iter().any(|organization| organization == MASTERS) {
        true => Err(refuse(write, request, &format!("use of {CLIENT_SIGNER} signer with {MASTERS} group is not allowed"))),
        false => Ok(()),
    }
}

/// A node asks for certificates in its own name only; others are for the signer to judge.
pub fn check_node_request(node: &str, request: &Value) -> Result<(), String> {
    if !NODE_SIGNERS.iter().any(|signer| request["spec"]["signerName"] == *signer) {
        return Ok(());
    }
    match Subject::of(request)?.common_name == format!("system:node:{node}") {
        true => Ok(()),
        false => Err(format!("can only create a node CSR with CN=system:node:{node}")),
    }
}

/// The subject that a certificate is asked for.
struct Subject {
    common_name: String,
    organizations: Vec<String>,
}

impl Subject {
    /// Anything that cannot be read refuses.
    fn of(request: &Value) -> Result<Subject, String> {
        let unreadable = || "unable to parse csr: it is no PEM of a PKCS#10 request".to_owned();
        let pem = request["spec"]["request"].as_str().and_then(|text| STANDARD.decode(text).ok()).ok_or_else(unreadable)?;
        let (_, pem) = x509_parser::pem::parse_x509_pem(&pem).map_err(|_| unreadable())?;
        let (_, parsed) = X509CertificationRequest::from_der(&pem.contents).map_err(|_| unreadable())?;
        let subject = &parsed.certification_request_info.subject;
        let text = |attribute: &AttributeTypeAndValue<'_>| attribute.as_str().map(str::to_owned).map_err(|_| unreadable());
        let mut names = subject.iter_common_name();
        let common_name = names.next().map(text).transpose()?.unwrap_or_default();
        if names.next().is_some() {
            return Err("unable to parse csr: it has several common names".to_owned());
        }
        let organizations = subject.iter_organization().map(text).collect::<Result<_, _>>()?;
        Ok(Subject { common_name, organizations })
    }
}
