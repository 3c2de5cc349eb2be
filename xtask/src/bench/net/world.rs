//! Network namespaces that a measurement makes. Nothing outside of them changes, and they are gone
//! with the process, however it ends.

use std::fs::File;
use std::io;
use std::net::Ipv4Addr;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use ipnet::Ipv4Net;
use net::netlink::{Address, DeviceSettings, Family, Route, RouteSocket, Socket, Veth};
use nix::sched::{CloneFlags, unshare};
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeValLike as _;

const MTU: u32 = 1500;

pub struct Namespace {
    file: File,
}

impl Namespace {
    pub fn new() -> anyhow::Result<Namespace> {
        let thread = std::thread::spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET)?;
            net::namespace::current()
        });
        let file = thread.join().expect("the thread does not panic").context("cannot make a network namespace (are you root?)")?;
        let namespace = Namespace { file };
        let mut route = namespace.route()?;
        let loopback = route.link("lo")?.context("a new namespace has no lo")?;
        route.set_up(loopback.index, &DeviceSettings::default())?;
        Ok(namespace)
    }

    /// Of a process that is there already.
    pub fn of_process(pid: u32) -> anyhow::Result<Namespace> {
        let file = net::namespace::of_process(pid).with_context(|| format!("cannot open the network of process {pid}"))?;
        Ok(Namespace { file })
    }

    pub fn try_clone(&self) -> io::Result<Namespace> {
        Ok(Namespace { file: self.file.try_clone()? })
    }

    pub fn inside<T: Send>(&self, work: impl FnOnce() -> io::Result<T> + Send) -> io::Result<T> {
        net::namespace::inside(&self.file, work)
    }

    pub fn netfilter(&self) -> anyhow::Result<Socket> {
        Socket::open_in(&self.file, Family::Netfilter).context("cannot open a socket for rules")
    }

    fn route(&self) -> anyhow::Result<RouteSocket> {
        RouteSocket::open_in(&self.file).context("cannot open a socket for links")
    }

    /// A pair of links, `outside` here and `eth0` there, by which the other one reaches everything.
    pub fn cable(&self, outside: &str, here: &str, other: &Namespace, there: &str) -> anyhow::Result<()> {
        self.cable_of(MTU, outside, here, other, there)
    }

    /// The same, for packets of at most so many bytes.
    pub fn cable_of(&self, mtu: u32, outside: &str, here: &str, other: &Namespace, there: &str) -> anyhow::Result<()> {
        let (here, there): (Ipv4Net, Ipv4Net) = (here.parse()?, there.parse()?);
        let (mut route, mut inside) = (self.route()?, other.route()?);
        let veth = Veth { outside, inside: "eth0", mtu, controller: None, hardware_address: None };
        let pair = route.ensure_veth(&other.file, &mut inside, &veth)?;
        route.set_up(pair.outside, &DeviceSettings::default())?;
        inside.set_up(pair.inside, &DeviceSettings::default())?;
        route.add_address(&Address { link: pair.outside, address: here, link_only: false })?;
        inside.add_address(&Address { link: pair.inside, address: there, link_only: false })?;
        let anywhere = Ipv4Net::new_assert(Ipv4Addr::UNSPECIFIED, 0);
        inside.replace_route(&Route::via(anywhere, here.addr(), pair.inside))?;
        Ok(())
    }

    /// Runs a program here with this as its input, to its end.
    pub fn run(&self, program: &str, arguments: &[&str], input: &str) -> anyhow::Result<Run> {
        let used = |who| -> anyhow::Result<Duration> {
            let time = getrusage(who).context("cannot read what was used")?.system_time();
            Ok(Duration::from_micros(u64::try_from(time.num_microseconds())?))
        };
        let (before, began) = (used(UsageWho::RUSAGE_CHILDREN)?, Instant::now());
        let output = self.inside(|| {
            let mut command = Command::new(program);
            let mut child = command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn()?;
            let mut stdin = child.stdin.take().expect("it was asked for");
            io::Write::write_all(&mut stdin, input.as_bytes())?;
            drop(stdin);
            child.wait_with_output()
        });
        let output = output.with_context(|| format!("cannot run {program}"))?;
        let run = Run { elapsed: began.elapsed(), in_kernel: used(UsageWho::RUSAGE_CHILDREN)? - before };
        if !output.status.success() {
            let text = String::from_utf8_lossy(&output.stderr);
            bail!("{program} {arguments:?} failed: {}", text.lines().next().unwrap_or_default());
        }
        Ok(run)
    }
}

/// What a program took.
#[derive(Debug, Clone, Copy)]
pub struct Run {
    pub elapsed: Duration,
    /// CPU time in the kernel.
    pub in_kernel: Duration,
}
