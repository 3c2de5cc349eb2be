//! What all tests need: a server of their own, a small HTTP client, kubectl, and waiting.

mod client;
pub mod cluster;
pub mod containerd;
mod fleet;
mod home;
mod image;
mod kubectl;
mod server;

use std::time::{Duration, Instant};

pub use client::{Answer, Client};
pub use cluster::Cluster;
pub use containerd::CriNode;
pub use fleet::Fleet;
pub use home::Home;
pub use image::{Image, digest};
pub use kubectl::{Kubectl, kubectl_or_skip};
pub use server::{Server, spawn_server};

/// Far more than anything takes: a machine that is busy must not fail a test.
pub const DEADLINE: Duration = Duration::from_secs(60);
const POLL_PERIOD: Duration = Duration::from_millis(25);

/// Tries until there is something; `what` is what the failure says was missing.
pub fn wait_for<T>(what: &str, mut attempt: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + DEADLINE;
    loop {
        if let Some(found) = attempt() {
            return found;
        }
        assert!(Instant::now() < deadline, "waited {} s in vain for: {what}", DEADLINE.as_secs());
        std::thread::sleep(POLL_PERIOD);
    }
}
