//! What happens on a connection: how many requests are under way, since when it is idle, whether an
//! answer is not read.

use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use http_body::{Body, Frame, SizeHint};
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::listener::Deadlines;

/// What happens on one connection.
pub struct Activity {
    state: Mutex<ActivityState>,
    ended: Notify,
}

struct ActivityState {
    under_way: usize,
    /// When the last request ended, or the connection began.
    idle_since: Instant,
    had_request: bool,
    /// Answers of which a part waits to be taken by the client, with the time since when.
    unread: Vec<(u64, Instant)>,
    next: u64,
}

/// What is to become of a connection.
#[derive(Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It may stay; look again then.
    Stays(Instant),
    /// No request came for too long.
    Idle,
    /// An answer was not read for too long.
    Unread,
}

impl Activity {
    pub fn new() -> Activity {
        let state = ActivityState { under_way: 0, idle_since: Instant::now(), had_request: false, unread: Vec::new(), next: 0 };
        Activity { state: Mutex::new(state), ended: Notify::new() }
    }

    fn state(&self) -> MutexGuard<'_, ActivityState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// None while requests are under way.
    pub fn idle_since(&self) -> Option<Instant> {
        let state = self.state();
        (state.under_way == 0).then_some(state.idle_since)
    }

    /// Asks the connection to end.
    pub fn end(&self) {
        self.ended.notify_one();
    }

    /// Waits until the connection is to end.
    pub async fn ended(&self) {
        self.ended.notified().await;
    }

    /// A request begins; it is under way until what this returns is dropped.
    pub fn begin(self: &Arc<Self>) -> UnderWay {
        let mut state = self.state();
        state.under_way += 1;
        state.had_request = true;
        state.next += 1;
        UnderWay { id: state.next, activity: self.clone() }
    }

    pub fn verdict(&self, now: Instant, deadlines: &Deadlines) -> Verdict {
        let state = self.state();
        if state.under_way == 0 {
            let patience = if state.had_request { deadlines.idle } else { deadlines.first_request };
            let until = state.idle_since + patience;
            return if now >= until { Verdict::Idle } else { Verdict::Stays(until) };
        }
        let oldest = state.unread.iter().map(|(_, since)| *since).min().unwrap_or(now);
        if now >= oldest + deadlines.unread {
            return Verdict::Unread;
        }
        Verdict::Stays(oldest + deadlines.unread)
    }
}

/// A request under way.
pub struct UnderWay {
    id: u64,
    activity: Arc<Activity>,
}

impl UnderWay {
    /// A part of the answer was handed over, or the client took it.
    fn note(&self, is_unread: bool) {
        let mut state = self.activity.state();
        state.unread.retain(|(id, _)| *id != self.id);
        if is_unread {
            state.unread.push((self.id, Instant::now()));
        }
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.note(false);
        let mut state = self.activity.state();
        state.under_way -= 1;
        state.idle_since = Instant::now();
    }
}

/// A body of an answer whose request is under way until the body ends.
pub struct Guarded<B> {
    body: B,
    under_way: UnderWay,
}

impl<B> Guarded<B> {
    pub fn new(body: B, under_way: UnderWay) -> Guarded<B> {
        Guarded { body, under_way }
    }
}

impl<B: Body + Unpin> Body for Guarded<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        let this = self.get_mut();
        let polled = Pin::new(&mut this.body).poll_frame(context);
        // The caller that asks for a part has room for it; after a part is given, the next question
        // says that it was taken.
        this.under_way.note(matches!(polled, Poll::Ready(Some(Ok(_)))));
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const DEADLINES: Deadlines = Deadlines {
        handshake: Duration::from_secs(1),
        first_request: Duration::from_secs(30),
        header: Duration::from_secs(1),
        idle: Duration::from_secs(90),
        unread: Duration::from_secs(120),
        drain: Duration::from_secs(1),
    };

    #[tokio::test(start_paused = true)]
    async fn a_connection_without_requests_is_idle_sooner_than_one_that_had_some() {
        let activity = Arc::new(Activity::new());
        let start = Instant::now();
        assert_eq!(activity.verdict(start, &DEADLINES), Verdict::Stays(start + DEADLINES.first_request));
        assert_eq!(activity.verdict(start + DEADLINES.first_request, &DEADLINES), Verdict::Idle);
        drop(activity.begin());
        assert_eq!(activity.verdict(start + DEADLINES.first_request, &DEADLINES), Verdict::Stays(start + DEADLINES.idle));
        assert_eq!(activity.verdict(start + DEADLINES.idle, &DEADLINES), Verdict::Idle);
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_that_waits_for_news_may_wait_and_one_that_is_not_read_may_not() {
        let activity = Arc::new(Activity::new());
        let request = activity.begin();
        let day = Duration::from_secs(24 * 60 * 60);
        assert!(matches!(activity.verdict(Instant::now() + DEADLINES.idle, &DEADLINES), Verdict::Stays(_)));
        request.note(true);
        let given = Instant::now();
        assert_eq!(activity.verdict(given + DEADLINES.unread, &DEADLINES), Verdict::Unread);
        request.note(false);
        tokio::time::advance(day).await;
        assert!(matches!(activity.verdict(Instant::now(), &DEADLINES), Verdict::Stays(_)));
    }
}
