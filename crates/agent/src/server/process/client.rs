//! The client's side of a process: its standard streams, its terminal's sizes, the channel for how
//! it ended.

use std::time::Duration;

use containers::StreamRequest;
use futures::future::BoxFuture;
use http::{Request, Response};
use hyper::body::Incoming as RequestBody;
use tokio::sync::mpsc;
use tokio_tungstenite::tungstenite::protocol::Role;

use super::outcome::Form;
use crate::server::answer::{Body, Refusal};
use crate::server::streams::spdy::{self, Incoming};
use crate::server::streams::upgrade::{self, Transport};
use crate::server::streams::websocket::{self, Dialect};
use crate::server::streams::{Connection, Duplex, Inlet, Outlet};

/// The best first. The oldest three differ in nothing that matters here but in how they report the
/// end and in the sizes of terminals.
const SPDY_PROTOCOLS: [&str; 4] = ["v4.channel.k8s.io", "v3.channel.k8s.io", "v2.channel.k8s.io", "channel.k8s.io"];
const WEBSOCKET_PROTOCOLS: [&str; 5] =
    ["v5.channel.k8s.io", "v4.channel.k8s.io", "v4.base64.channel.k8s.io", "channel.k8s.io", "base64.channel.k8s.io"];

/// A SPDY client opens its streams one by one; all must be there within this time.
const STREAMS_TIMEOUT: Duration = Duration::from_secs(30);

/// Channels of a WebSocket.
const STDIN: u8 = 0;
const STDOUT: u32 = 1;
const STDERR: u32 = 2;
const ERROR: u32 = 3;
const RESIZE: u8 = 4;

pub struct Client {
    pub connection: Connection,
    pub stdin: Option<Inlet>,
    pub stdout: Option<Outlet>,
    pub stderr: Option<Outlet>,
    pub error: Option<Outlet>,
    pub resize: Option<Inlet>,
    pub form: Form,
}

/// The client, once the answer is sent; None when it went away or did not open its streams.
type Coming = BoxFuture<'static, Option<Client>>;

/// The answer that accepts the client's protocol.
pub fn accept(mut request: Request<RequestBody>, wanted: &StreamRequest) -> Result<(Response<Body>, Coming), Refusal> {
    let wanted = wanted.clone();
    match upgrade::transport(request.headers())? {
        Transport::WebSocket => {
            let (protocol, response) = upgrade::accept_websocket(request.headers(), &WEBSOCKET_PROTOCOLS)?;
            let client = async move { Some(over_websocket(upgrade::upgraded(&mut request).await?, protocol, &wanted).await) };
            Ok((response, Box::pin(client)))
        }
        Transport::Spdy => match upgrade::accept_spdy(request.headers(), &SPDY_PROTOCOLS) {
            Ok((protocol, response)) => {
                let client = async move { over_spdy(upgrade::upgraded(&mut request).await?, protocol, &wanted).await };
                Ok((response, Box::pin(client)))
            }
            Err(response) => Ok((*response, Box::pin(std::future::ready(None)))),
        },
    }
}

async fn over_websocket(io: Box<dyn Duplex>, protocol: &str, wanted: &StreamRequest) -> Client {
    let dialect = Dialect { base64: protocol.contains("base64"), has_close_channel: protocol.starts_with("v5") };
    let socket = websocket::socket(io, Role::Server).await;
    let (connection, inlets) = websocket::channels(socket, dialect, &[STDIN, RESIZE]);
    let [stdin, resize] = <[Inlet; 2]>::try_from(inlets).expect("there are as many inlets as channels were asked for");
    // An empty message tells that the channels are there.
    let first = if wanted.stdout {
        STDOUT
    } else if wanted.stderr {
        STDERR
    } else {
        ERROR
    };
    let _ = connection.outlet(first).send("").await;
    Client {
        stdin: wanted.stdin.then_some(stdin),
        stdout: wanted.stdout.then(|| connection.outlet(STDOUT)),
        stderr: wanted.stderr.then(|| connection.outlet(STDERR)),
        error: Some(connection.outlet(ERROR)),
        resize: wanted.tty.then_some(resize),
        form: if protocol.starts_with('v') { Form::Status } else { Form::Text },
        connection,
    }
}

async fn over_spdy(io: Box<dyn Duplex>, protocol: &str, wanted: &StreamRequest) -> Option<Client> {
    let (connection, incoming) = spdy::serve(io);
    let has_sizes = wanted.tty && matches!(protocol, "v4.channel.k8s.io" | "v3.channel.k8s.io");
    let expected = 1 + [wanted.stdin, wanted.stdout, wanted.stderr, has_sizes].into_iter().filter(|&is| is).count();
    let streams = tokio::time::timeout(STREAMS_TIMEOUT, collect(incoming, expected)).await.ok()??;
    let form = if protocol == "v4.channel.k8s.io" { Form::Status } else { Form::Text };
    let mut client = Client { connection, stdin: None, stdout: None, stderr: None, error: None, resize: None, form };
    for stream in streams {
        let outlet = client.connection.outlet(stream.stream);
        match stream.headers.get("streamtype").map(String::as_str) {
            Some("stdin") => client.stdin = Some(stream.inlet),
            Some("stdout") => client.stdout = Some(outlet),
            Some("stderr") => client.stderr = Some(outlet),
            Some("error") => client.error = Some(outlet),
            Some("resize") => client.resize = Some(stream.inlet),
            _ => return None,
        }
    }
    Some(client)
}

async fn collect(mut incoming: mpsc::Receiver<Incoming>, expected: usize) -> Option<Vec<Incoming>> {
    let mut streams = Vec::with_capacity(expected);
    while streams.len() < expected {
        streams.push(incoming.recv().await?);
    }
    Some(streams)
}
