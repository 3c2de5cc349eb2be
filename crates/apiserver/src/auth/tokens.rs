//! Service-account tokens: JWTs that are signed by the cluster, expire, and hold only as long as
//! what they are bound to.

use base64::Engine as _;
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use kinds::table;
use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::impersonate::service_account_groups;
use crate::registry::Registry;
use crate::registry::encoding::parse_stored;
use crate::request::User;

/// The issuer of the tokens, and their audience if the request names no other.
pub const ISSUER: &str = "https://kubernetes.default.svc.cluster.local";

const BASE64: base64::engine::GeneralPurpose = base64::engine::general_purpose::URL_SAFE_NO_PAD;

/// Length of an uncompressed point of P-256: a marker and two coordinates.
const POINT_LEN: usize = 65;

/// The key that signs tokens.
pub struct TokenKey {
    encoding: EncodingKey,
    decoding: DecodingKey,
    point: Vec<u8>,
    key_id: String,
}

/// The key is no ECDSA key on P-256 in PKCS#8.
#[derive(Debug, thiserror::Error)]
#[error("the key for service-account tokens is no P-256 key in PKCS#8: {0}")]
pub struct BadKey(ring::error::KeyRejected);

/// What a token says.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Claims {
    pub iss: String,
    pub sub: String,
    pub aud: Vec<String>,
    pub exp: i64,
    pub iat: i64,
    pub nbf: i64,
    pub jti: String,
    #[serde(rename = "kubernetes.io")]
    pub kubernetes: Value,
}

impl TokenKey {
    pub fn from_pkcs8(der: &[u8]) -> Result<TokenKey, BadKey> {
        let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, der, &ring::rand::SystemRandom::new()).map_err(BadKey)?;
        let point = pair.public_key().as_ref().to_vec();
        debug_assert_eq!(point.len(), POINT_LEN);
        let key_id = BASE64.encode(Sha256::digest(&point));
        Ok(TokenKey { encoding: EncodingKey::from_ec_der(der), decoding: DecodingKey::from_ec_der(&point), point, key_id })
    }

    pub fn sign(&self, claims: &Claims) -> String {
        let header = Header { kid: Some(self.key_id.clone()), ..Header::new(Algorithm::ES256) };
        jsonwebtoken::encode(&header, claims, &self.encoding).expect("claims of texts and numbers always sign")
    }

    /// The claims of a token that we signed, that is valid now, and that is for one of `audiences`.
    pub fn verify(&self, token: &str, audiences: &[String]) -> Option<Claims> {
        let mut validation = Validation::new(Algorithm::ES256);
        validation.set_issuer(&[ISSUER]);
        validation.set_audience(audiences);
        validation.validate_nbf = true;
        jsonwebtoken::decode::<Claims>(token, &self.decoding, &validation).ok().map(|data| data.claims)
    }

    /// The public key, for clients that check tokens themselves.
    pub fn jwks(&self) -> Value {
        let (x, y) = self.point[1..].split_at((POINT_LEN - 1) / 2);
        json!({"keys": [{
            "use": "sig", "kty": "EC", "kid": self.key_id, "crv": "P-256", "alg": "ES256", "x": BASE64.encode(x), "y": BASE64.encode(y),
        }]})
    }

    /// The OpenID discovery document.
    pub fn openid_configuration(&self, server: &str) -> Value {
        json!({
            "issuer": ISSUER,
            "jwks_uri": format!("{server}/openid/v1/jwks"),
            "response_types_supported": ["id_token"],
            "subject_types_supported": ["public"],
            "id_token_signing_alg_values_supported": ["ES256"],
        })
    }

    /// The user of a token, if the account and the bound objects still are what they were.
    pub fn user(&self, registry: &Registry, token: &str, audiences: &[String]) -> Option<User> {
        let claims = self.verify(token, audiences)?;
        let kubernetes = &claims.kubernetes;
        let namespace = kubernetes["namespace"].as_str()?;
        let account = kubernetes["serviceaccount"]["name"].as_str()?;
        let account_uid = kubernetes["serviceaccount"]["uid"].as_str()?;
        if uid_of(registry, "serviceaccounts", namespace, account)?.as_str() != account_uid {
            return None;
        }
        let mut extra = std::collections::BTreeMap::from([(
            "authentication.kubernetes.io/credential-id".to_owned(),
            vec![format!("JTI={}", claims.jti)],
        )]);
        for (field, resource) in [("pod", "pods"), ("secret", "secrets"), ("node", "nodes")] {
            let bound = &kubernetes[field];
            let Some(name) = bound["name"].as_str() else { continue };
            let scope = if field == "node" { "" } else { namespace };
            // A node is noted with a pod's token, but the token does not end with it.
            let binding = field != "node" || kubernetes["pod"].is_null();
            if binding && uid_of(registry, resource, scope, name).as_deref() != bound["uid"].as_str() {
                return None;
            }
            if field != "secret" {
                extra.insert(format!("authentication.kubernetes.io/{field}-name"), vec![name.to_owned()]);
                extra.insert(
                    format!("authentication.kubernetes.io/{field}-uid"),
                    vec![bound["uid"].as_str().unwrap_or_default().to_owned()],
                );
            }
        }
        let name = format!("system:serviceaccount:{namespace}:{account}");
        let mut groups = service_account_groups(&name).unwrap_or_default();
        groups.push("system:authenticated".to_owned());
        Some(User { name, uid: account_uid.to_owned(), groups, extra })
    }
}

fn uid_of(registry: &Registry, resource: &str, namespace: &str, name: &str) -> Option<String> {
    let kind = table::by_resource("", "v1", resource)?;
    let entry = registry.entry(kind, namespace, name).ok()??;
    Some(parse_stored(&entry.value)["metadata"]["uid"].as_str()?.to_owned())
}
