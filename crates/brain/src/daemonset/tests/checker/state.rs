//! A state of the model, and all that can happen in it: to the cluster, to the picture of it, and
//! to the controller.

use super::controller::{Controller, Pending, PlannedWrite, Why, accepted};
use super::judge;
use super::translate::{Pause, Translator};
use super::world::{Event, Id, NODES, NODES_MAX, Name, Node, Objects, Owner, PODS, Past, Phase, Pod, STREAMS, Set, Taint, age};

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct CheckedState {
    pub real: Objects,
    /// What the controller sees.
    pub seen: Objects,
    /// What leads from the one to the other.
    pub pending: Pending,
    pub controller: Controller,
    /// Nodes that have no available pod because the controller took it away for an update.
    pub voluntary: [bool; NODES_MAX],
    /// Nodes where the environment took away a pod that was ready, or that it made one that should
    /// run a pod, as long as a plan may rest on a picture that does not show it.
    pub excused: [bool; NODES_MAX],
    /// Changes by people and misfortune that may still come.
    pub changes: u8,
    /// Crashes, and answers that get lost.
    pub faults: u8,
}

/// What can happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Move {
    /// The picture takes in the next event of a stream.
    Show(usize),
    Plan,
    /// The next write of the plan is done.
    PlannedWrite,
    /// It is done, and the answer is lost.
    WriteUnheard,
    /// It is refused.
    WriteRefused,
    /// The controller starts anew: everything is listed.
    Crash,
    Bind(Id),
    /// The pod becomes ready.
    Start(Id),
    /// A pod on its way out is gone.
    End(Id),
    /// Longer than any pause and minReadySeconds.
    Wait,
    /// The full pass: the set is looked at although nothing says that it should be.
    Look,
    Change(Change),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    Node(u8, Option<Node>),
    Template,
    DeleteSet,
    Unready(Id),
    Fail(Id),
    /// A user deletes a pod.
    Delete(Id),
}

/// The parameters of the model.
pub struct Rules {
    pub translator: Translator,
    pub nodes: u8,
    /// Off in the negative test: plans rest on whatever the picture shows.
    pub barrier: bool,
    /// Off in the negative test: every creation gets a name of its own.
    pub derived_names: bool,
    /// Off in the negative test: plans do not know what was deleted before.
    pub remembers_deletions: bool,
    pub min_ready: bool,
}

impl CheckedState {
    /// All moves but [`Move::Change`] and the faults: what happens by itself.
    pub fn free_moves(&self, rules: &Rules) -> Vec<Move> {
        let mut moves: Vec<Move> = (0..STREAMS).filter(|stream| !self.pending[*stream].is_empty()).map(Move::Show).collect();
        if self.controller.busy {
            moves.push(Move::PlannedWrite);
        } else if self.may_plan(rules) {
            moves.push(Move::Plan);
        }
        moves.extend(self.pod_moves());
        if self.can_wait() {
            moves.push(Move::Wait);
        }
        moves
    }

    pub fn may_plan(&self, rules: &Rules) -> bool {
        let Controller { due, busy, .. } = self.controller;
        due && !busy && (!rules.barrier || self.controller.may_plan(&self.seen, &rules.translator))
    }

    fn pod_moves(&self) -> impl Iterator<Item = Move> {
        self.real.pods.iter().filter_map(|pod| {
            let node = self.real.node(pod.node);
            let lives = node.is_some_and(|node| node.ready);
            match (pod.bound, pod.phase) {
                // The pod garbage collector takes what is bound to a node that is gone; live nodes
                // end what is to end.
                (true, _) if node.is_none() || pod.deleting && lives => Some(Move::End(pod.id)),
                (true, Phase::Starting) if lives && !pod.deleting => Some(Move::Start(pod.id)),
                (false, _) if self.real.wants(pod.node) => Some(Move::Bind(pod.id)),
                _ => None,
            }
        })
    }

    /// Does anything wait for time to pass?
    fn can_wait(&self) -> bool {
        let ripens = self.real.pods.iter().chain(&self.seen.pods).any(|pod| pod.phase == Phase::Ready);
        ripens || self.controller.wakes || self.controller.memory.pauses.contains(&Pause::Running)
    }

    /// The moves that are counted.
    pub fn dear_moves(&self, rules: &Rules) -> Vec<Move> {
        let mut moves = Vec::new();
        if self.faults > 0 {
            if !self.controller.writes.is_empty() {
                moves.extend([Move::WriteUnheard, Move::WriteRefused]);
            }
            moves.push(Move::Crash);
        }
        if self.changes > 0 {
            moves.extend(self.changes(rules).into_iter().map(Move::Change));
        }
        moves
    }

    fn changes(&self, rules: &Rules) -> Vec<Change> {
        let mut changes = vec![Change::Template, Change::DeleteSet];
        if self.real.set.deleting {
            changes.clear();
        }
        let fine = Node { ready: true, taint: Taint::Absent };
        for node in 0..rules.nodes {
            match self.real.node(node) {
                None => changes.push(Change::Node(node, Some(fine))),
                Some(now) if now == fine => {
                    changes.push(Change::Node(node, None));
                    changes.push(Change::Node(node, Some(Node { ready: false, ..fine })));
                    changes.push(Change::Node(node, Some(Node { taint: Taint::NoSchedule, ..fine })));
                    changes.push(Change::Node(node, Some(Node { taint: Taint::NoExecute, ..fine })));
                }
                Some(_) => changes.push(Change::Node(node, Some(fine))),
            }
        }
        for pod in self.real.pods.iter().filter(|pod| pod.bound && !pod.deleting && pod.owner == Owner::Ours) {
            changes.push(Change::Delete(pod.id));
            if pod.phase != Phase::Failed {
                changes.push(Change::Fail(pod.id));
            }
            if matches!(pod.phase, Phase::Ready | Phase::Available) {
                changes.push(Change::Unready(pod.id));
            }
        }
        changes
    }

    /// What a move makes of the state; Err when it breaks a rule.
    pub fn after(&self, of: Move, rules: &Rules) -> Result<CheckedState, String> {
        let mut next = self.clone();
        match of {
            Move::Show(stream) => next.show(stream, rules),
            Move::Plan => next.plan(rules)?,
            Move::PlannedWrite => next.write(rules, true)?,
            Move::WriteUnheard => {
                next.faults -= 1;
                next.write(rules, false)?;
            }
            Move::WriteRefused => {
                next.faults -= 1;
                let (step, write) = next.controller.writes.remove(0);
                next.controller.refused(step, write);
                next.controller.end_if_done();
            }
            Move::Crash => next.crash(),
            Move::Bind(id) => next.change_pod(id, |pod| pod.bound = true),
            Move::Start(id) => next.change_pod(id, |pod| pod.phase = if rules.min_ready { Phase::Ready } else { Phase::Available }),
            Move::End(id) => next.happen(Event::Pod(id.name, None)),
            Move::Wait => next.wait(),
            Move::Look => next.controller.due = true,
            Move::Change(change) => next.change(change),
        }
        next.note_available();
        next.note_shown();
        next.controller.tidy(&next.seen, &rules.translator);
        Ok(next)
    }

    /// Something happens in the cluster, and will be shown.
    fn happen(&mut self, event: Event) {
        self.real.apply(event);
        let shown = match event {
            Event::Pod(name, pod) => Event::Pod(name, pod.map(Pod::shown)),
            other => other,
        };
        self.pending[event.stream()].push(shown);
    }

    fn change_pod(&mut self, id: Id, how: impl FnOnce(&mut Pod)) {
        let mut pod = *self.real.pod(id.name).expect("moves are about pods that are there");
        how(&mut pod);
        self.happen(Event::Pod(id.name, Some(pod)));
    }

    fn show(&mut self, stream: usize, rules: &Rules) {
        let event = self.pending[stream].remove(0);
        let before = self.seen.before(&event);
        self.seen.apply(event);
        self.controller.shown(stream);
        self.controller.due |= rules.translator.concerns(before, event, &self.seen);
    }

    fn plan(&mut self, rules: &Rules) -> Result<(), String> {
        let planned = rules.translator.plan(&self.seen, &self.controller.memory);
        judge::plan(&self.seen, &self.controller.memory.doomed, &planned, rules)?;
        self.controller.begin(&planned, self.seen.desired());
        if !rules.remembers_deletions {
            self.controller.memory.doomed.clear();
        }
        self.controller.end_if_done();
        Ok(())
    }

    fn write(&mut self, rules: &Rules, heard: bool) -> Result<(), String> {
        let (step, write) = self.controller.writes.remove(0);
        let done = self.perform(write, rules)?;
        if done && heard {
            self.controller.accepted.extend(accepted(write, &self.pending));
        } else {
            self.controller.refused(step, write);
        }
        self.controller.end_if_done();
        Ok(())
    }

    /// Does a write as the server would; false when it is refused.
    fn perform(&mut self, write: PlannedWrite, rules: &Rules) -> Result<bool, String> {
        match write {
            PlannedWrite::Check => return Ok(!self.real.set.deleting),
            PlannedWrite::Revision { template, number, is_new } => {
                if is_new && self.real.revisions[usize::from(template)] > 0 {
                    return Ok(false);
                }
                if self.real.revisions[usize::from(template)] != number {
                    self.happen(Event::Revision(template, number));
                }
            }
            PlannedWrite::Adopt(id) => {
                if self.real.pod(id.name).is_none_or(|pod| pod.id != id || pod.owner == Owner::Other) {
                    return Ok(false);
                }
                self.change_pod(id, |pod| pod.owner = Owner::Ours);
            }
            PlannedWrite::Delete { id, node, why } => {
                let Some(pod) = self.real.pod(id.name).copied().filter(|pod| pod.id == id) else { return Ok(true) };
                judge::deletion(&pod, why)?;
                if matches!(why, Why::Outdated | Why::Surged) && judge::takes_away(self, &pod) {
                    self.voluntary[usize::from(node)] = true;
                    judge::budget(self, rules)?;
                }
                self.delete(pod);
            }
            PlannedWrite::Create { node, name, template } => {
                let name = if rules.derived_names { name } else { self.fresh_name(name, rules) };
                if self.real.pod(name).is_some() {
                    return Ok(false);
                }
                judge::creation(self, node, template, rules)?;
                let pod = self.made(node, name, template);
                self.happen(Event::Pod(name, Some(pod)));
            }
        }
        Ok(true)
    }

    fn made(&self, node: u8, name: Name, template: u8) -> Pod {
        // Higher than any life of that name that something still speaks of.
        let seen = self.seen.pods.iter().copied();
        let shown = self.pending[PODS].iter().filter_map(|event| if let Event::Pod(_, pod) = event { *pod } else { None });
        let life = seen.chain(shown).map(|pod| pod.id).filter(|id| id.name == name).map(|id| id.life + 1).max().unwrap_or(0);
        let past = Past { made: true, proven: false };
        let id = Id { name, life };
        Pod { id, node, bound: false, template, phase: Phase::Starting, deleting: false, owner: Owner::Ours, aged: false, past }
    }

    fn fresh_name(&self, name: Name, rules: &Rules) -> Name {
        let base = rules.translator.text(name);
        let names = (0..).map(|number| rules.translator.name(&format!("{base}-{number}")));
        let taken = |name: &Name| self.real.pod(*name).is_some() || self.seen.pod(*name).is_some();
        names.into_iter().find(|name| !taken(name)).expect("numbers do not end")
    }

    /// Pods that are bound end when their node says so, others at once.
    fn delete(&mut self, pod: Pod) {
        if pod.deleting {
            return;
        }
        let after = pod.bound.then_some(Pod { deleting: true, ..pod });
        self.happen(Event::Pod(pod.id.name, after));
    }

    fn crash(&mut self) {
        self.faults -= 1;
        for stream in 0..STREAMS {
            for event in std::mem::take(&mut self.pending[stream]) {
                self.seen.apply(event);
            }
        }
        self.controller = Controller { due: true, ..Controller::default() };
    }

    fn wait(&mut self) {
        self.real.age();
        self.seen.age();
        for event in &mut self.pending[PODS] {
            if let Event::Pod(_, Some(pod)) = event {
                age(pod);
            }
        }
        for pause in &mut self.controller.memory.pauses {
            if *pause == Pause::Running {
                *pause = Pause::Over;
            }
        }
        self.controller.due |= std::mem::take(&mut self.controller.wakes);
    }

    fn change(&mut self, change: Change) {
        self.changes -= 1;
        match change {
            Change::Node(at, node) => self.change_node(at, node),
            Change::Template => self.happen(Event::Set(Set { template: 1 - self.real.set.template, ..self.real.set })),
            Change::DeleteSet => self.happen(Event::Set(Set { deleting: true, ..self.real.set })),
            Change::Unready(id) => self.take_away(id, |state| state.change_pod(id, |pod| pod.phase = Phase::Starting)),
            Change::Fail(id) => self.take_away(id, |state| state.change_pod(id, |pod| pod.phase = Phase::Failed)),
            Change::Delete(id) => {
                let pod = *self.real.pod(id.name).expect("changes are about pods that are there");
                self.take_away(id, |state| state.delete(pod));
            }
        }
    }

    /// The pods of a node that dies are not ready any more. What the controller takes away on a
    /// node that should not run a pod is no loss, nor is what it takes away on one that it cannot
    /// know to be such again.
    fn change_node(&mut self, at: u8, node: Option<Node>) {
        self.happen(Event::Node(at, node));
        if self.real.wants(at) {
            self.excused[usize::from(at)] = true;
        } else {
            self.voluntary[usize::from(at)] = false;
        }
        if node.is_some_and(|node| !node.ready) {
            let there = self.real.pods.iter().filter(|pod| pod.node == at && pod.bound);
            let ready: Vec<Id> = there.filter(|pod| matches!(pod.phase, Phase::Ready | Phase::Available)).map(|pod| pod.id).collect();
            for id in ready {
                self.take_away(id, |state| state.change_pod(id, |pod| pod.phase = Phase::Starting));
            }
        }
    }

    /// What the environment does to a pod that is ready is not the controller's doing, also if it
    /// does not know it yet.
    fn take_away(&mut self, id: Id, how: impl FnOnce(&mut CheckedState)) {
        let pod = *self.real.pod(id.name).expect("changes are about pods that are there");
        if matches!(pod.phase, Phase::Ready | Phase::Available) {
            self.excused[usize::from(pod.node)] = true;
            self.voluntary[usize::from(pod.node)] = false;
        }
        how(self);
    }

    fn note_shown(&mut self) {
        if self.pending[PODS].is_empty() && self.pending[NODES].is_empty() && !self.controller.busy {
            self.excused = Default::default();
        }
    }

    /// Pods that are available have proved themselves, and their nodes lack nothing.
    fn note_available(&mut self) {
        for pod in self.real.pods.iter_mut().filter(|pod| pod.phase == Phase::Available) {
            pod.past.proven = true;
            if pod.is_live() && pod.owner == Owner::Ours {
                self.voluntary[usize::from(pod.node)] = false;
            }
        }
    }
}
