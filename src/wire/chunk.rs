//! A piece of a snapshot as it crosses the wire: base64 in a frame of JSON, never longer than it may be.

use base64ct::{Base64, Encoding as _};
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::model::snapshot::CHUNK_BYTES_MAX;

/// Bytes of a snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chunk(pub Vec<u8>);

impl Serialize for Chunk {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&Base64::encode_string(&self.0))
    }
}

impl<'de> Deserialize<'de> for Chunk {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let text = String::deserialize(from)?;
        let bytes = Base64::decode_vec(&text).map_err(|_what| D::Error::custom("a piece of a snapshot that is no base64"))?;
        if bytes.len() > CHUNK_BYTES_MAX {
            return Err(D::Error::custom(format!("a piece of a snapshot of {} bytes", bytes.len())));
        }
        Ok(Self(bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_piece_comes_back_as_it_was_and_never_too_long() {
        let piece = Chunk((0..=255).collect());
        let text = serde_json::to_string(&piece).unwrap();
        assert_eq!(serde_json::from_str::<Chunk>(&text).unwrap(), piece);
        assert!(serde_json::from_str::<Chunk>("\"no base64!\"").is_err());
        let long = serde_json::to_string(&Chunk(vec![0; CHUNK_BYTES_MAX + 1])).unwrap();
        assert!(serde_json::from_str::<Chunk>(&long).is_err());
        let largest = serde_json::to_string(&Chunk(vec![0; CHUNK_BYTES_MAX])).unwrap();
        assert!(largest.len() * 2 < crate::wire::REQUEST_BYTES_MAX);
    }
}
