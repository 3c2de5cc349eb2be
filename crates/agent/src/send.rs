//! Requests whose answers the agent does not read.

use http::Request;
use http::header::CONTENT_TYPE;
use kube::Client;
use serde_json::Value;

pub const MERGE: &str = "application/merge-patch+json";
pub const STRATEGIC: &str = "application/strategic-merge-patch+json";
pub const JSON: &str = "application/json";

/// Sends a request with a body.
pub async fn send(client: &Client, method: &str, path: &str, content_type: &str, body: &Value) -> Result<(), kube::Error> {
    let body = serde_json::to_vec(body).map_err(kube::Error::SerdeError)?;
    let request =
        Request::builder().method(method).uri(path).header(CONTENT_TYPE, content_type).body(body).map_err(kube::Error::HttpError)?;
    client.request_text(request).await.map(drop)
}

/// Is the error the server's word that what it is about is there already, changed, or gone?
pub fn is_overtaken(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if matches!(status.code, 404 | 409))
}
