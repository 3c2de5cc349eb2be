//! `cargo xtask sim`: the deterministic cluster, over many seeds or one.

use std::time::Instant;

use anyhow::bail;
use clap::Args;

#[derive(Args)]
pub struct Sim {
    /// How many seeds to run.
    #[arg(long, default_value_t = 200)]
    seeds: u64,

    /// The first seed.
    #[arg(long, default_value_t = 0)]
    first: u64,

    /// Only this one.
    #[arg(long, conflicts_with_all = ["seeds", "first"])]
    seed: Option<u64>,

    /// Print everything that happened.
    #[arg(long)]
    trace: bool,
}

impl Sim {
    pub fn run(self) -> anyhow::Result<()> {
        let seeds = match self.seed {
            Some(seed) => seed..seed + 1,
            None => self.first..self.first + self.seeds,
        };
        let begun = Instant::now();
        let mut total = sim::Report::default();
        let mut failures = 0;
        for seed in seeds.clone() {
            match sim::run(seed, self.trace) {
                Ok(report) => {
                    report.trace.iter().for_each(|line| println!("{line}"));
                    total.writes += report.writes;
                    total.plans += report.plans;
                    total.crashes += report.crashes;
                    total.lost_requests += report.lost_requests;
                    total.lost_replies += report.lost_replies;
                    total.cut_watches += report.cut_watches;
                }
                Err(failure) => {
                    failure.report.trace.iter().for_each(|line| println!("{line}"));
                    eprintln!("{failure}");
                    failures += 1;
                }
            }
        }
        let sim::Report { writes, plans, crashes, lost_requests, lost_replies, cut_watches, .. } = total;
        println!(
            "{} seeds in {:.1} s: {writes} writes, {plans} plans, {crashes} crashes, {lost_requests} requests and {lost_replies} replies lost, \
             {cut_watches} watches cut; {failures} failures",
            seeds.end - seeds.start,
            begun.elapsed().as_secs_f64()
        );
        if failures == 0 { Ok(()) } else { bail!("{failures} seeds failed") }
    }
}
