//! Images of machines, without a daemon: imported by name, unpacked once, used read-only.
//!
//! An image comes from a plain folder, an OCI image layout (a folder, or an archive of one), or an
//! archive of `docker save`; the name `host` always means the host's own `/usr`. Whoever made
//! the image is not trusted: its digests are checked, it is written below one folder and nowhere
//! else, and it has bounds ([`Limits`]).
//!
//! ```text
//! <state folder>/images/    0700; only the server's user gets in
//!   import.lock             held by the one import that runs
//!   index.lock              held while the list of names is read or changed
//!   index.json              names → digests
//!   roots/sha256-<digest>/  an unpacked image; whole since it has this name
//!     image.json            how its program is run, how large it is
//!     in-use                locked by each Lease
//!     rootfs/               0755; what a machine sees as /
//!   tmp/                    what is being unpacked or deleted
//! ```
//!
//! All files belong to the server's user and have one of two modes: 0755 for folders and what
//! somebody may run, 0644 for the rest. A machine's own user can thus read and run all of its
//! image, and change none of it. Since the folders above are closed to that user, the engine must
//! bring `rootfs` into the machine's mount namespace before it gives up the server's rights.
//!
//! A name can be removed while machines use its image: no new machine starts from it, and its
//! files go when the last [`Lease`] has ended, at the next import or removal or start of a server.
//!
//! An image is read by a process without rights, if the store is told which program does it
//! ([`Store::unpacked_by`]); the `confined` module says what it can still do.
//!
//! All calls block, [`Store::import`] for as long as unpacking takes.

mod blob;
mod confined;
mod digest;
mod docker;
mod error;
mod folder;
mod index;
mod layer;
mod limits;
mod lock;
mod members;
mod oci;
mod path;
mod plan;
mod reference;
mod report;
mod roots;
mod source;
mod store;
mod tree;

pub use confined::run_if_asked;
pub use error::{Error, Excess, Refusal};
pub use limits::Limits;
pub use reference::HOST;
pub use report::{Image, Imported, Removed, Resolved};
pub use roots::{Kind, Lease};
pub use store::Store;
