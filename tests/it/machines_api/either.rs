//! Stories that hold on both servers: the local one always, the real service when it is named.

use std::time::Duration;

use cofferdam::machines::wire::{CreateMachine, MachineState};
use cofferdam::machines::{
    Call, Client, ClientSettings, Decision, Force, ListFilter, Token, Wait, judge,
};
use serde_json::json;

use super::server::{APP, sandboxed};
use crate::support::until::until_within;

/// Where a story takes place.
struct Place {
    client: Client,
    app: String,
    image: String,
}

/// The real service, when the environment names an app that may be used for tests.
#[expect(clippy::print_stderr, reason = "a test that cannot run here says so")]
fn real() -> Option<Place> {
    #[expect(
        clippy::disallowed_methods,
        reason = "whoever runs the tests says so this way"
    )]
    let named = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
    let (Some(token), Some(app)) = (named("FLY_API_TOKEN"), named("COFFERDAM_TEST_FLY_APP")) else {
        eprintln!(
            "skipped on the real service: FLY_API_TOKEN and COFFERDAM_TEST_FLY_APP are not given"
        );
        return None;
    };
    let base = named("FLY_API_URL").unwrap_or_else(|| "https://api.machines.dev/v1".to_owned());
    let settings = ClientSettings::new(base.parse().unwrap(), Token::new(token));
    Some(Place {
        client: Client::new(settings).unwrap(),
        app,
        image: "docker.io/library/busybox:1.36".to_owned(),
    })
}

/// A whole life: made under a name, adopted by it, ended, read, gone.
async fn a_whole_life(place: &Place) {
    let Place { client, app, image } = place;
    let name = format!("cofferdam-test-{:x}", fastrand::u64(..));
    let request: CreateMachine = serde_json::from_value(json!({
        "name": name,
        "config": {
            "image": image, "init": {"exec": ["/bin/sh", "-c", "exit 40"]},
            "guest": {"cpu_kind": "shared", "cpus": 1, "memory_mb": 256},
            "restart": {"policy": "no"}, "auto_destroy": false,
            "metadata": {"cofferdam-test": name}
        }
    }))
    .unwrap();
    let made = client.create(app, &request).await.unwrap();
    assert_eq!(made.name, name);
    assert!(made.version_id().is_some());
    let twin = client.create(app, &request).await.unwrap_err();
    let machine_id = made.id.clone();
    assert_eq!(judge(Call::Create, &twin), Decision::Adopt { machine_id });

    let ended = until_within(Duration::from_secs(180), "the machine to stop", || async {
        let wait = Wait {
            states: &[MachineState::Stopped],
            version: made.version_id(),
            timeout: Duration::from_secs(60),
        };
        match client.wait(app, &made.id, &wait).await {
            Ok(_) => client
                .get(app, &made.id)
                .await
                .map_err(|error| error.to_string()),
            Err(error) => Err(error.to_string()),
        }
    })
    .await;
    assert_eq!(ended.last_exit().unwrap().code(), 40);
    let filter = ListFilter {
        metadata: vec![("cofferdam-test".into(), name.clone())],
        ..ListFilter::default()
    };
    let listed = client.list(app, &filter).await.unwrap();
    assert!(listed.iter().any(|machine| machine.id == made.id));

    client.delete(app, &made.id, Force::Yes).await.unwrap();
    until_within(
        Duration::from_secs(60),
        "the machine to be gone",
        || async {
            match client.get(app, &made.id).await {
                Ok(machine) if machine.state.is_gone() => Ok(()),
                Ok(machine) => Err(machine.state.to_string()),
                Err(error) => match judge(Call::Get, &error) {
                    Decision::Gone => Ok(()),
                    _ => Err(error.to_string()),
                },
            }
        },
    )
    .await;
}

/// What cannot be had is refused in words that the client understands.
async fn refusals(place: &Place) {
    let Place { client, app, .. } = place;
    let request: CreateMachine = serde_json::from_value(json!({
        "config": {"image": "registry.fly.io/cofferdam-none:v0", "restart": {"policy": "no"}}
    }))
    .unwrap();
    let error = client.create(app, &request).await.unwrap_err();
    let decision = judge(Call::Create, &error);
    assert!(
        matches!(
            decision,
            Decision::ImageRejected { .. } | Decision::ImageUnknown { .. }
        ),
        "{decision:?}: {error}"
    );
    let error = client.get(app, "00000000000000").await.unwrap_err();
    assert_eq!(judge(Call::Get, &error), Decision::Gone);
    let settings = ClientSettings::new(client.base().clone(), Token::new("fm2_none"));
    let stranger = Client::new(settings).unwrap();
    let error = stranger.app(app).await.unwrap_err();
    assert_eq!(judge(Call::App, &error), Decision::Unauthorized);
}

#[tokio::test]
async fn a_life_and_its_refusals_on_the_local_server() {
    let Some(server) = sandboxed().await else {
        return;
    };
    let place = Place {
        client: server.client.clone(),
        app: APP.to_owned(),
        image: "host".to_owned(),
    };
    a_whole_life(&place).await;
    refusals(&place).await;
    server.end().await;
}

#[tokio::test]
async fn a_life_and_its_refusals_on_the_real_service() {
    let Some(place) = real() else {
        return;
    };
    a_whole_life(&place).await;
    refusals(&place).await;
}
