//! Names of Go's types that error texts show and the schema has no other use for: named strings and
//! maps, and embedded structs.

use super::{Field, Shape, Type};

/// The named type of a field whose shape is a string or a map, or a list of such.
fn named(owner: &str, field: &str) -> Option<&'static str> {
    Some(match (owner, field) {
        ("Container" | "EphemeralContainer", "imagePullPolicy") => "v1.PullPolicy",
        ("Container" | "EphemeralContainer", "terminationMessagePolicy") => "v1.TerminationMessagePolicy",
        ("Container" | "EphemeralContainer", "restartPolicy") => "v1.ContainerRestartPolicy",
        ("ContainerPort" | "ServicePort" | "EndpointPort" | "PortStatus", "protocol") => "v1.Protocol",
        ("PodSpec", "restartPolicy") => "v1.RestartPolicy",
        ("PodSpec", "dnsPolicy") => "v1.DNSPolicy",
        ("PodSpec" | "PriorityClass", "preemptionPolicy") => "v1.PreemptionPolicy",
        ("PodStatus", "phase") => "v1.PodPhase",
        ("PodStatus", "qosClass") => "v1.PodQOSClass",
        ("PodStatus", "resize") => "v1.PodResizeStatus",
        ("PodCondition", "type") => "v1.PodConditionType",
        ("PodReadinessGate", "conditionType") => "v1.PodConditionType",
        ("NodeCondition", "type") => "v1.NodeConditionType",
        ("NamespaceCondition", "type") => "v1.NamespaceConditionType",
        ("DaemonSetCondition", "type") => "v1.DaemonSetConditionType",
        ("PodCondition" | "NodeCondition" | "NamespaceCondition" | "DaemonSetCondition" | "Condition", "status") => "v1.ConditionStatus",
        ("NodeAddress", "type") => "v1.NodeAddressType",
        ("NodeStatus", "phase") => "v1.NodePhase",
        ("NodeStatus", "volumesInUse") => "v1.UniqueVolumeName",
        ("AttachedVolume", "name") => "v1.UniqueVolumeName",
        ("Taint" | "Toleration", "effect") => "v1.TaintEffect",
        ("Toleration", "operator") => "v1.TolerationOperator",
        ("NodeSelectorRequirement", "operator") => "v1.NodeSelectorOperator",
        ("LabelSelectorRequirement", "operator") => "v1.LabelSelectorOperator",
        ("ScopedResourceSelectorRequirement", "operator") => "v1.ScopeSelectorOperator",
        ("ScopedResourceSelectorRequirement", "scopeName") | ("ResourceQuotaSpec", "scopes") => "v1.ResourceQuotaScope",
        ("HTTPGetAction", "scheme") => "v1.URIScheme",
        ("Lifecycle", "stopSignal") => "v1.Signal",
        ("HostPathVolumeSource", "type") => "v1.HostPathType",
        ("EmptyDirVolumeSource", "medium") => "v1.StorageMedium",
        ("VolumeMount", "mountPropagation") => "v1.MountPropagationMode",
        ("VolumeMount", "recursiveReadOnly") => "v1.RecursiveReadOnlyMode",
        ("ImageVolumeSource", "pullPolicy") => "v1.PullPolicy",
        ("Capabilities", "add" | "drop") => "v1.Capability",
        ("SecurityContext", "procMount") => "v1.ProcMountType",
        ("SeccompProfile", "type") => "v1.SeccompProfileType",
        ("AppArmorProfile", "type") => "v1.AppArmorProfileType",
        ("PodSecurityContext", "fsGroupChangePolicy") => "v1.PodFSGroupChangePolicy",
        ("PodSecurityContext", "supplementalGroupsPolicy") => "v1.SupplementalGroupsPolicy",
        ("PodSecurityContext", "seLinuxChangePolicy") => "v1.PodSELinuxChangePolicy",
        ("PodOS", "name") => "v1.OSName",
        ("TopologySpreadConstraint", "whenUnsatisfiable") => "v1.UnsatisfiableConstraintAction",
        ("TopologySpreadConstraint", "nodeAffinityPolicy" | "nodeTaintsPolicy") => "v1.NodeInclusionPolicy",
        ("ContainerResizePolicy", "resourceName") => "v1.ResourceName",
        ("ContainerResizePolicy", "restartPolicy") => "v1.ResourceResizeRestartPolicy",
        ("ServiceSpec", "type") => "v1.ServiceType",
        ("ServiceSpec", "sessionAffinity") => "v1.ServiceAffinity",
        ("ServiceSpec", "externalTrafficPolicy") => "v1.ServiceExternalTrafficPolicy",
        ("ServiceSpec", "internalTrafficPolicy") => "v1.ServiceInternalTrafficPolicy",
        ("ServiceSpec", "ipFamilies") => "v1.IPFamily",
        ("ServiceSpec", "ipFamilyPolicy") => "v1.IPFamilyPolicy",
        ("LoadBalancerIngress", "ipMode") => "v1.LoadBalancerIPMode",
        ("EndpointSlice", "addressType") => "v1.AddressType",
        ("Secret", "type") => "v1.SecretType",
        ("NamespaceStatus", "phase") => "v1.NamespacePhase",
        ("NamespaceSpec", "finalizers") => "v1.FinalizerName",
        ("LimitRangeItem", "type") => "v1.LimitType",
        ("PersistentVolumeClaimSpec", "accessModes") => "v1.PersistentVolumeAccessMode",
        ("PersistentVolumeClaimSpec", "volumeMode") => "v1.PersistentVolumeMode",
        ("AzureDiskVolumeSource", "cachingMode") => "v1.AzureDataDiskCachingMode",
        ("AzureDiskVolumeSource", "kind") => "v1.AzureDataDiskKind",
        ("DaemonSetUpdateStrategy", "type") => "v1.DaemonSetUpdateStrategyType",
        ("PodDisruptionBudgetSpec", "unhealthyPodEvictionPolicy") => "v1.UnhealthyPodEvictionPolicyType",
        ("CertificateSigningRequestSpec", "usages") => "v1.KeyUsage",
        ("CertificateSigningRequestCondition", "type") => "v1.RequestConditionType",
        ("CertificateSigningRequestCondition", "status") => "v1.ConditionStatus",
        ("LeaseSpec", "strategy") => "v1.CoordinatedLeaseStrategy",
        ("ManagedFieldsEntry", "operation") => "v1.ManagedFieldsOperationType",
        ("ObjectMeta" | "OwnerReference" | "ObjectReference" | "Preconditions" | "BoundObjectReference", "uid") => "types.UID",
        ("ResourceRequirements" | "VolumeResourceRequirements", "limits" | "requests")
        | ("NodeStatus", "capacity" | "allocatable")
        | ("PodSpec", "overhead")
        | ("LimitRangeItem", "default" | "defaultRequest" | "max" | "min" | "maxLimitRequestRatio")
        | ("ResourceQuotaSpec", "hard")
        | ("ResourceQuotaStatus", "hard" | "used")
        | ("ContainerStatus" | "PodStatus", "allocatedResources") => "v1.ResourceList",
        _ => return None,
    })
}

/// The struct that Go embeds in `owner` and that holds the field: it stands in the path of error
/// texts, and not in JSON.
pub fn embedded(owner: &Type, field: &Field) -> Option<&'static str> {
    // On the wire an embedded struct is a message of its own.
    if field.wire.len() < 2 {
        return None;
    }
    Some(match owner.name {
        "Volume" => "VolumeSource",
        "Probe" => "ProbeHandler",
        "EphemeralContainer" => "EphemeralContainerCommon",
        _ => "LocalObjectReference",
    })
}

/// The Go type of a value in a field, or of an element of it.
pub fn go_type(owner: &Type, field: &Field, shape: &Shape) -> String {
    let is_whole = std::ptr::eq(shape, &raw const field.shape);
    match (named(owner.name, field.name), &field.shape) {
        (Some(name), Shape::List(_)) if is_whole => format!("[]{name}"),
        (Some(name), Shape::Map(_)) if is_whole => name.to_owned(),
        (Some(name), Shape::String | Shape::List(_)) => name.to_owned(),
        _ => shape.go_name(),
    }
}
