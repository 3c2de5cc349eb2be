//! Images: the runtime's, and since when none of its containers uses them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, PoisonError};

use jiff::Timestamp;
use tokio::sync::OnceCell;

use super::messages as cri;
use super::{Client, calls, errors, statuses};
use containers::{Credentials, Error, FilesystemUsage, Image, Result, UnusedImage};

/// The account that CRI does not keep. It begins with this process: what was not used since counts
/// as used when it was first seen.
#[derive(Default)]
pub struct ImageUse {
    last_used: Mutex<BTreeMap<String, Timestamp>>,
    /// The image that sandboxes are made of: no container uses it, every sandbox needs it.
    sandbox_image: OnceCell<String>,
}

impl ImageUse {
    /// Takes the present into the account and answers who has been idle since when.
    fn note(&self, images: Vec<Image>, used: &BTreeSet<String>, now: Timestamp) -> Vec<UnusedImage> {
        let mut last_used = self.last_used.lock().unwrap_or_else(PoisonError::into_inner);
        last_used.retain(|id, _| images.iter().any(|i| i.id == *id));
        let mut unused = Vec::new();
        for image in images {
            let last = last_used.entry(image.id.clone()).or_insert(now);
            let names = [&image.id].into_iter().chain(&image.tags).chain(&image.digests);
            if { names }.any(|name| used.contains(name)) {
                *last = now;
            } else {
                unused.push(UnusedImage { last_used: *last, frees_bytes: image.size_bytes, image });
            }
        }
        unused
    }
}

impl Client {
    pub(super) async fn list_images(&self) -> Result<Vec<Image>> {
        let answer = self.shared.channel.call(calls::LIST_IMAGES, &cri::Empty {}).await;
        Ok(answer.map_err(errors::general)?.images.into_iter().map(statuses::image).collect())
    }

    pub(super) async fn find_image(&self, reference: &str) -> Result<Option<Image>> {
        let question = cri::ImageRequest { image: Some(spec(reference)) };
        let answer = self.shared.channel.call(calls::IMAGE_STATUS, &question).await;
        match answer.map_err(|e| errors::image(reference).error(e)) {
            Ok(answer) => Ok(answer.image.map(statuses::image)),
            Err(Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    pub(super) async fn pull_image(&self, reference: &str, credentials: &[Credentials]) -> Result<String> {
        let mut tries: Vec<Option<cri::AuthConfig>> = credentials.iter().map(|c| Some(auth(c))).collect();
        if tries.is_empty() {
            tries.push(None);
        }
        let mut failure = None;
        for auth in tries {
            let question = cri::PullImageRequest { image: Some(spec(reference)), auth };
            match self.shared.channel.call(calls::PULL_IMAGE, &question).await {
                Ok(answer) => return self.image_id(&answer.image_ref).await,
                Err(error) => failure = Some(errors::pull(error)),
            }
        }
        Err(failure.expect("there was at least one try, and each of them returned or failed"))
    }

    /// Some runtimes answer a pull with a name by digest, where everything else needs the id.
    async fn image_id(&self, reference: &str) -> Result<String> {
        Ok(self.find_image(reference).await?.map_or_else(|| reference.to_owned(), |image| image.id))
    }

    pub(super) async fn remove_image(&self, id: &str) -> Result<()> {
        let question = cri::ImageRequest { image: Some(spec(id)) };
        let removed = self.shared.channel.call(calls::REMOVE_IMAGE, &question).await;
        errors::gone_is_done(removed.map(drop).map_err(|e| errors::image(id).error(e)))
    }

    pub(super) async fn measure_images(&self) -> Result<FilesystemUsage> {
        let answer = self.shared.channel.call(calls::IMAGE_FS_INFO, &cri::Empty {}).await;
        let filesystems = answer.map_err(errors::general)?.image_filesystems;
        let sum = |of: fn(&cri::FilesystemUsage) -> Option<cri::UInt64Value>| filesystems.iter().filter_map(of).map(|v| v.value).sum();
        Ok(FilesystemUsage { used_bytes: sum(|f| f.used_bytes), inodes_used: sum(|f| f.inodes_used) })
    }

    pub(super) async fn unused_images(&self) -> Result<Vec<UnusedImage>> {
        // The images first: one that a container made meanwhile uses is then not taken for unused.
        let images = self.list_images().await?;
        let containers = self.listed_containers(None).await?;
        let of = |c: cri::Container| [c.image_id.clone(), c.image_ref.clone(), c.image.unwrap_or_default().image];
        let mut used: BTreeSet<String> = containers.into_iter().flat_map(of).filter(|id| !id.is_empty()).collect();
        used.insert(self.shared.image_use.sandbox_image.get_or_try_init(|| self.ask_sandbox_image()).await?.clone());
        Ok(self.shared.image_use.note(images, &used, Timestamp::now()))
    }

    /// Newer runtimes pin it; older ones tell it only in their configuration.
    async fn ask_sandbox_image(&self) -> Result<String> {
        let answer = self.shared.channel.call(calls::STATUS, &cri::StatusRequest { verbose: true }).await;
        let info = answer.map_err(errors::general)?.info;
        let config: Option<serde_json::Value> = info.get("config").and_then(|text| serde_json::from_str(text).ok());
        Ok(config.and_then(|c| Some(c.get("sandboxImage")?.as_str()?.to_owned())).unwrap_or_default())
    }
}

fn spec(image: &str) -> cri::ImageSpec {
    cri::ImageSpec { image: image.to_owned(), ..Default::default() }
}

fn auth(credentials: &Credentials) -> cri::AuthConfig {
    match credentials {
        Credentials::Basic { username, password } => {
            cri::AuthConfig { username: username.clone(), password: password.clone(), ..Default::default() }
        }
        Credentials::Bearer(token) => cri::AuthConfig { registry_token: token.clone(), ..Default::default() },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_is_idle_since_it_was_last_seen_in_use() {
        let image = |id: &str| Image { id: id.to_owned(), tags: vec![format!("{id}:latest")], ..Default::default() };
        let images = || vec![image("a"), image("b")];
        let at = |second| Timestamp::from_second(second).unwrap();
        let account = ImageUse::default();
        let idle = |used: &[&str], second| -> Vec<(String, i64)> {
            let used = used.iter().map(|&u| u.to_owned()).collect();
            account.note(images(), &used, at(second)).into_iter().map(|u| (u.image.id, u.last_used.as_second())).collect()
        };
        assert_eq!(idle(&["a:latest"], 1), [("b".to_owned(), 1)]);
        assert_eq!(idle(&["a"], 5), [("b".to_owned(), 1)]);
        assert_eq!(idle(&[], 9), [("a".to_owned(), 5), ("b".to_owned(), 1)]);
    }
}
