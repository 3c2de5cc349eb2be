//! The example of a node agent: says once in a while that it is there, and serves what it knows of
//! its node.
//!
//! `--interval SECONDS` between lines (10), `--port PORT` for /metrics and /healthz (9100),
//! `--message TEXT`. Ends on SIGTERM, as pid 1 must say so itself.

use std::net::TcpListener;
use std::time::Duration;

use nix::sys::signal::{SigSet, Signal};

use super::http;

pub fn run(arguments: &[String]) -> Result<(), String> {
    let options = Options::parse(arguments)?;
    // Before there are other threads: one of them waits for these signals.
    ending_signals().thread_block().map_err(|error| format!("cannot block signals: {error}"))?;
    let listener =
        TcpListener::bind(("0.0.0.0", options.port)).map_err(|error| format!("cannot listen on port {}: {error}", options.port))?;
    std::thread::spawn(move || http::serve(&listener, &answer));
    let (sender, ended) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let signal = ending_signals().wait().map_or_else(|error| error.to_string(), |signal| signal.as_str().to_owned());
        let _ = sender.send(signal);
    });
    let node = std::env::var("NODE_NAME").unwrap_or_else(|_| crate::roles::hostname());
    println!("agent started on {node}, metrics on port {}", options.port);
    let mut beats: u64 = 0;
    loop {
        match ended.recv_timeout(options.interval) {
            Ok(signal) => {
                println!("agent on {node} ends: {signal}");
                return Ok(());
            }
            Err(_) => {
                beats += 1;
                println!("{} node={node} beat={beats} {}", options.message, load());
            }
        }
    }
}

struct Options {
    interval: Duration,
    port: u16,
    message: String,
}

impl Options {
    fn parse(arguments: &[String]) -> Result<Options, String> {
        let mut options = Options { interval: Duration::from_secs(10), port: 9100, message: "alive".to_owned() };
        let mut rest = arguments.iter();
        while let Some(name) = rest.next() {
            let value = rest.next().ok_or_else(|| format!("{name} needs a value"))?;
            match name.as_str() {
                "--interval" => {
                    let seconds: u64 = value.parse().map_err(|_| format!("--interval {value:?} is no number of seconds"))?;
                    options.interval = Duration::from_secs(seconds.max(1));
                }
                "--port" => options.port = value.parse().map_err(|_| format!("--port {value:?} is no port"))?,
                "--message" => options.message = value.clone(),
                other => return Err(format!("{other} is not known; there are --interval, --port, --message")),
            }
        }
        Ok(options)
    }
}

fn ending_signals() -> SigSet {
    let mut set = SigSet::empty();
    set.add(Signal::SIGTERM);
    set.add(Signal::SIGINT);
    set
}

fn load() -> String {
    let text = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    format!("load={}", text.split_whitespace().next().unwrap_or("?"))
}

fn answer(path: &str) -> (u16, String) {
    match path {
        "/healthz" | "/readyz" => (200, "ok\n".to_owned()),
        "/metrics" => (200, metrics()),
        _ => (404, "there are /metrics and /healthz\n".to_owned()),
    }
}

/// A few figures of the node, under the names that node-exporter gave them.
fn metrics() -> String {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let mut out = String::new();
    let mut gauge = |name: &str, help: &str, value: String| {
        out.push_str(&format!("# HELP {name} {help}\n# TYPE {name} gauge\n{name} {value}\n"));
    };
    let load = read("/proc/loadavg");
    gauge("node_load1", "1m load average.", load.split_whitespace().next().unwrap_or("NaN").to_owned());
    let memory = read("/proc/meminfo");
    for (field, name) in [("MemTotal", "node_memory_MemTotal_bytes"), ("MemAvailable", "node_memory_MemAvailable_bytes")] {
        let line = memory.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
        let kib: u64 = line.and_then(|line| line.split_whitespace().next()?.parse().ok()).unwrap_or(0);
        gauge(name, &format!("Memory information field {field}_bytes."), (kib * 1024).to_string());
    }
    let uptime = read("/proc/uptime");
    gauge("node_uptime_seconds", "Seconds since the machine started.", uptime.split_whitespace().next().unwrap_or("NaN").to_owned());
    let name = std::env::var("NODE_NAME").unwrap_or_else(|_| crate::roles::hostname());
    out.push_str(&format!(
        "# HELP everynode_agent_info What runs here.\n# TYPE everynode_agent_info gauge\neverynode_agent_info{{node=\"{name}\",version=\"{}\"}} 1\n",
        env!("CARGO_PKG_VERSION")
    ));
    out
}
