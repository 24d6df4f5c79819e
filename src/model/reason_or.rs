//! Reads a table that holds facts, or only the reason why there are none, as an untagged enum is written. serde's own way
//! of reading one tells nothing of what is wrong with the facts; this one keeps the place and the key.

use std::fmt;
use std::marker::PhantomData;

use serde::de::value::MapAccessDeserializer;
use serde::de::{Deserialize, DeserializeSeed, Deserializer, IntoDeserializer as _, MapAccess, Visitor};

/// Facts, or the text under `key`, which is then the table's only one.
///
/// # Errors
/// Those of the facts.
pub(super) fn read<'de, D: Deserializer<'de>, T: Deserialize<'de>>(
    deserializer: D,
    key: &'static str,
) -> Result<Result<T, String>, D::Error> {
    deserializer.deserialize_map(Either { key, facts: PhantomData })
}

struct Either<T> {
    key: &'static str,
    facts: PhantomData<T>,
}

impl<'de, T: Deserialize<'de>> Visitor<'de> for Either<T> {
    type Value = Result<T, String>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a table of facts, or one with {:?} alone", self.key)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        match map.next_key::<String>()? {
            Some(key) if key == self.key => map.next_value().map(Err),
            first => T::deserialize(MapAccessDeserializer::new(Whole { first, rest: map })).map(Ok),
        }
    }
}

/// A table of which the first key was read already.
struct Whole<A> {
    first: Option<String>,
    rest: A,
}

impl<'de, A: MapAccess<'de>> MapAccess<'de> for Whole<A> {
    type Error = A::Error;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, A::Error> {
        match self.first.take() {
            Some(key) => seed.deserialize(key.into_deserializer()).map(Some),
            None => self.rest.next_key_seed(seed),
        }
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, A::Error> {
        self.rest.next_value_seed(seed)
    }
}
