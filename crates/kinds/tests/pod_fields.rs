//! docs/pod-fields.md against the schema: every field of pods has a row with a decision, and no row
//! names a test that is not there.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// The types through which a pod asks something of its node.
const TYPES: [&str; 11] = [
    "PodSpec",
    "PodSecurityContext",
    "SecurityContext",
    "Container",
    "EphemeralContainer",
    "Volume",
    "VolumeMount",
    "EnvVarSource",
    "Lifecycle",
    "Probe",
    "ResourceRequirements",
];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn schema_fields() -> BTreeSet<String> {
    let mut fields = BTreeSet::new();
    let mut kind = "";
    for line in include_str!("../src/schema/types.txt").lines().filter(|line| !line.starts_with('#')) {
        match line.strip_prefix("  ") {
            None => kind = line.split(' ').next().and_then(|name| name.strip_prefix("io.k8s.api.core.v1.")).unwrap_or_default(),
            Some(field) if !kind.is_empty() && TYPES.contains(&kind) => {
                fields.insert(format!("{kind}.{}", field.split(' ').next().unwrap_or_default()));
            }
            Some(_) => {}
        }
    }
    fields
}

/// Field and test of each row.
fn rows() -> Vec<(String, String)> {
    let text = std::fs::read_to_string(root().join("docs/pod-fields.md")).unwrap();
    let rows = text.lines().filter(|line| line.starts_with("| ") && !line.starts_with("| field"));
    rows.map(|line| {
        let cells: Vec<&str> = line.trim_matches('|').split('|').map(str::trim).collect();
        assert!(cells.len() == 3 && !cells[1].is_empty(), "a row is a field, what happens, and a test: {line}");
        (cells[0].to_owned(), cells[2].trim_matches('`').to_owned())
    })
    .collect()
}

fn add_functions(dir: &Path, names: &mut BTreeSet<String>) {
    for entry in std::fs::read_dir(dir).unwrap().flatten() {
        let path = entry.path();
        if path.is_dir() && path.file_name().is_some_and(|name| name != "target") {
            add_functions(&path, names);
        } else if path.extension().is_some_and(|ending| ending == "rs") {
            let text = std::fs::read_to_string(&path).unwrap();
            let mut is_test = false;
            for line in text.lines().map(str::trim) {
                let name = line.trim_start_matches("async ").strip_prefix("fn ").and_then(|rest| rest.split('(').next());
                if let Some(name) = name.filter(|_| is_test) {
                    names.insert(name.to_owned());
                }
                is_test = line.starts_with("#[test]") || line.starts_with("#[tokio::test") || (is_test && line.starts_with("#["));
            }
        }
    }
}

#[test]
fn every_field_of_a_pod_has_its_place() {
    let listed: Vec<String> = rows().into_iter().map(|(field, _)| field).collect();
    let unique: BTreeSet<String> = listed.iter().cloned().collect();
    assert_eq!(listed.len(), unique.len(), "a field has one row");
    let fields = schema_fields();
    assert!(fields.len() > 150, "the schema was read: {}", fields.len());
    let missing: Vec<_> = fields.difference(&unique).collect();
    assert!(missing.is_empty(), "docs/pod-fields.md does not say what happens with {missing:?}");
    let strange: Vec<_> = unique.difference(&fields).collect();
    assert!(strange.is_empty(), "docs/pod-fields.md has fields that pods do not have: {strange:?}");
}

#[test]
fn every_test_of_the_table_is_there() {
    let mut names = BTreeSet::new();
    add_functions(&root().join("crates"), &mut names);
    let missing: Vec<_> = rows().into_iter().filter(|(_, test)| !names.contains(test)).collect();
    assert!(missing.is_empty(), "docs/pod-fields.md names tests that are not there: {missing:?}");
}
