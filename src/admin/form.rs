//! How times stand in JSON.

use std::time::SystemTime;

use serde::{Deserialize, Deserializer, Serializer, de::Error};
use serde_with::{DeserializeAs, SerializeAs};

use crate::base::wall;

/// A moment of the wall clock in UTC, `2026-01-02T03:04:05.678Z` (RFC 3339).
#[derive(Debug)]
pub(super) struct Rfc3339;

impl SerializeAs<SystemTime> for Rfc3339 {
    fn serialize_as<S: Serializer>(value: &SystemTime, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&wall::text(*value))
    }
}

impl<'de> DeserializeAs<'de, SystemTime> for Rfc3339 {
    fn deserialize_as<D: Deserializer<'de>>(from: D) -> Result<SystemTime, D::Error> {
        let text = String::deserialize(from)?;
        wall::parse(&text).ok_or_else(|| {
            D::Error::custom(format!(
                "{text:?} is not a time such as 2026-01-02T03:04:05.678Z"
            ))
        })
    }
}
