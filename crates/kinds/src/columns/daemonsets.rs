//! Tables of DaemonSets and of the revisions of their templates.

use serde_json::{Value, json};

use super::cells::{Subject, joined, label_selector, labels};
use super::{AGE, NAME, Printer, integer, text, wide};

pub static DAEMON_SETS: Printer = Printer::new(
    &[
        NAME,
        integer("Desired", "Nodes that should run the pod."),
        integer("Current", "Nodes that run at least one pod and should."),
        integer("Ready", "Nodes that should run the pod and have one ready."),
        integer("Up-to-date", "Nodes whose pod is made from the current template."),
        integer("Available", "Nodes whose pod has been ready for long enough."),
        text("Node Selector", "Labels that a node must have."),
        AGE,
        wide("Containers", "Names of the template's containers."),
        wide("Images", "Images of the template's containers."),
        wide("Selector", "Labels of the pods that belong to the DaemonSet."),
    ],
    daemon_set,
);

pub static CONTROLLER_REVISIONS: Printer = Printer::new(
    &[NAME, text("Controller", "The object whose history this is part of."), text("Revision", "Position in the history."), AGE],
    controller_revision,
);

fn daemon_set(object: &Subject<'_>) -> Vec<Value> {
    let (spec, status) = (object.spec(), object.status());
    let count = |name| json!(status.field(name).int_or_zero());
    let template = spec.field("template").field("spec");
    let containers = template.field("containers");
    vec![
        object.name(),
        count("desiredNumberScheduled"),
        count("currentNumberScheduled"),
        count("numberReady"),
        count("updatedNumberScheduled"),
        count("numberAvailable"),
        labels(&template.field("nodeSelector")),
        object.age(),
        joined(&containers, "name"),
        joined(&containers, "image"),
        label_selector(&spec.field("selector")),
    ]
}

fn controller_revision(object: &Subject<'_>) -> Vec<Value> {
    vec![object.name(), json!(controller(object)), json!(object.field("revision").int_or_zero()), object.age()]
}

/// `daemonset.apps/web`: kind and group in lower case, then the name.
fn controller(object: &Subject<'_>) -> String {
    let owners = object.metadata().field("ownerReferences");
    let Some(owner) = owners.items().find(|owner| owner.field("controller").is_true()) else {
        return "<none>".to_owned();
    };
    let kind = owner.field("kind").str().to_lowercase();
    let name = owner.field("name").str();
    match owner.field("apiVersion").str().split_once('/') {
        Some((group, _)) => format!("{kind}.{}/{name}", group.to_lowercase()),
        None => format!("{kind}/{name}"),
    }
}
