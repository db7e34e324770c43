//! What the tests lean on: servers that end with them, and waits that tell what they saw.

#![allow(dead_code, reason = "a helper may wait for its first test")]

pub(crate) mod certificates;
pub(crate) mod collector;
pub(crate) mod command;
pub(crate) mod cutter;
pub(crate) mod engine;
pub(crate) mod faults;
pub(crate) mod fleet;
pub(crate) mod memory;
pub(crate) mod parts;
pub(crate) mod raw;
pub(crate) mod redis;
pub(crate) mod relay;
pub(crate) mod stack;
pub(crate) mod throttle;
pub(crate) mod until;
