//! One layer: into its partial file, resumed where it ended, checked as a whole, unpacked.

use std::fs::File;
use std::io::{self, BufReader, Read, Seek, SeekFrom, Write};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use tokio::sync::mpsc;

use super::registry::{Registry, broken_stream};
use super::{blocking, copy_error};
use crate::images::digest::{Digest, Hasher};
use crate::images::disk;
use crate::images::error::{Error, Result};
use crate::images::manifest::Descriptor;
use crate::images::stop::{Stop, Waiting};
use crate::images::store::Store;

/// Between looks at whether another pull has brought the layer.
const WAIT_STEP: Duration = Duration::from_millis(100);
/// Chunks on their way from the network to the disk; some are 8 KiB, some a megabyte.
const CHUNKS_MAX: usize = 16;
const READ_BUFFER_BYTES: usize = 256 * 1024;
/// However much progress each try makes.
const RESUMES_MAX: u32 = 50;

/// Brings the layer unless it is here; when another pull is bringing it, waits. Dropping this ends
/// what it does on other threads, too.
pub async fn bring_layer(store: &Arc<Store>, registry: &Registry, layer: &Descriptor, diff_id: &Digest) -> Result<()> {
    let waiting = Waiting::default();
    let Some(partial) = claim(store, layer, diff_id, &waiting.stop()).await? else { return Ok(()) };
    let partial = download(registry, layer, partial).await.map_err(copy_error)?;
    let (diff_id, stop) = (diff_id.clone(), waiting.stop());
    blocking(store, move |store| unpack(store, partial, &diff_id, &stop)).await
}

/// The compressed layer as far as it is here. The owner of this value holds its lock.
struct Partial {
    path: PathBuf,
    file: File,
    hasher: Hasher,
    length: u64,
}

/// None when the layer is here, perhaps because another pull brought it meanwhile.
async fn claim(store: &Arc<Store>, layer: &Descriptor, diff_id: &Digest, stop: &Stop) -> Result<Option<Partial>> {
    loop {
        let (blob, diff_id, stop) = (layer.digest.clone(), diff_id.clone(), stop.clone());
        let claimed = blocking(store, move |store| try_claim(store, &blob, &diff_id, &stop)).await?;
        match claimed {
            Claim::Here => return Ok(None),
            Claim::Ours(partial) => return Ok(Some(*partial)),
            Claim::Others => tokio::time::sleep(WAIT_STEP).await,
        }
    }
}

enum Claim {
    Here,
    Ours(Box<Partial>),
    Others,
}

fn try_claim(store: &Store, blob: &Digest, diff_id: &Digest, stop: &Stop) -> Result<Claim> {
    if store.has_layer(diff_id) {
        return Ok(Claim::Here);
    }
    let path = store.partial_path(blob);
    let file = File::options().create(true).truncate(false).read(true).write(true).open(&path).map_err(Error::io("open", &path))?;
    if !disk::try_lock_file(&file, &path)? || !disk::is_same_file(&file, &path) {
        return Ok(Claim::Others);
    }
    if store.has_layer(diff_id) {
        disk::remove_file_if_there(&path)?;
        return Ok(Claim::Here);
    }
    Ok(Claim::Ours(Box::new(Partial::read(path, file, stop)?)))
}

impl Partial {
    /// Reads what is there, for the digest of the whole.
    fn read(path: PathBuf, mut file: File, stop: &Stop) -> Result<Partial> {
        let mut hasher = Hasher::default();
        let mut buffer = vec![0; READ_BUFFER_BYTES];
        let mut length = 0;
        loop {
            let n = stop.check().and_then(|()| file.read(&mut buffer)).map_err(Error::io("read", &path))?;
            if n == 0 {
                return Ok(Partial { path, file, hasher, length });
            }
            hasher.update(&buffer[..n]);
            length += n as u64;
        }
    }

    fn start_anew(&mut self) -> Result<()> {
        let emptied = self.file.set_len(0).and_then(|()| self.file.seek(SeekFrom::Start(0)));
        emptied.map_err(Error::io("empty", &self.path))?;
        self.hasher = Hasher::default();
        self.length = 0;
        Ok(())
    }

    fn append(&mut self, bytes: &[u8]) -> Result<()> {
        self.file.write_all(bytes).map_err(Error::io("write", &self.path))?;
        self.hasher.update(bytes);
        self.length += bytes.len() as u64;
        Ok(())
    }

    /// The name goes before the lock does.
    fn remove(self) -> Result<()> {
        disk::remove_file_if_there(&self.path)
    }
}

async fn download(registry: &Registry, layer: &Descriptor, mut partial: Partial) -> Result<Partial> {
    let resumed = partial.length > 0;
    match download_once(registry, layer, partial).await? {
        Ok(partial) => Ok(partial),
        // What was here before may have been damaged; one try without it.
        Err((Error::Mismatch { .. }, rest)) if resumed => {
            partial = rest;
            partial.start_anew()?;
            finish(download_once(registry, layer, partial).await?)
        }
        other => finish(other),
    }
}

type Downloaded = std::result::Result<Partial, (Error, Partial)>;

/// A download that does not fit its digest is of no use and is removed.
fn finish(downloaded: Downloaded) -> Result<Partial> {
    downloaded.or_else(|(error, partial)| {
        partial.remove()?;
        Err(error)
    })
}

/// Until the layer is whole or tries are used up. The partial file stays for the next pull when the
/// way was the problem; a problem with the content comes with the file.
async fn download_once(registry: &Registry, layer: &Descriptor, mut partial: Partial) -> Result<Downloaded> {
    let (mut failures, mut resumes) = (0, 0);
    while partial.length < layer.size {
        let before = partial.length;
        let (rest, problem) = stream_into(registry, layer, partial).await;
        partial = rest;
        match problem {
            None => {}
            Some(Error::Transport(why)) => {
                failures = if partial.length > before { 1 } else { failures + 1 };
                resumes += 1;
                if failures >= registry.registries.attempts || resumes >= RESUMES_MAX {
                    return Err(Error::Transport(why));
                }
                tracing::debug!(layer = %layer.digest, bytes = partial.length, why, "a download was interrupted, resuming");
                tokio::time::sleep(registry.registries.backoff(failures)).await;
            }
            // The space that it takes is what is missing.
            Some(error) if error.is_full_disk() => return Ok(Err((error, partial))),
            Some(error) => return Ok(Err((error, partial))),
        }
    }
    let actual = partial.hasher.clone().finish();
    if partial.length == layer.size && actual == layer.digest {
        return Ok(Ok(partial));
    }
    let what = format!("layer of {} bytes", partial.length);
    Ok(Err((Error::Mismatch { what, expected: layer.digest.clone(), actual }, partial)))
}

/// One request. Answers the file with what has come, and why no more did.
async fn stream_into(registry: &Registry, layer: &Descriptor, partial: Partial) -> (Partial, Option<Error>) {
    let (mut stream, from) = match registry.blob(&layer.digest, partial.length).await {
        Ok(answer) => answer,
        Err(error) => return (partial, Some(error)),
    };
    let (chunks, received) = mpsc::channel(CHUNKS_MAX);
    let size = layer.size;
    let writer = tokio::task::spawn_blocking(move || write_chunks(partial, from, size, received));
    let mut problem = None;
    loop {
        match tokio::time::timeout(registry.registries.stall(), stream.stream.next()).await {
            Ok(Some(Ok(chunk))) => {
                if chunks.send(chunk.to_vec()).await.is_err() {
                    break; // The writer has a problem of its own.
                }
            }
            Ok(Some(Err(error))) => {
                problem = Some(broken_stream(&error));
                break;
            }
            Ok(None) => break,
            Err(_) => {
                problem = Some(Error::Transport(format!("no data from the registry for {} s", registry.registries.stall().as_secs())));
                break;
            }
        }
    }
    drop(chunks);
    let (partial, write_problem) = writer.await.expect("writing to a file does not panic and is not cancelled");
    let cut = || Error::Transport(format!("the answer ended after {} of {size} bytes", partial.length));
    let problem = write_problem.or_else(|| if partial.length >= size { None } else { problem.or_else(|| Some(cut())) });
    (partial, problem)
}

fn write_chunks(mut partial: Partial, from: u64, size: u64, mut received: mpsc::Receiver<Vec<u8>>) -> (Partial, Option<Error>) {
    if from != partial.length
        && let Err(error) = partial.start_anew()
    {
        return (partial, Some(error));
    }
    while let Some(chunk) = received.blocking_recv() {
        if partial.length + chunk.len() as u64 > size {
            return (partial, Some(Error::Registry(format!("the registry sent more than the {size} bytes that the manifest says"))));
        }
        if let Err(error) = partial.append(&chunk) {
            return (partial, Some(error));
        }
    }
    (partial, None)
}

fn unpack(store: &Store, mut partial: Partial, diff_id: &Digest, stop: &Stop) -> Result<()> {
    let rewound: io::Result<u64> = partial.file.seek(SeekFrom::Start(0));
    rewound.map_err(Error::io("read", &partial.path))?;
    let unpacked = store.put_layer(diff_id, BufReader::with_capacity(READ_BUFFER_BYTES, &partial.file), stop);
    if unpacked.is_err() && stop.is_set() {
        // The next pull unpacks it without bringing it again.
        return unpacked;
    }
    // Unpacked or useless: its digest is right, so another download would be the same.
    partial.remove()?;
    unpacked
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A deleted pod's pull ends while it unpacks: what was brought stays for the next one.
    #[test]
    fn a_pull_that_was_given_up_leaves_no_layer_and_keeps_what_it_brought() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let archive = tar::Builder::new(Vec::new()).into_inner().unwrap();
        let digest = Digest::of(&archive);
        let path = store.partial_path(&digest);
        std::fs::write(&path, &archive).unwrap();
        let claim = || match try_claim(&store, &digest, &digest, &Stop::default()).unwrap() {
            Claim::Ours(partial) => *partial,
            Claim::Here | Claim::Others => panic!("no other pull is here"),
        };
        let waiting = Waiting::default();
        let stop = waiting.stop();
        drop(waiting);
        assert!(unpack(&store, claim(), &digest, &stop).is_err());
        assert!(path.exists() && !store.has_layer(&digest));
        assert!(try_claim(&store, &digest, &digest, &stop).is_err(), "reading what is there ends, too");
        unpack(&store, claim(), &digest, &Stop::default()).unwrap();
        assert!(!path.exists() && store.has_layer(&digest));
    }
}
