//! The command: words to settings to parts to one call.

mod args;
mod human;
mod progress;
mod request;
mod say;
mod settings;
mod status;
