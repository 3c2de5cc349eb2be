//! Where a container sees the pod's volumes: as directories or as block devices.

use std::collections::BTreeSet;

use crate::cursor::Cursor;
use crate::field::{FieldError, Path};
use crate::rules::check::{self, Errors};

use super::paths;
use super::volumes::Volumes;

const PROPAGATIONS: &[&str] = &["Bidirectional", "HostToContainer", "None"];
const RECURSIVE_READ_ONLY: &[&str] = &["Disabled", "Enabled", "IfPossible"];

pub fn validate(container: &Cursor<'_>, volumes: &Volumes<'_>) -> Errors {
    let (mounts, devices) = (container.field("volumeMounts"), container.field("volumeDevices"));
    let (device_names, device_paths) = (texts(&devices, "name"), texts(&devices, "devicePath"));
    let mut errors = Vec::new();
    let mut taken = BTreeSet::new();
    for mount in mounts.items() {
        let (name, path) = (mount.field("name"), mount.field("mountPath"));
        errors.extend(check::required(&name));
        if !volumes.contains_key(name.str()) {
            errors.push(FieldError::not_found(name.path(), name.str()));
        }
        errors.extend(check::required(&path));
        if !taken.insert(path.str()) {
            errors.push(path.invalid_str("must be unique"));
        }
        if device_names.contains(name.str()) {
            errors.push(name.invalid_str("must not already exist in volumeDevices"));
        }
        if device_paths.contains(path.str()) {
            errors.push(path.invalid_str("must not already exist as a path in volumeDevices"));
        }
        errors.extend(validate_sub_paths(&mount, mounts.path()));
        errors.extend(validate_propagation(&mount, container, mounts.path()));
        errors.extend(validate_recursive_read_only(&mount, mounts.path()));
    }
    errors
}

fn texts<'a>(list: &Cursor<'a>, field: &'static str) -> BTreeSet<&'a str> {
    list.items().map(|item| item.field(field).str()).collect()
}

/// `list`: upstream blames it where it should blame the element.
fn validate_sub_paths(mount: &Cursor<'_>, list: &Path) -> Errors {
    let (path, expression) = (mount.field("subPath"), mount.field("subPathExpr"));
    let mut errors = paths::local_descending(&Cursor::at(path.value(), list.child("subPath")));
    if !expression.str().is_empty() && !path.str().is_empty() {
        errors.push(expression.invalid("subPathExpr and subPath are mutually exclusive"));
    }
    errors.extend(paths::local_descending(&Cursor::at(expression.value(), list.child("subPathExpr"))));
    errors
}

fn validate_propagation(mount: &Cursor<'_>, container: &Cursor<'_>, list: &Path) -> Errors {
    let propagation = Cursor::at(mount.field("mountPropagation").value(), list.child("mountPropagation"));
    let mut errors: Errors = check::one_of_if_set(&propagation, PROPAGATIONS).into_iter().collect();
    let is_privileged = container.field("securityContext").field("privileged").is_true();
    if propagation.str() == "Bidirectional" && !is_privileged {
        errors.push(propagation.forbidden("Bidirectional mount propagation is available only to privileged containers"));
    }
    errors
}

fn validate_recursive_read_only(mount: &Cursor<'_>, list: &Path) -> Errors {
    let mode = Cursor::at(mount.field("recursiveReadOnly").value(), list.child("recursiveReadOnly"));
    let mut errors: Errors = check::one_of_if_set(&mode, RECURSIVE_READ_ONLY).into_iter().collect();
    if matches!(mode.str(), "Enabled" | "IfPossible") {
        if !mount.field("readOnly").is_true() {
            errors.push(mode.forbidden("may only be specified when readOnly is true"));
        }
        if !matches!(mount.field("mountPropagation").str(), "" | "None") {
            errors.push(mode.forbidden("may only be specified when mountPropagation is None or not specified"));
        }
    }
    errors
}

pub fn validate_devices(container: &Cursor<'_>, volumes: &Volumes<'_>) -> Errors {
    let (mounts, devices) = (container.field("volumeMounts"), container.field("volumeDevices"));
    let (mount_names, mount_paths) = (texts(&mounts, "name"), texts(&mounts, "mountPath"));
    let mut errors = Vec::new();
    let (mut names, mut device_paths) = (BTreeSet::new(), BTreeSet::new());
    for device in devices.items() {
        let (name, path) = (device.field("name"), device.field("devicePath"));
        errors.extend(check::required(&name));
        if !name.str().is_empty() && !names.insert(name.str()) {
            errors.push(name.invalid("must be unique"));
        }
        errors.extend(validate_device_source(&name, volumes));
        errors.extend(check::required(&path));
        if device_paths.contains(path.str()) {
            errors.push(path.invalid_str("must be unique"));
        }
        if paths::has_backsteps(path.str()) {
            errors.push(path.invalid("can not contain backsteps ('..')"));
        } else {
            device_paths.insert(path.str());
        }
        if mount_names.contains(name.str()) {
            errors.push(name.invalid_str("must not already exist in volumeMounts"));
        }
        if mount_paths.contains(path.str()) {
            errors.push(path.invalid_str("must not already exist as a path in volumeMounts"));
        }
    }
    errors
}

fn validate_device_source(name: &Cursor<'_>, volumes: &Volumes<'_>) -> Option<FieldError> {
    match volumes.get(name.str()) {
        None => Some(FieldError::not_found(name.path(), name.str())),
        Some(volume) if volume.field("persistentVolumeClaim").exists() || volume.field("ephemeral").exists() => None,
        Some(_) => Some(name.invalid_str("can only use volume source type of PersistentVolumeClaim or Ephemeral for block mode")),
    }
}
