//! Clients of an API server that notice when the network between has gone: what kube's own client
//! leaves to the kernel takes minutes.

use std::time::Duration;

use anyhow::Context;
use hyper_timeout::TimeoutConnector;
use hyper_util::client::legacy::Client as HttpClient;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use kube::client::retry::RetryPolicy;
use kube::client::{Body, ConfigExt as _};
use tower::retry::RetryLayer;
use tower::{BoxError, ServiceBuilder};

/// How long a server may take to accept a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// A connection on which nothing comes is asked after this time whether its other end is still
/// there, and then as often.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(15);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(5);

/// What was sent and is not acknowledged for so long, questions included, is the end of a
/// connection: the next one may get through, while this one's repetitions come at growing
/// distances. (Kubernetes' clients ask after 30 s of silence, and wait 15 s.)
const SILENCE_MAX: Duration = Duration::from_secs(30);

pub fn client(config: kube::Config) -> anyhow::Result<kube::Client> {
    // Says which way of going through a proxy is not built in.
    if config.proxy_url.is_some() {
        return kube::Client::try_from(config).context("cannot make a client");
    }
    let mut connector = HttpConnector::new();
    connector.enforce_http(false);
    connector.set_nodelay(true);
    connector.set_connect_timeout(Some(CONNECT_TIMEOUT));
    connector.set_keepalive(Some(KEEPALIVE_IDLE));
    connector.set_keepalive_interval(Some(KEEPALIVE_INTERVAL));
    connector.set_tcp_user_timeout(Some(SILENCE_MAX));
    let mut connector = TimeoutConnector::new(config.rustls_https_connector_with_connector(connector).context("cannot set up TLS")?);
    // For servers whose machine acknowledges everything and that say nothing all the same.
    connector.set_read_timeout(config.read_timeout);
    connector.set_write_timeout(config.write_timeout);
    connector.set_reset_reader_on_write(config.reset_reader_on_write);
    let service = ServiceBuilder::new()
        .layer(config.base_uri_layer())
        .layer(RetryLayer::new(RetryPolicy::server_retry()))
        .option_layer(config.auth_layer().context("the credentials are not usable")?)
        .layer(config.extra_headers_layer().context("the headers are not usable")?)
        .map_err(BoxError::from)
        .service(HttpClient::builder(TokioExecutor::new()).build::<_, Body>(connector));
    Ok(kube::Client::new(service, config.default_namespace))
}
