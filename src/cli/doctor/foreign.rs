//! Finds machines in our apps that are named like ours and are another installation's.

use std::collections::HashSet;

use crate::cli::doctor::Finding;
use crate::cli::target;
use crate::config::Doctor;
use crate::machines::wire::Machine;
use crate::machines::{Client, ClientSettings, ListFilter, Token};
use crate::run::id::{MACHINE_PREFIX, machine_name};
use crate::stage::spec::{INSTALLATION, OWNER};
use crate::store::{Error, Store};

const WHAT: &str = "foreign machines";

/// Says nothing where Redis or the Machines API does not answer: other checks report it.
pub(super) async fn check(doctor: &Doctor) -> Vec<Finding> {
    let (Ok(redis), Ok((api, token))) = (
        target::redis(&doctor.tool),
        target::machines_api(&doctor.tool, &doctor.api),
    ) else {
        return Vec::new();
    };
    let settings = ClientSettings::new(api, Token::new(token.expose().as_str()));
    let (Ok(store), Ok(client)) = (Store::connect(&redis).await, Client::new(settings)) else {
        return Vec::new();
    };
    let mut findings = Vec::new();
    for app in target::apps(doctor) {
        let Ok(mut machines) = client.list(&app, &ListFilter::default()).await else {
            continue;
        };
        machines.retain(|machine| machine.name.starts_with(MACHINE_PREFIX));
        let Ok(foreign) = foreign(&store, &app, machines).await else {
            continue;
        };
        if let Some(example) = foreign.first() {
            findings.push(tell(&app, foreign.len(), example));
        }
    }
    findings
}

async fn foreign(store: &Store, app: &str, machines: Vec<Machine>) -> Result<Vec<Machine>, Error> {
    let installation = store.installation().await?;
    let namespace = store.keys().namespace();
    let mut foreign = machines;
    foreign.retain(|machine| match machine.metadata(INSTALLATION) {
        Some(id) => Some(id) != installation.as_deref(),
        // A version without installation ids named its namespace alone.
        None => machine.metadata(OWNER) != Some(namespace),
    });
    if foreign.is_empty() {
        return Ok(foreign);
    }
    // A guest can rewrite the metadata of its machine.
    let mut ours = HashSet::new();
    let each = |run, attempt, nonce: Option<_>| {
        ours.insert(machine_name(&run, attempt, nonce.as_ref()));
    };
    store.each_in_flight(app, each).await?;
    foreign.retain(|machine| !ours.contains(&machine.name));
    Ok(foreign)
}

fn tell(app: &str, count: usize, example: &Machine) -> Finding {
    let whose = match example.metadata(INSTALLATION) {
        Some(id) => format!("of installation {id}"),
        None => "which names no installation".to_owned(),
    };
    let (name, id) = (&example.name, &example.id);
    Finding::warn(
        WHAT,
        format!("{app}: {count} named like ours and not ours, as {name} ({id}), {whose}"),
        format!(
            "they are left alone; give each installation an app of its own, and remove what nobody \
             has: fly machine destroy --force --app {app} {id}"
        ),
    )
}
