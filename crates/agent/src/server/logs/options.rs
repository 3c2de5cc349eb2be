//! What a client wants of a log: PodLogOptions, as query parameters.

use jiff::{SignedDuration, Timestamp};

use crate::server::answer::Refusal;
use wire::query::Query;

/// The streams that are wanted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Streams {
    #[default]
    All,
    Stdout,
    Stderr,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LogOptions {
    pub follow: bool,
    pub previous: bool,
    pub timestamps: bool,
    pub tail_lines: Option<u64>,
    pub since: Option<Timestamp>,
    pub limit_bytes: Option<u64>,
    pub streams: Streams,
}

impl LogOptions {
    pub fn parse(query: Option<&str>) -> Result<LogOptions, Refusal> {
        let query = Query::parse(query);
        let number = |name: &str| -> Result<Option<u64>, Refusal> {
            let text = query.get(name).filter(|text| !text.is_empty());
            text.map(|text| text.parse().map_err(|_| invalid())).transpose()
        };
        let since_seconds = number("sinceSeconds")?;
        let since_time = query.get("sinceTime").filter(|text| !text.is_empty());
        let since = match (since_seconds, since_time) {
            (Some(_), Some(_)) => return Err(invalid()),
            (Some(seconds), None) => Some(before_now(seconds)),
            (None, Some(text)) => Some(text.parse().map_err(|_| invalid())?),
            (None, None) => None,
        };
        let streams = match query.get("stream") {
            None | Some("" | "All") => Streams::All,
            Some("Stdout") => Streams::Stdout,
            Some("Stderr") => Streams::Stderr,
            Some(_) => return Err(invalid()),
        };
        Ok(LogOptions {
            follow: query.flag("follow"),
            previous: query.flag("previous"),
            timestamps: query.flag("timestamps"),
            tail_lines: number("tailLines")?,
            since,
            limit_bytes: number("limitBytes")?,
            streams,
        })
    }
}

fn before_now(seconds: u64) -> Timestamp {
    let back = SignedDuration::from_secs(i64::try_from(seconds).unwrap_or(i64::MAX));
    Timestamp::now().checked_sub(back).unwrap_or(Timestamp::MIN)
}

fn invalid() -> Refusal {
    Refusal::new(422, "{\"message\": \"Invalid request.\"}")
}
