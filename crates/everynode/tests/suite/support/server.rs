//! A server process on a data directory of its own. It can be killed, ended and started again; it
//! ends with the value.

use std::io::{BufRead as _, BufReader, Read as _};
use std::net::SocketAddr;
use std::process::{Child, ExitStatus, Stdio};

use rustix::process::{Pid, Signal, kill_process};

use super::{Client, Home, Kubectl, wait_for};

pub struct Server {
    pub home: Home,
    arguments: Vec<String>,
    /// None while it does not run.
    process: Option<Child>,
    address: SocketAddr,
}

impl Server {
    pub fn start(arguments: &[&str]) -> Server {
        let mut server = Server {
            home: Home::new(),
            arguments: arguments.iter().map(|&argument| argument.to_owned()).collect(),
            process: None,
            address: SocketAddr::from(([127, 0, 0, 1], 0)),
        };
        server.run();
        server
    }

    /// The API alone: nothing changes but what the test changes.
    pub fn api_alone() -> Server {
        Server::start(&["--controllers", "none", "--disable-admission-plugins", "ServiceAccount"])
    }

    /// Starts the process, on the data that is there.
    pub fn run(&mut self) {
        let arguments: Vec<&str> = self.arguments.iter().map(String::as_str).collect();
        let (process, address) = spawn_server(&self.home, &arguments).unwrap_or_else(|(_, stderr)| panic!("no server: {stderr}"));
        self.process = Some(process);
        self.address = address;
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// SIGKILL: the process gets no chance to do anything.
    pub fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.kill().expect("one's own child can be killed");
            process.wait().expect("one's own child can be waited for");
        }
    }

    /// SIGTERM, and how it ended.
    pub fn terminate(&mut self) -> ExitStatus {
        let mut process = self.process.take().expect("the server runs");
        let pid = Pid::from_child(&process);
        kill_process(pid, Signal::TERM).expect("one's own child can be told to end");
        wait_for("the end of the server", || process.try_wait().expect("one's own child can be waited for"))
    }

    /// Where the administrator's kubeconfig is.
    pub fn kubeconfig(&self) -> std::path::PathBuf {
        self.home.data_dir().join("admin.kubeconfig")
    }

    /// A client with the rights of a cluster administrator.
    pub fn admin(&self) -> Client {
        Client::from_kubeconfig(&self.kubeconfig())
    }

    /// A client without credentials.
    pub fn anonymous(&self) -> Client {
        self.admin().without_certificate()
    }

    pub fn kubectl(&self) -> Kubectl<'_> {
        Kubectl::new(&self.home, self.kubeconfig())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Starts a server and waits until it serves; or says how it ended and what it wrote to stderr.
pub fn spawn_server(home: &Home, arguments: &[&str]) -> Result<(Child, SocketAddr), (ExitStatus, String)> {
    let mut command = home.everynode(&["server", "--listen", "127.0.0.1:0", "--data-dir"]);
    // A file and not a pipe: the test does not read it while the server runs.
    let log_path = home.path("server.log");
    let log = std::fs::OpenOptions::new().create(true).append(true).open(&log_path).expect("the temporary folder can be written to");
    let said_before = log.metadata().map_or(0, |metadata| metadata.len());
    command.arg(home.data_dir()).args(arguments).stdout(Stdio::piped()).stderr(log);
    let mut process = command.spawn().expect("the program under test can be started");
    let mut line = String::new();
    let stdout = process.stdout.take().expect("the output was asked for");
    BufReader::new(stdout).read_line(&mut line).expect("the output can be read");
    match line.trim().strip_prefix("ready https://") {
        Some(address) => Ok((process, address.parse().expect("it says an address and a port"))),
        None => {
            let status = process.wait().expect("one's own child can be waited for");
            let mut said = Vec::new();
            let mut log = std::fs::File::open(&log_path).expect("the log is there");
            log.read_to_end(&mut said).expect("the log can be read");
            let new = said.split_off(usize::try_from(said_before).unwrap_or(0).min(said.len()));
            Err((status, String::from_utf8_lossy(&new).into_owned()))
        }
    }
}
