//! Tells kubelets by an annotation of their node how long they may keep Secrets and ConfigMaps: the
//! longer the more nodes there are.
//!
//! After `pkg/controller/ttl`. Unlike there, nodes are written only when their number has not
//! changed for a while ([`SETTLED_AFTER`]), and a few at a time: a fleet that registers gets one
//! write for each node, at the end, and not one at each boundary it passes.

use jiff::{SignedDuration, Timestamp};
use serde_json::json;

use crate::controller::{Controller, Step, Work};
use crate::model::{Key, Node};
use crate::picture::{Change, Object, Picture};
use crate::request::{NODES, Request, Verb};

const ANNOTATION: &str = "node.alpha.kubernetes.io/ttl";

/// From how many nodes on a step is left downwards, up to how many it holds, and its seconds.
const BOUNDARIES: [(usize, usize, u32); 5] = [(0, 100, 0), (90, 500, 15), (450, 1000, 30), (900, 2000, 60), (1800, usize::MAX, 300)];

/// No node came or went for so long.
const SETTLED_AFTER: SignedDuration = SignedDuration::from_secs(10);

/// Nodes of one plan, and how long the next one waits.
const PATCHES_MAX: usize = 100;
const REST: SignedDuration = SignedDuration::from_secs(1);

#[derive(Debug, Default)]
pub struct TtlController {
    step: usize,
    /// How many nodes there were, and since when.
    counted: Option<(usize, Timestamp)>,
}

impl Controller for TtlController {
    fn name(&self) -> &'static str {
        "ttl-controller"
    }

    fn concerns(&mut self, _cluster: &Picture, change: &Change, add: &mut dyn FnMut(Key)) {
        match (&change.old, &change.new) {
            (Some(Object::Node(old)), Some(Object::Node(new))) if annotated(old) == annotated(new) => {}
            (Some(Object::Node(_)), _) | (_, Some(Object::Node(_))) => add(Key::default()),
            _ => {}
        }
    }

    fn plan(&mut self, picture: &Picture, _key: &Key, now: Timestamp) -> Work {
        let nodes = picture.nodes.len();
        let since = self.counted.filter(|(counted, _)| *counted == nodes).map_or(now, |(_, since)| since);
        self.counted = Some((nodes, since));
        self.move_to(nodes);
        let seconds = BOUNDARIES[self.step].2;
        let wrong = picture.nodes.values().filter(|node| annotated(node) != Some(seconds) && !node.meta.is_deleted());
        let requests: Vec<Request> = wrong.take(PATCHES_MAX).map(|node| patch(node, seconds)).collect();
        if requests.is_empty() {
            return Work::default();
        }
        if now < since + SETTLED_AFTER {
            return Work { wake_at: Some(since + SETTLED_AFTER), ..Work::default() };
        }
        let more = requests.len() == PATCHES_MAX;
        Work { steps: vec![Step { independent: true, ..Step::all_at_once(requests) }], more, rest: REST, ..Work::default() }
    }
}

impl TtlController {
    /// Steps overlap, so that a node that comes and goes does not move all others.
    fn move_to(&mut self, nodes: usize) {
        while nodes > BOUNDARIES[self.step].1 {
            self.step += 1;
        }
        while nodes < BOUNDARIES[self.step].0 {
            self.step -= 1;
        }
    }
}

fn annotated(node: &Node) -> Option<u32> {
    node.meta.annotations.get(ANNOTATION)?.parse().ok()
}

fn patch(node: &Node, seconds: u32) -> Request {
    let patch = json!({"metadata": {"uid": node.meta.uid, "annotations": {ANNOTATION: seconds.to_string()}}});
    Request::new(NODES, node.meta.key(), Verb::Merge(patch))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::{at, now};

    fn fleet(nodes: usize) -> Picture {
        let text: Vec<String> = (0..nodes).map(|number| format!("node n{number:05}")).collect();
        crate::fixture::picture(&text.join(";"))
    }

    /// How many nodes would be written, and with what.
    fn written(work: &Work) -> (usize, Option<String>) {
        let requests: Vec<_> = work.steps.iter().flat_map(|step| &step.requests).collect();
        let first = requests.first().map(|request| request.body().2["metadata"]["annotations"][ANNOTATION].as_str().unwrap().to_owned());
        (requests.len(), first)
    }

    #[test]
    fn nodes_are_written_when_their_number_has_settled() {
        let mut ttl = TtlController::default();
        let work = ttl.plan(&fleet(3), &Key::default(), now());
        assert_eq!((written(&work), work.wake_at), ((0, None), Some(at(10))));
        let work = ttl.plan(&fleet(5), &Key::default(), at(9));
        assert_eq!((written(&work), work.wake_at), ((0, None), Some(at(19))));
        assert_eq!(written(&ttl.plan(&fleet(5), &Key::default(), at(19))), (5, Some("0".to_owned())));
    }

    #[test]
    fn large_fleets_are_written_in_parts() {
        let mut ttl = TtlController::default();
        ttl.plan(&fleet(250), &Key::default(), now());
        let work = ttl.plan(&fleet(250), &Key::default(), at(10));
        assert_eq!((written(&work), work.more), ((100, Some("15".to_owned())), true));
    }

    #[test]
    fn steps_overlap() {
        let mut ttl = TtlController::default();
        let mut seconds = |nodes| {
            ttl.move_to(nodes);
            BOUNDARIES[ttl.step].2
        };
        let wanted = [(100, 0), (101, 15), (95, 15), (89, 0), (500, 15), (501, 30), (10_000, 300), (1_800, 300), (1_799, 60), (0, 0)];
        for (nodes, expected) in wanted {
            assert_eq!(seconds(nodes), expected, "{nodes}");
        }
    }

    #[test]
    fn nodes_that_say_so_already_are_left_alone() {
        let mut picture = fleet(1);
        let mut node = Node::clone(&picture.nodes["n00000"]);
        node.meta.annotations.insert(ANNOTATION, "0");
        picture.put(Object::Node(node.into()));
        let work = TtlController::default().plan(&picture, &Key::default(), now());
        assert_eq!((written(&work), work.wake_at), ((0, None), None));
    }
}
