//! A proxy between nodes and a registry that misbehaves when a test wants it to; and a request in
//! plain HTTP.

use std::io::{self, BufRead as _, BufReader, Read, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use base64::Engine as _;

const READ_TIMEOUT: Duration = Duration::from_secs(60);

/// A silent proxy looks this often whether it may speak again.
const SILENT_PERIOD: Duration = Duration::from_millis(200);

#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Mood {
    Well,
    /// Takes connections and says nothing.
    Silent,
    /// Ends a connection after so many bytes of answers.
    BreaksOff(usize),
    /// Ends every connection at once.
    Refuses,
    /// Changes bytes far into long answers.
    Lies,
}

pub struct Proxy {
    pub address: String,
    mood: Arc<Mutex<Mood>>,
}

impl Proxy {
    /// Lives as long as the test's process; it holds nothing but a port.
    pub fn start(address: &str, target: &str) -> Proxy {
        let listener = TcpListener::bind((address, 0)).expect("the cluster's address is the machine's");
        let proxy = Proxy { address: listener.local_addr().expect("it listens").to_string(), mood: Arc::new(Mutex::new(Mood::Well)) };
        let (mood, target) = (proxy.mood.clone(), target.to_owned());
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let (mood, target) = (mood.clone(), target.clone());
                std::thread::spawn(move || serve(client, &target, &mood));
            }
        });
        proxy
    }

    pub fn set(&self, mood: Mood) {
        *self.mood.lock().expect("nobody panics with it") = mood;
    }
}

fn now(mood: &Mutex<Mood>) -> Mood {
    *mood.lock().expect("nobody panics with it")
}

/// One connection, both ways. Its end is the end of both.
fn serve(client: TcpStream, target: &str, mood: &Arc<Mutex<Mood>>) {
    if now(mood) == Mood::Refuses {
        return;
    }
    let Ok(server) = TcpStream::connect(target) else { return };
    let (Ok(client_in), Ok(server_in)) = (client.try_clone(), server.try_clone()) else { return };
    let requests = std::thread::spawn(move || {
        let (mut from, mut to) = (client_in, server_in);
        let _ = io::copy(&mut from, &mut to);
        let _ = to.shutdown(Shutdown::Both);
    });
    let _ = answer(&server, &client, mood);
    let _ = client.shutdown(Shutdown::Both);
    let _ = server.shutdown(Shutdown::Both);
    let _ = requests.join();
}

/// Passes on what the server says, in the mood of the moment.
fn answer(mut from: &TcpStream, mut to: &TcpStream, mood: &Mutex<Mood>) -> io::Result<()> {
    let mut passed = 0;
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let length = from.read(&mut buffer)?;
        if length == 0 {
            return Ok(());
        }
        match now(mood) {
            Mood::Refuses => return Ok(()),
            Mood::BreaksOff(limit) if passed + length > limit => return Ok(()),
            Mood::Lies if passed > 1_000_000 => buffer[length / 2] ^= 0x55,
            _ => {}
        }
        // The client on the other side gives up long before.
        while now(mood) == Mood::Silent {
            std::thread::sleep(SILENT_PERIOD);
        }
        to.write_all(&buffer[..length])?;
        passed += length;
    }
}

/// One request on a connection of its own; the code of the answer and where it points to.
pub fn request(address: &str, method: &str, path: &str, user: &str, kind: &str, body: &[u8]) -> io::Result<(u16, String)> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(READ_TIMEOUT))?;
    let authorization = base64::engine::general_purpose::STANDARD.encode(user);
    let mut head = format!("{method} {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\nAuthorization: Basic {authorization}\r\n");
    if !kind.is_empty() {
        head += &format!("Content-Type: {kind}\r\n");
    }
    head += &format!("Content-Length: {}\r\n\r\n", body.len());
    stream.write_all(head.as_bytes())?;
    stream.write_all(body)?;
    let mut lines = BufReader::new(stream).lines();
    let status = lines.next().unwrap_or_else(|| Err(io::ErrorKind::UnexpectedEof.into()))?;
    let code = status.split(' ').nth(1).and_then(|code| code.parse().ok()).ok_or(io::ErrorKind::InvalidData)?;
    let head: Vec<String> = lines.map_while(Result::ok).take_while(|line| !line.is_empty()).collect();
    let location = head.iter().find(|line| line.to_ascii_lowercase().starts_with("location:"));
    Ok((code, location.and_then(|line| line.split_once(": ")).map(|(_, value)| value.trim().to_owned()).unwrap_or_default()))
}
