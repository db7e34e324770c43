//! Machine sizes: those that the real service sells.

/// A kind of processor, and what it comes with.
#[derive(Debug)]
pub struct CpuKind {
    /// How many there can be.
    pub cpus: &'static [u32],
    /// The least memory for each, in MiB.
    pub least_mb: u32,
    /// The most memory for each, in MiB.
    pub most_mb: u32,
    /// Memory is a multiple of this, in MiB.
    pub step_mb: u32,
}

/// Processors shared with others.
pub const SHARED: CpuKind = CpuKind {
    cpus: &[1, 2, 4, 6, 8],
    least_mb: 256,
    most_mb: 2048,
    step_mb: 256,
};

/// Processors of one's own.
pub const PERFORMANCE: CpuKind = CpuKind {
    cpus: &[1, 2, 4, 6, 8, 10, 12, 14, 16, 32, 64, 128],
    least_mb: 2048,
    most_mb: 8192,
    step_mb: 1024,
};

impl CpuKind {
    /// The kind of this name.
    #[must_use]
    pub fn named(name: &str) -> Option<&'static Self> {
        match name {
            "shared" => Some(&SHARED),
            "performance" => Some(&PERFORMANCE),
            _ => None,
        }
    }
}
