//! One file of the state language as text, within limits. Reading it from a disk or a commit is `repo/`.

/// The largest file, in bytes: 32 MiB. A hundred thousand instances in a folder of files stay far below it in each.
pub const FILE_BYTES_MAX: usize = 32 << 20;

/// A file: its path as people know it, and its text.
#[derive(Debug, Clone)]
pub struct Source {
    pub name: String,
    pub text: String,
}

/// Why bytes cannot be a file of the state language.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SourceError {
    #[error("{name}: larger than {} MiB: split it into several files of one folder", FILE_BYTES_MAX >> 20)]
    TooLarge { name: String },
    #[error("{name}:{line}: not UTF-8 (byte {offset} of the file): save it as UTF-8")]
    NotUtf8 { name: String, offset: usize, line: usize },
}

impl Source {
    /// Takes the bytes of a file.
    ///
    /// # Errors
    /// When there are too many of them, or they are not UTF-8.
    pub fn from_bytes(name: impl Into<String>, bytes: Vec<u8>) -> Result<Self, SourceError> {
        let name = name.into();
        if bytes.len() > FILE_BYTES_MAX {
            return Err(SourceError::TooLarge { name });
        }
        match String::from_utf8(bytes) {
            Ok(text) => Ok(Self { name, text }),
            Err(error) => {
                let offset = error.utf8_error().valid_up_to();
                let before = error.as_bytes().iter().take(offset);
                let line = 1 + before.filter(|byte| **byte == b'\n').count();
                Err(SourceError::NotUtf8 { name, offset, line })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_that_are_no_text_are_refused_with_their_place() {
        let error = Source::from_bytes("a.toml", b"x = 1\ny = \"\xff\"\n".to_vec()).unwrap_err();
        assert_eq!(error, SourceError::NotUtf8 { name: "a.toml".into(), offset: 11, line: 2 });
        assert!(Source::from_bytes("a.toml", vec![b' '; FILE_BYTES_MAX]).is_ok());
        let error = Source::from_bytes("a.toml", vec![b' '; FILE_BYTES_MAX + 1]).unwrap_err();
        assert!(error.to_string().contains("32 MiB"), "{error}");
    }
}
