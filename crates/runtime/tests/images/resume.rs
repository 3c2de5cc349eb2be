//! Downloads that are cut or stall half-way.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use runtime::port::Images;

use crate::support::*;

/// What happens to a connection.
#[derive(Clone, Copy)]
pub enum Fate {
    Pass,
    /// Cut when that many bytes have come from the registry.
    Cut(usize),
    /// From then on nothing comes, but the connection stays.
    Stall(usize),
}

/// Stands between a node and a registry.
pub struct Proxy {
    pub port: u16,
    bytes: Arc<AtomicUsize>,
}

impl Proxy {
    /// Asks for each connection's fate, counted from 0.
    pub fn start(upstream: u16, fate: impl Fn(usize) -> Fate + Send + 'static) -> Proxy {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let bytes = Arc::new(AtomicUsize::new(0));
        let counter = Arc::clone(&bytes);
        std::thread::spawn(move || {
            for (i, client) in listener.incoming().enumerate() {
                let (client, server) = (client.unwrap(), TcpStream::connect(("127.0.0.1", upstream)).unwrap());
                let (fate, counter) = (fate(i), Arc::clone(&counter));
                let (mut from_client, mut to_server) = (client.try_clone().unwrap(), server.try_clone().unwrap());
                std::thread::spawn(move || {
                    let _ = std::io::copy(&mut from_client, &mut to_server);
                    let _ = to_server.shutdown(Shutdown::Both);
                });
                std::thread::spawn(move || relay(server, client, fate, &counter));
            }
        });
        Proxy { port, bytes }
    }

    pub fn bytes(&self) -> usize {
        self.bytes.load(Ordering::Relaxed)
    }
}

fn relay(mut server: TcpStream, mut client: TcpStream, fate: Fate, counter: &AtomicUsize) {
    let mut passed = 0;
    let mut buffer = vec![0; 16 * 1024];
    while let Ok(n) = server.read(&mut buffer) {
        let limit = match fate {
            Fate::Pass => usize::MAX,
            Fate::Cut(limit) | Fate::Stall(limit) => limit,
        };
        let send = n.min(limit - passed);
        if n == 0 || client.write_all(&buffer[..send]).is_err() {
            break;
        }
        passed += send;
        counter.fetch_add(send, Ordering::Relaxed);
        if passed == limit {
            if matches!(fate, Fate::Stall(_)) {
                // Until the client has had enough.
                let _ = client.set_read_timeout(Some(Duration::from_secs(20)));
                while !matches!(client.peek(&mut [0; 1]), Ok(0) | Err(_)) {
                    std::thread::sleep(Duration::from_millis(10));
                }
            }
            break;
        }
    }
    let _ = client.shutdown(Shutdown::Both);
    let _ = server.shutdown(Shutdown::Both);
}

const SIZE: usize = 4 << 20;

fn big_image() -> TestImage {
    TestImage::new(vec![(Layer::new().file("big", &noise(SIZE, 7)).finish(), PLAIN)])
}

async fn pulled_through(fate: impl Fn(usize) -> Fate + Send + 'static) {
    let Some(registry) = Registry::start(false) else { return };
    registry.push("app:1", &big_image()).await;
    let proxy = Proxy::start(registry.port, fate);
    let node = node();
    let id = node.service.pull(&format!("127.0.0.1:{}/app:1", proxy.port), &[]).await.unwrap();
    assert_eq!(id, big_image().id());
    assert!(proxy.bytes() < SIZE + SIZE / 2, "{} bytes came: it was not resumed", proxy.bytes());
}

#[tokio::test]
async fn a_cut_download_is_resumed() {
    pulled_through(|connection| if connection < 3 { Fate::Cut(SIZE / 4) } else { Fate::Pass }).await;
}

#[tokio::test]
async fn a_stalled_download_is_resumed() {
    pulled_through(|connection| if connection == 0 { Fate::Stall(SIZE / 2) } else { Fate::Pass }).await;
}

#[tokio::test]
async fn the_next_pull_goes_on_where_the_last_one_ended() {
    let Some(registry) = Registry::start(false) else { return };
    registry.push("app:1", &big_image()).await;
    let node = node();
    let allowed = Arc::new(AtomicUsize::new(0));
    let open = Arc::clone(&allowed);
    // One good half, then nothing at all until the test says so.
    let proxy = Proxy::start(registry.port, move |connection| match (connection, open.load(Ordering::Relaxed)) {
        (0, 0) => Fate::Cut(SIZE / 2),
        (_, 0) => Fate::Cut(0),
        _ => Fate::Pass,
    });
    let name = format!("127.0.0.1:{}/app:1", proxy.port);
    let error = node.service.pull(&name, &[]).await.unwrap_err().to_string();
    assert!(error.contains("failed to copy"), "{error}");
    let partial = std::fs::read_dir(node.directory.path().join("partial")).unwrap().next().unwrap().unwrap();
    assert!(partial.metadata().unwrap().len() > SIZE as u64 / 4);
    allowed.store(1, Ordering::Relaxed);
    node.service.pull(&name, &[]).await.unwrap();
    assert!(proxy.bytes() < SIZE + SIZE / 4, "{} bytes came: it was not resumed", proxy.bytes());
}

#[tokio::test]
async fn a_damaged_partial_file_is_started_anew() {
    let Some(registry) = Registry::start(false) else { return };
    let image = big_image();
    registry.push("app:1", &image).await;
    let node = node();
    let digest = runtime::images::digest::Digest::of(&image.layers[0].0);
    std::fs::write(node.directory.path().join("partial").join(digest.hex()), vec![1; SIZE / 2]).unwrap();
    assert_eq!(node.service.pull(&registry.name("app:1"), &[]).await.unwrap(), image.id());
}
