//! The network of a node's pods, and of nodes that are network namespaces on one host.
//!
//! [`pods`] gives each pod an address, a link and its host ports. [`peers`] connects them with the
//! pods of nodes on other machines. [`services`] sends what goes to
//! addresses of Services to their endpoints. [`local`] connects the nodes of a
//! local cluster with a bridge. All talk to the kernel over netlink only: [`netlink`] for links,
//! addresses, routes and tracked connections, [`nftables`] for rules. No other program is run, and
//! nothing here knows about Kubernetes objects or container runtimes.
//!
//! IPv4 is what works today. Addresses are [`std::net::IpAddr`] wherever callers see them, so that
//! IPv6 can be added without a change on their side.

pub mod pods;

pub mod peers;

pub mod services;

pub mod local;

pub mod namespace;

pub mod nftables;

pub mod netlink;

mod mtu;

mod names;

mod obstacles;
