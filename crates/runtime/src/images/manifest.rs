//! Manifests, indexes and configurations, in Docker's format and OCI's: what is read of them, and
//! which entry of an index is for this machine.
//!
//! Untrusted input: fields that are not needed are not looked at, missing ones are empty.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::digest::Digest;
use super::error::{Error, Result};

pub const MEDIA_TYPES: &[&str] = &[OCI_INDEX, OCI_MANIFEST, DOCKER_LIST, DOCKER_MANIFEST];
pub const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
pub const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
pub const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
const CONFIG_TYPES: &[&str] = &["application/vnd.oci.image.config.v1+json", "application/vnd.docker.container.image.v1+json"];

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Descriptor {
    #[serde(default)]
    pub media_type: String,
    pub digest: Digest,
    pub size: u64,
    #[serde(default)]
    pub platform: Option<Platform>,
    #[serde(default)]
    pub annotations: Option<BTreeMap<String, String>>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Platform {
    #[serde(default)]
    pub os: String,
    #[serde(default)]
    pub architecture: String,
    #[serde(default)]
    pub variant: Option<String>,
}

/// What a manifest's digest may lead to.
#[derive(Debug, Clone)]
pub enum Document {
    Index(Vec<Descriptor>),
    Image(Manifest),
}

#[derive(Debug, Clone)]
pub struct Manifest {
    pub config: Descriptor,
    pub layers: Vec<Descriptor>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Raw {
    schema_version: Option<u64>,
    #[serde(default)]
    media_type: String,
    config: Option<Descriptor>,
    layers: Option<Vec<Descriptor>>,
    manifests: Option<Vec<Descriptor>>,
}

impl Document {
    /// `what` names the document in errors.
    pub fn parse(bytes: &[u8], what: &str) -> Result<Document> {
        let raw: Raw = serde_json::from_slice(bytes).map_err(|source| Error::Json { what: what.to_owned(), source })?;
        if raw.schema_version.is_some_and(|version| version != 2) {
            let version = raw.schema_version.unwrap_or_default();
            return Err(Error::Unsupported(format!(
                "{what} has schema version {version}, only version 2 is supported; push the image again with a current tool"
            )));
        }
        if !raw.media_type.is_empty() && !MEDIA_TYPES.contains(&raw.media_type.as_str()) {
            return Err(Error::Unsupported(format!("{what} has the media type {:?}, which is not an image", raw.media_type)));
        }
        match (raw.manifests, raw.config, raw.layers) {
            (Some(manifests), None, None) => Ok(Document::Index(manifests)),
            (None, Some(config), Some(layers)) => check_config_type(Manifest { config, layers }, what),
            _ => Err(Error::Unsupported(format!("{what} is neither an image manifest nor an index"))),
        }
    }
}

fn check_config_type(manifest: Manifest, what: &str) -> Result<Document> {
    let media_type = &manifest.config.media_type;
    if !media_type.is_empty() && !CONFIG_TYPES.contains(&media_type.as_str()) {
        return Err(Error::Unsupported(format!("{what} is not a container image: its configuration has the media type {media_type:?}")));
    }
    Ok(Document::Image(manifest))
}

impl Platform {
    /// This machine's.
    pub fn current() -> Platform {
        let (architecture, variant) = match std::env::consts::ARCH {
            "x86_64" => ("amd64", None),
            "x86" => ("386", None),
            "aarch64" => ("arm64", Some("v8")),
            "arm" => ("arm", Some("v7")),
            "powerpc64" if cfg!(target_endian = "little") => ("ppc64le", None),
            other => (other, None),
        };
        Platform { os: "linux".to_owned(), architecture: architecture.to_owned(), variant: variant.map(str::to_owned) }
    }

    /// How well an image for `other` runs on this platform, the smaller the better; None when it
    /// does not.
    fn rank(&self, other: &Platform) -> Option<u32> {
        if other.os != self.os || other.architecture != self.architecture {
            return None;
        }
        // An amd64 variant above v1 may use instructions that this processor lacks; all processors
        // run the plain one.
        let newest = if self.architecture == "amd64" { 1 } else { level(self.variant.as_deref()).unwrap_or(0) };
        match level(other.variant.as_deref()) {
            None => Some(if other.variant.is_none() { 50 } else { 100 }),
            Some(variant) if variant <= newest => Some(newest - variant),
            Some(_) => None,
        }
    }
}

/// 7 for `v7`; None without a variant or for one that is not a number.
fn level(variant: Option<&str>) -> Option<u32> {
    variant?.strip_prefix('v')?.parse().ok()
}

/// The entry that suits this machine best; one without a platform only when nothing else does.
pub fn choose<'a>(entries: &'a [Descriptor], platform: &Platform) -> Option<&'a Descriptor> {
    let by_platform = entries.iter().filter_map(|entry| Some((platform.rank(entry.platform.as_ref()?)?, entry)));
    let best = by_platform.min_by_key(|(rank, _)| *rank).map(|(_, entry)| entry);
    best.or_else(|| entries.iter().find(|entry| entry.platform.is_none()))
}

/// An image's configuration, as far as containers and lists need it.
#[derive(Debug, Clone, Default, Deserialize)]
pub struct ConfigFile {
    #[serde(default)]
    pub os: String,
    #[serde(default)]
    pub architecture: String,
    #[serde(default)]
    pub config: Option<RunConfig>,
    pub rootfs: RootFs,
}

#[derive(Debug, Clone, Default, Deserialize)]
pub struct RootFs {
    #[serde(default)]
    pub diff_ids: Vec<Digest>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct RunConfig {
    #[serde(default)]
    pub user: Option<String>,
    #[serde(default)]
    pub env: Option<Vec<String>>,
    #[serde(default)]
    pub entrypoint: Option<Vec<String>>,
    #[serde(default)]
    pub cmd: Option<Vec<String>>,
    #[serde(default)]
    pub working_dir: Option<String>,
    #[serde(default)]
    pub stop_signal: Option<String>,
    #[serde(default)]
    pub volumes: Option<BTreeMap<String, serde::de::IgnoredAny>>,
    #[serde(default)]
    pub exposed_ports: Option<BTreeMap<String, serde::de::IgnoredAny>>,
    #[serde(default)]
    pub labels: Option<BTreeMap<String, serde::de::IgnoredAny>>,
}

/// Each volume is a folder and a mount of every container, and each layer one of the kernel's,
/// which stacks 500 of them at most.
const VOLUMES_MAX: usize = 1000;
const LAYERS_MAX: usize = 500;
/// Beyond any image's: some carry a few hundred labels.
const NAMES_MAX: usize = 10_000;
/// Arguments and variables of a program have 2 MiB together in Linux, and the pod's are added to
/// the image's.
const WORDS_BYTES_MAX: usize = 1024 * 1024;

impl ConfigFile {
    pub fn parse(bytes: &[u8], what: &str) -> Result<ConfigFile> {
        let config: ConfigFile = serde_json::from_slice(bytes).map_err(|source| Error::Json { what: what.to_owned(), source })?;
        config.check_size(what)?;
        Ok(config)
    }

    fn check_size(&self, what: &str) -> Result<()> {
        let none = RunConfig::default();
        let run = self.config.as_ref().unwrap_or(&none);
        let names = |map: &Option<BTreeMap<String, serde::de::IgnoredAny>>| map.as_ref().map_or(0, BTreeMap::len);
        let words = |list: &Option<Vec<String>>| list.iter().flatten().map(|word| word.len() + 1).sum::<usize>();
        let figures = [
            (self.rootfs.diff_ids.len(), LAYERS_MAX, "layers"),
            (names(&run.volumes), VOLUMES_MAX, "volumes"),
            (names(&run.exposed_ports), NAMES_MAX, "exposed ports"),
            (names(&run.labels), NAMES_MAX, "labels"),
            (run.env.as_ref().map_or(0, Vec::len), NAMES_MAX, "variables"),
            (words(&run.env), WORDS_BYTES_MAX, "bytes of variables"),
            (words(&run.entrypoint) + words(&run.cmd), WORDS_BYTES_MAX, "bytes of arguments"),
        ];
        match figures.into_iter().find(|(count, most, _)| count > most) {
            Some((count, most, of)) => {
                Err(Error::Unsupported(format!("{what} has {count} {of}, more than {most}: build the image with fewer of them")))
            }
            None => Ok(()),
        }
    }

    /// Whether its programs are for this machine. Old images do not say.
    pub fn check_platform(&self) -> Result<()> {
        let own = Platform::current();
        let differs = |said: &str, own: &str| !said.is_empty() && said != own;
        if differs(&self.os, &own.os) || differs(&self.architecture, &own.architecture) {
            let what = format!("the image is for {}/{}, this node is {}/{}", self.os, self.architecture, own.os, own.architecture);
            return Err(Error::Unsupported(what));
        }
        Ok(())
    }

    pub fn user(&self) -> &str {
        self.config.as_ref().and_then(|config| config.user.as_deref()).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(architecture: &str, variant: Option<&str>) -> Descriptor {
        let platform = Platform { os: "linux".into(), architecture: architecture.into(), variant: variant.map(str::to_owned) };
        let digest = Digest::of(format!("{architecture}{variant:?}").as_bytes());
        Descriptor { media_type: String::new(), digest, size: 1, platform: Some(platform), annotations: None }
    }

    fn chosen(architecture: &str, variant: Option<&str>, entries: &[Descriptor]) -> Option<Option<String>> {
        let platform = Platform { os: "linux".into(), architecture: architecture.into(), variant: variant.map(str::to_owned) };
        choose(entries, &platform).map(|entry| entry.platform.as_ref().and_then(|platform| platform.variant.clone()))
    }

    #[test]
    fn the_newest_variant_that_runs_wins() {
        let arms = [entry("arm", Some("v5")), entry("arm", Some("v7")), entry("arm", Some("v6")), entry("arm64", Some("v8"))];
        assert_eq!(chosen("arm", Some("v7"), &arms), Some(Some("v7".into())));
        assert_eq!(chosen("arm", Some("v6"), &arms), Some(Some("v6".into())));
        let amds = [entry("amd64", Some("v3")), entry("amd64", None)];
        assert_eq!(chosen("amd64", None, &amds), Some(None));
        assert_eq!(chosen("amd64", None, &amds[..1]), None);
        assert_eq!(chosen("riscv64", None, &amds), None);
    }

    #[test]
    fn configurations_beyond_any_image_are_refused() {
        let parse = |config: serde_json::Value, layers: usize| {
            let config = serde_json::json!({"config": config, "rootfs": {"diff_ids": vec![Digest::of(b""); layers]}});
            ConfigFile::parse(&serde_json::to_vec(&config).unwrap(), "the image").map(drop).map_err(|error| error.to_string())
        };
        let map = |count: usize| (0..count).map(|n| (n.to_string(), serde_json::json!({}))).collect::<serde_json::Map<_, _>>();
        let list = |count: usize| vec!["A=b"; count];
        for (config, layers, refused) in [
            (serde_json::json!({"Volumes": map(1000), "ExposedPorts": map(10_000), "Labels": map(10_000), "Env": list(10_000)}), 500, None),
            (serde_json::json!({"Volumes": map(1001)}), 1, Some("1001 volumes, more than 1000")),
            (serde_json::json!({"ExposedPorts": map(10_001)}), 1, Some("10001 exposed ports, more than 10000")),
            (serde_json::json!({"Labels": map(10_001)}), 1, Some("10001 labels, more than 10000")),
            (serde_json::json!({"Env": list(10_001)}), 1, Some("10001 variables, more than 10000")),
            (serde_json::json!({"Env": ["x".repeat(1 << 20)]}), 1, Some("1048577 bytes of variables, more than 1048576")),
            (serde_json::json!({"Cmd": list(1 << 18), "Entrypoint": ["x"]}), 1, Some("1048578 bytes of arguments, more than 1048576")),
            (serde_json::json!({}), 501, Some("501 layers, more than 500")),
        ] {
            let said = parse(config, layers);
            match refused {
                None => assert_eq!(said, Ok(())),
                Some(why) => assert_eq!(said, Err(format!("the image has {why}: build the image with fewer of them"))),
            }
        }
    }

    #[test]
    fn old_schemas_say_so() {
        let error = Document::parse(br#"{"schemaVersion":1,"name":"x"}"#, "manifest x").unwrap_err().to_string();
        assert!(error.contains("schema version 1"), "{error}");
        let chart = format!(
            r#"{{"schemaVersion":2,"config":{{"mediaType":"application/vnd.cncf.helm.config.v1+json","digest":"{}","size":2}},"layers":[]}}"#,
            Digest::of(b"")
        );
        let error = Document::parse(chart.as_bytes(), "manifest x").unwrap_err().to_string();
        assert!(error.contains("not a container image"), "{error}");
    }
}
