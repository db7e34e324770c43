//! cofferdam runs strangers' code: one throw-away machine per request, exactly one result, nothing
//! left behind.

pub mod clock;
pub mod http;
pub mod local;
pub mod machines;
pub mod shutdown;
