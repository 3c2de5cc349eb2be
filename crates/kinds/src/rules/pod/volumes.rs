//! The volumes of a pod: one source each, of the kinds that 1.36 knows.

use std::collections::{BTreeMap, BTreeSet};

use crate::cursor::Cursor;
use crate::field::FieldError;
use crate::names;
use crate::rules::check::{self, Errors};

use super::{containers, env, ephemeral_volume, paths, projected};

/// What a volume's check needs to know about the pod around it.
pub struct Around<'a> {
    /// The object is a Pod, not a template.
    pub is_pod: bool,
    /// The Pod's name; empty in templates.
    pub pod_name: &'a str,
}

/// The volumes that are sound enough to be mounted, by name.
pub type Volumes<'a> = BTreeMap<&'a str, Cursor<'a>>;

pub fn validate<'a>(volumes: &Cursor<'a>, around: &Around<'_>) -> (Volumes<'a>, Errors) {
    let mut sound = Volumes::new();
    let mut errors = Vec::new();
    let created_claims = created_claims(volumes, around.pod_name);
    for volume in volumes.items() {
        let mut found = validate_source(&volume, around);
        let name = volume.field("name");
        match check::required(&name) {
            Some(error) => found.push(error),
            None => found.extend(check::named(&name, names::dns1123_label)),
        }
        if sound.contains_key(name.str()) {
            found.push(name.duplicate());
        }
        if found.is_empty() {
            sound.insert(name.str(), volume.clone());
        }
        errors.extend(found);
        let claim = volume.field("persistentVolumeClaim").field("claimName");
        if created_claims.contains(claim.str()) {
            errors.push(claim.invalid("must not reference a PVC that gets created for an ephemeral volume"));
        }
    }
    (sound, errors)
}

fn created_claims(volumes: &Cursor<'_>, pod_name: &str) -> BTreeSet<String> {
    if pod_name.is_empty() {
        return BTreeSet::new();
    }
    let ephemeral = volumes.items().filter(|volume| volume.field("ephemeral").exists());
    ephemeral.map(|volume| format!("{pod_name}-{}", volume.field("name").str())).collect()
}

type Validator = fn(source: &Cursor<'_>, volume: &Cursor<'_>, around: &Around<'_>) -> Errors;

struct Source {
    name: &'static str,
    /// The field that is blamed when it is not the only source; upstream misspells two.
    blamed: &'static str,
    /// The field under which its own errors are.
    path: &'static str,
    check: Validator,
}

const fn source(name: &'static str, check: Validator) -> Source {
    Source { name, blamed: name, path: name, check }
}

/// In the order of Kubernetes' checks: the first one found is the volume's, the others are blamed.
const SOURCES: &[Source] = &[
    source("emptyDir", |_, _, _| Vec::new()),
    source("hostPath", |source, _, _| host_path(source)),
    source("gitRepo", |source, _, _| git_repo(source)),
    Source { path: "persistentDisk", ..source("gcePersistentDisk", |source, _, _| partitioned_disk(source, "pdName")) },
    source("awsElasticBlockStore", |source, _, _| partitioned_disk(source, "volumeID")),
    source("secret", |source, _, _| keyed(source, "secretName")),
    source("nfs", |source, _, _| nfs(source)),
    source("iscsi", |source, volume, _| iscsi(source, volume)),
    source("glusterfs", |source, _, _| check::required_fields(source, &["endpoints", "path"])),
    source("flocker", |source, _, _| flocker(source)),
    source("persistentVolumeClaim", |source, _, _| check::required_fields(source, &["claimName"])),
    source("rbd", |source, _, _| rbd(source)),
    source("cinder", |source, _, _| cinder(source)),
    Source { blamed: "cephFS", ..source("cephfs", |source, _, _| required_list(source, "monitors")) },
    source("quobyte", |source, _, _| quobyte(source)),
    Source { blamed: "downwarAPI", ..source("downwardAPI", |source, _, _| downward_api(source)) },
    source("fc", |source, _, _| fibre_channel(source)),
    source("flexVolume", |source, _, _| flex_volume(source)),
    source("configMap", |source, _, _| keyed(source, "name")),
    source("azureFile", |source, _, _| check::required_fields(source, &["secretName", "shareName"])),
    source("vsphereVolume", |source, _, _| check::required_fields(source, &["volumePath"])),
    source("photonPersistentDisk", |source, _, _| check::required_fields(source, &["pdID"])),
    source("portworxVolume", |source, _, _| check::required_fields(source, &["volumeID"])),
    source("azureDisk", |source, _, _| azure_disk(source)),
    source("storageos", |source, _, _| storage_os(source)),
    source("projected", |source, _, _| projected::validate(source)),
    source("scaleIO", |source, _, _| check::required_fields(source, &["gateway", "system", "volumeName"])),
    source("csi", |source, _, _| csi(source)),
    source("ephemeral", |source, volume, around| ephemeral_volume::validate(source, volume, around.pod_name)),
    source("image", |source, _, around| image(source, around)),
];

fn validate_source(volume: &Cursor<'_>, around: &Around<'_>) -> Errors {
    let mut errors: Errors = size_limit(&volume.field("emptyDir").field("sizeLimit")).into_iter().collect();
    let mut found = 0;
    for source in SOURCES.iter().filter(|source| volume.field(source.name).exists()) {
        found += 1;
        if found > 1 {
            let blamed = volume.path().child(source.blamed);
            errors.push(FieldError::forbidden(&blamed, "may not specify more than 1 volume type"));
        } else {
            let value = Cursor::at(volume.field(source.name).value(), volume.path().child(source.path));
            errors.extend((source.check)(&value, volume, around));
        }
    }
    if found == 0 {
        errors.push(volume.required("must specify a volume type"));
    }
    errors
}

fn size_limit(limit: &Cursor<'_>) -> Option<FieldError> {
    check::quantity(limit).is_negative().then(|| limit.forbidden("SizeLimit field must be a valid resource quantity"))
}

const HOST_PATH_TYPES: &[&str] = &["", "BlockDevice", "CharDevice", "Directory", "DirectoryOrCreate", "File", "FileOrCreate", "Socket"];

fn host_path(source: &Cursor<'_>) -> Errors {
    let path = source.field("path");
    if let Some(error) = check::required(&path) {
        return vec![error];
    }
    let mut errors: Errors = paths::no_backsteps(&path).into_iter().collect();
    errors.extend(check::one_of_if_set(&source.field("type"), HOST_PATH_TYPES));
    errors
}

fn git_repo(source: &Cursor<'_>) -> Errors {
    let mut errors = check::required_fields(source, &["repository"]);
    errors.extend(paths::local_descending(&source.field("directory")));
    errors
}

fn partitioned_disk(source: &Cursor<'_>, id: &'static str) -> Errors {
    let mut errors = check::required_fields(source, &[id]);
    let partition = source.field("partition");
    if !(0..=255).contains(&partition.int_or_zero()) {
        errors.push(partition.invalid(names::range_error(1, 255)));
    }
    errors
}

/// A secret or ConfigMap, all of it or some keys.
fn keyed(source: &Cursor<'_>, name: &'static str) -> Errors {
    let mut errors = check::required_fields(source, &[name]);
    errors.extend(paths::file_mode(&source.field("defaultMode")));
    errors.extend(source.field("items").items().flat_map(|item| paths::key_to_path(&item)));
    errors
}

fn nfs(source: &Cursor<'_>) -> Errors {
    let mut errors = check::required_fields(source, &["server", "path"]);
    let path = source.field("path");
    if !path.str().starts_with('/') {
        errors.push(path.invalid_str("must be an absolute path"));
    }
    errors
}

const ISCSI_LABEL_BYTES_MAX: usize = 64;

fn iscsi(source: &Cursor<'_>, volume: &Cursor<'_>) -> Errors {
    let mut errors = check::required_fields(source, &["targetPortal"]);
    let (iqn, lun, initiator) = (source.field("iqn"), source.field("lun"), source.field("initiatorName"));
    match check::required(&iqn) {
        Some(error) => errors.push(error),
        None => errors.extend(iscsi_name(iqn.str()).map(|finding| iqn.invalid(finding))),
    }
    errors.extend(check::number_findings(&lun, names::in_range(lun.int_or_zero(), 0, 255)));
    let uses_chap = source.field("chapAuthDiscovery").is_true() || source.field("chapAuthSession").is_true();
    if uses_chap && !source.field("secretRef").exists() {
        errors.push(source.field("secretRef").required(""));
    }
    if initiator.exists() {
        let path = source.path().child("initiatorname");
        errors.extend(iscsi_name(initiator.str()).map(|finding| FieldError::invalid(&path, initiator.str(), finding)));
        let label = format!("{}:{}", volume.field("name").str(), source.field("targetPortal").str());
        if label.len() > ISCSI_LABEL_BYTES_MAX {
            let detail =
                "Total length of <volume name>:<iscsi.targetPortal> must be under 64 characters if iscsi.initiatorName is specified.";
            errors.push(volume.field("name").invalid_str(detail));
        }
    }
    errors
}

fn iscsi_name(text: &str) -> Option<&'static str> {
    let is_valid = match text.get(..3) {
        Some("iqn") => is_iqn(text),
        Some("eui") => is_fixed_name(text, 16),
        Some("naa") => is_fixed_name(text, 32),
        _ => return Some("must be valid format starting with iqn, eui, or naa"),
    };
    (!is_valid).then_some("must be valid format")
}

/// `iqn.YYYY-MM.reversed.domain:name`
fn is_iqn(text: &str) -> bool {
    let Some((head, name)) = text.split_once(':') else { return false };
    let mut parts = head.splitn(3, '.').skip(1);
    let (date, domain) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
    let is_date = date.len() == 7 && date.bytes().enumerate().all(|(i, b)| if i == 4 { b == b'-' } else { b.is_ascii_digit() });
    let is_domain = !domain.is_empty() && domain.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.'));
    let is_name = !name.is_empty() && !name.contains(|c: char| c.is_whitespace() || ",;*&$|".contains(c));
    is_date && is_domain && is_name
}

fn is_fixed_name(text: &str, digits: usize) -> bool {
    text.len() == digits + 4 && text.bytes().skip(4).all(|b| b.is_ascii_alphanumeric())
}

fn flocker(source: &Cursor<'_>) -> Errors {
    let (name, uuid) = (source.field("datasetName"), source.field("datasetUUID"));
    let mut errors = Vec::new();
    if name.str().is_empty() && uuid.str().is_empty() {
        errors.push(source.required("one of datasetName and datasetUUID is required"));
    }
    if !name.str().is_empty() && !uuid.str().is_empty() {
        errors.push(source.invalid_value("resource", "datasetName and datasetUUID can not be specified simultaneously"));
    }
    if name.str().contains('/') {
        errors.push(name.invalid("must not contain '/'"));
    }
    errors
}

fn required_list(source: &Cursor<'_>, name: &'static str) -> Errors {
    let list = source.field(name);
    if list.is_empty() { vec![list.required("")] } else { Vec::new() }
}

fn rbd(source: &Cursor<'_>) -> Errors {
    let mut errors = required_list(source, "monitors");
    errors.extend(check::required(&source.field("image")));
    errors
}

fn cinder(source: &Cursor<'_>) -> Errors {
    let mut errors = check::required_fields(source, &["volumeID"]);
    errors.extend(secret_name(source));
    errors
}

fn secret_name(source: &Cursor<'_>) -> Option<FieldError> {
    let reference = source.field("secretRef");
    if reference.exists() { check::required(&reference.field("name")) } else { None }
}

const QUOBYTE_TENANT_BYTES_MAX: usize = 64;
/// Each of them shows the whole registry.
const QUOBYTE_FINDINGS_MAX: usize = 20;

fn quobyte(source: &Cursor<'_>) -> Errors {
    let (registry, tenant) = (source.field("registry"), source.field("tenant"));
    let what = "must be a host:port pair or multiple pairs separated by commas";
    let mut errors = Vec::new();
    if registry.str().is_empty() {
        errors.push(registry.required(what));
    } else if tenant.str().len() > QUOBYTE_TENANT_BYTES_MAX {
        errors.push(tenant.required("must be a UUID and may not exceed a length of 64 characters"));
    } else {
        let bad = registry.str().split(',').filter(|pair| pair.matches(':').count() != 1);
        errors.extend(bad.take(QUOBYTE_FINDINGS_MAX).map(|_| registry.invalid(what)));
    }
    errors.extend(check::required(&source.field("volume")));
    errors
}

fn downward_api(source: &Cursor<'_>) -> Errors {
    let mut errors: Errors = paths::file_mode(&source.field("defaultMode")).into_iter().collect();
    errors.extend(source.field("items").items().flat_map(|file| env::downward_api_file(&file, source.path())));
    errors
}

fn fibre_channel(source: &Cursor<'_>) -> Errors {
    let (targets, ids, lun) = (source.field("targetWWNs"), source.field("wwids"), source.field("lun"));
    let mut errors = Vec::new();
    if targets.is_empty() && ids.is_empty() {
        errors.push(targets.required("must specify either targetWWNs or wwids, but not both"));
    }
    if !targets.is_empty() && !ids.is_empty() {
        errors.push(targets.invalid("targetWWNs and wwids can not be specified simultaneously"));
    }
    if !targets.is_empty() {
        match lun.int() {
            None => errors.push(lun.required("lun is required if targetWWNs is specified")),
            Some(number) => errors.extend(check::number_findings(&lun, names::in_range(number, 0, 255))),
        }
    }
    errors
}

fn flex_volume(source: &Cursor<'_>) -> Errors {
    let mut errors = check::required_fields(source, &["driver"]);
    for (key, option) in source.field("options").entries() {
        let domain = format!(".{}", key.split('/').next().unwrap_or_default().to_lowercase());
        if domain.ends_with(".kubernetes.io") || domain.ends_with(".k8s.io") {
            errors.push(option.invalid_value(key, "kubernetes.io and k8s.io namespaces are reserved"));
        }
    }
    errors
}

fn azure_disk(source: &Cursor<'_>) -> Errors {
    let mut errors = check::required_fields(source, &["diskName", "diskURI"]);
    errors.extend(check::one_of_if_set(&source.field("cachingMode"), &["None", "ReadOnly", "ReadWrite"]));
    errors.extend(check::one_of_if_set(&source.field("kind"), &["Dedicated", "Managed", "Shared"]));
    let (kind, uri) = (source.field("kind"), source.field("diskURI"));
    let (prefix, form) = if kind.str() == "Managed" {
        ("/subscriptions/", "/subscriptions/{sub-id}/resourcegroups/{group-name}/providers/microsoft.compute/disks/{disk-id}")
    } else {
        ("https://", "https://{account-name}.blob.core.windows.net/{container-name}/{disk-name}.vhd")
    };
    if kind.exists() && !uri.str().starts_with(prefix) {
        errors.push(uri.not_supported(&[form]));
    }
    errors
}

fn storage_os(source: &Cursor<'_>) -> Errors {
    let name = source.field("volumeName");
    let mut errors = match check::required(&name) {
        Some(error) => vec![error],
        None => check::named(&name, names::dns1123_label),
    };
    errors.extend(check::named_if_set(&source.field("volumeNamespace"), names::dns1123_label));
    errors.extend(secret_name(source));
    errors
}

const CSI_DRIVER_BYTES_MAX: usize = 63;

fn csi(source: &Cursor<'_>) -> Errors {
    let driver = source.field("driver");
    let mut errors: Errors = check::required(&driver).into_iter().collect();
    if driver.str().len() > CSI_DRIVER_BYTES_MAX {
        errors.push(driver.too_long(CSI_DRIVER_BYTES_MAX));
    }
    if errors.is_empty() {
        errors.extend(check::findings(&driver, names::dns1123_subdomain(&driver.str().to_lowercase())));
    }
    let secret = source.field("nodePublishSecretRef");
    if secret.exists() {
        let name = secret.field("name");
        match check::required(&name) {
            Some(error) => errors.push(error),
            // Upstream blames a `name` of the source itself.
            None => errors.extend(check::named(&Cursor::at(name.value(), source.path().child("name")), names::dns1123_subdomain)),
        }
    }
    errors
}

fn image(source: &Cursor<'_>, around: &Around<'_>) -> Errors {
    let mut errors = Vec::new();
    if around.is_pod {
        errors.extend(check::required(&source.field("reference")));
    }
    errors.extend(check::one_of(&source.field("pullPolicy"), containers::PULL_POLICIES));
    errors
}
