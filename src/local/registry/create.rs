//! Making machines.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::clock::UnixMs;
use crate::local::image::{Image, image_ref};
use crate::local::refusal::Refusal;
use crate::local::registry::lease;
use crate::local::registry::life;
use crate::local::registry::machine::{InjectedFaults, MachineRecord, Next};
use crate::local::registry::view::{Reply, Shown};
use crate::local::registry::{Done, Registry};
use crate::machines::wire::{CreateMachine, ImageRef, MachineConfig, MachineState};

/// A machine to be created, with its image and region resolved.
#[derive(Debug)]
pub(crate) struct NewMachine {
    /// Its app.
    pub(crate) app: String,
    /// What was asked for.
    pub(crate) request: CreateMachine,
    /// Its image, found.
    pub(crate) image: Arc<Image>,
    /// Its region, chosen.
    pub(crate) region: String,
    /// How many bytes the request took.
    pub(crate) weight: usize,
    /// Faults injected into it.
    pub(crate) injected: InjectedFaults,
}

impl Registry {
    /// Whether a machine of that name and weight could be made now.
    ///
    /// # Errors
    /// 404 without the app, 409 for a name that is taken, 422 when there is no room.
    pub(crate) fn admit(
        &self,
        app: &str,
        name: Option<&str>,
        weight: usize,
    ) -> Result<(), Refusal> {
        let app = self.app(app)?;
        if let Some(name) = name {
            app.check_free(name)?;
        }
        let room = self.live < self.rules.max_machines
            && self.config_bytes.saturating_add(weight) <= self.rules.max_config_bytes;
        if room {
            return Ok(());
        }
        Err(Refusal::new(422, "could not find a candidate host").with_code("insufficient_capacity"))
    }

    /// Makes a machine and says what is to be done to start it.
    ///
    /// # Errors
    /// As [`Registry::admit`].
    pub(crate) fn create(&mut self, new: NewMachine, now: UnixMs) -> Result<Done, Refusal> {
        let NewMachine {
            app,
            request,
            image,
            region,
            weight,
            injected,
        } = new;
        self.reap(now);
        self.admit(&app, request.name.as_deref(), weight)?;
        let mut machine = MachineRecord {
            id: self.fresh_id(),
            name: self.fresh_name(&app, request.name),
            app,
            region,
            version: self.ids.ulid(now),
            metadata: self.labelled(&request.config),
            image_ref: Arc::new(shown_image(&request.config, &image)),
            image,
            config: Arc::new(request.config),
            state: MachineState::Created,
            events: VecDeque::new(),
            changes: VecDeque::new(),
            sequence: self.sequence,
            created_ms: now,
            updated_ms: now,
            lease: None,
            cordoned: false,
            versions: VecDeque::new(),
            process: None,
            next: Next::Policy,
            restarts: 0,
            injected,
            weight,
        };
        self.sequence += 1;
        self.live += 1;
        self.most_live = self.most_live.max(self.live);
        self.config_bytes += weight;
        let skip_launch = request.skip_launch == Some(true);
        let effect = life::create(&mut machine, skip_launch, &mut self.now(now));
        let nonce = request
            .lease_ttl
            .filter(|&ttl| ttl > 0)
            .map(|ttl| lease::take(&mut machine, None, ttl, now, &mut self.ids));
        let machine = Arc::new(machine);
        if let Some(app) = self.apps.get_mut(&machine.app) {
            app.names.insert(machine.name.clone(), machine.id.clone());
            app.live.insert(machine.sequence, machine.id.clone());
        }
        self.machines
            .insert(machine.id.clone(), Arc::clone(&machine));
        let touched = vec![(machine.id.clone(), Some(effect))];
        let mut shown = Shown::whole(machine);
        shown.nonce = nonce;
        Ok(Done {
            reply: Reply::Machine(Box::new(shown)),
            touched,
        })
    }

    fn fresh_id(&mut self) -> String {
        loop {
            let id = self.ids.machine();
            if !self.machines.contains_key(&id) {
                return id;
            }
        }
    }

    fn fresh_name(&mut self, app: &str, wanted: Option<String>) -> String {
        if let Some(name) = wanted {
            return name;
        }
        loop {
            let name = self.ids.machine_name();
            let taken = self
                .apps
                .get(app)
                .is_some_and(|a| a.names.contains_key(&name));
            if !taken {
                return name;
            }
        }
    }
}

/// A configuration's image as answers show it.
pub(super) fn shown_image(config: &MachineConfig, image: &Image) -> ImageRef {
    let reference = config.image.as_deref().unwrap_or_default();
    image_ref(reference, image.digest.as_deref())
}
