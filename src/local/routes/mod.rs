//! From a request to an [`Action`](crate::local::action::Action), without touching anything: its tests are
//! tables.
//!
//! - `mod.rs`: method and path → [`Route`].
//! - [`missing`]: what the real API has and this server has not.
//! - [`query`]: what stands after the question mark.
//! - [`read`]: route, query, headers and body → [`Action`](crate::local::action::Action).

mod missing;
pub(crate) mod query;
pub(crate) mod read;

use hyper::Method;
use percent_encoding::percent_decode_str;

use crate::local::refusal::Refusal;

/// The calls this server answers, by the names that fault rules use.
pub(crate) const CALLS: [&str; 39] = [
    "app-list",
    "app-create",
    "app-get",
    "app-delete",
    "list",
    "create",
    "get",
    "update",
    "delete",
    "start",
    "stop",
    "suspend",
    "restart",
    "signal",
    "wait",
    "lease-get",
    "lease-take",
    "lease-release",
    "metadata-all",
    "metadata-patch",
    "metadata-get",
    "metadata-set",
    "metadata-delete",
    "events",
    "exec",
    "ps",
    "versions",
    "cordon",
    "uncordon",
    "logs",
    "org-machines",
    "regions",
    "placements",
    "nothing",
    "org-volumes",
    "token",
    "faults-get",
    "faults-put",
    "faults-delete",
];

/// What an app could have and never has here: asked for, each is an empty list.
const NOTHING: [&str; 4] = ["volumes", "ip_assignments", "secrets", "secretkeys"];

/// A path of the API that was recognised.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Route {
    /// One of [`CALLS`].
    pub(crate) call: &'static str,
    /// The app in the path; the organisation for `org-machines`.
    pub(crate) app: String,
    /// The machine's id in the path.
    pub(crate) machine: String,
    /// The last part of the path where it varies: a metadata key.
    pub(crate) key: String,
}

/// Recognises a path.
///
/// # Errors
/// 404 in plain text for what the API does not have, be it the path or its method; 501 by name for what the API has and this server has not.
pub(crate) fn find(method: &Method, path: &str) -> Result<Route, Refusal> {
    let parts = split(path).ok_or_else(Refusal::unknown_route)?;
    let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
    if let Some(route) = known(method, &parts) {
        return Ok(route);
    }
    if let Some(name) = missing::find(method, &parts) {
        return Err(Refusal::unimplemented(format!("{name} is not available")));
    }
    Err(Refusal::unknown_route())
}

/// The parts of a path between its slashes, decoded. `None` for what is not UTF-8, or where a part
/// is empty.
fn split(path: &str) -> Option<Vec<String>> {
    let path = path.strip_prefix('/')?;
    let path = path.strip_suffix('/').unwrap_or(path);
    path.split('/')
        .map(|part| {
            let decoded = percent_decode_str(part).decode_utf8().ok()?;
            (!decoded.is_empty()).then(|| decoded.into_owned())
        })
        .collect()
}

fn known(method: &Method, parts: &[&str]) -> Option<Route> {
    let of = |call, app: &str| Route {
        call,
        app: app.to_owned(),
        machine: String::new(),
        key: String::new(),
    };
    let route = match (method.as_str(), parts) {
        ("GET", ["v1", "apps"]) => of("app-list", ""),
        ("POST", ["v1", "apps"]) => of("app-create", ""),
        ("GET", ["v1", "apps", app]) => of("app-get", app),
        ("DELETE", ["v1", "apps", app]) => of("app-delete", app),
        ("GET", ["v1", "apps", app, "machines"]) => of("list", app),
        ("POST", ["v1", "apps", app, "machines"]) => of("create", app),
        (method, ["v1", "apps", app, "machines", machine, rest @ ..]) => Route {
            machine: (*machine).to_owned(),
            key: match rest {
                ["metadata", key] => (*key).to_owned(),
                _ => String::new(),
            },
            ..of(of_machine(method, rest)?, app)
        },
        ("GET", ["api", "v1", "apps", app, "logs"]) => of("logs", app),
        ("GET", ["v1", "orgs", org, "machines"]) => of("org-machines", org),
        ("GET", ["v1", "platform", "regions"]) => of("regions", ""),
        ("POST", ["v1", "platform", "placements"]) => of("placements", ""),
        ("GET", ["v1", "orgs", org, "volumes"]) => of("org-volumes", org),
        ("GET", ["v1", "apps", app, list]) if NOTHING.contains(list) => Route {
            key: (*list).to_owned(),
            ..of("nothing", app)
        },
        ("GET", ["v1", "tokens", "current"]) => of("token", ""),
        ("GET", ["_faults"]) => of("faults-get", ""),
        ("PUT", ["_faults"]) => of("faults-put", ""),
        ("DELETE", ["_faults"]) => of("faults-delete", ""),
        _ => return None,
    };
    Some(route)
}

fn of_machine(method: &str, rest: &[&str]) -> Option<&'static str> {
    Some(match (method, rest) {
        ("GET", []) => "get",
        ("POST", []) => "update",
        ("DELETE", []) => "delete",
        ("POST", ["start"]) => "start",
        ("POST", ["stop"]) => "stop",
        ("POST", ["suspend"]) => "suspend",
        ("POST", ["restart"]) => "restart",
        ("POST", ["signal"]) => "signal",
        ("GET", ["wait"]) => "wait",
        ("GET", ["lease"]) => "lease-get",
        ("POST", ["lease"]) => "lease-take",
        ("DELETE", ["lease"]) => "lease-release",
        ("GET", ["metadata"]) => "metadata-all",
        ("PATCH" | "PUT", ["metadata"]) => "metadata-patch",
        ("GET", ["metadata", _]) => "metadata-get",
        ("POST", ["metadata", _]) => "metadata-set",
        ("DELETE", ["metadata", _]) => "metadata-delete",
        ("GET", ["events"]) => "events",
        ("POST", ["exec"]) => "exec",
        ("GET", ["ps"]) => "ps",
        ("GET", ["versions"]) => "versions",
        ("POST", ["cordon"]) => "cordon",
        ("POST", ["uncordon"]) => "uncordon",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::local::refusal::Shape;

    #[track_caller]
    fn check(method: &str, path: &str, expected: Result<&str, u16>) {
        let method: Method = method.parse().expect("a method");
        let found = find(&method, path);
        let found = found.as_ref().map(|r| r.call).map_err(|r| r.status);
        assert_eq!(found, expected, "{method} {path}");
    }

    #[test]
    fn known_paths_are_recognised() {
        check("GET", "/v1/apps", Ok("app-list"));
        check("POST", "/v1/apps/a/machines", Ok("create"));
        check("POST", "/v1/apps/a/machines/", Ok("create"));
        check("GET", "/v1/apps/a/machines/m/wait", Ok("wait"));
        check(
            "PUT",
            "/v1/apps/a/machines/m/metadata",
            Ok("metadata-patch"),
        );
        check("GET", "/api/v1/apps/a/logs", Ok("logs"));
        check("GET", "/v1/orgs/personal/machines", Ok("org-machines"));
    }

    #[test]
    fn unknown_paths_are_told_from_missing_ones() {
        check("GET", "/", Err(404));
        check("GET", "/v2/apps", Err(404));
        check("GET", "/v1/apps//machines", Err(404));
        check("GET", "/v1/apps/a/machines/m/nonsense", Err(404));
        check("PUT", "/v1/apps/a/machines", Err(404));
        check("DELETE", "/v1/platform/regions", Err(404));
        check("POST", "/v1/apps/a/volumes", Err(501));
        check("GET", "/v1/apps/a/machines/m/memory", Err(501));
        check("POST", "/v1/apps/a/network_policies", Err(501));
        let refusal = find(&Method::GET, "/nope").expect_err("it is unknown");
        assert_eq!(refusal.shape, Shape::Plain);
        let refusal = find(&Method::POST, "/v1/apps/a/volumes").expect_err("it is missing");
        let name = "Volumes_create";
        assert!(refusal.error.contains(name), "{}", refusal.error);
        for path in [
            "/v1/apps/a/volumes",
            "/v1/apps/a/ip_assignments",
            "/v1/apps/a/secrets",
            "/v1/apps/a/secretkeys",
        ] {
            check("GET", path, Ok("nothing"));
        }
        check("GET", "/v1/orgs/personal/volumes", Ok("org-volumes"));
        check("POST", "/v1/platform/placements", Ok("placements"));
    }

    #[test]
    fn parts_of_a_path_are_decoded() {
        let route = find(&Method::GET, "/v1/apps/my%2Dapp/machines/m1/metadata/a%2Fb");
        let route = route.expect("it is known");
        assert_eq!(
            (
                route.app.as_str(),
                route.machine.as_str(),
                route.key.as_str()
            ),
            ("my-app", "m1", "a/b")
        );
        check("GET", "/v1/apps/%ff", Err(404));
    }

    #[test]
    fn every_call_has_one_name() {
        let unique: std::collections::BTreeSet<_> = CALLS.iter().collect();
        assert_eq!(unique.len(), CALLS.len());
    }
}
