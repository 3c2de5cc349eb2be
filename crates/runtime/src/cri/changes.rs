//! Notices that something changed: by comparing lists, since not every runtime tells of events.

use std::sync::Weak;
use std::time::Duration;

use super::{Client, Shared};

/// A list of a few hundred containers takes the runtime about a millisecond.
const LOOK_SECONDS: u64 = 1;

/// The ids and states of all there is.
type Picture = Vec<(String, i32)>;

/// Until the last client is dropped.
pub async fn watch(shared: Weak<Shared>) {
    let mut last: Option<Picture> = None;
    loop {
        let Some(shared) = shared.upgrade() else { return };
        let client = Client { shared };
        // A runtime that does not answer has changed nothing; it is looked at again.
        if let Some(picture) = client.picture().await {
            if last.as_ref().is_some_and(|last| *last != picture) {
                client.changed();
            }
            last = Some(picture);
        }
        drop(client);
        tokio::time::sleep(Duration::from_secs(LOOK_SECONDS)).await;
    }
}

impl Client {
    /// Wakes the tasks that wait for changes; also after calls made here, which need not wait to be
    /// noticed.
    pub(super) fn changed(&self) {
        self.shared.changes.send_modify(|count| *count += 1);
    }

    async fn picture(&self) -> Option<Picture> {
        let sandboxes = self.listed_sandboxes().await.ok()?;
        let containers = self.listed_containers(None).await.ok()?;
        let sandboxes = sandboxes.into_iter().map(|s| (s.id, s.state));
        let mut picture: Picture = sandboxes.chain(containers.into_iter().map(|c| (c.id, c.state))).collect();
        picture.sort_unstable();
        Some(picture)
    }
}
