//! Which credentials of a pod's pull secrets are for an image.

use base64::Engine as _;
use containers::{Credentials, reference};
use k8s_openapi::api::core::v1::Secret;

/// `.dockerconfigjson` or `.dockercfg`: the entries whose key is the image's registry, or registry
/// and path, those that say the most about the image first. What is malformed is left out, as the
/// kubelet does.
pub fn credentials(secret: &Secret, image: &str) -> Vec<Credentials> {
    let data = secret.data.as_ref();
    let parse =
        |key: &str| data.and_then(|data| data.get(key)).and_then(|bytes| serde_json::from_slice::<serde_json::Value>(&bytes.0).ok());
    let auths = match parse(".dockerconfigjson") {
        Some(config) => config["auths"].clone(),
        None => parse(".dockercfg").unwrap_or_default(),
    };
    let Ok(reference) = reference::parse(image) else { return Vec::new() };
    let full = format!("{}/{}", reference.registry, reference.repository);
    let mut entries: Vec<(String, &serde_json::Value)> = auths
        .as_object()
        .into_iter()
        .flatten()
        .map(|(key, entry)| (normal_key(key), entry))
        .filter(|(key, _)| covers(key, &full))
        .collect();
    // The longest key says the most about the image.
    entries.sort_by_key(|(key, _)| std::cmp::Reverse(key.len()));
    entries.into_iter().filter_map(|(_, entry)| of_entry(entry)).collect()
}

/// Without scheme and version path; Docker Hub has several names.
fn normal_key(key: &str) -> String {
    let key = key.trim_start_matches("https://").trim_start_matches("http://").trim_end_matches('/');
    let key = key.trim_end_matches("/v1").trim_end_matches("/v2");
    match key {
        "index.docker.io" | "registry-1.docker.io" => "docker.io".to_owned(),
        key => key.to_owned(),
    }
}

/// `*.example.com` covers one more label; a path covers what lies below it.
fn covers(key: &str, full: &str) -> bool {
    let (key_host, key_path) = key.split_once('/').unwrap_or((key, ""));
    let (host, path) = full.split_once('/').unwrap_or((full, ""));
    let (key_labels, labels): (Vec<&str>, Vec<&str>) = (key_host.split('.').collect(), host.split('.').collect());
    let hosts_match = key_labels.len() == labels.len() && key_labels.iter().zip(&labels).all(|(k, l)| *k == "*" || k == l);
    hosts_match && (key_path.is_empty() || path == key_path || path.strip_prefix(key_path).is_some_and(|rest| rest.starts_with('/')))
}

fn of_entry(entry: &serde_json::Value) -> Option<Credentials> {
    let text = |key: &str| entry[key].as_str().filter(|text| !text.is_empty()).map(str::to_owned);
    if let (Some(username), Some(password)) = (text("username"), text("password")) {
        return Some(Credentials::Basic { username, password });
    }
    let bytes = base64::engine::general_purpose::STANDARD.decode(text("auth")?).ok()?;
    let pair = String::from_utf8(bytes).ok()?;
    let (username, password) = pair.split_once(':')?;
    Some(Credentials::Basic { username: username.to_owned(), password: password.trim_end_matches('\0').to_owned() })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use k8s_openapi::ByteString;

    use super::*;

    fn names(config: &str, image: &str) -> Vec<String> {
        let data = BTreeMap::from([(".dockerconfigjson".to_owned(), ByteString(config.as_bytes().to_vec()))]);
        let secret = Secret { data: Some(data), ..Secret::default() };
        let name = |credentials| match credentials {
            Credentials::Basic { username, .. } => username,
            Credentials::Bearer(token) => token,
        };
        credentials(&secret, image).into_iter().map(name).collect()
    }

    #[test]
    fn the_longest_key_that_covers_the_image_comes_first() {
        let entry = |name: &str| format!(r#"{{"username": "{name}", "password": "x"}}"#);
        let config = format!(
            r#"{{"auths": {{"r.example": {}, "https://r.example/team/v1": {}, "r.example/te": {}, "*.example": {}, "other": {}}}}}"#,
            entry("host"),
            entry("path"),
            entry("part-of-a-name"),
            entry("wildcard"),
            entry("other")
        );
        assert_eq!(names(&config, "r.example/team/app:1"), ["path", "wildcard", "host"]);
        assert_eq!(names(&config, "s.example/app"), ["wildcard"]);
        assert!(names(&config, "deep.s.example/app").is_empty(), "a star is one label");
    }

    #[test]
    fn docker_hub_has_many_names_and_malformed_entries_are_left_out() {
        let config = r#"{"auths": {"https://index.docker.io/v1/": {"auth": "dTpw"}, "docker.io": {"auth": "%%%"}}}"#;
        assert_eq!(names(config, "busybox"), ["u"]);
        assert!(names("not JSON", "busybox").is_empty());
        assert!(names(r#"{"auths": 3}"#, "busybox").is_empty());
    }
}
