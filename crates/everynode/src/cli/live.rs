//! Following a cluster: the board of now, again and again. What is on it is [`super::board`]'s to
//! say.

use std::convert::Infallible;
use std::time::{Duration, Instant};

use brain::forecast::RESOURCES;
use brain::model::Key;
use jiff::Timestamp;
use kube::Client;

use super::board::Board;
use super::progress::Progress;
use super::target::copy_state;

/// Pause between two looks of a user who waits for a rollout.
const ROLLOUT_PERIOD: Duration = Duration::from_millis(250);

/// Looks take a tenth of the time at most: a list of each kind is little for ten nodes and a lot
/// for ten thousand.
const BUSY_PART: u32 = 10;

/// The board as it is now: one list of each kind.
pub async fn look(client: &Client, server: &str, wanted: impl Fn(&Key) -> bool) -> anyhow::Result<Board> {
    let cluster = copy_state(client, &RESOURCES).await?.picture();
    Ok(Board::of(&cluster, server, wanted, Timestamp::now()))
}

/// Looks again and again and gives every board to `show`. Ends only when the cluster does not
/// answer.
pub async fn follow(
    client: &Client,
    server: &str,
    period: Duration,
    wanted: impl Fn(&Key) -> bool,
    mut show: impl FnMut(Board),
) -> anyhow::Result<Infallible> {
    loop {
        let begun = Instant::now();
        show(look(client, server, &wanted).await?);
        tokio::time::sleep(period.max(begun.elapsed() * (BUSY_PART - 1))).await;
    }
}

/// Shows the board of some sets while something is waited for: in place on a terminal, what is new
/// of it elsewhere.
pub async fn during<T>(wait: impl Future<Output = T>, client: &Client, server: &str, sets: &[Key], progress: &Progress) -> T {
    let mut last: Option<Board> = None;
    let show = |board: Board| {
        match progress.screen() {
            Some(screen) => screen.show(&board.lines(screen.room()).join("\n")),
            None => board.news(last.as_ref()).iter().for_each(|line| eprintln!("{line}")),
        }
        last = Some(board);
    };
    // Both only read: whichever is dropped leaves nothing half done. A board that cannot be read is
    // none; the wait goes on, and says why.
    tokio::select! {
        result = wait => result,
        Ok(never) = follow(client, server, ROLLOUT_PERIOD, |key| sets.contains(key), show) => match never {},
    }
}
