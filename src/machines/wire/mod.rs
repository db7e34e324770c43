//! The bodies of the Machines API, described once for the client and the local server.
//!
//! Every type reads leniently: a field may be absent or null, unknown fields are kept and sent on,
//! and a word that is not known becomes `Unknown`. What a server refuses in a request is the
//! server's own decision, made on the value after it was read.
//!
//! - [`config`]: what a machine is to be (create, update, and the echo in every answer).
//! - [`machine`]: a machine as it is, with its events and exits.
//! - [`calls`]: the bodies of all other calls, and the body of an error.
//! - [`app`]: apps and tokens; [`log`]: lines of logs.
//! - [`words`]: states, policies and signals; [`duration`]: lengths of time.

pub mod app;
pub mod calls;
pub mod config;
pub mod duration;
pub mod lenient;
pub mod log;
pub mod machine;
pub mod words;

pub use app::{App, AppList, AppOrganization, CreateApp, CreatedApp, CurrentToken, TokenInfo};
pub use calls::{
    Envelope, ErrorBody, ExecAnswer, ExecRequest, Lease, LeaseRequest, ListenSocket,
    MachineVersion, MetadataPatch, MetadataValue, OkAnswer, ProcessStat, SignalRequest,
    StartAnswer, StopRequest, StrippedLease, WaitAnswer,
};
pub use config::{
    CreateMachine, Dns, Env, File, Guest, Init, MachineConfig, Restart, StopConfig, UpdateMachine,
};
pub use duration::GoDuration;
pub use lenient::Rest;
pub use log::{LogAttributes, LogEntry, LogMeta, LogPage};
pub use machine::{
    CheckStatus, ExitEvent, ImageRef, Machine, MachineBrief, MachineEvent, OrgMachine, OrgMachines,
};
pub use words::{HostStatus, MachineState, RestartPolicy, Signal};
