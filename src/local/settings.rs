//! What the server is told when it opens.

use std::path::PathBuf;
use std::time::Duration;

use crate::clock::Clock;
use crate::http::host::AllowedHosts;
use crate::local::faults::rule::Rule;

/// What a Machines server is told when it opens.
#[derive(Clone)]
pub struct ServerSettings {
    /// The one token that it accepts; `Bearer ` or `FlyV1 ` may stand before it.
    pub token: String,
    /// Where images are, and where the engine keeps its files.
    pub state_dir: PathBuf,
    /// Apps that are there from the start.
    pub apps: Vec<String>,
    /// The organisation they belong to.
    pub org: String,
    /// Its regions; a machine that names none goes to the first. When there are none it takes any
    /// plausible code, and echoes it.
    pub regions: Vec<String>,
    /// What machines reach at a port of their own 127.0.0.1: `host:port`, or an `http` URL. They reach
    /// nothing at all when there is none.
    pub endpoint: Option<String>,
    /// The hosts that requests may name.
    pub hosts: AllowedHosts,
    /// What runs machines.
    pub guests: Guests,
    /// How much of everything there may be.
    pub bounds: Bounds,
    /// How it is to misbehave.
    pub faults: FaultSettings,
    /// Tells the time.
    pub clock: Clock,
}

/// What runs machines.
#[derive(Clone, Debug)]
pub enum Guests {
    /// Real processes, isolated.
    Sandboxed(cofferdam_sandbox::Settings),
    /// No process at all: the server posts a small result in each guest's place after this delay.
    /// For load tests of everything but the sandbox.
    Simulated(Duration),
}

/// How much of everything there may be.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Machines that are not destroyed, in all apps together.
    pub machines: usize,
    /// Apps.
    pub apps: usize,
    /// Bytes of one request's body. Files travel in it.
    pub body_bytes: usize,
    /// Bytes of all bodies that are being read, and of all configurations that are kept, each.
    pub memory_bytes: usize,
    /// Connections at once. Every wait holds one.
    pub connections: usize,
    /// How long a destroyed machine can still be read.
    pub retention: Duration,
    /// Destroyed machines that can still be read.
    pub destroyed: usize,
    /// Destroyed machines whose logs are kept.
    pub logs: usize,
    /// How long machines have to end when the server does.
    pub drain: Duration,
}

impl Default for Bounds {
    fn default() -> Self {
        Self {
            machines: 1000,
            apps: 1000,
            body_bytes: 32 * 1024 * 1024,
            memory_bytes: 1024 * 1024 * 1024,
            connections: 8192,
            retention: Duration::from_secs(300),
            destroyed: 10_000,
            logs: 500,
            drain: Duration::from_secs(10),
        }
    }
}

/// How a server is to misbehave.
#[derive(Clone, Debug, Default)]
pub struct FaultSettings {
    /// Rules from the start.
    pub rules: Vec<Rule>,
    /// Whether rules can be changed over HTTP, at `/_faults`.
    pub control: bool,
    /// Whether the documented rate limits of the real service hold.
    pub documented_limits: bool,
}

impl ServerSettings {
    /// The defaults: any region, organisation `personal`, no apps, no endpoint, no faults,
    /// sandboxed guests.
    #[must_use]
    pub fn new(token: String, state_dir: PathBuf) -> Self {
        Self {
            token,
            guests: Guests::Sandboxed(cofferdam_sandbox::Settings {
                program: Some(cofferdam_guest::PROGRAM),
                ..cofferdam_sandbox::Settings::new(state_dir.clone())
            }),
            state_dir,
            apps: Vec::new(),
            org: "personal".to_owned(),
            regions: Vec::new(),
            endpoint: None,
            hosts: AllowedHosts::default(),
            bounds: Bounds::default(),
            faults: FaultSettings::default(),
            clock: Clock::system(),
        }
    }
}

impl std::fmt::Debug for ServerSettings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ServerSettings")
            .field("state_dir", &self.state_dir)
            .field("apps", &self.apps)
            .field("org", &self.org)
            .field("regions", &self.regions)
            .field("endpoint", &self.endpoint)
            .field("guests", &self.guests)
            .field("bounds", &self.bounds)
            .field("faults", &self.faults)
            .finish_non_exhaustive()
    }
}
