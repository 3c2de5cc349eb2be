//! Container logs: which file is meant, and its lines as the client wants them.
//!
//! [`options`] is what the client wants; [`line`] the format of the files; [`files`] finds a
//! container's files and the place to begin at; [`reader`] turns them to output, piece by piece;
//! here, the container is chosen and the pieces are sent.

mod files;
mod line;
mod options;
mod reader;

#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use brain::podsync::Record;
use brain::podsync::uid;
use bytes::Bytes;
use containers::ContainerState;
use futures::StreamExt;
use http::Response;
use http::header::{CONTENT_TYPE, HeaderValue};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use k8s_openapi::api::core::v1::{ContainerStatus, Pod};
use tokio::sync::mpsc;

use super::Shared;
use super::answer::{Body, BoxError, Refusal};
use super::pods;
use super::route::Target;
use options::LogOptions;
use reader::{Piece, Reader};

/// How often a followed log is looked at while nothing is written.
const FOLLOW_PERIOD: Duration = Duration::from_millis(100);

/// Pieces on their way to the client; a client that does not read has no more than these made.
const PIECES_MAX: usize = 4;

pub(crate) fn answer(shared: &Arc<Shared>, target: &Target, query: Option<&str>) -> Result<Response<Body>, Refusal> {
    let options = LogOptions::parse(query)?;
    let pod = pods::find(shared, target, &format!("pod {:?} does not exist\n", target.pod))?;
    if !pods::has_container(&pod, &target.container) {
        return Err(Refusal::new(404, format!("container {:?} not found in pod {:?}\n", target.container, target.pod)));
    }
    let observed = shared.agent.context.observer.observed(uid(&pod));
    let chosen = choose(&observed.containers, &pod, &target.container, options.previous).map_err(Refusal::bad_request)?;
    let settings = &shared.agent.context.settings;
    let dir = settings.pod_log_dir(&target.namespace, &target.pod, uid(&pod)).join(&target.container);
    let reader = Reader::new(files::Log { dir, restarts: chosen.restarts }, options);
    let (pieces, receiver) = mpsc::channel(PIECES_MAX);
    tokio::spawn(send(shared.clone(), reader, uid(&pod).to_owned(), chosen.id.clone(), pieces));
    Ok(streamed(receiver))
}

fn streamed(receiver: mpsc::Receiver<Result<Bytes, std::io::Error>>) -> Response<Body> {
    let frames = futures::stream::unfold(receiver, |mut receiver| async move { receiver.recv().await.map(|piece| (piece, receiver)) });
    let frames = frames.map(|piece| piece.map(Frame::data).map_err(|error| Box::new(error) as BoxError));
    let mut response = Response::new(StreamBody::new(frames).boxed_unsync());
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain"));
    response
}

/// Reads on until everything is read, or, following, until the container has ended and everything
/// is read; or the client goes.
async fn send(shared: Arc<Shared>, mut reader: Reader, uid: String, id: String, pieces: mpsc::Sender<Result<Bytes, std::io::Error>>) {
    let is_followed = reader.options().follow;
    let mut shutdown = shared.shutdown.clone();
    let mut had_ended = false;
    loop {
        // Asked before reading: what a container wrote before it ended is then read after it is
        // known to have ended.
        let has_ended = !is_followed || !is_running(&shared, &uid, &id);
        let read = tokio::task::spawn_blocking(move || {
            let piece = reader.next();
            (reader, piece)
        });
        let Ok((returned, piece)) = read.await else { return };
        reader = returned;
        match piece {
            Ok(Piece::Lines(lines)) => {
                if !lines.is_empty() && pieces.send(Ok(lines)).await.is_err() {
                    return;
                }
            }
            Ok(Piece::Done) => return,
            // The runtime may tell of the end before the last lines are in the file: one more look.
            Ok(Piece::Nothing) if has_ended && (had_ended || !is_followed) => return,
            Ok(Piece::Nothing) => {
                had_ended = has_ended;
                // All arms only wait.
                tokio::select! {
                    () = tokio::time::sleep(FOLLOW_PERIOD) => {}
                    () = pieces.closed() => return,
                    _ = shutdown.wait_for(|&stopping| stopping) => return,
                }
            }
            Err(error) => {
                let _ = pieces.send(Err(error)).await;
                return;
            }
        }
    }
}

fn is_running(shared: &Shared, uid: &str, id: &str) -> bool {
    let observed = shared.agent.context.observer.observed(uid);
    observed.containers.iter().any(|record| record.id == id && record.state == ContainerState::Running)
}

/// The container whose log is meant; the texts of refusals are the kubelet's. `records` has the
/// newest first.
fn choose<'a>(records: &'a [Record], pod: &Pod, container: &str, previous: bool) -> Result<&'a Record, String> {
    let name = pod.metadata.name.as_deref().unwrap_or_default();
    let mut started = records.iter().filter(|record| record.name == container && record.state != ContainerState::Created);
    let newest = started.next();
    if previous {
        let ended = started.find(|record| record.state == ContainerState::Exited);
        return ended.ok_or_else(|| format!("previous terminated container {container:?} in pod {name:?} not found"));
    }
    newest.ok_or_else(|| {
        let why = match waiting_reason(pod, container).as_deref() {
            Some("ErrImagePull") => "image can't be pulled".to_owned(),
            Some("ImagePullBackOff") => "trying and failing to pull image".to_owned(),
            reason => reason.unwrap_or("ContainerCreating").to_owned(),
        };
        format!("container {container:?} in pod {name:?} is waiting to start: {why}")
    })
}

fn waiting_reason(pod: &Pod, container: &str) -> Option<String> {
    let status = pod.status.as_ref()?;
    let lists = [&status.container_statuses, &status.init_container_statuses, &status.ephemeral_container_statuses];
    let found: Option<&ContainerStatus> = lists.into_iter().flatten().flatten().find(|status| status.name == container);
    found?.state.as_ref()?.waiting.as_ref()?.reason.clone()
}
