//! What tests are made of: namespaces, sockets in them, and servers that say which client they see.

use std::fs::File;
use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsRawFd;
use std::path::PathBuf;
use std::time::Duration;

use ipnet::Ipv4Net;
use net::netlink::{Address, Attributes, DeviceSettings, Family, Link, Message, Route, RouteSocket, Socket, Veth};
use net::nftables::{self, TableContent};
use nix::sched::{CloneFlags, unshare};

/// Traffic inside one machine arrives in microseconds; what takes this long was dropped.
const TRAFFIC_TIMEOUT: Duration = Duration::from_secs(2);
pub const CALM: DeviceSettings = DeviceSettings {
    controller: None,
    route_localnet: None,
    send_redirects: None,
    is_untrusted: false,
    has_loose_sources: false,
    mtu: None,
};

/// Hooks of the kernel.
pub const INPUT: u32 = 1;
pub const FORWARD: u32 = 2;

/// A network namespace, gone with this value (and the sockets in it).
pub struct Namespace {
    file: File,
}

impl Namespace {
    pub fn try_new() -> io::Result<Self> {
        let thread = std::thread::spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET)?;
            net::namespace::current()
        });
        Ok(Self { file: thread.join().expect("the thread does not panic")? })
    }

    pub fn new() -> Self {
        let namespace = Self::try_new().expect("a namespace can be made");
        let mut route = namespace.route();
        let loopback = route.link("lo").expect("links can be read").expect("a namespace has lo");
        route.set_up(loopback.index, &CALM).expect("lo comes up");
        namespace
    }

    pub fn path(&self) -> PathBuf {
        format!("/proc/{}/fd/{}", std::process::id(), self.file.as_raw_fd()).into()
    }

    pub fn file(&self) -> &File {
        &self.file
    }

    pub fn inside<T: Send>(&self, work: impl FnOnce() -> io::Result<T> + Send) -> io::Result<T> {
        net::namespace::inside(&self.file, work)
    }

    pub fn route(&self) -> RouteSocket {
        RouteSocket::open_in(&self.file).expect("a socket can be opened")
    }

    pub fn netfilter(&self) -> Socket {
        Socket::open_in(&self.file, Family::Netfilter).expect("a socket can be opened")
    }

    pub fn links(&self) -> Vec<Link> {
        self.route().links().expect("links can be read")
    }

    pub fn table(&self, name: &str) -> TableContent {
        nftables::table_content(&mut self.netfilter(), name).expect("rules can be read")
    }

    /// A cable: `outside` here with `here`, `eth0` there with `there`, which sends everything here
    /// if `default`.
    pub fn cable(&self, outside: &str, here: &str, other: &Namespace, there: &str, default: bool) {
        let (here, there): (Ipv4Net, Ipv4Net) = (here.parse().expect("an address"), there.parse().expect("an address"));
        let (mut route, mut inside) = (self.route(), other.route());
        let veth = Veth { outside, inside: "eth0", mtu: 1500, controller: None, hardware_address: None };
        let pair = route.ensure_veth(other.file(), &mut inside, &veth).expect("a cable can be made");
        route.set_up(pair.outside, &CALM).expect("this end comes up");
        inside.set_up(pair.inside, &CALM).expect("that end comes up");
        route.add_address(&Address { link: pair.outside, address: here, link_only: false }).expect("this end has an address");
        inside.add_address(&Address { link: pair.inside, address: there, link_only: false }).expect("that end has an address");
        if default {
            let anywhere = Ipv4Net::new_assert(Ipv4Addr::UNSPECIFIED, 0);
            inside.replace_route(&Route::via(anywhere, here.addr(), pair.inside)).expect("a default route");
        }
    }

    /// TCP and UDP servers on all addresses that answer the name and the client that they see.
    pub fn serve(&self, port: u16, name: &'static str) {
        let opened = self.inside(|| {
            let any = SocketAddr::from((Ipv4Addr::UNSPECIFIED, port));
            Ok((TcpListener::bind(any)?, UdpSocket::bind(any)?))
        });
        let (tcp, udp) = opened.expect("servers can be opened");
        // They end with the test process; each holds no more than its socket.
        std::thread::spawn(move || {
            for mut stream in tcp.incoming().flatten() {
                let seen = stream.peer_addr().map(|peer| peer.ip().to_string()).unwrap_or_default();
                let _ = write!(stream, "{name} sees {seen}");
            }
        });
        std::thread::spawn(move || {
            let mut buffer = [0; 64];
            while let Ok((_, peer)) = udp.recv_from(&mut buffer) {
                let _ = udp.send_to(format!("{name} sees {}", peer.ip()).as_bytes(), peer);
            }
        });
    }

    /// The TCP answer.
    pub fn tcp(&self, address: impl Into<IpAddr>, port: u16) -> String {
        let target = SocketAddr::from((address.into(), port));
        let answer = self.inside(|| {
            let mut stream = TcpStream::connect_timeout(&target, TRAFFIC_TIMEOUT)?;
            stream.set_read_timeout(Some(TRAFFIC_TIMEOUT))?;
            let mut text = String::new();
            stream.read_to_string(&mut text)?;
            Ok(text)
        });
        answer.unwrap_or_else(|error| format!("error {:?}", error.kind()))
    }

    /// The UDP answer, on a connected socket: one from another address than was asked is not heard.
    pub fn udp(&self, address: impl Into<IpAddr>, port: u16) -> String {
        let target = SocketAddr::from((address.into(), port));
        let socket = self.udp_client();
        ask(&socket, target)
    }

    pub fn udp_client(&self) -> UdpSocket {
        self.inside(|| UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))).expect("a socket can be opened")
    }

    /// Both answers, which must be the same.
    pub fn ask(&self, address: &str, port: u16) -> String {
        let address: IpAddr = address.parse().expect("an address");
        let (tcp, udp) = (self.tcp(address, port), self.udp(address, port));
        if tcp == udp { tcp } else { format!("tcp {tcp}, udp {udp}") }
    }
}

pub fn ask(socket: &UdpSocket, target: SocketAddr) -> String {
    let answer = (|| {
        socket.connect(target)?;
        socket.set_read_timeout(Some(TRAFFIC_TIMEOUT))?;
        socket.send(b"?")?;
        let mut buffer = [0; 64];
        let length = socket.recv(&mut buffer)?;
        io::Result::Ok(String::from_utf8_lossy(&buffer[..length]).into_owned())
    })();
    answer.unwrap_or_else(|error| format!("error {:?}", error.kind()))
}

/// A chain that drops what no rule accepts. By hand: our own rules have no policies.
pub fn dropping_chain(node: &Namespace, name: &str, hook: u32) {
    let message = |kind: u16, flags: i32, header: [u8; 4], attributes: Attributes| {
        let payload = [&header, attributes.as_bytes()].concat();
        Message { kind, flags: u16::try_from(flags).expect("flags are 16 bits"), payload }
    };
    let (create, ask) = (libc::NLM_F_CREATE, libc::NLM_F_ACK);
    let table = Attributes::new().text(1, "theirs").network_u32(2, 0);
    let hook = Attributes::new().network_u32(1, hook).network_u32(2, 0);
    let chain = Attributes::new().text(1, "theirs").text(3, name).nested(4, hook).network_u32(5, 0).text(7, "filter");
    let batch = vec![
        message(0x10, 0, [0, 0, 0, 10], Attributes::new()),
        message(10 << 8, create, [2, 0, 0, 0], table),
        message(10 << 8 | 3, create | ask, [2, 0, 0, 0], chain),
        message(0x11, 0, [0, 0, 0, 10], Attributes::new()),
    ];
    node.netfilter().execute("make a foreign chain", batch).expect("a foreign chain");
}

/// Runs async work to its end.
pub fn wait<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().build().expect("a runtime can be made").block_on(work)
}
