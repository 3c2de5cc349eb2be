//! The sockets: questions over UDP and TCP, with limits.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use hickory_proto::op::ResponseCode;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::timeout;
use wire::Quota;

use super::message::{self, Received, Transport};
use super::resolver::{Local, Resolver};

/// Questions over UDP have one packet.
const REQUEST_BYTES_MAX: usize = 4096;
const THREADS_MAX: usize = 4;
/// Bursts wait in the kernel.
const RECEIVE_BUFFER_BYTES: usize = 4 << 20;
/// Connections at once, and those of one client; more are closed.
const CONNECTIONS_MAX: usize = 256;
const CONNECTIONS_PER_CLIENT_MAX: usize = 32;
const BACKLOG: i32 = 128;
/// Between questions on a connection, and for each part of one.
const IDLE_DEADLINE: Duration = Duration::from_secs(10);
/// Of a connection with all its questions: places are few.
const CONNECTION_DEADLINE: Duration = Duration::from_secs(30);
/// Questions of one connection.
const QUESTIONS_PER_CONNECTION_MAX: usize = 1000;
/// A failed accept is for want of files, say; the next one would fail, too.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// One socket for UDP on each core: the kernel gives each client's questions to one of them.
pub struct Sockets {
    udp: Vec<UdpSocket>,
    tcp: TcpListener,
}

impl Sockets {
    pub fn bind(address: SocketAddr) -> io::Result<Sockets> {
        let udp = (0..threads()).map(|_| udp(address)).collect::<io::Result<Vec<UdpSocket>>>()?;
        Ok(Sockets { udp, tcp: tcp(address)? })
    }

    pub fn serve(self, resolver: &Arc<Resolver>, shutdown: &watch::Receiver<bool>, tasks: &mut JoinSet<()>) {
        for socket in self.udp {
            tasks.spawn(serve_udp(Arc::new(socket), resolver.clone(), shutdown.clone()));
        }
        tasks.spawn(serve_tcp(self.tcp, resolver.clone(), shutdown.clone()));
    }
}

/// How many threads answer: those of a small node all, and of a large one some.
pub fn threads() -> usize {
    std::thread::available_parallelism().map_or(1, |cores| cores.get().min(THREADS_MAX))
}

fn udp(address: SocketAddr) -> io::Result<UdpSocket> {
    let udp = socket(address, Type::DGRAM, Protocol::UDP)?;
    udp.set_recv_buffer_size(RECEIVE_BUFFER_BYTES)?;
    udp.bind(&address.into())?;
    UdpSocket::from_std(udp.into())
}

pub fn tcp(address: SocketAddr) -> io::Result<TcpListener> {
    let tcp = socket(address, Type::STREAM, Protocol::TCP)?;
    tcp.set_reuse_address(true)?;
    tcp.bind(&address.into())?;
    tcp.listen(BACKLOG)?;
    TcpListener::from_std(tcp.into())
}

/// A socket whose address another process may have, too: while a new version takes the place of an
/// old one, both answer.
fn socket(address: SocketAddr, kind: Type, protocol: Protocol) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), kind, Some(protocol))?;
    socket.set_reuse_port(true)?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}

async fn serve_udp(socket: Arc<UdpSocket>, resolver: Arc<Resolver>, mut shutdown: watch::Receiver<bool>) {
    let mut buffer = vec![0; REQUEST_BYTES_MAX];
    loop {
        // A datagram that was received is answered at once; the other arm ends the loop.
        let received = tokio::select! {
            received = socket.recv_from(&mut buffer) => received,
            _ = shutdown.wait_for(|&stopping| stopping) => return,
        };
        // Errors are of earlier answers, whose client has gone.
        let Ok((length, client)) = received else { continue };
        let asked = match message::read(&buffer[..length]) {
            Received::Nothing => continue,
            Received::Refusal(reply) => {
                send(&socket, &reply, None, client);
                continue;
            }
            Received::Question(asked) => asked,
        };
        let room = message::room(&asked.request);
        match resolver.answer(client.ip(), &asked) {
            Local::Done(reply) => send(&socket, &reply, room, client),
            others_know => {
                let (socket, resolver) = (socket.clone(), resolver.clone());
                // As many as the resolver lets ask others; those above the limit end at once.
                tokio::spawn(async move {
                    let reply = resolver.finish(client.ip(), &asked, others_know).await;
                    send(&socket, &reply, room, client);
                });
            }
        }
    }
}

/// A client for whom there is no room in the kernel asks again.
fn send(socket: &UdpSocket, reply: &hickory_proto::op::Message, room: Option<u16>, client: SocketAddr) {
    if let Some(bytes) = message::write(reply, room, Transport::Udp) {
        let _ = socket.try_send_to(&bytes, client);
    }
}

async fn serve_tcp(listener: TcpListener, resolver: Arc<Resolver>, mut shutdown: watch::Receiver<bool>) {
    let quota = Quota::new(CONNECTIONS_MAX, CONNECTIONS_PER_CLIENT_MAX);
    loop {
        // Both arms only wait; an accepted connection is never lost, because the other arm ends the
        // loop.
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            _ = shutdown.wait_for(|&stopping| stopping) => return,
        };
        match accepted {
            Ok((stream, client)) => {
                // Dropping the stream closes it.
                let Some(place) = quota.take(client.ip()) else { continue };
                let resolver = resolver.clone();
                tokio::spawn(async move {
                    // A client that goes away or is slow is its own matter.
                    let _ = timeout(CONNECTION_DEADLINE, connection(stream, client, &resolver)).await;
                    drop(place);
                });
            }
            Err(_) => tokio::time::sleep(ACCEPT_PAUSE).await,
        }
    }
}

async fn connection(mut stream: TcpStream, client: SocketAddr, resolver: &Resolver) -> io::Result<()> {
    for _ in 0..QUESTIONS_PER_CONNECTION_MAX {
        let length = timeout(IDLE_DEADLINE, stream.read_u16()).await??;
        let mut bytes = vec![0; usize::from(length)];
        timeout(IDLE_DEADLINE, stream.read_exact(&mut bytes)).await??;
        let reply = match message::read(&bytes) {
            Received::Nothing => return Ok(()),
            Received::Refusal(reply) => reply,
            Received::Question(asked) => resolver.finish(client.ip(), &asked, resolver.answer(client.ip(), &asked)).await,
        };
        let written = message::write(&reply, None, Transport::Tcp);
        let bytes = written.or_else(|| message::refusal(&reply, ResponseCode::ServFail).to_vec().ok()).unwrap_or_default();
        let length = u16::try_from(bytes.len()).map_err(io::Error::other)?;
        timeout(IDLE_DEADLINE, stream.write_all(&[&length.to_be_bytes(), bytes.as_slice()].concat())).await??;
    }
    Ok(())
}
