//! How large an image may be.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Bounds on what an import reads, writes and waits for.
///
/// The importing user is trusted to use the disk; the maker of the image is not.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Limits {
    /// Bytes of all files after unpacking. 8 GiB: twice the largest common language images.
    pub unpacked_bytes: u64,
    /// Bytes of the source itself. As much: a source may be stored without compression.
    pub source_bytes: u64,
    /// Files, folders and links of all layers together. 500,000: a full desktop has fewer.
    pub entries: u64,
    /// Layers. 128: container engines stop at 127.
    pub layers: u64,
    /// Files in the archive that holds the layers. 10,000: each image needs about three a layer.
    pub members: u64,
    /// Bytes of one manifest, configuration or index. 4 MiB, as registries have it.
    pub document_bytes: u64,
    /// Bytes of the headers of one entry. 1 MiB: room for extended attributes, which are dropped.
    pub header_bytes: u64,
    /// Bytes of one path. 4,000: what one system call takes, less a little.
    pub path_bytes: usize,
    /// Folders inside one another. 100: deep `node_modules` trees have about 40.
    pub depth: usize,
    /// Bytes out of the decompressor for each byte in. 200: text gives 3 to 20, and a bomb 1,000.
    pub ratio: u64,
    /// Bytes a layer may always decompress to, whatever the ratio. 64 MiB: small layers of zeros
    /// are harmless and do occur.
    pub ratio_free_bytes: u64,
    /// Names in one store. 10,000: keeps the list of names a small file.
    pub names: usize,
    /// Bytes of memory of the process that unpacks. 512 MiB: zstd's largest window is 128 MiB, and
    /// half a million paths are remembered in 64.
    pub process_memory_bytes: u64,
    /// Its processor time. Ten minutes: 8 GiB take two on a slow processor.
    pub process_cpu: Duration,
    /// How long it may take in all. Half an hour: the archive may come through a network.
    pub process_time: Duration,
    /// How long one import waits for another. Ten minutes: the largest import ends in less.
    pub import_wait: Duration,
    /// How long anything waits for the list of names. It is held for the time of a small write.
    pub index_wait: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            unpacked_bytes: 8 << 30,
            source_bytes: 8 << 30,
            entries: 500_000,
            layers: 128,
            members: 10_000,
            document_bytes: 4 << 20,
            header_bytes: 1 << 20,
            path_bytes: 4_000,
            depth: 100,
            ratio: 200,
            ratio_free_bytes: 64 << 20,
            names: 10_000,
            process_memory_bytes: 512 << 20,
            process_cpu: Duration::from_secs(600),
            process_time: Duration::from_secs(1800),
            import_wait: Duration::from_secs(600),
            index_wait: Duration::from_secs(30),
        }
    }
}
