//! Carrying out calls on the [`Host`]: what needs an image, a wait or a running program, and
//! everything else.

use std::sync::Arc;
use std::time::Duration;

use hyper::header::{HeaderName, HeaderValue};
use hyper::{Response, StatusCode};
use serde_json::json;

use crate::clock::UnixMs;
use crate::http::reply::{self, Body};
use crate::local::action::{Action, MachineAction};
use crate::local::answer::of_reply;
use crate::local::check;
use crate::local::faults::capacity::Shortage;
use crate::local::faults::rule::MachineFault;
use crate::local::faults::subject::CallSubject;
use crate::local::host::Host;
use crate::local::image::{self, Image};
use crate::local::refusal::Refusal;
use crate::local::registry::create::NewMachine;
use crate::local::registry::machine::InjectedFaults;
use crate::local::registry::view::{Region, Reply, Shown, org_page};
use crate::local::registry::{Live, Registry};
use crate::local::{programs, spec};
use crate::machines::wire::{CreateMachine, CurrentToken, MachineConfig, TokenInfo, UpdateMachine};

/// Where the next page of a listing of machines begins.
const NEXT_CURSOR: HeaderName = HeaderName::from_static("fly-next-cursor");

/// Carries out calls.
#[derive(Debug)]
pub(crate) struct Calls {
    /// The machines.
    pub(crate) host: Host,
    /// Where they can be.
    pub(crate) regions: check::Regions,
    /// The organisation of the one token.
    pub(crate) org: String,
}

impl Calls {
    /// The time.
    pub(crate) fn now(&self) -> UnixMs {
        self.host.now()
    }

    /// The machines there are.
    pub(crate) fn live(&self) -> Live {
        self.host.read(Registry::live)
    }

    /// Does nothing for so long, or until the server ends.
    pub(crate) async fn hang(&self, length: Duration) {
        let quiet = self.host.parts().shutdown.quiet();
        let _ = quiet.run_until_cancelled(tokio::time::sleep(length)).await;
    }

    /// Finds out the name and the region of the machine that a call is about.
    pub(crate) fn identify(&self, action: &Action, subject: &mut CallSubject) {
        match action {
            Action::Create { request, .. } => {
                subject.name.clone_from(&request.name);
                let candidates = self.regions.candidates(request.region.as_deref());
                subject.region = candidates
                    .ok()
                    .and_then(|regions| regions.into_iter().next());
            }
            Action::Machine { app, id, .. } => {
                let found = self
                    .host
                    .read(|registry| registry.find(app, id).map(Arc::clone));
                if let Some(machine) = found {
                    subject.name = Some(machine.name.clone());
                    subject.region = Some(machine.region.clone());
                }
            }
            _ => {}
        }
    }

    /// Makes a machine.
    ///
    /// # Errors
    /// 400 for a request or an image that is no good, 404, 409, 422, as the registry says.
    pub(crate) async fn create(
        &self,
        app: String,
        mut request: CreateMachine,
        weight: usize,
        machine_faults: &[MachineFault],
        shortage: impl Fn(&str) -> Option<Shortage>,
    ) -> Result<Reply, Refusal> {
        request.name = request.name.filter(|name| !name.is_empty());
        if let Some(name) = &request.name {
            check::machine_name(name)?;
        }
        check::config(&request.config)?;
        let candidates = self.regions.candidates(request.region.as_deref())?;
        let name = request.name.as_deref();
        self.host
            .read(|registry| registry.admit(&app, name, weight))?;
        let image = self.image(&request.config).await?;
        let region = place(candidates, shortage)?;
        let now = self.now();
        let mut injected = InjectedFaults::default();
        for fault in machine_faults {
            injected.add(fault, now);
        }
        let new = NewMachine {
            app,
            request,
            image,
            region,
            weight,
            injected,
        };
        let made = self
            .host
            .change(|registry, now| registry.create(new, now))?;
        if machine_faults.contains(&MachineFault::Forget)
            && let Reply::Machine(shown) = &made
        {
            self.host.inject(&shown.machine.id, &MachineFault::Forget);
        }
        Ok(made)
    }

    /// Injects faults into a machine.
    pub(crate) fn inject(&self, app: &str, id: &str, machine_faults: &[MachineFault]) {
        let known = !machine_faults.is_empty()
            && self.host.read(|registry| registry.find(app, id).is_some());
        for fault in machine_faults.iter().filter(|_| known) {
            self.host.inject(id, fault);
        }
    }

    /// Does something with one machine.
    ///
    /// # Errors
    /// As the call has them.
    pub(crate) async fn machine(
        &self,
        app: &str,
        id: &str,
        nonce: Option<&str>,
        action: MachineAction,
        weight: usize,
    ) -> Result<Response<Body>, Refusal> {
        match action {
            MachineAction::Wait(query) => {
                let answer = self.host.wait(app, id, &query).await?;
                Ok(reply::json(StatusCode::OK, &answer))
            }
            MachineAction::Exec {
                argv,
                request,
                timeout,
            } => {
                let running = self.host.running(app, id)?;
                let stdin = request.stdin.unwrap_or_default();
                let answer = programs::exec(&running, argv, stdin, timeout).await?;
                Ok(reply::json(StatusCode::OK, &answer))
            }
            MachineAction::Processes {
                sort_by,
                descending,
            } => {
                let running = self.host.running(app, id)?;
                let listed = programs::list(&running, sort_by.as_deref(), descending)?;
                Ok(reply::json(StatusCode::OK, &listed))
            }
            MachineAction::Update(request) => {
                let updated = self.update(app, id, nonce, *request, weight).await?;
                Ok(of_reply(updated))
            }
            action => {
                let is_delete = matches!(action, MachineAction::Delete { .. });
                let change = self
                    .host
                    .change(|registry, now| registry.apply(app, id, nonce, action, now))?;
                if is_delete {
                    self.host.await_destroyed(app, id).await;
                }
                Ok(of_reply(change))
            }
        }
    }

    /// Everything that is not about one machine.
    ///
    /// # Errors
    /// As the call has them.
    pub(crate) fn other(&self, action: Action) -> Result<Response<Body>, Refusal> {
        let host = &self.host;
        let now = self.now();
        match action {
            Action::CreateApp(request) => host
                .change(|registry, now| registry.create_app(request, now))
                .map(of_reply),
            Action::App(name) => host
                .change(|registry, _| registry.show_app(&name))
                .map(of_reply),
            Action::Apps { org, page } => host
                .change(|registry, now| registry.list_apps(org.as_deref(), &page, now))
                .map(of_reply),
            Action::DeleteApp(name) => host
                .change(|registry, now| registry.delete_app(&name, now))
                .map(of_reply),
            Action::List { app, filter, page } => {
                let listing = host.read(|registry| registry.list(&app, &filter, &page, now))?;
                let (machines, next) = listing.kept(&filter, now);
                let shown = machines
                    .into_iter()
                    .map(|m| Shown::listed(m, &filter, now).to_wire());
                let mut response = reply::json(StatusCode::OK, &shown.collect::<Vec<_>>());
                if let Some(Ok(next)) = next.map(|next| HeaderValue::from_str(&next)) {
                    response.headers_mut().insert(NEXT_CURSOR, next);
                }
                Ok(response)
            }
            Action::OrgMachines {
                org,
                filter,
                updated_after,
                page,
            } => {
                let listing =
                    host.read(|r| r.list_org(&org, &filter, updated_after, &page, now))?;
                let (machines, next) = listing.kept(&filter, now);
                Ok(reply::json(
                    StatusCode::OK,
                    &org_page(&machines, &filter, next),
                ))
            }
            Action::Logs {
                app,
                instance,
                next_token,
            } => {
                host.read(|registry| registry.show_app(&app).map(drop))?;
                let logs = &host.parts().logs;
                let page = logs.page(&app, instance.as_deref(), next_token.as_deref())?;
                Ok(reply::json(StatusCode::OK, &page))
            }
            Action::Regions => Ok(self.regions()),
            Action::Placements => Ok(reply::json(StatusCode::OK, &json!({"regions": []}))),
            Action::OrgVolumes => Ok(reply::json(StatusCode::OK, &json!({"volumes": []}))),
            Action::Nothing { app, list } => {
                host.read(|registry| registry.show_app(&app).map(drop))?;
                Ok(reply::json(StatusCode::OK, &empty(&list)))
            }
            Action::Token => Ok(self.token()),
            _ => Err(Refusal::unknown_route()),
        }
    }

    async fn update(
        &self,
        app: &str,
        id: &str,
        nonce: Option<&str>,
        request: UpdateMachine,
        weight: usize,
    ) -> Result<Reply, Refusal> {
        if self.host.read(|registry| registry.find(app, id).is_none()) {
            return Err(Refusal::no_machine());
        }
        if let Some(name) = request.name.as_deref().filter(|name| !name.is_empty()) {
            check::machine_name(name)?;
        }
        check::config(&request.config)?;
        let image = self.image(&request.config).await?;
        self.host
            .change(|registry, now| registry.update(app, id, nonce, request, (image, weight), now))
    }

    /// The image of a configuration, which must have something to run.
    async fn image(&self, config: &MachineConfig) -> Result<Arc<Image>, Refusal> {
        let reference = config.image.as_deref().unwrap_or_default();
        let image = image::resolve(&self.host.parts().images, reference).await?;
        spec::argv(config, &image)?;
        Ok(Arc::new(image))
    }

    fn regions(&self) -> Response<Body> {
        let regions: Vec<Region> = self
            .regions
            .own()
            .iter()
            .map(|code| Region::of(code))
            .collect();
        let nearest = self.regions.own().first();
        reply::json(
            StatusCode::OK,
            &json!({ "regions": regions, "nearest": nearest }),
        )
    }

    fn token(&self) -> Response<Body> {
        let token = TokenInfo {
            token_id: "local".to_owned(),
            org_slug: self.org.clone(),
            organization: self.org.clone(),
            ..TokenInfo::default()
        };
        reply::json(
            StatusCode::OK,
            &CurrentToken {
                tokens: vec![token],
            },
        )
    }
}

/// The first region that has room.
fn place(
    candidates: Vec<String>,
    shortage: impl Fn(&str) -> Option<Shortage>,
) -> Result<String, Refusal> {
    let mut last = Shortage::Region;
    for region in candidates {
        match shortage(&region) {
            None => return Ok(region),
            Some(found) if found.is_regional() => last = found,
            Some(found) => return Err(found.refusal()),
        }
    }
    Err(last.refusal())
}

/// An empty list in the shape that the API gives it.
fn empty(list: &str) -> serde_json::Value {
    match list {
        "ip_assignments" => json!({"ips": []}),
        "secrets" => json!({"secrets": []}),
        "secretkeys" => json!({"secret_keys": []}),
        _ => json!([]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_region_gives_way_to_the_next() {
        let regions = || vec!["ams".to_owned(), "fra".to_owned()];
        let full = |names: &'static [&str]| {
            move |region: &str| names.contains(&region).then_some(Shortage::Region)
        };
        assert_eq!(place(regions(), full(&[])).as_deref(), Ok("ams"));
        assert_eq!(place(regions(), full(&["ams"])).as_deref(), Ok("fra"));
        let refusal = place(regions(), full(&["ams", "fra"])).expect_err("all are full");
        assert_eq!(
            (refusal.status, refusal.code.as_deref()),
            (422, Some("insufficient_capacity"))
        );
        let host_full = |_: &str| Some(Shortage::Memory);
        assert_eq!(
            place(regions(), host_full)
                .expect_err("its host is full")
                .status,
            409
        );
    }
}
