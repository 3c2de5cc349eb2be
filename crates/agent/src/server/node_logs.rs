//! `/logs/`: the node's folder of logs, to read. Nothing outside of it, whatever paths and links
//! say.

use std::fmt::Write as _;
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use bytes::Bytes;
use http::Response;
use http::header::{CONTENT_TYPE, HeaderValue};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use runtime::below::{self, Found};

use super::answer::{self, Body, BoxError, Refusal};

const PIECE_BYTES: usize = 64 * 1024;

/// Entries of a folder that are shown.
const ENTRIES_MAX: usize = 10_000;

pub fn answer(root: &Path, path: &str) -> Result<Response<Body>, Refusal> {
    let found = find(root, path).map_err(|_| Refusal::new(404, "404 page not found\n"))?;
    let failed = |error: io::Error| Refusal::new(500, error.to_string());
    let metadata = found.metadata().map_err(failed)?;
    if metadata.is_dir() {
        return Ok(answer::typed(200, "text/html; charset=utf-8", listing(&found.name()).map_err(failed)?));
    }
    if !metadata.is_file() {
        return Err(Refusal::new(403, "not a file\n"));
    }
    Ok(contents(found.open().map_err(failed)?))
}

/// Links in the folder of logs are the node's, such as those to the logs of pods.
fn find(root: &Path, path: &str) -> io::Result<Found> {
    below::find_real(root, Path::new(path.trim_start_matches('/')))
}

fn listing(dir: &Path) -> io::Result<String> {
    let mut names: Vec<String> = Vec::new();
    for entry in std::fs::read_dir(dir)?.take(ENTRIES_MAX) {
        let entry = entry?;
        let slash = if entry.file_type()?.is_dir() { "/" } else { "" };
        names.push(format!("{}{slash}", entry.file_name().to_string_lossy()));
    }
    names.sort();
    let mut out = "<!doctype html>\n<meta name=\"viewport\" content=\"width=device-width\">\n<pre>\n".to_owned();
    for name in names {
        let shown = name.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&#34;");
        let link = shown.replace('%', "%25").replace('?', "%3F").replace('#', "%23");
        writeln!(out, "<a href=\"{link}\">{shown}</a>").expect("writing to a String cannot fail");
    }
    out.push_str("</pre>\n");
    Ok(out)
}

/// The file as it is now, read as the client takes it.
fn contents(file: File) -> Response<Body> {
    let left = file.metadata().map_or(0, |metadata| metadata.len());
    let frames = futures::stream::unfold((file, left), |(file, left)| async move {
        let read = tokio::task::spawn_blocking(move || {
            let mut piece = Vec::new();
            (&file).take(left.min(PIECE_BYTES as u64)).read_to_end(&mut piece).map(|_| (file, piece))
        });
        match read.await {
            Ok(Ok((_, piece))) if piece.is_empty() => None,
            Ok(Ok((file, piece))) => {
                let left = left - piece.len() as u64;
                Some((Ok::<_, BoxError>(Frame::data(Bytes::from(piece))), (file, left)))
            }
            Ok(Err(_)) | Err(_) => None,
        }
    });
    let mut response = Response::new(StreamBody::new(frames).boxed_unsync());
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    response
}

#[cfg(test)]
mod tests {
    use super::find;

    #[test]
    fn nothing_outside_is_found() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("log");
        std::fs::create_dir(&root).unwrap();
        std::fs::write(root.join("a.log"), "a").unwrap();
        std::fs::write(dir.path().join("secret"), "s").unwrap();
        std::os::unix::fs::symlink("../secret", root.join("link")).unwrap();
        assert!(find(&root, "a.log").is_ok());
        for path in ["../secret", "/../secret", "link", "/etc/passwd", "a.log/../../secret"] {
            assert!(find(&root, path).is_err(), "{path}");
        }
    }
}
