//! Pods and local nodes with real namespaces, links, rules and traffic.
//!
//! Each test makes its own world: a namespace that plays the node (or the host), others for pods
//! and for a client outside. Nothing in the namespace of the test process changes. Namespaces live
//! as long as files in this process do, so that nothing outlives a panic.

mod local;
mod pods;
mod rules;
mod sources;
mod world;

/// Says once that the kernel will not let us, and lets the tests pass.
fn may_run() -> bool {
    let allowed = nix::unistd::geteuid().is_root() && world::Namespace::try_new().is_ok();
    if !allowed {
        static SAID: std::sync::Once = std::sync::Once::new();
        SAID.call_once(|| println!("skipped: tests of the network need root and the right to make network namespaces"));
    }
    allowed
}
