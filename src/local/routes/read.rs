//! Route, query, headers and body → [`Action`], or the answer that says what is wrong with them.

use std::time::Duration;

use hyper::HeaderMap;
use serde::de::DeserializeOwned;

use crate::local::action::{Action, Ending, Filter, MachineAction, Page};
use crate::local::check::stop::{signal, stop_timeout};
use crate::local::faults::rule::Rule;
use crate::local::refusal::Refusal;
use crate::local::routes::Route;
use crate::local::routes::query::Query;
use crate::local::stamp;
use crate::local::waits;
use crate::machines::wire::{
    ExecRequest, GoDuration, LeaseRequest, MachineState, MetadataValue, Signal, SignalRequest,
    StopRequest,
};

/// The header that carries a lease's nonce.
const NONCE_HEADER: &str = "fly-machine-lease-nonce";

/// How long an exec may take: longer ones would outlast the connection.
const LONGEST_EXEC_S: u64 = 60;

/// Reads what a request asks.
///
/// # Errors
/// 400 for a query or body that breaks a rule, naming it.
pub(crate) fn read(
    route: Route,
    query: &Query,
    headers: &HeaderMap,
    body: &[u8],
) -> Result<Action, Refusal> {
    let app = route.app.clone();
    Ok(match route.call {
        "app-list" => Action::Apps {
            org: query.owned("org_slug"),
            page: page(query, 5000)?,
        },
        "app-create" => Action::CreateApp(json(body)?),
        "app-get" => Action::App(app),
        "app-delete" => {
            query.flag("force")?;
            Action::DeleteApp(app)
        }
        "list" => Action::List {
            app,
            filter: filter(query)?,
            page: page(query, 1000)?,
        },
        "create" => Action::Create {
            app,
            request: json(body)?,
        },
        "org-machines" => Action::OrgMachines {
            org: app,
            filter: filter(query)?,
            updated_after: time(query, "updated_after")?,
            page: page(query, 1000)?,
        },
        "logs" => Action::Logs {
            app,
            instance: query.owned("instance"),
            next_token: query.owned("next_token"),
        },
        "regions" => Action::Regions,
        "placements" => Action::Placements,
        "org-volumes" => Action::OrgVolumes,
        "nothing" => Action::Nothing {
            app,
            list: route.key,
        },
        "token" => Action::Token,
        "faults-get" => Action::Faults,
        "faults-put" => Action::SetFaults(rules(body)?),
        "faults-delete" => Action::SetFaults(Vec::new()),
        _ => Action::Machine {
            app,
            id: route.machine.clone(),
            nonce: nonce(headers),
            action: machine(route, query, body)?,
        },
    })
}

fn machine(route: Route, query: &Query, body: &[u8]) -> Result<MachineAction, Refusal> {
    Ok(match route.call {
        "get" => MachineAction::Get {
            version: query.owned("version"),
            leases: query.flag("include_leases")?,
        },
        "update" => MachineAction::Update(json(body)?),
        "delete" => MachineAction::Delete {
            force: query.flag("force")? || query.flag("kill")?,
        },
        "start" => MachineAction::Start,
        "stop" => MachineAction::Stop(stop(optional_json(body)?)?),
        "suspend" => MachineAction::Suspend,
        "restart" => restart(query)?,
        "signal" => {
            let request: SignalRequest = json(body)?;
            MachineAction::Signal(signal(&request.signal)?)
        }
        "wait" => MachineAction::Wait(waits::parse(query)?),
        "lease-get" => MachineAction::Lease,
        "lease-take" => MachineAction::TakeLease(lease(query, optional_json(body)?)?),
        "lease-release" => MachineAction::ReleaseLease,
        "metadata-all" => MachineAction::Metadata,
        "metadata-patch" => MachineAction::PatchMetadata(json(body)?),
        "metadata-get" => MachineAction::MetadataKey(route.key),
        "metadata-set" => {
            let request: MetadataValue = json(body)?;
            MachineAction::SetMetadata(route.key, request.value)
        }
        "metadata-delete" => MachineAction::RemoveMetadata(route.key),
        "events" => MachineAction::Events {
            limit: query.number("limit", 1, 50)?.unwrap_or(20),
        },
        "exec" => exec(json(body)?)?,
        "ps" => processes(query)?,
        "versions" => MachineAction::Versions,
        "cordon" => MachineAction::Cordon(true),
        "uncordon" => MachineAction::Cordon(false),
        _ => return Err(Refusal::unknown_route()),
    })
}

/// Reads a body that must be JSON of one shape.
fn json<T: DeserializeOwned>(body: &[u8]) -> Result<T, Refusal> {
    serde_json::from_slice(body)
        .map_err(|error| Refusal::invalid(format!("unable to read the body: {error}")))
}

/// The same, where the body may be left out.
fn optional_json<T: DeserializeOwned + Default>(body: &[u8]) -> Result<T, Refusal> {
    if body.trim_ascii().is_empty() {
        return Ok(T::default());
    }
    json(body)
}

fn nonce(headers: &HeaderMap) -> Option<String> {
    let nonce = headers.get(NONCE_HEADER)?.to_str().ok()?;
    (!nonce.is_empty()).then(|| nonce.to_owned())
}

fn page(query: &Query, most: usize) -> Result<Page, Refusal> {
    let page = Page {
        limit: query.number("limit", 1, most)?,
        cursor: query.owned("cursor"),
    };
    if page.cursor.is_some() && page.limit.is_none() {
        return Err(Refusal::invalid("cursor requires limit"));
    }
    Ok(page)
}

fn filter(query: &Query) -> Result<Filter, Refusal> {
    let states = query.list("state");
    Ok(Filter {
        include_deleted: query.flag("include_deleted")?,
        region: query.owned("region"),
        states: states.into_iter().map(MachineState::from).collect(),
        metadata: query.under("metadata"),
        summary: query.flag("summary")?,
        leases: query.flag("include_leases")?,
    })
}

fn time(query: &Query, name: &str) -> Result<Option<u64>, Refusal> {
    let Some(text) = query.text(name) else {
        return Ok(None);
    };
    match stamp::parse(text) {
        Some(at) => Ok(Some(at)),
        None => Err(Refusal::invalid(format!("{name} is not an RFC 3339 time"))),
    }
}

fn stop(request: StopRequest) -> Result<Ending, Refusal> {
    Ok(Ending {
        signal: request.signal.as_ref().map(signal).transpose()?,
        timeout: request
            .timeout
            .map(|timeout| stop_timeout(timeout.0))
            .transpose()?,
    })
}

fn restart(query: &Query) -> Result<MachineAction, Refusal> {
    let timeout = match query.text("timeout") {
        None => None,
        Some(text) => Some(stop_timeout(duration_or_seconds(text)?)?),
    };
    let by_name = query.text("signal").map(Signal::from);
    Ok(MachineAction::Restart {
        ending: Ending {
            signal: by_name.as_ref().map(signal).transpose()?,
            timeout,
        },
        force_stop: query.flag("force_stop")?,
    })
}

/// `restart?timeout=` takes a duration or a plain number of seconds.
fn duration_or_seconds(text: &str) -> Result<Duration, Refusal> {
    if let Ok(seconds) = text.parse::<u64>() {
        return Ok(Duration::from_secs(seconds));
    }
    match text.parse::<GoDuration>() {
        Ok(duration) => Ok(duration.0),
        Err(error) => Err(Refusal::invalid(error.to_string())),
    }
}

fn lease(query: &Query, mut request: LeaseRequest) -> Result<LeaseRequest, Refusal> {
    request.ttl = query.number("ttl", 1, u64::MAX)?.or(request.ttl);
    Ok(request)
}

fn exec(mut request: ExecRequest) -> Result<MachineAction, Refusal> {
    let timeout_s = request.timeout.filter(|&s| s > 0).unwrap_or(30);
    if timeout_s > LONGEST_EXEC_S {
        return Err(Refusal::invalid(format!(
            "timeout must be at most {LONGEST_EXEC_S} seconds"
        )));
    }
    if request.container.as_deref().is_some_and(|c| !c.is_empty()) {
        return Err(Refusal::invalid("the machine has no containers"));
    }
    let mut argv = std::mem::take(&mut request.command);
    if argv.is_empty() {
        let line = request.cmd.as_deref().unwrap_or_default();
        argv = line.split_whitespace().map(str::to_owned).collect();
    }
    if argv.is_empty() {
        return Err(Refusal::invalid("command must not be empty"));
    }
    Ok(MachineAction::Exec {
        argv,
        request,
        timeout: Duration::from_secs(timeout_s),
    })
}

fn processes(query: &Query) -> Result<MachineAction, Refusal> {
    let sort_by = query.owned("sort_by");
    let columns = ["pid", "cpu", "rss", "rtime", "stime", "command"];
    if let Some(column) = &sort_by
        && !columns.contains(&column.as_str())
    {
        return Err(Refusal::invalid(format!(
            "sort_by must be one of {}",
            columns.join(", ")
        )));
    }
    let descending = match query.text("order") {
        None | Some("asc") => false,
        Some("desc") => true,
        Some(_) => return Err(Refusal::invalid("order must be asc or desc")),
    };
    Ok(MachineAction::Processes {
        sort_by,
        descending,
    })
}

fn rules(body: &[u8]) -> Result<Vec<Rule>, Refusal> {
    let texts: Vec<String> = json(body)?;
    texts
        .iter()
        .map(|text| {
            text.parse()
                .map_err(|e: crate::local::faults::rule::RuleError| Refusal::invalid(e.to_string()))
        })
        .collect()
}
