//! A few lines of HTTP/1.1, enough for probes and scrapers: one request a connection.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::time::Duration;

const TIMEOUT: Duration = Duration::from_secs(5);
/// A request's first line and headers.
const REQUEST_MAX: u64 = 16 * 1024;

/// Answers one request after another, forever.
pub fn serve(listener: &TcpListener, answer: &dyn Fn(&str) -> (u16, String)) {
    for stream in listener.incoming().flatten() {
        // A client that goes away or is slow is its own matter.
        let _ = exchange(&stream, answer);
    }
}

fn exchange(stream: &TcpStream, answer: &dyn Fn(&str) -> (u16, String)) -> std::io::Result<()> {
    stream.set_read_timeout(Some(TIMEOUT))?;
    stream.set_write_timeout(Some(TIMEOUT))?;
    let mut lines = BufReader::new(stream.take(REQUEST_MAX)).lines();
    let first = lines.next().transpose()?.unwrap_or_default();
    for line in lines {
        if line?.is_empty() {
            break;
        }
    }
    let path = first.split_whitespace().nth(1).unwrap_or("/").split('?').next().unwrap_or("/");
    let (status, body) = answer(path);
    let reason = if status == 200 { "OK" } else { "Not Found" };
    let head = format!(
        "HTTP/1.1 {status} {reason}\r\ncontent-type: text/plain; version=0.0.4\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
        body.len()
    );
    let mut stream = stream;
    stream.write_all(head.as_bytes())?;
    stream.write_all(body.as_bytes())
}

/// Gets an `http://` address; answers the status line and the body.
pub fn get(url: &str) -> Result<(String, Vec<u8>), String> {
    let rest = url.strip_prefix("http://").ok_or("only http:// addresses are known here")?;
    let (host, path) = rest.split_once('/').unwrap_or((rest, ""));
    let address = if host.contains(':') { host.to_owned() } else { format!("{host}:80") };
    let mut stream = TcpStream::connect(&address).map_err(|error| format!("cannot connect to {address}: {error}"))?;
    let fail = |error: std::io::Error| error.to_string();
    stream.set_read_timeout(Some(TIMEOUT)).map_err(fail)?;
    write!(stream, "GET /{path} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n").map_err(fail)?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).map_err(fail)?;
    let head_end = answer.windows(4).position(|window| window == b"\r\n\r\n").ok_or("the answer is no HTTP")?;
    let status = String::from_utf8_lossy(&answer[..head_end]).lines().next().unwrap_or_default().to_owned();
    Ok((status, answer[head_end + 4..].to_vec()))
}
