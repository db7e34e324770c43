//! Checks the Machines API: its address and token, each app, its clock.

use crate::cli::doctor::{Finding, store};
use crate::cli::target;
use crate::clock::Clock;
use crate::config::Doctor;
use crate::machines::{Client, ClientSettings, Error, Token};

const API: &str = "machines api";
const APP: &str = "app";

pub(super) async fn check(doctor: &Doctor) -> Vec<Finding> {
    let (api, token) = match target::machines_api(&doctor.tool, &doctor.api) {
        Ok(found) => found,
        Err(error) => {
            let remedy = "only worker and logs need it; set it where they run";
            return vec![Finding::warn(API, error.to_string(), remedy)];
        }
    };
    let client = match Client::new(ClientSettings::new(
        api.clone(),
        Token::new(token.expose().as_str()),
    )) {
        Ok(client) => client,
        Err(error) => return vec![Finding::fail(API, error.to_string(), "set FLY_API_URL")],
    };
    let mut findings = vec![authorised(&client, api.as_str()).await];
    let apps = target::apps(doctor);
    if apps.is_empty() {
        let remedy = "set COFFERDAM_APPS to the apps that worker boots machines in";
        findings.push(Finding::warn(APP, "COFFERDAM_APPS is not set", remedy));
    }
    for app in &apps {
        findings.push(readable(&client, app).await);
    }
    if let Some(app) = apps.first() {
        findings.extend(clock(&client, app).await);
    }
    findings
}

async fn authorised(client: &Client, api: &str) -> Finding {
    match client.current_token().await {
        Ok(token) => {
            let organisations: Vec<_> = token
                .tokens
                .iter()
                .map(|token| token.org_slug.as_str())
                .collect();
            let whose = match organisations.join(", ") {
                whose if whose.is_empty() => "the token is accepted".to_owned(),
                whose => format!("the token is accepted, for {whose}"),
            };
            Finding::ok(API, format!("{api}: {whose}"))
        }
        Err(error) => match status(&error) {
            Some(401 | 403) => Finding::fail(
                API,
                error.to_string(),
                "set FLY_API_TOKEN: `fly tokens create deploy -a APP` makes one for one app",
            ),
            // The token cannot be asked about everywhere; the apps below tell.
            Some(404) => Finding::ok(API, format!("{api} answers")),
            Some(_) => Finding::warn(API, error.to_string(), "try again in a while"),
            None => Finding::fail(
                API,
                error.to_string(),
                "set FLY_API_URL: http://_api.internal:4280/v1 (if unset) within a Fly network, \
                 https://api.machines.dev/v1 from elsewhere",
            ),
        },
    }
}

async fn readable(client: &Client, app: &str) -> Finding {
    match client.app(app).await {
        Ok(found) => {
            let machines = found.machine_count.unwrap_or(0);
            Finding::ok(APP, format!("{app}: {machines} machines"))
        }
        Err(error) => {
            let remedy = match status(&error) {
                Some(401 | 403) => format!("give the token access to {app}"),
                Some(404) => format!(
                    "make it, with a network of its own: fly apps create {app} --network {app}"
                ),
                _ => "see above".to_owned(),
            };
            Finding::fail(APP, format!("{app}: {error}"), remedy)
        }
    }
}

async fn clock(client: &Client, app: &str) -> Option<Finding> {
    let clock = Clock::system();
    let before = clock.now_ms();
    let theirs = client.date(app).await.ok().flatten()?;
    // The date is cut to whole seconds.
    Some(store::skew(
        "machines api clock",
        theirs,
        before,
        clock.now_ms(),
        999,
    ))
}

fn status(error: &Error) -> Option<u16> {
    Some(error.refusal()?.status)
}
