//! `cargo xtask bench net`: addresses and names of Services. [`rules`]: writing and changing the
//! kernel's rules; [`traffic`]: packets through them; [`peers`]: ways to pods of other nodes;
//! [`names`]: questions to node-dns; [`reach`]: from Ready to reached. Beside each, what others do
//! the same with on this machine, in the same run, where there is something.

mod cluster;
mod names;
mod peers;
mod proxy_rules;
mod reach;
mod rules;
mod traffic;
mod world;

use std::collections::BTreeMap;

use anyhow::bail;
use clap::{Args, ValueEnum};
use containers::{ServicePort, ServicePortName};

use super::process;

type Ports = BTreeMap<ServicePortName, ServicePort>;

#[derive(Args)]
pub struct Net {
    /// Services, each with two endpoints.
    #[arg(long, default_value_t = 10_000)]
    services: usize,

    /// One part only.
    #[arg(long)]
    only: Option<Part>,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Part {
    Rules,
    Traffic,
    Peers,
    Names,
    Reach,
    /// The server that is measured, alone; the measurement starts it.
    #[value(hide = true)]
    NamesServer,
}

impl Net {
    pub fn run(self) -> anyhow::Result<()> {
        if !(1..=cluster::SERVICES_MAX).contains(&self.services) {
            bail!("there is room for 1 to {} Services", cluster::SERVICES_MAX);
        }
        if self.only == Some(Part::NamesServer) {
            return names::serve(self.services);
        }
        let wants = |part| self.only.is_none_or(|only| only == part);
        let has_nft = process::find("nft").is_some();
        if wants(Part::Rules) {
            rules::measure(self.services, has_nft)?;
        }
        if wants(Part::Traffic) {
            traffic::measure(self.services, has_nft)?;
        }
        if wants(Part::Peers) {
            peers::measure()?;
        }
        if wants(Part::Names) {
            names::measure(self.services)?;
        }
        if wants(Part::Reach) {
            reach::measure()?;
        }
        Ok(())
    }
}
