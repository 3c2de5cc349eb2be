//! Priority and fairness: how many requests run at once, and who comes next when more come than
//! run.
//!
//! A request belongs to a *level* (nodes' leases, other nodes, accounts of kube-system, other
//! accounts, other users, anonymous) and in it to a *flow* (a user; of service accounts their
//! namespace, because a user who may make one account may make many). Each level has seats of its
//! own; a large body takes several. A flow gets no more than half of them, and when seats come
//! free, flows take turns. What waits has an end: so many of each flow, so long; then the answer is
//! 429 with `Retry-After`. After Kubernetes' API Priority and Fairness, with its suggested levels;
//! they cannot be configured.
//!
//! Bodies are read before a request takes its seat, so that a client that sends slowly holds none.
//! Their bytes are counted for each flow instead.

mod level;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use kinds::status::Status;

use crate::request::{Attributes, MASTERS, User, What};
use level::Level;
pub use level::Permit;

/// How long a request waits for its seat: what Kubernetes leaves of a request's minute.
const WAIT_MAX: Duration = Duration::from_secs(15);

/// What one flow may have in bodies that are read or worked on at once; never more than half of its
/// level's.
const BODY_MEBIBYTES_OF_A_FLOW_MAX: usize = 24;

/// A body takes another seat for so many bytes: decoding and checking it costs as much as a small
/// request.
const BYTES_OF_A_SEAT: usize = 64 * 1024;

const RETRY_SECONDS: u32 = 1;

/// What the requests of a level have to themselves, so that no number of users takes what nodes
/// need.
struct Room {
    name: &'static str,
    /// Kubernetes shares 600 out by the same order.
    seats: usize,
    /// Of bodies: 256 of all levels.
    body_mebibytes: usize,
    /// Requests that stay open (watches, followed logs, connections to pods): 60,000 of all levels.
    open: usize,
}

const LEVELS: [Room; 6] = [
    Room { name: "node-high", seats: 100, body_mebibytes: 32, open: 10_000 },
    Room { name: "system", seats: 100, body_mebibytes: 64, open: 25_000 },
    Room { name: "workload-high", seats: 80, body_mebibytes: 48, open: 5000 },
    Room { name: "workload-low", seats: 100, body_mebibytes: 48, open: 10_000 },
    Room { name: "global-default", seats: 60, body_mebibytes: 48, open: 8000 },
    Room { name: "catch-all", seats: 20, body_mebibytes: 16, open: 2000 },
];

/// Whose turn a request waits for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Flow {
    level: usize,
    name: String,
}

impl Flow {
    /// None for requests that are never held up: those of administrators, and of the server itself.
    pub fn of(attributes: &Attributes<'_>) -> Option<Flow> {
        let user = attributes.user;
        if user.is_in(MASTERS) {
            return None;
        }
        let level = level_of(user, &attributes.what);
        let name = match crate::auth::impersonate::service_account(&user.name) {
            Some((namespace, _)) => format!("system:serviceaccounts:{namespace}"),
            None => user.name.clone(),
        };
        Some(Flow { level, name })
    }
}

fn level_of(user: &User, what: &What<'_>) -> usize {
    let is_heartbeat = matches!(what, What::Resource { resource: "nodes" | "leases", .. });
    let level = if user.is_in("system:nodes") {
        if is_heartbeat { "node-high" } else { "system" }
    } else if user.is_in("system:serviceaccounts:kube-system") {
        "workload-high"
    } else if user.is_in("system:serviceaccounts") {
        "workload-low"
    } else if user.is_in("system:authenticated") {
        "global-default"
    } else {
        "catch-all"
    };
    LEVELS.iter().position(|room| room.name == level).expect("the table has every level")
}

/// The seats of all levels, and what their flows hold.
pub struct Fairness {
    levels: [Arc<Level>; LEVELS.len()],
    bodies: [Arc<Budget>; LEVELS.len()],
    open: [Arc<Budget>; LEVELS.len()],
}

impl Default for Fairness {
    fn default() -> Fairness {
        Fairness {
            levels: LEVELS.map(|room| Arc::new(Level::new(room.seats))),
            bodies: LEVELS.map(|room| {
                let of_a_flow = BODY_MEBIBYTES_OF_A_FLOW_MAX.min(room.body_mebibytes / 2);
                Arc::new(Budget::new(of_a_flow << 20, room.body_mebibytes << 20))
            }),
            open: LEVELS.map(|room| Arc::new(Budget::new(room.open / 2, room.open))),
        }
    }
}

impl Fairness {
    /// Waits for the seats of a request with a body of so many bytes.
    pub async fn seat(&self, flow: &Flow, body_bytes: usize) -> Result<Permit, Status> {
        let level = &self.levels[flow.level];
        level.acquire(&flow.name, 1 + body_bytes / BYTES_OF_A_SEAT, WAIT_MAX).await.ok_or_else(too_many)
    }

    /// Takes room for a body of at most so many bytes, until what this returns is dropped.
    pub fn body(&self, flow: &Flow, bytes: usize) -> Result<Share, Status> {
        Budget::take(&self.bodies[flow.level], &flow.name, bytes).ok_or_else(too_many)
    }

    /// Takes room for a request that stays open.
    pub fn open(&self, flow: &Flow) -> Result<Share, Status> {
        Budget::take(&self.open[flow.level], &flow.name, 1).ok_or_else(too_many)
    }

    /// Seats in use and requests that wait, for each level.
    pub fn figures(&self) -> impl Iterator<Item = (&'static str, usize, usize)> {
        LEVELS.iter().zip(&self.levels).map(|(room, level)| {
            let (in_use, waiting) = level.figures();
            (room.name, in_use, waiting)
        })
    }
}

#[cfg(test)]
impl Fairness {
    /// How many requests stay open just now.
    pub fn open_requests(&self) -> usize {
        self.open.iter().map(|level| level.held.lock().unwrap_or_else(PoisonError::into_inner).all).sum()
    }
}

fn too_many() -> Status {
    Status::too_many_requests("Too many requests, please try again later.", RETRY_SECONDS)
}

/// Something of which each flow of a level, and all together, hold so much at once.
struct Budget {
    of_a_flow: usize,
    of_all: usize,
    held: Mutex<Held>,
}

#[derive(Default)]
struct Held {
    all: usize,
    flows: HashMap<String, usize>,
}

impl Budget {
    fn new(of_a_flow: usize, of_all: usize) -> Budget {
        Budget { of_a_flow, of_all, held: Mutex::default() }
    }

    fn take(budget: &Arc<Budget>, flow: &str, amount: usize) -> Option<Share> {
        let mut held = budget.held.lock().unwrap_or_else(PoisonError::into_inner);
        let own = held.flows.get(flow).copied().unwrap_or(0);
        if own + amount > budget.of_a_flow || held.all + amount > budget.of_all {
            return None;
        }
        held.all += amount;
        *held.flows.entry(flow.to_owned()).or_default() += amount;
        Some(Share { budget: budget.clone(), flow: flow.to_owned(), amount })
    }
}

/// What a request holds of a budget; given back when it is dropped.
pub struct Share {
    budget: Arc<Budget>,
    flow: String,
    amount: usize,
}

impl Drop for Share {
    fn drop(&mut self) {
        let mut held = self.budget.held.lock().unwrap_or_else(PoisonError::into_inner);
        held.all -= self.amount;
        if let Some(own) = held.flows.get_mut(&self.flow) {
            *own -= self.amount;
            if *own == 0 {
                held.flows.remove(&self.flow);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flow(user: &User, resource: &str) -> Option<(&'static str, String)> {
        let what = What::Resource { group: "", version: "v1", resource, subresource: "", namespace: "", name: "", field_selector: "" };
        let flow = Flow::of(&Attributes { user, verb: "get", what })?;
        Some((LEVELS[flow.level].name, flow.name))
    }

    #[test]
    fn users_have_their_levels_and_accounts_share_the_flow_of_their_namespace() {
        let account = |namespace: &str, name: &str| {
            let groups = ["system:serviceaccounts", &format!("system:serviceaccounts:{namespace}"), "system:authenticated"];
            User::system(&format!("system:serviceaccount:{namespace}:{name}"), &groups)
        };
        let node = User::system("system:node:a", &["system:nodes", "system:authenticated"]);
        assert_eq!(flow(&node, "leases").unwrap().0, "node-high");
        assert_eq!(flow(&node, "pods").unwrap(), ("system", "system:node:a".to_owned()));
        assert_eq!(flow(&account("kube-system", "x"), "pods").unwrap().0, "workload-high");
        assert_eq!(flow(&account("dev", "a"), "pods"), flow(&account("dev", "b"), "pods"));
        assert_eq!(flow(&account("dev", "a"), "pods").unwrap().0, "workload-low");
        assert_eq!(flow(&User::system("ann", &["system:authenticated"]), "pods").unwrap().0, "global-default");
        assert_eq!(flow(&User::anonymous(), "pods").unwrap().0, "catch-all");
        assert_eq!(flow(&User::system("root", &[MASTERS]), "pods"), None);
    }

    #[test]
    fn a_flow_holds_its_part_of_a_budget_and_gives_it_back() {
        let budget = Arc::new(Budget::new(2, 3));
        let held = Budget::take(&budget, "a", 2).unwrap();
        assert!(Budget::take(&budget, "a", 1).is_none());
        let _other = Budget::take(&budget, "b", 1).unwrap();
        assert!(Budget::take(&budget, "c", 1).is_none());
        drop(held);
        assert!(Budget::take(&budget, "c", 2).is_some());
        assert_eq!(budget.held.lock().unwrap().flows.len(), 1);
    }

    /// What users hold together was what nodes lacked.
    #[test]
    fn users_together_take_nothing_from_nodes() {
        let fairness = Fairness::default();
        let flow =
            |level: &str, name: &str| Flow { level: LEVELS.iter().position(|room| room.name == level).unwrap(), name: name.to_owned() };
        let mut held = Vec::new();
        for user in 0..1000 {
            let user = flow("global-default", &format!("user-{user}"));
            held.extend(std::iter::from_fn(|| fairness.body(&user, 3 << 20).ok()));
            held.extend(std::iter::from_fn(|| fairness.open(&user).ok()));
        }
        assert!(fairness.body(&flow("global-default", "ann"), 3 << 20).is_err() && fairness.open(&flow("global-default", "ann")).is_err());
        for level in ["node-high", "system"] {
            let node = flow(level, "system:node:a");
            held.push(fairness.body(&node, 3 << 20).unwrap());
            held.push(fairness.open(&node).unwrap());
        }
        let sums = LEVELS.iter().fold((0, 0), |(bodies, open), room| (bodies + room.body_mebibytes, open + room.open));
        assert_eq!(sums, (256, 60_000));
    }
}
