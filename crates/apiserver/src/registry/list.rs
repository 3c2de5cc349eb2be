//! Lists: snapshots of the caches, filtered and paged.

use std::sync::Arc;

use base64::Engine as _;
use base64::alphabet::URL_SAFE;
use base64::engine::general_purpose::{GeneralPurpose, NO_PAD};
use kinds::status::{Cause, Details, Status};
use kinds::table::Kind;
use serde_json::{Value, json};

use super::Registry;
use super::cache::TooOld;
use super::object::{Object, local_key};
use crate::request::options::{ListOptions, ReadAt};

/// As Go decodes: bits that are left over do not matter.
const BASE64: GeneralPurpose = GeneralPurpose::new(&URL_SAFE, NO_PAD.with_decode_allow_trailing_bits(true));

/// How long a read waits for a version that does not exist yet.
const FUTURE_WAIT: std::time::Duration = std::time::Duration::from_secs(3);

/// A page of a list.
pub struct Listed {
    pub revision: u64,
    pub objects: Vec<Arc<Object>>,
    pub continue_token: String,
    /// How many follow; unknown with selectors.
    pub remaining: Option<usize>,
}

/// Where the next page begins, and at which version.
#[derive(Debug, PartialEq)]
struct Continue {
    revision: u64,
    /// Local key of the last item returned.
    after: String,
}

impl Continue {
    fn encode(&self) -> String {
        BASE64.encode(json!({"v": "meta.k8s.io/v1", "rv": self.revision, "start": self.after}).to_string())
    }

    fn decode(token: &str) -> Result<Continue, Status> {
        let refuse = |why: String| Status::bad_request(format!("invalid continue token: continue key is not valid: {why}"));
        let bytes = decode_token(token).map_err(refuse)?;
        let node = kinds::document::parse_json(&bytes).map_err(|e| refuse(e.0))?.into_value();
        if node["v"] != "meta.k8s.io/v1" {
            return Err(refuse(format!("server does not recognize this encoded version {}", node["v"])));
        }
        let after = node["start"].as_str().unwrap_or_default();
        if after.is_empty() {
            return Err(refuse("encoded start key empty (version meta.k8s.io/v1)".to_owned()));
        }
        let revision = node["rv"].as_i64().and_then(|rv| u64::try_from(rv).ok()).unwrap_or(0);
        Ok(Continue { revision, after: after.trim_end_matches('\0').to_owned() })
    }
}

/// Go's URL-safe decoding says where it stopped; what it had read until then is lost.
fn decode_token(token: &str) -> Result<Vec<u8>, String> {
    BASE64.decode(token).map_err(|e| match e {
        base64::DecodeError::InvalidByte(at, _) | base64::DecodeError::InvalidLastSymbol(at, _) => {
            format!("illegal base64 data at input byte {at}")
        }
        base64::DecodeError::InvalidLength(_) | base64::DecodeError::InvalidPadding => {
            format!("illegal base64 data at input byte {}", token.len())
        }
    })
}

/// Refuses a token that is none.
pub fn check_continue_token(token: &str) -> Result<(), Status> {
    Continue::decode(token).map(drop)
}

impl ListOptions {
    /// Does an object pass both selectors?
    pub fn selects(&self, object: &Object) -> bool {
        self.labels.matches_lookup(|key| object.label(key)) && self.fields.matches(|field| object.field(field))
    }
}

impl Registry {
    /// Lists a kind in a namespace (or in all, if it is empty).
    pub async fn list(&self, kind: &Kind, namespace: &str, options: &ListOptions) -> Result<Listed, Status> {
        let prefix = if namespace.is_empty() { String::new() } else { format!("{namespace}/") };
        if !options.continue_token.is_empty() {
            let from = Continue::decode(&options.continue_token)?;
            return self.next_page(kind, &prefix, options, &from);
        }
        let (revision, objects) = self.read_at(kind, &prefix, options).await?;
        Ok(page(revision, objects, options, &prefix, None))
    }

    async fn read_at(&self, kind: &Kind, prefix: &str, options: &ListOptions) -> Result<(u64, Vec<Arc<Object>>), Status> {
        let cache = self.caches.of(kind);
        match options.read_at {
            // Any would do for the first; but the cache is microseconds behind, and a client that
            // just got the answer to a write finds it.
            ReadAt::Any | ReadAt::Latest => self.caches.wait_for(self.revision()).await,
            ReadAt::NotOlderThan(revision) => {
                self.wait_for_future(revision).await?;
                self.caches.wait_for(self.revision()).await;
            }
            ReadAt::Exactly(revision) => {
                self.wait_for_future(revision).await?;
                let objects = cache
                    .snapshot_at(prefix, revision)
                    .map_err(|_| Status::expired("The resourceVersion for the provided list is too old."))?;
                return Ok((revision, objects));
            }
        }
        let snapshot = cache.snapshot(prefix, self.caches.applied());
        Ok((snapshot.revision, snapshot.objects))
    }

    /// Waits for a version that a client has seen elsewhere; one that does not come is refused.
    pub async fn wait_for_future(&self, revision: u64) -> Result<(), Status> {
        if revision <= self.caches.applied() {
            return Ok(());
        }
        let current = self.revision();
        if revision <= current {
            self.caches.wait_for(revision).await;
            return Ok(());
        }
        if tokio::time::timeout(FUTURE_WAIT, self.caches.wait_for(revision)).await.is_ok() {
            return Ok(());
        }
        Err(too_large(revision, self.caches.applied()))
    }

    fn next_page(&self, kind: &Kind, prefix: &str, options: &ListOptions, from: &Continue) -> Result<Listed, Status> {
        let cache = self.caches.of(kind);
        let (revision, objects) = match from.revision {
            0 => {
                let snapshot = cache.snapshot(prefix, self.caches.applied());
                (snapshot.revision, snapshot.objects)
            }
            revision => {
                let objects = cache.snapshot_at(prefix, revision).map_err(|TooOld { .. }| continue_expired())?;
                (revision, objects)
            }
        };
        Ok(page(revision, objects, options, prefix, Some(format!("{prefix}{}", from.after))))
    }
}

fn too_large(asked: u64, current: u64) -> Status {
    let status = Status::timeout(&format!("Too large resource version: {asked}, current: {current}"), 1);
    let cause =
        Cause { reason: "ResourceVersionTooLarge".to_owned(), message: "Too large resource version".to_owned(), field: String::new() };
    status.with_details(Details { causes: vec![cause], retry_after_seconds: Some(1), ..Details::default() })
}

fn continue_expired() -> Status {
    Status::expired(
        "The provided continue parameter is too old to display a consistent list result. You can start a new list without the continue parameter.",
    )
}

/// Selects and cuts: `limit` counts what passes the selectors. Tokens hold keys below `prefix`.
fn page(revision: u64, objects: Vec<Arc<Object>>, options: &ListOptions, prefix: &str, after: Option<String>) -> Listed {
    let key = |object: &Object| local_key(object.namespace(), object.name());
    let start = after.map_or(0, |after| objects.partition_point(|object| key(object) <= after));
    let selects_everything = options.selects_everything();
    // The watch cache, which answers for any version, knows no pages.
    let limit = if options.limit == 0 || options.read_at == ReadAt::Any { usize::MAX } else { options.limit };
    let mut selected: Vec<Arc<Object>> = Vec::new();
    let mut more_from = None;
    for (at, object) in objects.iter().enumerate().skip(start) {
        if !selects_everything && !options.selects(object) {
            continue;
        }
        if selected.len() == limit {
            more_from = Some(at);
            break;
        }
        selected.push(object.clone());
    }
    let (continue_token, remaining) = match (more_from, selected.last()) {
        (Some(at), Some(last)) => {
            let after = key(last).strip_prefix(prefix).unwrap_or_default().to_owned();
            (Continue { revision, after }.encode(), selects_everything.then(|| objects.len() - at))
        }
        _ => (String::new(), None),
    };
    Listed { revision, objects: selected, continue_token, remaining }
}

/// The metadata of a list.
pub fn list_metadata(listed: &Listed) -> Value {
    let mut metadata = json!({"resourceVersion": listed.revision.to_string()});
    if !listed.continue_token.is_empty() {
        metadata["continue"] = listed.continue_token.as_str().into();
    }
    if let Some(remaining) = listed.remaining {
        metadata["remainingItemCount"] = remaining.into();
    }
    metadata
}
