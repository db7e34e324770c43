//! Apps, which hold machines.

use std::collections::{BTreeMap, HashMap};

use crate::clock::UnixMs;
use crate::local::action::Page;
use crate::local::check;
use crate::local::refusal::Refusal;
use crate::local::registry::list::Cursor;
use crate::local::registry::machine::MachineRecord;
use crate::local::registry::view::Reply;
use crate::local::registry::{Done, Registry};
use crate::machines::wire::{self, AppList, AppOrganization, CreateApp, CreatedApp};

/// An app.
#[derive(Debug)]
pub(super) struct App {
    id: String,
    pub(super) name: String,
    pub(super) org: String,
    network: String,
    created_ms: UnixMs,
    idempotency_key: Option<String>,
    /// Machines that are not destroyed, by creation.
    pub(super) live: BTreeMap<u64, String>,
    /// Destroyed machines that can still be read, by creation.
    pub(super) gone: BTreeMap<u64, String>,
    /// The machines' names, as long as they are taken.
    pub(super) names: HashMap<String, String>,
}

impl App {
    /// Moves a machine from the living to the gone and frees its name. Says whether it was there.
    pub(super) fn retire(&mut self, machine: &MachineRecord) -> bool {
        if self.names.get(&machine.name) == Some(&machine.id) {
            self.names.remove(&machine.name);
        }
        let Some(id) = self.live.remove(&machine.sequence) else {
            return false;
        };
        self.gone.insert(machine.sequence, id);
        true
    }

    /// Refuses a name that a machine of the app has.
    pub(super) fn check_free(&self, name: &str) -> Result<(), Refusal> {
        let Some(id) = self.names.get(name) else {
            return Ok(());
        };
        Err(Refusal::new(
            409,
            format!(
                "already_exists: unique machine name violation, \
                 machine ID {id} already exists with name \"{name}\""
            ),
        ))
    }

    fn show(&self) -> wire::App {
        let status = if self.live.is_empty() {
            "pending"
        } else {
            "deployed"
        };
        wire::App {
            id: self.id.clone(),
            name: self.name.clone(),
            status: Some(status.to_owned()),
            network: Some(self.network.clone()),
            organization: Some(AppOrganization {
                name: Some(self.org.clone()),
                slug: Some(self.org.clone()),
                ..AppOrganization::default()
            }),
            machine_count: u64::try_from(self.live.len()).ok(),
            volume_count: Some(0),
            ..wire::App::default()
        }
    }

    fn created(&self) -> Reply {
        Reply::AppCreated(CreatedApp {
            id: self.id.clone(),
            created_at: Some(self.created_ms),
            ..CreatedApp::default()
        })
    }
}

impl Registry {
    /// Makes an app.
    ///
    /// # Errors
    /// 422 for a name that breaks the rules or is taken, or when there are too many.
    pub(crate) fn create_app(&mut self, request: CreateApp, now: UnixMs) -> Result<Done, Refusal> {
        let wanted = request.wanted_name().filter(|name| !name.is_empty());
        if let Some(key) = request.idempotency_key.as_deref()
            && let Some(first) = self
                .apps
                .values()
                .find(|a| a.idempotency_key.as_deref() == Some(key))
        {
            return match wanted {
                Some(name) if name != first.name => Err(Refusal::new(
                    422,
                    "Validation failed: Idempotency key was used with another name",
                )),
                _ => Ok(Done::only(first.created())),
            };
        }
        let name = match wanted {
            Some(name) => {
                check::app_name(name)?;
                name.to_owned()
            }
            None => self.ids.machine_name(),
        };
        if self.apps.contains_key(&name) {
            return Err(
                Refusal::new(422, "Validation failed: Name has already been taken")
                    .with_code("name_taken"),
            );
        }
        if self.apps.len() >= self.rules.max_apps {
            return Err(Refusal::new(
                422,
                "Validation failed: too many apps on this server",
            ));
        }
        let app = App {
            id: self.ids.machine(),
            org: request.org_slug.unwrap_or_else(|| self.rules.org.clone()),
            network: request.network.unwrap_or_else(|| "default".to_owned()),
            created_ms: now,
            idempotency_key: request.idempotency_key,
            live: BTreeMap::new(),
            gone: BTreeMap::new(),
            names: HashMap::new(),
            name: name.clone(),
        };
        let reply = app.created();
        self.apps.insert(name, app);
        Ok(Done::only(reply))
    }

    /// Shows an app.
    ///
    /// # Errors
    /// 404 when there is none of that name.
    pub(crate) fn show_app(&self, name: &str) -> Result<Done, Refusal> {
        Ok(Done::only(Reply::App(Box::new(self.app(name)?.show()))))
    }

    /// Lists an organisation's apps by name.
    ///
    /// # Errors
    /// 400 for a cursor that is none of ours, or has expired.
    pub(crate) fn list_apps(
        &self,
        org: Option<&str>,
        page: &Page,
        now: UnixMs,
    ) -> Result<Done, Refusal> {
        let ours = |app: &&App| org.is_none_or(|org| app.org == org);
        let total = self.apps.values().filter(ours).count();
        let cursor = Cursor::resume(page, now)?;
        let after = cursor.key.clone();
        let mut rest = self.apps.values().filter(ours).skip_while(|app| {
            after
                .as_deref()
                .is_some_and(|after| app.name.as_str() <= after)
        });
        let limit = page.limit.unwrap_or(usize::MAX);
        let apps: Vec<wire::App> = rest.by_ref().take(limit).map(App::show).collect();
        let next_cursor = match (rest.next(), apps.last()) {
            (Some(_), Some(last)) => Some(cursor.next(&last.name)),
            _ => None,
        };
        Ok(Done::only(Reply::Apps(AppList {
            total_apps: u64::try_from(total).unwrap_or(u64::MAX),
            apps,
            next_cursor,
        })))
    }

    /// Deletes an app and destroys every machine in it.
    ///
    /// # Errors
    /// 404 when there is none of that name.
    pub(crate) fn delete_app(&mut self, name: &str, now: UnixMs) -> Result<Done, Refusal> {
        let Some(app) = self.apps.remove(name) else {
            return Err(Refusal::no_app(name));
        };
        for id in app.gone.into_values() {
            self.forget(&id);
        }
        let mut touched = Vec::new();
        for id in app.live.into_values() {
            let effect = self.with(&id, now, |machine, now| {
                super::life::destroy(machine, true, now).ok().flatten()
            });
            touched.push((id, effect.flatten()));
        }
        Ok(Done {
            reply: Reply::Accepted,
            touched,
        })
    }

    pub(super) fn app(&self, name: &str) -> Result<&App, Refusal> {
        self.apps.get(name).ok_or_else(|| Refusal::no_app(name))
    }
}
