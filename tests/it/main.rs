//! One binary for all integration tests: one link, shared helpers.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]
#![expect(clippy::print_stdout, reason = "a test that cannot run says why")]

mod acls;
mod acts;
mod agreement;
mod artifacts;
mod breaker;
mod capture;
mod cli;
mod console;
mod crashes;
mod dashboards;
mod ended;
mod endpoint;
mod examples;
mod gauges;
mod guests;
mod handover;
mod hotspots;
mod ids;
mod images;
mod installations;
mod intake;
mod layering;
mod machines_api;
mod machines_client;
mod milestones;
mod mistakes;
mod packaging;
mod panics;
mod pipeline;
mod probe;
mod promises;
mod provider;
mod readme;
mod redis_deployments;
mod redis_faults;
mod results;
mod series;
mod services;
mod shutdown;
mod sizes;
mod store;
mod support;
mod tenants;
mod times;
mod token;
mod traces;
mod up;
