//! What a request asks, as a value.

use std::time::Duration;

use crate::clock::UnixMs;
use crate::local::faults::rule::Rule;
use crate::local::waits::WaitQuery;
use crate::machines::wire::{
    CreateApp, CreateMachine, ExecRequest, LeaseRequest, MachineState, MetadataPatch, UpdateMachine,
};

/// A request that was understood.
#[derive(Clone, Debug)]
pub(crate) enum Action {
    /// List an organisation's apps.
    Apps {
        /// Only this organisation's.
        org: Option<String>,
        /// Which part of the listing.
        page: Page,
    },
    /// Create an app.
    CreateApp(CreateApp),
    /// Show an app.
    App(String),
    /// Delete an app with everything in it.
    DeleteApp(String),
    /// List an app's machines.
    List {
        /// The app.
        app: String,
        /// Which of them, and how.
        filter: Filter,
        /// Which part of the listing.
        page: Page,
    },
    /// List an organisation's machines.
    OrgMachines {
        /// The organisation.
        org: String,
        /// Which of them.
        filter: Filter,
        /// Only those that changed after that time.
        updated_after: Option<UnixMs>,
        /// Which part of the listing.
        page: Page,
    },
    /// Create a machine.
    Create {
        /// Its app.
        app: String,
        /// What it is to be.
        request: Box<CreateMachine>,
    },
    /// Something with one machine.
    Machine {
        /// Its app.
        app: String,
        /// Its id.
        id: String,
        /// The lease nonce that came along.
        nonce: Option<String>,
        /// What.
        action: MachineAction,
    },
    /// Read an app's logs.
    Logs {
        /// The app.
        app: String,
        /// Only this machine's.
        instance: Option<String>,
        /// Go on after this.
        next_token: Option<String>,
    },
    /// List the regions.
    Regions,
    /// Tell where there is room.
    Placements,
    /// List an organisation's volumes, of which there are none.
    OrgVolumes,
    /// List what an app has none of.
    Nothing {
        /// The app.
        app: String,
        /// What, by the last part of the path.
        list: String,
    },
    /// Tell what the token may do.
    Token,
    /// Read the fault rules and their counts.
    Faults,
    /// Put these fault rules in place of all others.
    SetFaults(Vec<Rule>),
}

/// What is asked of one machine.
#[derive(Clone, Debug)]
pub(crate) enum MachineAction {
    /// Show it.
    Get {
        /// An older version of it.
        version: Option<String>,
        /// With its lease.
        leases: bool,
    },
    /// Replace its configuration.
    Update(Box<UpdateMachine>),
    /// Destroy it.
    Delete {
        /// Even if it runs.
        force: bool,
    },
    /// Start it.
    Start,
    /// Stop it.
    Stop(Ending),
    /// Write it to disk.
    Suspend,
    /// End its program and start it again.
    Restart {
        /// How its program is ended.
        ending: Ending,
        /// Kill it at once.
        force_stop: bool,
    },
    /// Send its program a signal.
    Signal(i32),
    /// Wait for a state.
    Wait(WaitQuery),
    /// Show its lease.
    Lease,
    /// Take or refresh its lease.
    TakeLease(LeaseRequest),
    /// Give its lease back.
    ReleaseLease,
    /// Show its metadata.
    Metadata,
    /// Change several keys of its metadata.
    PatchMetadata(MetadataPatch),
    /// Show one key of its metadata.
    MetadataKey(String),
    /// Set one key of its metadata.
    SetMetadata(String, String),
    /// Remove one key of its metadata.
    RemoveMetadata(String),
    /// List what happened to it.
    Events {
        /// At most so many.
        limit: usize,
    },
    /// Run something in it.
    Exec {
        /// Program and arguments.
        argv: Vec<String>,
        /// What it is, besides.
        request: ExecRequest,
        /// How long it may take.
        timeout: Duration,
    },
    /// List its processes.
    Processes {
        /// By which column.
        sort_by: Option<String>,
        /// The largest first.
        descending: bool,
    },
    /// List the configurations it had.
    Versions,
    /// Keep the proxy away from it, or let it come back.
    Cordon(bool),
}

/// How a machine's program is asked to end, where that differs from its configuration.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Ending {
    /// The signal it gets.
    pub(crate) signal: Option<i32>,
    /// How long it has until it is killed.
    pub(crate) timeout: Option<Duration>,
}

/// Which machines are listed, and how.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Filter {
    /// Those that were destroyed, too.
    pub(crate) include_deleted: bool,
    /// Only those in this region.
    pub(crate) region: Option<String>,
    /// Only those in one of these states; all when empty.
    pub(crate) states: Vec<MachineState>,
    /// Only those whose metadata says all of this.
    pub(crate) metadata: Vec<(String, String)>,
    /// Without configuration, checks, events, host status and nonce.
    pub(crate) summary: bool,
    /// With their leases.
    pub(crate) leases: bool,
}

/// A part of a listing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Page {
    /// At most so many; all when `None`.
    pub(crate) limit: Option<usize>,
    /// Go on where a listing stopped.
    pub(crate) cursor: Option<String>,
}
