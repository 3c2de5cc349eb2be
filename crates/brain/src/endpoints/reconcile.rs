//! From the slices that are there to the ones that should be, with few changes: what is right stays
//! where it is, gaps are filled before new slices are made, and what would be deleted is used for
//! what would be made.
//!
//! After `reconcileByAddressType` and `reconcileByPortMapping`, which leave to chance what is in
//! order here.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::model::{Endpoint, EndpointPort, EndpointSlice};

/// Endpoints of one slice (kube-controller-manager's `--max-endpoints-per-slice`).
pub const ENDPOINTS_MAX: usize = 100;

/// Slices of one kind of address.
#[derive(Debug, Default)]
pub struct Slices<'a> {
    /// What new slices hold.
    pub create: Vec<Content>,
    /// What these are to hold.
    pub update: Vec<(&'a EndpointSlice, Content)>,
    /// These hold what they should.
    pub keep: Vec<&'a EndpointSlice>,
    pub delete: Vec<&'a EndpointSlice>,
}

#[derive(Debug, Clone, PartialEq, Default)]
pub struct Content {
    pub ports: Vec<EndpointPort>,
    pub endpoints: Vec<Endpoint>,
}

/// What tells one endpoint from another (`hashEndpoint`); the rest of it may change.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Identity {
    addresses: Vec<Box<str>>,
    hostname: Option<Box<str>>,
    pod: Option<(Arc<str>, Arc<str>)>,
}

/// Plans from the Service's own slices (`owned`), others that carry its name (`foreign`), and the
/// endpoints that should be, each with its ports.
pub fn reconcile<'a>(
    owned: &[&'a EndpointSlice],
    foreign: &[&'a EndpointSlice],
    desired: Vec<(Vec<EndpointPort>, Endpoint)>,
) -> Slices<'a> {
    let mut groups: BTreeMap<Vec<EndpointPort>, Group<'a>> = BTreeMap::new();
    for slice in owned {
        groups.entry(sorted(&slice.ports)).or_default().existing.push(slice);
    }
    for (ports, endpoint) in desired {
        let group = groups.entry(sorted(&ports)).or_default();
        group.ports = Some(ports);
        if !endpoint.addresses.is_empty() {
            group.desired.insert(identity(&endpoint), endpoint);
        }
    }
    let mut slices = Slices { delete: foreign.to_vec(), ..Slices::default() };
    groups.into_values().for_each(|group| group.plan(&mut slices));
    slices.add_placeholder();
    slices.use_deleted(owned);
    slices
}

pub fn sorted(ports: &[EndpointPort]) -> Vec<EndpointPort> {
    let mut ports = ports.to_vec();
    ports.sort();
    ports
}

pub fn identity(endpoint: &Endpoint) -> Identity {
    let mut addresses = endpoint.addresses.clone();
    addresses.sort();
    let pod = endpoint.target_ref.as_ref().map(|target| (target.namespace.clone(), target.name.clone()));
    Identity { addresses, hostname: endpoint.hostname.clone(), pod }
}

/// What has the same ports.
#[derive(Debug, Default)]
struct Group<'a> {
    existing: Vec<&'a EndpointSlice>,
    /// None when no pod has these ports any more.
    ports: Option<Vec<EndpointPort>>,
    desired: BTreeMap<Identity, Endpoint>,
}

impl<'a> Group<'a> {
    fn plan(mut self, slices: &mut Slices<'a>) {
        let Some(ports) = self.ports.take() else {
            slices.delete.extend(self.existing);
            return;
        };
        let (mut changed, mut unchanged) = (Vec::new(), Vec::new());
        for slice in std::mem::take(&mut self.existing) {
            let left = self.take_from(slice);
            if left == slice.endpoints {
                unchanged.push(slice);
            } else if left.is_empty() {
                slices.delete.push(slice);
            } else {
                changed.push((slice, left));
            }
        }
        // The fullest first.
        changed.sort_by_key(|(_, endpoints)| std::cmp::Reverse(endpoints.len()));
        changed.iter_mut().for_each(|(_, endpoints)| self.fill(endpoints));
        while !self.desired.is_empty() {
            let mut endpoints = Vec::new();
            match self.roomiest_that_ends_full(&unchanged) {
                Some(at) => {
                    let slice = unchanged.remove(at);
                    endpoints.clone_from(&slice.endpoints);
                    self.fill(&mut endpoints);
                    changed.push((slice, endpoints));
                }
                None => {
                    self.fill(&mut endpoints);
                    slices.create.push(Content { ports: ports.clone(), endpoints });
                }
            }
        }
        let with_ports = |(slice, endpoints): (&'a EndpointSlice, _)| (slice, Content { ports: slice.ports.clone(), endpoints });
        slices.update.extend(changed.into_iter().map(with_ports));
        slices.keep.extend(unchanged);
    }

    /// The endpoints of a slice that are still wanted, as they are wanted now.
    fn take_from(&mut self, slice: &EndpointSlice) -> Vec<Endpoint> {
        slice.endpoints.iter().filter_map(|endpoint| self.desired.remove(&identity(endpoint))).collect()
    }

    fn fill(&mut self, endpoints: &mut Vec<Endpoint>) {
        while endpoints.len() < ENDPOINTS_MAX
            && let Some((_, endpoint)) = self.desired.pop_first()
        {
            endpoints.push(endpoint);
        }
    }

    /// The slice that takes all that is left and is fullest then (`getSliceToFill`).
    fn roomiest_that_ends_full(&self, slices: &[&EndpointSlice]) -> Option<usize> {
        let room = |slice: &EndpointSlice| ENDPOINTS_MAX.checked_sub(self.desired.len() + slice.endpoints.len());
        let fitting = slices.iter().enumerate().filter_map(|(at, slice)| Some((room(slice)?, at)));
        fitting.min().filter(|_| self.desired.len() < ENDPOINTS_MAX).map(|(_, at)| at)
    }
}

impl<'a> Slices<'a> {
    /// A Service without endpoints has one slice that says so.
    fn add_placeholder(&mut self) {
        if self.create.is_empty() && self.update.is_empty() && self.keep.is_empty() {
            self.create.push(Content::default());
        }
    }

    /// Changes slices that would be deleted into those that would be made.
    fn use_deleted(&mut self, owned: &[&'a EndpointSlice]) {
        let is_owned = |slice: &EndpointSlice| owned.iter().any(|own| own.meta.name == slice.meta.name);
        let (reusable, others): (Vec<_>, Vec<_>) = std::mem::take(&mut self.delete).into_iter().partition(|slice| is_owned(slice));
        self.delete = others;
        for slice in reusable {
            match self.create.pop() {
                Some(content) if content.ports == slice.ports && content.endpoints == slice.endpoints => self.keep.push(slice),
                Some(content) => self.update.push((slice, content)),
                None => self.delete.push(slice),
            }
        }
    }
}
