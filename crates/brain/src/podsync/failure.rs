//! Why a container was not started: the reason that `kubectl get` shows, the sentence of its
//! status, the events, and when it is tried again. The words are the kubelet's.

use super::actions::Start;
use super::{full_name, pull};
use crate::request::EventType;
use k8s_openapi::api::core::v1::Pod;

/// A failed start. Causes are sentences of the part asked: the runtime, a registry, a volume.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StartFailure {
    /// The name of the image is malformed.
    InvalidImageName {
        image: String,
        cause: String,
    },
    /// The node does not know whether it has the image.
    ImageInspect {
        image: String,
        cause: String,
    },
    /// The image is not here, and the pull policy is `Never`.
    ImageNeverPulled {
        image: String,
    },
    ImagePull {
        image: String,
        cause: String,
    },
    /// The image was here a moment ago.
    ImageGone {
        cause: String,
    },
    /// The image is not pulled again yet.
    ImagePullBackOff {
        image: String,
        last: Option<Box<StartFailure>>,
    },
    /// The container's configuration cannot be made: what it refers to, its user, its sandbox.
    Config {
        cause: String,
    },
    /// The runtime did not make the container.
    Create {
        cause: String,
    },
    /// The runtime did not start the container.
    Run {
        cause: String,
    },
    PostStartHook {
        cause: String,
    },
    /// The container ended again and again, and is not started yet.
    CrashLoopBackOff {
        container: String,
        pod: String,
        message: String,
    },
}

/// When a failed start is repeated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Retry {
    /// In a moment, so that the status shows the back-off.
    Soon,
    /// When the image's back-off is over.
    WhenPullIsDue,
    Later,
}

/// An event about the container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContainerEvent {
    pub event_type: EventType,
    pub reason: &'static str,
    pub message: String,
}

impl StartFailure {
    /// A container that waits for its back-off; None for one that does not wait.
    pub fn crash_loop(start: &Start, pod: &Pod) -> Option<StartFailure> {
        let message = start.waiting_message(pod)?;
        Some(StartFailure::CrashLoopBackOff { container: start.name.clone(), pod: full_name(pod), message })
    }

    /// Of the container's status.
    pub fn reason(&self) -> &'static str {
        match self {
            StartFailure::InvalidImageName { .. } => "InvalidImageName",
            StartFailure::ImageInspect { .. } => "ImageInspectError",
            StartFailure::ImageNeverPulled { .. } => "ErrImageNeverPull",
            StartFailure::ImagePull { .. } | StartFailure::ImageGone { .. } => "ErrImagePull",
            StartFailure::ImagePullBackOff { .. } => "ImagePullBackOff",
            StartFailure::Config { .. } => "CreateContainerConfigError",
            StartFailure::Create { .. } => "CreateContainerError",
            StartFailure::Run { .. } => "RunContainerError",
            StartFailure::PostStartHook { .. } => "PostStartHookError",
            StartFailure::CrashLoopBackOff { .. } => "CrashLoopBackOff",
        }
    }

    /// Of the container's status.
    pub fn message(&self) -> String {
        match self {
            StartFailure::InvalidImageName { image, cause } => format!("Failed to apply default image tag \"{image}\": {cause}"),
            StartFailure::ImageInspect { image, cause } => format!("Failed to inspect image \"{image}\": {cause}"),
            StartFailure::ImageNeverPulled { image } => pull::never_pull_message(image),
            StartFailure::ImagePullBackOff { image, last } => match last.as_deref() {
                Some(last @ StartFailure::ImagePullBackOff { .. }) => last.message(),
                Some(last) => format!("{}: {}: {}", pull::backoff_message(image), last.reason(), last.message()),
                None => pull::backoff_message(image),
            },
            StartFailure::ImagePull { cause, .. }
            | StartFailure::ImageGone { cause }
            | StartFailure::Config { cause }
            | StartFailure::Create { cause }
            | StartFailure::Run { cause }
            | StartFailure::PostStartHook { cause } => cause.clone(),
            StartFailure::CrashLoopBackOff { message, .. } => message.clone(),
        }
    }

    /// The events that tell it, in order.
    pub fn events(&self) -> Vec<ContainerEvent> {
        let warning = |reason, message| ContainerEvent { event_type: EventType::Warning, reason, message };
        let failed = |text: &str| warning("Failed", format!("Error: {text}"));
        match self {
            StartFailure::InvalidImageName { .. } => vec![warning("InspectFailed", self.message()), failed(self.reason())],
            StartFailure::ImageInspect { .. } => vec![warning("InspectFailed", self.message()), failed(&self.message())],
            StartFailure::ImageNeverPulled { .. } => vec![warning("ErrImageNeverPull", self.message()), failed(self.reason())],
            StartFailure::ImagePull { image, cause } => {
                vec![warning("Failed", pull::failed_message(image, cause)), failed(self.reason())]
            }
            StartFailure::ImageGone { .. } => vec![failed(self.reason())],
            StartFailure::ImagePullBackOff { image, .. } => {
                let waits = ContainerEvent { event_type: EventType::Normal, reason: "BackOff", message: pull::backoff_message(image) };
                vec![waits, failed(self.reason())]
            }
            StartFailure::Config { cause } | StartFailure::Create { cause } | StartFailure::Run { cause } => vec![failed(cause)],
            // Reported before the container was ended for it.
            StartFailure::PostStartHook { .. } => Vec::new(),
            StartFailure::CrashLoopBackOff { container, pod, .. } => {
                vec![warning("BackOff", format!("Back-off restarting failed container {container} in pod {pod}"))]
            }
        }
    }

    pub fn retry(&self) -> Retry {
        match self {
            StartFailure::ImagePull { .. } | StartFailure::ImageGone { .. } => Retry::Soon,
            StartFailure::ImagePullBackOff { .. } => Retry::WhenPullIsDue,
            _ => Retry::Later,
        }
    }

    /// The status of a container whose image is not tried again yet; `last` is why the last try
    /// failed.
    pub fn pull_back_off(image: &str, last: Option<&StartFailure>) -> StartFailure {
        let last = match last {
            Some(StartFailure::ImagePullBackOff { last, .. }) => last.clone(),
            last => last.cloned().map(Box::new),
        };
        StartFailure::ImagePullBackOff { image: image.to_owned(), last }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(failure: &StartFailure) -> String {
        let events = failure.events().into_iter().map(|event| format!("\n{}: {}", event.reason, event.message));
        format!("{}: {}{}", failure.reason(), failure.message(), events.collect::<String>())
    }

    #[test]
    fn an_image_that_is_not_pulled_yet_says_what_failed_the_last_time() {
        let image = || "busybox".to_owned();
        let failed = StartFailure::ImagePull { image: image(), cause: "no such host".to_owned() };
        let waits = StartFailure::pull_back_off("busybox", Some(&failed));
        let still_waits = StartFailure::pull_back_off("busybox", Some(&waits));
        assert_eq!(waits, still_waits, "waiting does not pile up");
        expect_test::expect![[r#"
            ErrImagePull: no such host
            Failed: Failed to pull image "busybox": no such host
            Failed: Error: ErrImagePull"#]]
        .assert_eq(&told(&failed));
        expect_test::expect![[r#"
            ImagePullBackOff: Back-off pulling image "busybox": ErrImagePull: no such host
            BackOff: Back-off pulling image "busybox"
            Failed: Error: ImagePullBackOff"#]]
        .assert_eq(&told(&waits));
        assert_eq!((failed.retry(), waits.retry()), (Retry::Soon, Retry::WhenPullIsDue));
    }
}
