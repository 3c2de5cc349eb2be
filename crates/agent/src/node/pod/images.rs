//! Having a container's image here before it starts.

use std::sync::Arc;
use std::time::Instant;

use brain::podsync::actions::Start;
use brain::podsync::backoff::Backoffs;
use brain::podsync::failure::StartFailure;
use brain::podsync::pull::{self, Decision};
use brain::podsync::pull_secrets;
use brain::request::EventType;
use containers::{Credentials, Image, reference};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Container, Pod};
use runtime::words::plain_text;

use crate::node::Context;

/// What pulling for one container needs.
pub struct Pulls<'a> {
    pub context: &'a Arc<Context>,
    pub pod: &'a Arc<Pod>,
    pub backoffs: &'a mut Backoffs,
    /// Why the container's last start failed.
    pub last_failure: Option<&'a StartFailure>,
}

/// When an image that is not tried again yet is due.
pub fn pull_due(backoffs: &Backoffs, pod: &Pod, what: &Start) -> Option<Timestamp> {
    let (container, _) = what.container(pod)?;
    let key = pull::backoff_key(pod, container.image.as_deref().unwrap_or_default());
    backoffs.waiting_since_update(&key, Timestamp::now()).map(|waiting| waiting.until)
}

impl Pulls<'_> {
    /// The image, fetched if its policy says so. `path`: where events say that the container is.
    pub async fn ensure(&mut self, container: &Container, path: &str) -> Result<Image, StartFailure> {
        let name = container.image.clone().unwrap_or_default();
        if let Err(error) = reference::parse(&name) {
            return Err(StartFailure::InvalidImageName { image: name, cause: error.to_string() });
        }
        let present = self.context.images.status(&name).await;
        let present = present.map_err(|error| StartFailure::ImageInspect { image: name.clone(), cause: plain_text(&error.to_string()) })?;
        match pull::decide(container, present.is_some()) {
            Decision::Refuse(failure) => Err(failure),
            Decision::Use => {
                self.context.events.container(self.pod, path, EventType::Normal, "Pulled", pull::present_message(&name));
                present.ok_or_else(|| StartFailure::ImageGone { cause: format!("image {name} is gone") })
            }
            Decision::Pull => self.fetch(&name, path).await,
        }
    }

    async fn fetch(&mut self, name: &str, path: &str) -> Result<Image, StartFailure> {
        let (context, pod) = (self.context, self.pod);
        let key = pull::backoff_key(pod, name);
        if self.backoffs.waiting_since_update(&key, Timestamp::now()).is_some() {
            return Err(StartFailure::pull_back_off(name, self.last_failure));
        }
        context.events.container(pod, path, EventType::Normal, "Pulling", pull::pulling_message(name));
        let credentials = credentials(context, pod, name).await;
        let waited = Instant::now();
        let permit = context.pulls.acquire().await;
        let begun = Instant::now();
        let pulled = context.images.pull(name, &credentials).await;
        drop(permit);
        context.observer.forget_image_names();
        let image = match pulled {
            Ok(id) => context.images.status(&id).await.ok().flatten(),
            Err(error) => {
                self.backoffs.next(&key, Timestamp::now(), Timestamp::now());
                return Err(StartFailure::ImagePull { image: name.to_owned(), cause: plain_text(&error.to_string()) });
            }
        };
        let image =
            image.ok_or_else(|| StartFailure::ImageGone { cause: format!("image {name} was removed right after it was pulled") })?;
        self.backoffs.forget(&key);
        let message = pull::pulled_message(name, begun.elapsed(), waited.elapsed(), image.size_bytes);
        context.events.container(pod, path, EventType::Normal, "Pulled", message);
        Ok(image)
    }
}

/// What the pod's pull secrets say about the image's registry. Secrets that are missing or
/// malformed are left out, as the kubelet does.
async fn credentials(context: &Context, pod: &Pod, image: &str) -> Vec<Credentials> {
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    let mut found = Vec::new();
    for reference in pod.spec.iter().flat_map(|spec| spec.image_pull_secrets.iter().flatten()) {
        match context.objects.secret(namespace, &reference.name).await {
            Ok(Some(secret)) => found.extend(pull_secrets::credentials(&secret, image)),
            Ok(None) => {
                let message = format!(
                    "Unable to retrieve some image pull secrets ({}); attempting to pull the image may not succeed.",
                    reference.name
                );
                context.events.pod(pod, EventType::Warning, "FailedToRetrieveImagePullSecret", message);
            }
            Err(error) => tracing::warn!(error, secret = reference.name, "cannot get a pull secret"),
        }
    }
    found
}
