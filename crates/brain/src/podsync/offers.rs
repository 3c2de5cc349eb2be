//! What a node can do for pods beside having room for them: a pod that asks for more is turned
//! away, with the kubelet's words. What a node would ignore in silence, the pod's owner believes to
//! be in force.

use k8s_openapi::api::core::v1::{AppArmorProfile, Pod};

use super::admission::Rejection;
use super::sysctls::Allowlist;
use super::{containers, ephemeral_containers, init_containers};

/// Annotations that named AppArmor's profiles before fields did. The API server makes fields of
/// them; static pods do not pass there.
const APP_ARMOR_ANNOTATION: &str = "container.apparmor.security.beta.kubernetes.io/";

#[derive(Debug, Clone, Default)]
pub struct Offers {
    pub sysctls: Allowlist,
}

impl Offers {
    pub fn check(&self, pod: &Pod) -> Result<(), Rejection> {
        self.sysctls.check(pod)?;
        if wants_app_armor(pod) {
            // No profile is ever applied here, whatever the kernel could do.
            return Err(Rejection::new("AppArmor", "Cannot enforce AppArmor: AppArmor is not enabled on the host"));
        }
        if let Some(claim) = pod.spec.as_ref().and_then(|spec| spec.resource_claims.as_ref()).and_then(|claims| claims.first()) {
            let why = format!("resource claim {:?}: dynamic resource allocation is not available on this node", claim.name);
            return Err(Rejection::new("UnexpectedAdmissionError", format!("Allocate failed due to {why}, which is unexpected")));
        }
        let selected_os = pod.metadata.labels.as_ref().and_then(|labels| labels.get("kubernetes.io/os"));
        if selected_os.is_some_and(|os| os != "linux") {
            let message = "Failed to admit pod as the `kubernetes.io/os` label doesn't match node label";
            return Err(Rejection::new("PodOSSelectorNodeLabelDoesNotMatch", message));
        }
        Ok(())
    }
}

/// A machine that goes down accepts no pods.
pub fn check_shutdown(is_going_down: bool) -> Result<(), Rejection> {
    if is_going_down { Err(Rejection::new("NodeShutdown", "Pod was rejected as the node is shutting down.")) } else { Ok(()) }
}

fn wants_app_armor(pod: &Pod) -> bool {
    let is_some = |profile: Option<&AppArmorProfile>| profile.is_some_and(|profile| profile.type_ != "Unconfined");
    let annotations = pod.metadata.annotations.iter().flatten();
    let is_annotated = annotations.into_iter().any(|(key, value)| key.starts_with(APP_ARMOR_ANNOTATION) && value != "unconfined");
    let of_pod = pod.spec.as_ref().and_then(|spec| spec.security_context.as_ref()).and_then(|context| context.app_armor_profile.as_ref());
    let ephemeral = ephemeral_containers(pod);
    let all = init_containers(pod).iter().chain(containers(pod)).chain(ephemeral.iter().map(|(container, _)| container));
    is_annotated
        || all.into_iter().any(|container| {
            let own = container.security_context.as_ref().and_then(|context| context.app_armor_profile.as_ref());
            is_some(own.or(of_pod))
        })
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn verdict(pod: Value) -> Option<(String, String)> {
        let pod = serde_json::from_value(pod).unwrap();
        Offers::default().check(&pod).err().map(|rejection| (rejection.reason, rejection.message))
    }

    #[test]
    fn app_armor_is_refused_wherever_it_is_asked_for() {
        let container = |context: Value| json!([{"name": "c", "securityContext": context}]);
        let profile = |kind: &str| json!({"appArmorProfile": {"type": kind}});
        let refused = Some(("AppArmor".to_owned(), "Cannot enforce AppArmor: AppArmor is not enabled on the host".to_owned()));
        for kind in ["RuntimeDefault", "Localhost", "", "Strange"] {
            assert_eq!(verdict(json!({"spec": {"containers": container(profile(kind))}})), refused, "{kind}");
            assert_eq!(verdict(json!({"spec": {"initContainers": container(profile(kind)), "containers": []}})), refused);
            let of_pod = |own: Value| json!({"spec": {"securityContext": profile(kind), "containers": container(own)}});
            assert_eq!(verdict(of_pod(json!({}))), refused);
            assert_eq!(verdict(of_pod(profile("Unconfined"))), None, "the container's own word counts");
        }
        let annotated =
            |value: &str| json!({"metadata": {"annotations": {format!("{APP_ARMOR_ANNOTATION}c"): value}}, "spec": {"containers": []}});
        assert_eq!(verdict(annotated("runtime/default")), refused);
        assert_eq!(verdict(annotated("unconfined")), None);
    }

    #[test]
    fn claims_and_other_systems() {
        let claim = json!({"spec": {"containers": [], "resourceClaims": [{"name": "gpu", "resourceClaimName": "x"}]}});
        assert_eq!(verdict(claim).unwrap().0, "UnexpectedAdmissionError");
        let windows = json!({"metadata": {"labels": {"kubernetes.io/os": "windows"}}, "spec": {"containers": []}});
        assert_eq!(verdict(windows).unwrap().0, "PodOSSelectorNodeLabelDoesNotMatch");
        assert_eq!(verdict(json!({"spec": {"containers": [{"name": "c"}]}})), None);
        assert_eq!(check_shutdown(true).unwrap_err().reason, "NodeShutdown");
        assert_eq!(check_shutdown(false), Ok(()));
    }
}
