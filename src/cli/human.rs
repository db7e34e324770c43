//! Numbers and text from outside, formatted for people: as [`telemetry::human`](crate::telemetry::human) does.

pub(crate) use crate::telemetry::human::{ago, bytes, count, duration, harmless, one_line};
