//! How far the consumers of the results are.

/// How far a consumer group is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupLag {
    /// Its name.
    pub group: String,
    /// Entries that it has not been given; `None` where Redis cannot tell, as after entries were deleted.
    pub unread: Option<u64>,
    /// Entries that it was given and has not acknowledged.
    pub unacknowledged: u64,
}

impl GroupLag {
    /// Entries that it has not done with, as far as that is known.
    #[must_use]
    pub fn behind(&self) -> u64 {
        self.unread.unwrap_or(0).saturating_add(self.unacknowledged)
    }
}
