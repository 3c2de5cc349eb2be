//! Owner references: what lost all its owners is deleted; owners that wait for their dependents are
//! let go when they have none.
//!
//! After `pkg/controller/garbagecollector`. Work is done owner by owner (the key's name is the
//! owner's uid). That an owner is gone is asked of the server before anything is deleted for it:
//! the picture of one kind may be older than that of another. Owners of kinds that the server does
//! not have are left alone, as upstream leaves them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use jiff::Timestamp;
use serde_json::json;

use crate::controller::{Controller, Step, Work};
use crate::model::{Key, Meta, OwnerReference};
use crate::picture::{Change, Kind, Object, Picture};
use crate::request::{Request, Resource, Verb};

/// Finalizer: the owner goes first, its dependents keep living.
const ORPHAN: &str = "orphan";
/// Finalizer: the dependents go first.
const FOREGROUND: &str = "foregroundDeletion";

/// Dependents of one plan.
const DEPENDENTS_MAX: usize = 500;

/// An object of any kind.
type Id = (Kind, Key);

/// Knows the owners and dependents of objects, and which owners wait.
#[derive(Debug, Default)]
pub struct GarbageCollector {
    /// By the owner's uid.
    dependents: BTreeMap<Arc<str>, BTreeSet<Id>>,
    /// Owners that are being deleted and carry one of the finalizers, by uid.
    waiting: BTreeMap<Arc<str>, Id>,
}

impl Controller for GarbageCollector {
    fn name(&self) -> &'static str {
        "garbage-collector"
    }

    fn concerns(&mut self, picture: &Picture, change: &Change, add: &mut dyn FnMut(Key)) {
        let (old, new) = (change.old.as_ref().map(Object::meta), change.new.as_ref().map(Object::meta));
        let id = (change.kind(), change.object().meta().key());
        self.note_dependent(&id, old, new);
        self.note_owner(&id, old, new);
        for owner in new.into_iter().chain(old).flat_map(|meta| &meta.owner_references) {
            // While an owner lives, no dependent's coming or going matters to it.
            if !matches!(find(picture, &id.1.namespace, owner), Found::There(meta) if !meta.is_deleted()) {
                add(key_of(&owner.uid));
            }
        }
        let gone = old.filter(|old| new.is_none_or(|new| new.uid != old.uid));
        let waits = new.filter(|new| self.waiting.contains_key(&new.uid));
        for meta in gone.into_iter().chain(waits) {
            if self.dependents.contains_key(&meta.uid) || self.waiting.contains_key(&meta.uid) {
                add(key_of(&meta.uid));
            }
        }
    }

    fn plan(&mut self, picture: &Picture, key: &Key, _now: Timestamp) -> Work {
        let uid = &key.name;
        let none = BTreeSet::new();
        let dependents = self.dependents.get(uid).unwrap_or(&none);
        let metas: Vec<(Kind, &Meta)> =
            dependents.iter().filter_map(|(kind, key)| Some((*kind, picture.meta(*kind, key)?))).take(DEPENDENTS_MAX).collect();
        let more = dependents.len() > DEPENDENTS_MAX;
        match self.waiting.get(uid) {
            Some((kind, key)) => match picture.meta(*kind, key).filter(|meta| meta.uid == *uid) {
                Some(owner) if has(owner, ORPHAN) => orphan(*kind, owner, &metas, more),
                Some(owner) => self.delete_first(*kind, owner, &metas, more),
                None => Work::default(),
            },
            None => self.collect(picture, uid, &metas, more),
        }
    }
}

fn key_of(uid: &Arc<str>) -> Key {
    Key { namespace: "".into(), name: uid.clone() }
}

fn has(meta: &Meta, finalizer: &str) -> bool {
    meta.finalizers.iter().any(|mine| **mine == *finalizer)
}

impl GarbageCollector {
    fn note_dependent(&mut self, id: &Id, old: Option<&Meta>, new: Option<&Meta>) {
        if let (Some(old), Some(new)) = (old, new)
            && old.owner_references == new.owner_references
        {
            return;
        }
        for owner in old.iter().flat_map(|meta| &meta.owner_references) {
            if let Some(dependents) = self.dependents.get_mut(&owner.uid) {
                dependents.remove(id);
                if dependents.is_empty() {
                    self.dependents.remove(&owner.uid);
                }
            }
        }
        for owner in new.iter().flat_map(|meta| &meta.owner_references) {
            self.dependents.entry(owner.uid.clone()).or_default().insert(id.clone());
        }
    }

    fn note_owner(&mut self, id: &Id, old: Option<&Meta>, new: Option<&Meta>) {
        if let Some(old) = old {
            self.waiting.remove(&old.uid);
        }
        if let Some(new) = new.filter(|new| new.is_deleted() && (has(new, ORPHAN) || has(new, FOREGROUND))) {
            self.waiting.insert(new.uid.clone(), id.clone());
        }
    }

    /// Foreground deletion: dependents that block it are deleted; when there are none, the owner
    /// may go.
    fn delete_first(&self, kind: Kind, owner: &Meta, dependents: &[(Kind, &Meta)], more: bool) -> Work {
        let blocks = |meta: &Meta| meta.owner_references.iter().any(|other| other.uid == owner.uid && other.block_owner_deletion);
        let blocking: Vec<&(Kind, &Meta)> = dependents.iter().filter(|(_, meta)| blocks(meta)).collect();
        if blocking.is_empty() && !more {
            return Work::requests(vec![without_finalizer(kind, owner, FOREGROUND)]);
        }
        let doomed = blocking.into_iter().filter(|(_, meta)| !meta.is_deleted());
        let requests = doomed.map(|(kind, meta)| {
            let others = meta.owner_references.iter().any(|other| other.uid != owner.uid);
            if others { without_owner(*kind, meta, &owner.uid) } else { self.delete(*kind, meta) }
        });
        Work { steps: vec![Step { independent: true, ..Step::all_at_once(requests.collect()) }], ..Work::default() }
    }

    /// Background deletion: what depends on nothing else goes with its owner.
    fn collect(&self, picture: &Picture, uid: &Arc<str>, dependents: &[(Kind, &Meta)], more: bool) -> Work {
        let mut checks: Vec<Request> = Vec::new();
        let mut requests = Vec::new();
        for (kind, meta) in dependents.iter().filter(|(_, meta)| !meta.is_deleted()) {
            let mut solid = false;
            let mut unknown = false;
            for owner in &meta.owner_references {
                match find(picture, &meta.namespace, owner) {
                    Found::There(other) => solid |= !(other.is_deleted() && has(other, FOREGROUND)),
                    Found::Unknown => unknown = true,
                    Found::Absent(resource, key) => {
                        let check = Request::new(resource, key, Verb::CheckGone { uid: owner.uid.clone() });
                        if !checks.contains(&check) {
                            checks.push(check);
                        }
                    }
                }
            }
            let ours = meta.owner_references.iter().find(|owner| owner.uid == *uid);
            let is_gone = ours.is_some_and(|owner| matches!(find(picture, &meta.namespace, owner), Found::Absent(..)));
            match (is_gone, solid, unknown) {
                (true, true, _) => requests.push(without_owner(*kind, meta, uid)),
                (true, false, false) => requests.push(self.delete(*kind, meta)),
                _ => {}
            }
        }
        if requests.is_empty() {
            return Work::default();
        }
        let requests = Step { independent: true, ..Step::all_at_once(requests) };
        Work { steps: vec![Step::all_at_once(checks), requests], more, ..Work::default() }
    }

    /// With the propagation that the object's own finalizers ask for; foreground where its
    /// dependents would block it anyway.
    fn delete(&self, kind: Kind, meta: &Meta) -> Request {
        let propagation = if has(meta, ORPHAN) {
            "Orphan"
        } else if has(meta, FOREGROUND) {
            "Foreground"
        } else {
            "Background"
        };
        let verb = Verb::Delete {
            uid: Some(meta.uid.clone()),
            // A client that gave it another owner meanwhile changed its version.
            resource_version: Some(meta.resource_version).filter(|version| *version > 0),
            grace_seconds: None,
            propagation: Some(propagation),
        };
        Request::new(kind.resource(), meta.key(), verb)
    }
}

/// Lets the dependents go on without their owner, and then the owner go.
fn orphan(kind: Kind, owner: &Meta, dependents: &[(Kind, &Meta)], more: bool) -> Work {
    let released = dependents.iter().map(|(kind, meta)| without_owner(*kind, meta, &owner.uid)).collect();
    let mut steps = vec![Step::all_at_once(released)];
    if !more {
        steps.push(Step::all_at_once(vec![without_finalizer(kind, owner, ORPHAN)]));
    }
    Work { steps, more, ..Work::default() }
}

fn without_owner(kind: Kind, meta: &Meta, owner_uid: &str) -> Request {
    let patch = json!({"metadata": {"uid": meta.uid, "ownerReferences": [{"$patch": "delete", "uid": owner_uid}]}});
    Request::new(kind.resource(), meta.key(), Verb::Strategic(patch))
}

fn without_finalizer(kind: Kind, owner: &Meta, finalizer: &str) -> Request {
    let left: Vec<&str> = owner.finalizers.iter().map(|mine| &**mine).filter(|mine| *mine != finalizer).collect();
    let patch = json!({"metadata": {"uid": owner.uid, "resourceVersion": owner.resource_version.to_string(), "finalizers": left}});
    Request::new(kind.resource(), owner.key(), Verb::Merge(patch))
}

/// Where a reference leads.
enum Found<'a> {
    There(&'a Meta),
    /// Nothing with that uid is known under that name.
    Absent(Resource, Key),
    /// The server does not have the kind.
    Unknown,
}

fn find<'a>(picture: &'a Picture, namespace: &Arc<str>, owner: &OwnerReference) -> Found<'a> {
    let group = owner.api_version.split_once('/').map_or("", |(group, _)| group);
    let row = kinds::table::by_kind(group, &owner.kind).filter(|row| row.is_stored() && row.view.is_none());
    let Some(row) = row else { return Found::Unknown };
    let resource = Resource { group: row.group, version: row.version, plural: row.plural, kind: row.kind };
    let namespace = if row.namespaced { namespace.clone() } else { "".into() };
    let key = Key { namespace, name: owner.name.clone() };
    match picture.meta(resource.followed(), &key).filter(|meta| meta.uid == owner.uid) {
        Some(meta) => Found::There(meta),
        None => Found::Absent(resource, key),
    }
}

#[cfg(test)]
mod tests {
    use expect_test::{Expect, expect};

    use super::*;
    use crate::fixture;
    use crate::model::DaemonSet;

    /// A collector that has seen everything in the cluster, with the keys it asked for.
    fn told(picture: &mut Picture) -> (GarbageCollector, BTreeSet<Key>) {
        let (mut gc, mut keys) = (GarbageCollector::default(), BTreeSet::new());
        let pods: Vec<_> = picture.pods.values().cloned().map(Object::Pod).collect();
        let sets: Vec<_> = picture.sets.values().cloned().map(Object::DaemonSet).collect();
        for object in pods.into_iter().chain(sets) {
            gc.concerns(picture, &Change { old: None, new: Some(object) }, &mut |key| {
                keys.insert(key);
            });
        }
        (gc, keys)
    }

    fn text(work: &Work) -> String {
        let request = |request: &Request| {
            let (method, _, body) = request.body();
            let body = if body.is_null() { String::new() } else { format!(" {body}") };
            format!("{method} {}{body}", request.path())
        };
        work.steps.iter().map(|step| step.requests.iter().map(request).collect::<Vec<_>>().join("\n")).collect::<Vec<_>>().join("\n---\n")
    }

    fn check(mut picture: Picture, expected: Expect) {
        let (mut gc, keys) = told(&mut picture);
        let works: Vec<String> =
            keys.iter().map(|key| text(&gc.plan(&picture, key, fixture::now()))).filter(|text| !text.is_empty()).collect();
        expected.assert_eq(&works.join("\n"));
    }

    fn deleted_with(picture: &mut Picture, finalizer: &str) {
        let mut set = DaemonSet::clone(picture.sets.values().next().expect("a set"));
        set.meta.deletion_timestamp = Some(fixture::now());
        set.meta.finalizers = vec![finalizer.into()];
        picture.put(Object::DaemonSet(Arc::new(set)));
    }

    #[test]
    fn dependents_of_an_owner_that_lives_are_left_alone() {
        check(fixture::picture("node a; ds web; pod p@a"), expect![""]);
    }

    #[test]
    fn dependents_of_nobody_go_after_the_server_was_asked() {
        check(
            fixture::picture("node a; pod p@a; pod q@a; pod r@a orphan"),
            expect![[r#"
            GET /apis/apps/v1/namespaces/ns/daemonsets/web
            ---
            DELETE /api/v1/namespaces/ns/pods/p {"apiVersion":"v1","kind":"DeleteOptions","preconditions":{"uid":"p-uid"},"propagationPolicy":"Background"}
            DELETE /api/v1/namespaces/ns/pods/q {"apiVersion":"v1","kind":"DeleteOptions","preconditions":{"uid":"q-uid"},"propagationPolicy":"Background"}"#]],
        );
    }

    #[test]
    fn an_orphaning_owner_goes_after_its_dependents_were_released() {
        let mut picture = fixture::picture("node a; ds web; pod p@a");
        deleted_with(&mut picture, ORPHAN);
        check(
            picture,
            expect![[r#"
            PATCH /api/v1/namespaces/ns/pods/p {"metadata":{"ownerReferences":[{"$patch":"delete","uid":"web-uid"}],"uid":"p-uid"}}
            ---
            PATCH /apis/apps/v1/namespaces/ns/daemonsets/web {"metadata":{"finalizers":[],"resourceVersion":"0","uid":"web-uid"}}"#]],
        );
    }

    #[test]
    fn a_foreground_deletion_takes_the_dependents_first() {
        let mut picture = fixture::picture("node a; ds web; pod p@a; pod q@a deleting");
        deleted_with(&mut picture, FOREGROUND);
        check(
            picture,
            expect![[
                r#"DELETE /api/v1/namespaces/ns/pods/p {"apiVersion":"v1","kind":"DeleteOptions","preconditions":{"uid":"p-uid"},"propagationPolicy":"Background"}"#
            ]],
        );
        let mut picture = fixture::picture("node a; ds web");
        deleted_with(&mut picture, FOREGROUND);
        check(
            picture,
            expect![[
                r#"PATCH /apis/apps/v1/namespaces/ns/daemonsets/web {"metadata":{"finalizers":[],"resourceVersion":"0","uid":"web-uid"}}"#
            ]],
        );
    }

    #[test]
    fn one_of_two_owners_is_enough() {
        let mut picture = fixture::picture("node a; ds web; pod p@a");
        let mut pod = crate::model::Pod::clone(picture.pods.values().next().expect("a pod"));
        pod.meta.owner_references.push(OwnerReference {
            name: "gone".into(),
            uid: "gone-uid".into(),
            ..pod.meta.owner_references[0].clone()
        });
        picture.put(Object::Pod(Arc::new(pod)));
        check(
            picture,
            expect![[r#"
            GET /apis/apps/v1/namespaces/ns/daemonsets/gone
            ---
            PATCH /api/v1/namespaces/ns/pods/p {"metadata":{"ownerReferences":[{"$patch":"delete","uid":"gone-uid"}],"uid":"p-uid"}}"#]],
        );
    }

    #[test]
    fn owners_of_unknown_kinds_keep_their_dependents() {
        let mut picture = fixture::picture("node a; pod p@a");
        let mut pod = crate::model::Pod::clone(picture.pods.values().next().expect("a pod"));
        pod.meta.owner_references[0].kind = "Thing".into();
        picture.put(Object::Pod(Arc::new(pod)));
        check(picture, expect![""]);
    }
}
