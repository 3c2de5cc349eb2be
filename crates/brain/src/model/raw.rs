//! Helpers for reading the API's JSON, where `null` means absent.

use serde::{Deserialize, Deserializer};

/// `null` is the default value.
pub(crate) fn absent_if_null<'de, D: Deserializer<'de>, T: Deserialize<'de> + Default>(deserializer: D) -> Result<T, D::Error> {
    Ok(Option::<T>::deserialize(deserializer)?.unwrap_or_default())
}

/// A number written as a text; 0 for anything else.
pub(crate) fn number_text<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
    let text = Option::<std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
    Ok(text.and_then(|text| text.parse().ok()).unwrap_or(0))
}
