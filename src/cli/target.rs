//! Which Redis and which Machines API a command talks to: those that its settings name, else those
//! of a running `up`, else the defaults.

use anyhow::Context as _;
use url::Url;

use crate::cli::settings;
use crate::cli::status::WrongUse;
use crate::config::{
    self, ArtifactPlace, ArtifactsTool, Doctor, MachinesApi, Redis, RedisUrl, Secret, Tool,
};
use crate::store::Store;
use crate::up::ready::{self, Ready};

/// The Redis to use.
pub(crate) fn redis(tool: &Tool) -> anyhow::Result<Redis> {
    let found = running(tool);
    let nearby = Redis::nearby();
    let url = match (&tool.redis_url, &found) {
        (Some(url), _) => url.clone(),
        (None, Some(ready)) => {
            let url = address_of(ready)?;
            Secret::new(url)
        }
        (None, None) => nearby.url,
    };
    let namespace = match (&tool.namespace, found) {
        (Some(namespace), _) => namespace.clone(),
        (None, Some(ready)) if tool.redis_url.is_none() => ready.namespace,
        (None, _) => nearby.namespace,
    };
    Ok(Redis {
        url,
        namespace,
        tls: tool.redis_tls.clone(),
        wait: None,
        retention: tool.redis_retention,
    })
}

/// The Redis of a running `up`.
pub(crate) fn address_of(ready: &Ready) -> anyhow::Result<RedisUrl> {
    let read = ready.redis_url.parse().map_err(anyhow::Error::msg);
    read.context("read up.json in the state folder")
}

/// A connection to that Redis.
pub(crate) async fn store(tool: &Tool) -> anyhow::Result<Store> {
    let redis = redis(tool)?;
    let shown = redis.url.expose().shown();
    let hint = if tool.redis_url.is_none() && running(tool).is_none() {
        " (REDIS_URL is not set, and no `up` is running here: start one with `cofferdam up`)"
    } else {
        ""
    };
    Store::connect(&redis)
        .await
        .with_context(|| format!("connect to {shown}{hint}"))
}

/// The Machines API to use, and the token for it.
pub(crate) fn machines_api(
    tool: &Tool,
    api: &MachinesApi,
) -> anyhow::Result<(Url, Secret<String>)> {
    if let Some(ready) = running(tool).filter(|_| api.url.is_none()) {
        let url = Url::parse(&ready.fly_api_url).context("read up.json in the state folder")?;
        let token = ready
            .fly_api_token
            .map(Secret::new)
            .or_else(|| api.token.clone());
        return Ok((url, token.ok_or_else(|| missing("FLY_API_TOKEN"))?));
    }
    let token = api.token.clone().ok_or_else(|| missing("FLY_API_TOKEN"))?;
    // The default is that of `worker`, in whose environment this may run.
    let url = api.url.clone().unwrap_or_else(config::usual_api_url);
    Ok((url, token))
}

/// The apps to use; empty when neither the settings nor an `up` names any.
pub(crate) fn apps(doctor: &Doctor) -> Vec<String> {
    let of_up = || {
        let ready = running(&doctor.tool)?;
        Some(ready.app.split(',').map(str::to_owned).collect())
    };
    doctor.apps.clone().or_else(of_up).unwrap_or_default()
}

/// Where a running `up` keeps artifacts. A bucket is reached as this command's own environment says.
pub(crate) fn artifacts_of_up(tool: &Tool) -> anyhow::Result<Option<ArtifactPlace>> {
    let Some(place) = running(tool).and_then(|ready| ready.artifacts) else {
        return Ok(None);
    };
    let lookup = |name: &str| match name {
        "COFFERDAM_ARTIFACTS" => Some(place.clone()),
        other => settings::system(other),
    };
    Ok(ArtifactsTool::parse(&lookup)?.place)
}

fn missing(name: &str) -> WrongUse {
    WrongUse::new(format!("{name}: not set, and no `up` is running"))
}

/// The `up` that runs with this state folder.
pub(crate) fn running(tool: &Tool) -> Option<Ready> {
    ready::running(tool.state_dir.as_deref()?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::up::ready::LockedFolder;

    fn settings(given: &[(&str, &str)]) -> Doctor {
        let lookup = |name: &str| {
            given
                .iter()
                .find_map(|(known, text)| (*known == name).then(|| (*text).to_owned()))
        };
        Doctor::examine(&lookup).0
    }

    fn api(settings: &Doctor) -> anyhow::Result<(Url, Secret<String>)> {
        machines_api(&settings.tool, &settings.api)
    }

    fn ready() -> Ready {
        Ready {
            redis_url: "unix:///state/redis.sock".to_owned(),
            namespace: "own".to_owned(),
            fly_api_url: "http://127.0.0.1:1/v1".to_owned(),
            app: "sandboxes".to_owned(),
            fly_api_token: Some("made".to_owned()),
            endpoint_url: "http://127.0.0.1:2".to_owned(),
            admin_url: "http://127.0.0.1:3".to_owned(),
            artifacts: None,
            console_url: String::new(),
            pid: 4,
        }
    }

    #[test]
    fn settings_come_before_a_running_up_and_that_before_the_defaults() {
        let temp = tempfile::tempdir().unwrap();
        let folder = temp.path().to_str().unwrap();
        let alone = settings(&[("COFFERDAM_STATE_DIR", folder)]);
        assert_eq!(
            redis(&alone.tool).unwrap().url.expose().as_str(),
            "redis://127.0.0.1:6379"
        );
        assert!(api(&alone).is_err());
        let in_a_service = [("COFFERDAM_STATE_DIR", folder), ("FLY_API_TOKEN", "given")];
        let (found, token) = api(&settings(&in_a_service)).unwrap();
        assert_eq!(
            (found.as_str(), token.expose().as_str()),
            ("http://_api.internal:4280/v1", "given")
        );

        let locked = LockedFolder::lock(temp.path()).unwrap();
        locked.announce(&ready()).unwrap();
        let found = redis(&alone.tool).unwrap();
        assert_eq!(found.url.expose().as_str(), "unix:///state/redis.sock");
        assert_eq!(found.namespace, "own");
        let (found, token) = api(&alone).unwrap();
        assert_eq!(
            (found.as_str(), token.expose().as_str()),
            ("http://127.0.0.1:1/v1", "made")
        );

        let given = [
            ("COFFERDAM_STATE_DIR", folder),
            ("REDIS_URL", "redis://other:1"),
        ];
        let found = redis(&settings(&given).tool).unwrap();
        assert_eq!(found.url.expose().as_str(), "redis://other:1");
        assert_eq!(found.namespace, "cofferdam");
    }
}
