//! Which pods are the set's: those it controls and selects. Orphans that it selects are adopted,
//! pods that it no longer selects are let go; a pod of another controller is never touched.

use super::{Action, View};
use crate::model::Pod;

/// The set's pods, adopted ones included; adoptions and releases are added to the actions.
pub fn claim<'a>(view: &View<'a>, actions: &mut Vec<Action>) -> Vec<&'a Pod> {
    let mut claimed = Vec::with_capacity(view.pods.len());
    for &pod in &view.pods {
        let selected = pod.meta.labels.selected_by(&view.set.selector);
        match pod.meta.controller() {
            Some(owner) if owner.uid == view.set.meta.uid && selected => claimed.push(pod),
            Some(owner) if owner.uid == view.set.meta.uid => {
                actions.push(Action::Release { pod: pod.meta.key(), uid: pod.meta.uid.clone() });
            }
            None if selected && !pod.meta.is_deleted() && pod.meta.namespace == view.set.meta.namespace => {
                actions.push(Action::Adopt { pod: pod.meta.key(), uid: pod.meta.uid.clone() });
                claimed.push(pod);
            }
            _ => {}
        }
    }
    claimed
}
