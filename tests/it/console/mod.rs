//! The console as a browser and a script meet it: over HTTP, beside a real fleet.

mod access;
mod acts;
mod artifacts;
mod away;
mod browser;
mod hostile;
mod kept;
mod looks;
mod machines;
mod scene;
mod streams;
