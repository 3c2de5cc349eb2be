//! The runtime goes and comes back; containers and the client stay.

use containers::{ContainerState, StreamRequest};
use runtime::port::Runtime as _;

use crate::fixture::Daemon;
use crate::until::until;

#[tokio::test(flavor = "multi_thread")]
async fn containers_and_the_client_outlive_the_runtime() {
    let Some(mut daemon) = Daemon::start().await else { return };
    let pod = daemon.sandbox_config("stays");
    let sandbox = daemon.sandbox(&pod).await;
    let id = daemon.run(&sandbox, &pod, &daemon.config("c", "sleep 1000").await).await;
    daemon.stop_containerd();
    assert!(daemon.client.version().await.is_err());
    daemon.start_containerd();
    until("a connection", async || daemon.client.version().await.is_ok()).await;
    let status = daemon.client.container(&id).await.unwrap();
    assert_eq!((status.state, status.sandbox_id), (ContainerState::Running, sandbox));
    let output = daemon.client.exec_sync(&id, &["echo".into(), "alive".into()], None).await.unwrap();
    assert_eq!(output.stdout, b"alive\n");
    let request = StreamRequest { command: vec!["true".into()], stdout: true, ..Default::default() };
    assert_eq!(daemon.client.exec(&id, &request).await.unwrap().exit.await, Ok(0));
}
