//! cofferdam runs strangers' code: one throw-away machine per request, exactly one result, nothing
//! left behind.

pub mod admin;
pub mod cli;
pub mod clock;
pub mod config;
pub mod endpoint;
pub mod http;
pub mod local;
pub mod machines;
pub mod run;
pub mod shutdown;
pub mod stage;
pub mod store;
pub mod sweeper;
pub mod telemetry;
pub mod token;
pub mod up;
pub mod worker;
