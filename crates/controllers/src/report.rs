//! Events: sent in the background, never in the way of the work that they report, and dropped when
//! there are too many.

use std::collections::VecDeque;

use brain::events::Correlator;
use brain::request::{Event, Verb};
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use jiff::Timestamp;
use kube::Client;
use tokio::sync::mpsc;

use crate::send::{RequestError, send};

/// Events that wait; upstream's recorders keep as many.
const WAITING_MAX: usize = 1000;

/// Requests under way: events must not compete with what they are about.
const REQUESTS_AT_ONCE_MAX: usize = 4;

/// Takes events.
#[derive(Debug, Clone)]
pub struct Reporter(mpsc::Sender<Event>);

impl Reporter {
    /// Starts the task that sends events; it ends when all reporters are gone.
    pub fn start(client: Client, host: String) -> (Reporter, impl Future<Output = ()>) {
        let (sender, receiver) = mpsc::channel(WAITING_MAX);
        (Reporter(sender), run(client, host, receiver))
    }

    /// Never waits: an event too many is dropped.
    pub fn send(&self, event: Event) {
        if self.0.try_send(event).is_err() {
            tracing::debug!("an event was dropped: too many wait");
        }
    }
}

async fn run(client: Client, host: String, mut events: mpsc::Receiver<Event>) {
    let mut correlator = Correlator::default();
    let mut sending = FuturesUnordered::new();
    let mut waiting = VecDeque::new();
    loop {
        while sending.len() < REQUESTS_AT_ONCE_MAX
            && let Some(event) = waiting.pop_front()
        {
            if let Some(request) = correlator.request(&event, &host, Timestamp::now()) {
                let client = client.clone();
                sending.push(async move {
                    let result = send(&client, event.component, &request).await;
                    (event, request, result)
                });
            }
        }
        // Both arms are cancel-safe: a channel and a set of futures keep what was not taken.
        tokio::select! {
            event = events.recv(), if waiting.is_empty() => match event {
                Some(event) => waiting.push_back(event),
                None => return,
            },
            Some((event, request, result)) = sending.next(), if !sending.is_empty() => match result {
                Err(RequestError::Refused(status)) if status.code == 404 && matches!(request.verb, Verb::Strategic(_)) => {
                    correlator.forget(&request.key);
                    waiting.push_back(event);
                }
                Err(error) => tracing::debug!(error = &error as &dyn std::error::Error, "an event could not be told"),
                Ok(_) => {}
            },
        }
    }
}
