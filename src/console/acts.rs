//! What an operator does: each act is done, then recorded in the audit.

use std::future::Future;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::timeout;
use tracing::{info, warn};

use crate::config::ConsoleRole;
use crate::console::page::{self, View};
use crate::console::serve::Console;
use crate::console::{machines, runs};
use crate::machines::Force;
use crate::run::id::{MACHINE_PREFIX, RunId, Tenant};
use crate::stage::operate::{self, Cancelled, Rerun};
use crate::store::audit::Deed;
use crate::store::fleet::Prioritised;
use crate::store::tenants::{Change, change};

/// Things that one form may name.
const BULK_MAX: usize = 200;
/// How long an act may take.
const ACT_TIMEOUT: Duration = Duration::from_secs(60);

/// What an act came to.
pub(super) struct Done {
    pub(super) is_done: bool,
    pub(super) said: String,
    /// The page to go back to.
    pub(super) back: String,
}

/// A form's fields.
struct Form<'a>(&'a [(String, String)]);

impl Form<'_> {
    fn get(&self, name: &str) -> &str {
        let mut fields = self.0.iter();
        fields
            .find(|(known, _)| known == name)
            .map_or("", |(_, value)| value.trim())
    }

    fn all(&self, name: &str) -> Result<Vec<&str>, String> {
        let fields = self.0.iter().filter(|(known, _)| known == name);
        let all: Vec<&str> = fields.map(|(_, value)| value.trim()).collect();
        match all.len() {
            0 => Err(format!("choose a {name} first")),
            1..=BULK_MAX => Ok(all),
            many => Err(format!("{many} are more than {BULK_MAX} at once")),
        }
    }

    fn run_ids(&self) -> Result<Vec<RunId>, String> {
        let ids = self.all("run")?.into_iter().map(str::parse);
        ids.collect::<Result<_, _>>()
            .map_err(|_| "that is no run's id".to_owned())
    }

    fn tenant(&self) -> Result<Tenant, String> {
        self.get("tenant")
            .parse()
            .map_err(|_| "that is no tenant's name".to_owned())
    }

    /// What the act is about, for the audit.
    fn what(&self) -> String {
        let fields = self
            .0
            .iter()
            .filter(|(name, _)| !matches!(name.as_str(), "csrf" | "sure"));
        let words: Vec<String> = fields
            .map(|(name, value)| match name.as_str() {
                // A request may hold secrets.
                "run" if value.starts_with('{') => "run=(edited)".to_owned(),
                _ => format!("{name}={value}"),
            })
            .collect();
        words.join(" ")
    }
}

/// What an act answers: what was done, or why nothing was.
type Said = Result<String, String>;

/// Does what a form asks for, and records it.
pub(super) async fn act(
    console: &Console,
    act: &str,
    form: &[(String, String)],
    who: &str,
) -> Done {
    let fields = Form(form);
    let (back, said) = match timeout(ACT_TIMEOUT, perform(console, act, &fields)).await {
        Ok(done) => done,
        Err(_) => (
            "/".to_owned(),
            Err("it took too long, and may be done in part".to_owned()),
        ),
    };
    let is_done = said.is_ok();
    let said = said.unwrap_or_else(|why| format!("Not done: {why}"));
    let deed = Deed {
        who: who.to_owned(),
        role: "operator".to_owned(),
        act: page::text(act),
        what: fields.what(),
        answer: said.clone(),
    };
    info!(
        act = deed.act,
        who,
        what = page::text(&deed.what),
        answer = said,
        "an operator acted"
    );
    if let Err(error) = console.deps.store.record_deed(&deed).await {
        warn!(%error, "what an operator did could not be recorded");
    }
    Done {
        is_done,
        said,
        back,
    }
}

async fn perform(console: &Console, act: &str, form: &Form<'_>) -> (String, Said) {
    let tenant = form
        .tenant()
        .ok()
        .map(|tenant| page::path("tenants", tenant.as_str()));
    let run = form
        .get("run")
        .parse::<RunId>()
        .ok()
        .map(|id| runs::address(&id));
    let of_run = match form.all("run") {
        Ok(all) if all.len() > 1 => "/runs".to_owned(),
        _ => run.unwrap_or_else(|| "/runs".to_owned()),
    };
    let (back, said) = match act {
        "cancel" => (of_run, cancel(console, form).await),
        "rerun" => rerun(console, form, of_run).await,
        "priority" => (of_run, priority(console, form).await),
        "tenant" => (tenant.unwrap_or_default(), configure(console, form).await),
        "pause" | "resume" => (
            tenant.unwrap_or_default(),
            pause(console, form, act == "pause").await,
        ),
        "cancel-tenant" => (
            tenant.unwrap_or_default(),
            cancel_tenant(console, form).await,
        ),
        "quiet" | "unquiet" => (
            "/workers".to_owned(),
            quiet(console, form, act == "quiet").await,
        ),
        "machine-delete" => ("/machines".to_owned(), delete_machine(console, form).await),
        "dead-requeue" => ("/dead".to_owned(), requeue(console, form).await),
        "dead-edit" => ("/dead".to_owned(), edit(console, form).await),
        "dead-delete" => ("/dead".to_owned(), delete_letter(console, form).await),
        _ => ("/".to_owned(), Err("there is no such act".to_owned())),
    };
    let back = if back.is_empty() {
        "/".to_owned()
    } else {
        back
    };
    (back, said)
}

async fn cancel(console: &Console, form: &Form<'_>) -> Said {
    let deps = &console.deps;
    let each = async |id: RunId| {
        let now = deps.clock.now_ms();
        let done = operate::cancel(&deps.store, deps.terms, &id, now).await;
        match done.map_err(|error| error.to_string())? {
            Cancelled::Now => Ok(format!("{id} is cancelled")),
            Cancelled::WhenRead => Ok(format!(
                "{id} is cancelled as soon as a worker has read its request"
            )),
            Cancelled::Not(why) => Err(format!("run {id} {why}")),
        }
    };
    bulk(form.run_ids()?, "cancelled", each).await
}

async fn rerun(console: &Console, form: &Form<'_>, back: String) -> (String, Said) {
    let ids = match form.run_ids() {
        Ok(ids) => ids,
        Err(why) => return (back, Err(why)),
    };
    let new = Mutex::new(None);
    let each = async |id: RunId| match operate::rerun(&console.deps.store, &id).await {
        Ok(Rerun::Asked(asked)) => {
            let said = format!("{id} is asked for again as {asked}");
            *new.lock().unwrap_or_else(PoisonError::into_inner) = Some(asked);
            Ok(said)
        }
        Ok(Rerun::Not(why)) => Err(format!("run {id} {why}")),
        Err(error) => Err(error.to_string()),
    };
    let is_one = ids.len() == 1;
    let said = bulk(ids, "asked for again", each).await;
    let new = new.into_inner().unwrap_or_else(PoisonError::into_inner);
    match new {
        Some(new) if is_one => (runs::address(&new), said),
        _ => (back, said),
    }
}

/// One thing after another, and how it went: its own words for one, counts for many.
async fn bulk<T, F: Future<Output = Said>>(
    all: Vec<T>,
    word: &str,
    mut each: impl FnMut(T) -> F,
) -> Said {
    let (count, mut done, mut why_not) = (all.len(), 0, None);
    let mut last = Ok(String::new());
    for one in all {
        last = each(one).await;
        match &last {
            Ok(_) => done += 1,
            Err(why) => why_not = Some(why.clone()),
        }
    }
    if count == 1 {
        return last;
    }
    let said = format!("{done} of {count} {word}");
    match why_not {
        None => Ok(said),
        Some(why) => Err(format!("{said}; {why}")),
    }
}

async fn priority(console: &Console, form: &Form<'_>) -> Said {
    let id: RunId = form.get("run").parse().map_err(|_| "that is no run's id")?;
    let priority = form
        .get("priority")
        .parse()
        .ok()
        .filter(|priority| *priority <= 9);
    let priority: u8 = priority.ok_or("a priority is a number from 0 to 9")?;
    match console.deps.store.prioritise(&id, priority).await {
        Ok(Prioritised::Done) => Ok(format!("{id} has priority {priority}")),
        Ok(Prioritised::NotWaiting) => Err(format!("run {id} does not wait any more")),
        Ok(Prioritised::Unknown) => Err(format!("run {id} is not known")),
        Err(error) => Err(error.to_string()),
    }
}

async fn configure(console: &Console, form: &Form<'_>) -> Said {
    let tenant = form.tenant()?;
    let names = ["max_in_flight", "weight", "backlog_max", "budget_s"];
    let mut wanted: Vec<Change> = Vec::new();
    for name in names {
        match form.get(name) {
            "" => {}
            text => wanted.push(change(name, name, text)?),
        }
    }
    if wanted.is_empty() {
        return Err("nothing was to be set".to_owned());
    }
    let done = console.deps.store.configure(&tenant, &wanted).await;
    done.map_err(|error| error.to_string())?;
    Ok(format!("{tenant} is changed"))
}

async fn pause(console: &Console, form: &Form<'_>, is_paused: bool) -> Said {
    let word = if is_paused { "paused" } else { "resumed" };
    let store = &console.deps.store;
    if form.get("all") == "1" {
        store
            .pause(None, is_paused, None)
            .await
            .map_err(|error| error.to_string())?;
        if !is_paused {
            store
                .lift_holds()
                .await
                .map_err(|error| error.to_string())?;
        }
        return Ok(format!("everything is {word}"));
    }
    let tenant = form.tenant()?;
    store
        .pause(Some(&tenant), is_paused, None)
        .await
        .map_err(|error| error.to_string())?;
    Ok(format!("{tenant} is {word}"))
}

async fn cancel_tenant(console: &Console, form: &Form<'_>) -> Said {
    let tenant = form.tenant()?;
    if form.get("sure") != tenant.as_str() {
        return Err("the name that was written is not the tenant's".to_owned());
    }
    let order = console
        .deps
        .store
        .order("cancel_tenant", tenant.as_str())
        .await;
    order.map_err(|error| error.to_string())?;
    Ok(format!(
        "the workers cancel what {tenant} has asked for until now"
    ))
}

async fn quiet(console: &Console, form: &Form<'_>, is_quiet: bool) -> Said {
    let name = form.get("worker");
    let (store, now) = (&console.deps.store, console.deps.clock.now_ms());
    let holders = store
        .keyrings(now)
        .await
        .map_err(|error| error.to_string())?;
    if is_quiet && !holders.iter().any(|holder| holder.name == name) {
        return Err("there is no such worker".to_owned());
    }
    match store.set_quiet(name, is_quiet).await {
        Ok(true) if is_quiet => Ok(format!("{name} takes no more work within seconds")),
        Ok(true) => Ok(format!("{name} takes work again within seconds")),
        Ok(false) => Err("as many are quiet as may be".to_owned()),
        Err(error) => Err(error.to_string()),
    }
}

/// Deletes a machine that no run has and whose name is one of ours. Others are left alone.
async fn delete_machine(console: &Console, form: &Form<'_>) -> Said {
    let Some(provider) = &console.deps.machines else {
        return Err("this console has no token for the Machines API".to_owned());
    };
    let (app, id) = (form.get("app"), form.get("machine"));
    let view = View {
        console,
        role: ConsoleRole::Operator,
        now: console.deps.clock.now_ms(),
        csrf: "",
    };
    let apps = machines::apps(provider, &view)
        .await
        .map_err(|error| error.to_string())?;
    if !apps.iter().any(|known| known == app) {
        return Err("that is none of our apps".to_owned());
    }
    let machine = provider
        .client
        .get(app, id)
        .await
        .map_err(|error| error.to_string())?;
    if !machine.name.starts_with(MACHINE_PREFIX) {
        return Err("its name is none of ours: it is left alone".to_owned());
    }
    let runs = machines::runs_by_machine(app, &view)
        .await
        .map_err(|error| error.to_string())?;
    if let Some(run) = runs.get(&machine.name) {
        return Err(format!(
            "it is the machine of run {run}: cancel that instead"
        ));
    }
    let deleted = provider.client.delete(app, &machine.id, Force::Yes).await;
    deleted.map_err(|error| error.to_string())?;
    Ok(format!("machine {} is deleted", machine.id))
}

async fn requeue(console: &Console, form: &Form<'_>) -> Said {
    let each = async |entry: &str| {
        let entry = page::entry_id(Some(entry.to_owned()))?.unwrap_or_default();
        match console.deps.store.revive(&entry).await {
            Ok(Some(new)) => Ok(format!("{entry} is back as {new}")),
            Ok(None) => Err(format!("there is no dead letter {entry}")),
            Err(error) => Err(error.to_string()),
        }
    };
    bulk(form.all("entry")?, "put back", each).await
}

/// Asks for what was edited, and deletes the letter only then.
async fn edit(console: &Console, form: &Form<'_>) -> Said {
    let (store, run) = (&console.deps.store, form.get("run"));
    let entry = page::entry_id(Some(form.get("entry").to_owned()))?.unwrap_or_default();
    if !matches!(serde_json::from_str(run), Ok(serde_json::Value::Object(_))) {
        return Err("what was edited is no JSON object".to_owned());
    }
    let found = store
        .dead_entry(&entry)
        .await
        .map_err(|error| error.to_string())?;
    if found.is_none() {
        return Err(format!("there is no dead letter {entry}"));
    }
    let new = store
        .submit(&[run.to_owned()])
        .await
        .map_err(|error| error.to_string())?;
    store
        .delete_dead(&entry)
        .await
        .map_err(|error| error.to_string())?;
    Ok(format!("{entry} is back, edited, as {}", new.join("")))
}

async fn delete_letter(console: &Console, form: &Form<'_>) -> Said {
    let each = async |entry: &str| {
        let entry = page::entry_id(Some(entry.to_owned()))?.unwrap_or_default();
        match console.deps.store.delete_dead(&entry).await {
            Ok(true) => Ok(format!("{entry} is deleted")),
            Ok(false) => Err(format!("there is no dead letter {entry}")),
            Err(error) => Err(error.to_string()),
        }
    };
    bulk(form.all("entry")?, "deleted", each).await
}
