//! The store and the registries as what the agent and the runtime ask for.

use std::sync::Arc;

use futures::future::BoxFuture;

use super::pull::{self, blocking};
use super::registries::Registries;
use super::store::Store;
use super::{Content, Contents};
use crate::port::Images;
use containers::{Credentials, FilesystemUsage, Image};

/// The images of the nodes on this machine.
#[derive(Debug, Clone)]
pub struct Service {
    pub store: Arc<Store>,
    pub registries: Registries,
}

impl Images for Service {
    fn list(&self) -> BoxFuture<'_, containers::Result<Vec<Image>>> {
        Box::pin(async { Ok(blocking(&self.store, Store::list).await?) })
    }

    fn status<'a>(&'a self, reference: &'a str) -> BoxFuture<'a, containers::Result<Option<Image>>> {
        let reference = reference.to_owned();
        Box::pin(async { Ok(blocking(&self.store, move |store| store.status(&reference)).await?) })
    }

    fn pull<'a>(&'a self, reference: &'a str, credentials: &'a [Credentials]) -> BoxFuture<'a, containers::Result<String>> {
        Box::pin(async { Ok(pull::pull(&self.store, &self.registries, reference, credentials).await?.to_string()) })
    }

    fn remove<'a>(&'a self, id: &'a str) -> BoxFuture<'a, containers::Result<()>> {
        let id = id.to_owned();
        Box::pin(async { Ok(blocking(&self.store, move |store| store.remove(&id)).await?) })
    }

    fn usage(&self) -> BoxFuture<'_, containers::Result<FilesystemUsage>> {
        Box::pin(async { Ok(blocking(&self.store, Store::usage).await?) })
    }

    fn unused(&self) -> BoxFuture<'_, containers::Result<Vec<containers::UnusedImage>>> {
        Box::pin(async { Ok(blocking(&self.store, Store::unused).await?) })
    }
}

impl Contents for Store {
    fn content(&self, image_id: &str) -> containers::Result<Content> {
        Ok(Store::content(self, image_id)?)
    }

    fn hold(&self, image_id: &str, holder: &str) -> containers::Result<()> {
        Ok(Store::hold(self, image_id, holder)?)
    }

    fn release(&self, image_id: &str, holder: &str) -> containers::Result<()> {
        Ok(Store::release(self, image_id, holder)?)
    }
}

impl Contents for Service {
    fn content(&self, image_id: &str) -> containers::Result<Content> {
        Contents::content(&*self.store, image_id)
    }

    fn hold(&self, image_id: &str, holder: &str) -> containers::Result<()> {
        Contents::hold(&*self.store, image_id, holder)
    }

    fn release(&self, image_id: &str, holder: &str) -> containers::Result<()> {
        Contents::release(&*self.store, image_id, holder)
    }
}
