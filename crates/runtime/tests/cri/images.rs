//! Images: listed, found, removed, idle.

use containers::{Credentials, Error};
use runtime::port::{Images as _, Runtime as _};

use crate::fixture::{Daemon, IMAGE};
use crate::registry::{Registry, small_image};

#[tokio::test(flavor = "multi_thread")]
async fn images_are_found_and_removed() {
    let Some(daemon) = Daemon::start().await else { return };
    let client = &daemon.client;
    let images = client.list().await.unwrap();
    let image = images.iter().find(|i| i.tags == [IMAGE]).unwrap();
    assert!(image.id.starts_with("sha256:") && image.size_bytes > 0, "{image:?}");
    assert_eq!(client.status("busybox:test").await.unwrap().as_ref(), Some(image));
    assert_eq!(client.status(&image.id).await.unwrap().as_ref(), Some(image));
    assert_eq!(client.status("busybox:other").await.unwrap(), None);
    client.usage().await.unwrap();

    let idle = |unused: Vec<containers::UnusedImage>| unused.into_iter().map(|u| u.image.id).collect::<Vec<_>>();
    // Never the one that sandboxes are made of.
    assert_eq!(idle(client.unused().await.unwrap()), std::slice::from_ref(&image.id));
    let pod = daemon.sandbox_config("uses");
    let sandbox = daemon.sandbox(&pod).await;
    let id = client.create_container(&sandbox, &pod, &daemon.config("c", "true").await).await.unwrap();
    assert!(client.unused().await.unwrap().is_empty());
    client.remove_container(&id).await.unwrap();
    assert_eq!(idle(client.unused().await.unwrap()), std::slice::from_ref(&image.id));

    client.remove(&image.id).await.unwrap();
    client.remove(&image.id).await.unwrap();
    assert_eq!(client.status(IMAGE).await.unwrap(), None);
    // No server listens there.
    let error = client.pull("127.0.0.1:9/nothing:here", &[]).await.unwrap_err();
    assert!(matches!(&error, Error::Failed(_) if error.to_string().starts_with("failed to pull and unpack image")), "{error:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn images_are_pulled_with_the_credentials_that_fit() {
    let Some(daemon) = Daemon::start().await else { return };
    let Some(registry) = Registry::start(true) else { return };
    let image = small_image();
    registry.push("things/small:1", &image).await;
    let name = registry.name("things/small:1");
    let credentials = |password: &str| Credentials::Basic { username: "user".into(), password: password.into() };

    let error = daemon.client.pull(&name, &[]).await.unwrap_err();
    assert!(matches!(error, Error::Unauthorized(_)), "{error:?}");
    let error = daemon.client.pull(&name, &[credentials("wrong")]).await.unwrap_err();
    assert!(matches!(error, Error::Unauthorized(_)), "{error:?}");
    let id = daemon.client.pull(&name, &[credentials("wrong"), credentials("secret")]).await.unwrap();
    assert_eq!(id, image.id());
    let there = daemon.client.status(&name).await.unwrap().unwrap();
    assert!(there.id == id && there.tags == [name.clone()] && there.digests.len() == 1, "{there:?}");
    let error = daemon.client.pull(&registry.name("things/small:2"), &[credentials("secret")]).await.unwrap_err();
    assert!(matches!(&error, Error::Failed(_) if error.to_string().contains("not found")), "{error:?}");
}
