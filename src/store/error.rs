//! What can go wrong between us and Redis.

/// Why an act on the store did not succeed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Redis cannot be reached, or does not serve writes now (starting, read-only, out of memory).
    /// The act may have happened; every act is safe to repeat.
    #[error("redis is not available: {0}")]
    Unavailable(String),
    /// Redis is too old, or not Redis.
    #[error("redis 7.0 or newer, or valkey, is needed; found {0}")]
    Version(String),
    /// The address cannot be used.
    #[error("redis address: {0}")]
    Address(String),
    /// Redis holds, or answered, something that is not ours.
    #[error("{what} is not as cofferdam writes it: {found}")]
    Corrupt {
        /// Which key or script.
        what: String,
        /// What was found.
        found: String,
    },
}

impl From<redis::RedisError> for Error {
    fn from(error: redis::RedisError) -> Self {
        use redis::ErrorKind;
        match error.kind() {
            ErrorKind::UnexpectedReturnType | ErrorKind::Parse => Self::Corrupt {
                what: "an answer".into(),
                found: error.to_string(),
            },
            ErrorKind::InvalidClientConfig => Self::Address(error.to_string()),
            // Whatever else there is passes, or an operator mends it: we wait and try again.
            _ => Self::Unavailable(error.to_string()),
        }
    }
}
