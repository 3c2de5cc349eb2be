//! port-forward: connections to ports of a pod, any number of them within one of the client's.
//!
//! Over SPDY (plain or within a WebSocket), each forwarded connection has two streams with the same
//! `requestID`, one for data and one for what went wrong. Over a WebSocket with channels, each port
//! of the query has one connection and two channels that begin with its number.

use std::collections::HashMap;
use std::sync::Arc;

use brain::podsync::uid;
use futures::future::BoxFuture;
use http::{Request, Response};
use hyper::body::Incoming as RequestBody;
use tokio::io::AsyncWriteExt;
use tokio::task::JoinSet;
use tokio_tungstenite::tungstenite::protocol::Role;

use super::Shared;
use super::answer::{Body, Refusal};
use super::pods;
use super::route::Target;
use super::streams::query::Query;
use super::streams::spdy::{self, Incoming};
use super::streams::upgrade::{self, Transport};
use super::streams::websocket::{self, Dialect};
use super::streams::{Connection, Duplex, Inlet, Outlet, Reset, tunnel};
use ::runtime::port::{Reader, Runtime, Writer};

const SPDY_PROTOCOLS: [&str; 1] = ["portforward.k8s.io"];
const TUNNEL: &str = "SPDY/3.1+portforward.k8s.io";
const WEBSOCKET_PROTOCOLS: [&str; 3] = [TUNNEL, "v4.channel.k8s.io", "v4.base64.channel.k8s.io"];

/// Streams that wait for the other one of their pair.
const UNPAIRED_MAX: usize = 100;

/// Channels are numbered by a byte, two for each port.
const PORTS_MAX: usize = 100;

/// Where connections lead.
#[derive(Clone)]
struct Pod {
    runtime: Arc<dyn Runtime>,
    sandbox_id: String,
}

pub(crate) fn answer(shared: &Arc<Shared>, target: &Target, mut request: Request<RequestBody>) -> Result<Response<Body>, Refusal> {
    let found = pods::find(shared, target, "pod does not exist")?;
    let observed = shared.agent.context.observer.observed(uid(&found));
    let sandbox = observed.sandboxes.iter().find(|sandbox| sandbox.is_ready);
    let sandbox = sandbox.ok_or_else(|| Refusal::new(500, format!("sandbox of pod {:?} is not running", target.pod)))?;
    let pod = Pod { runtime: shared.agent.context.runtime.clone(), sandbox_id: sandbox.id.clone() };
    let (response, work): (_, BoxFuture<'static, Option<()>>) = match upgrade::transport(request.headers())? {
        Transport::Spdy => match upgrade::accept_spdy(request.headers(), &SPDY_PROTOCOLS) {
            Ok((_, response)) => {
                let work = async move {
                    over_spdy(pod, upgrade::upgraded(&mut request).await?).await;
                    Some(())
                };
                (response, Box::pin(work))
            }
            Err(response) => return Ok(*response),
        },
        Transport::WebSocket => {
            let (protocol, response) = upgrade::accept_websocket(request.headers(), &WEBSOCKET_PROTOCOLS)?;
            let ports = if protocol == TUNNEL { Vec::new() } else { ports(request.uri().query())? };
            let work = async move {
                let socket = websocket::socket(upgrade::upgraded(&mut request).await?, Role::Server).await;
                if protocol == TUNNEL {
                    let (stream, carrying) = tunnel::open(socket);
                    tokio::join!(carrying, over_spdy(pod, Box::new(stream)));
                } else {
                    over_channels(pod, socket, protocol.contains("base64"), &ports).await;
                }
                Some(())
            };
            (response, Box::pin(work))
        }
    };
    let mut shutdown = shared.shutdown.clone();
    tokio::spawn(async move {
        // Both arms may be dropped at any time: dropping the work closes its connections.
        tokio::select! {
            _ = work => {}
            _ = shutdown.wait_for(|&stopping| stopping) => {}
        }
    });
    Ok(response)
}

fn ports(query: Option<&str>) -> Result<Vec<u16>, Refusal> {
    let query = Query::parse(query);
    let texts: Vec<&str> = query.all("port").flat_map(|text| text.split(',')).filter(|text| !text.is_empty()).collect();
    if texts.is_empty() || texts.len() > PORTS_MAX {
        return Err(Refusal::bad_request("query parameter \"port\" is required"));
    }
    let parse = |text: &str| text.parse().ok().filter(|&port| port > 0).ok_or_else(|| Refusal::bad_request(format!("{text:?} is no port")));
    texts.into_iter().map(parse).collect()
}

/// One forwarded connection, as the client's side of it.
struct Forward {
    port: u16,
    inlet: Inlet,
    data: Outlet,
    error: Outlet,
}

async fn over_channels(pod: Pod, socket: websocket::Socket, base64: bool, ports: &[u16]) {
    let written: Vec<u8> = (0..ports.len()).filter_map(|at| u8::try_from(at * 2).ok()).collect();
    let (connection, inlets) = websocket::channels(socket, Dialect { base64, has_close_channel: false }, &written);
    let mut forwards = JoinSet::new();
    for ((&port, inlet), channel) in ports.iter().zip(inlets).zip(written) {
        let (data, error) = (connection.outlet(channel.into()), connection.outlet(u32::from(channel) + 1));
        for outlet in [&data, &error] {
            let _ = outlet.send(port.to_le_bytes().to_vec()).await;
        }
        forwards.spawn(forward(pod.clone(), Forward { port, inlet, data, error }));
    }
    let gone = connection.gone();
    // Dropping the set ends what is under way.
    tokio::select! {
        () = async { while forwards.join_next().await.is_some() {} } => {}
        () = gone => return,
    }
    connection.close().await;
}

async fn over_spdy(pod: Pod, io: Box<dyn Duplex>) {
    let (connection, mut incoming) = spdy::serve(io);
    let mut unpaired: HashMap<String, Incoming> = HashMap::new();
    let mut forwards = JoinSet::new();
    loop {
        // Both arms are cancel-safe: a stream or a finished task that is not taken stays where it
        // is.
        let stream = tokio::select! {
            stream = incoming.recv() => stream,
            Some(_) = forwards.join_next() => continue,
        };
        // The client is gone: dropping the set ends what is under way.
        let Some(stream) = stream else { return };
        let Some(id) = stream.headers.get("requestid").cloned() else { continue };
        let Some(other) = unpaired.remove(&id) else {
            if unpaired.len() < UNPAIRED_MAX {
                unpaired.insert(id, stream);
            }
            continue;
        };
        if let Some(pair) = paired(&connection, stream, other) {
            forwards.spawn(forward(pod.clone(), pair));
        }
    }
}

/// Two streams that belong together; None unless one is for data and one for errors.
fn paired(connection: &Connection, one: Incoming, other: Incoming) -> Option<Forward> {
    let kind = |stream: &Incoming| stream.headers.get("streamtype").cloned().unwrap_or_default();
    let (data, error) = match (kind(&one).as_str(), kind(&other).as_str()) {
        ("data", "error") => (one, other),
        ("error", "data") => (other, one),
        _ => return None,
    };
    let port = data.headers.get("port")?.parse().ok()?;
    Some(Forward { port, data: connection.outlet(data.stream), error: connection.outlet(error.stream), inlet: data.inlet })
}

async fn forward(pod: Pod, forward: Forward) {
    let Forward { port, inlet, data, error } = forward;
    match pod.runtime.port_forward(&pod.sandbox_id, port).await {
        Ok((reader, writer)) => exchange(inlet, data, reader, writer).await,
        Err(why) => {
            let _ = error.send(format!("error forwarding port {port} to pod {}, uid : {why}", pod.sandbox_id)).await;
            let _ = data.end().await;
        }
    }
    let _ = error.end().await;
}

/// Ends when the pod has closed its side, or the client gave the stream up.
async fn exchange(inlet: Inlet, data: Outlet, reader: Reader, writer: Writer) {
    // Both arms may be dropped at any time: whichever ends first ends the connection.
    tokio::select! {
        _ = data.copy_from(reader) => {}
        Reset = take(inlet, writer) => {}
    }
}

/// Hands the client's bytes to the pod. The end of one half leaves the other open, for the pod's
/// answer; a reset ends both.
async fn take(mut inlet: Inlet, mut writer: Writer) -> Reset {
    while let Some(piece) = inlet.recv().await {
        match piece {
            Ok(bytes) if writer.write_all(&bytes).await.is_ok() && writer.flush().await.is_ok() => {}
            // The pod takes no more.
            Ok(_) => break,
            Err(reset) => return reset,
        }
    }
    let _ = writer.shutdown().await;
    // A reset may still come.
    while let Some(piece) = inlet.recv().await {
        if let Err(reset) = piece {
            return reset;
        }
    }
    std::future::pending().await
}
