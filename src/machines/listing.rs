//! Listings of machines: whole or in brief, page by page.

use reqwest::Method;
use serde::de::DeserializeOwned;

use super::call::Call;
use super::client::{Client, PAGE_BYTES, parse};
use super::error::Error;
use super::transport::{Answer, Outgoing, header};
use super::wire::{Machine, MachineBrief, MachineState};

/// Machines asked for with one page of a listing.
const PAGE_MACHINES: u32 = 500;

/// With this header the local Machines server tells that it is one.
pub const LOCAL_SERVER: &str = "cofferdam-machines";

/// Which service answered a listing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Service {
    /// The local Machines server, which has no limit on how often it is asked.
    Local,
    /// Another.
    #[default]
    Remote,
}

/// Pages of one listing at the most; pages may be short or empty, so this is far above need.
const MAX_PAGES: usize = 200;

/// Which machines a listing is to hold.
#[derive(Clone, Debug, Default)]
pub struct ListFilter {
    /// In one of these states; in any when empty.
    pub states: Vec<MachineState>,
    /// In this region.
    pub region: Option<String>,
    /// With all of these metadata. A server may not know this filter: check what comes.
    pub metadata: Vec<(String, String)>,
    /// Destroyed ones too.
    pub include_deleted: bool,
    /// How much of each machine comes back.
    pub detail: Detail,
}

/// How much of each machine a listing brings.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Detail {
    /// All of it.
    #[default]
    Full,
    /// Without configuration (hence metadata), events, checks and host status.
    Summary,
}

impl Client {
    /// Lists an app's machines, following the pages to their end. The listing may lag behind.
    ///
    /// # Errors
    /// Any; [`Error::Unreadable`] when the pages do not end.
    pub async fn list(&self, app: &str, filter: &ListFilter) -> Result<Vec<Machine>, Error> {
        let mut machines = Vec::new();
        let each = |machine| machines.push(machine);
        self.pages(app, filter, each).await?;
        Ok(machines)
    }

    /// Lists an app's machines in brief, giving each to `each` as its page comes, so that nobody
    /// holds more of them than is needed. The listing may lag behind.
    ///
    /// # Errors
    /// As [`Client::list`]; by then some may have been given.
    pub async fn survey(
        &self,
        app: &str,
        each: impl FnMut(MachineBrief),
    ) -> Result<Service, Error> {
        let summaries = ListFilter {
            detail: Detail::Summary,
            ..ListFilter::default()
        };
        self.pages(app, &summaries, each).await
    }

    async fn pages<T: DeserializeOwned>(
        &self,
        app: &str,
        filter: &ListFilter,
        mut each: impl FnMut(T),
    ) -> Result<Service, Error> {
        let mut cursor: Option<String> = None;
        for _ in 0..MAX_PAGES {
            let call = self.page(app, filter, cursor.as_deref())?;
            let (page, next, service) = self.0.transport.send(call, parse_page).await?;
            page.into_iter().for_each(&mut each);
            let Some(next) = next else {
                return Ok(service);
            };
            cursor = Some(next);
        }
        let call = self.call(Call::List, Method::GET, &["apps", app, "machines"])?;
        Err(Error::Unreadable {
            request: call.request(),
            status: 200,
            reason: format!("it goes on after {MAX_PAGES} pages"),
        })
    }

    /// Finds the machine of that name among those that `filter` lets pass, of several the one that
    /// lives. A destroyed one is found if the filter includes them and no other has its name. A
    /// listing may lag, so that `None` is no proof right after a create.
    ///
    /// # Errors
    /// As [`Client::list`].
    pub async fn find_by_name(
        &self,
        app: &str,
        name: &str,
        filter: &ListFilter,
    ) -> Result<Option<MachineBrief>, Error> {
        let filter = ListFilter {
            detail: Detail::Summary,
            ..filter.clone()
        };
        let mut found: Option<MachineBrief> = None;
        let each = |machine: MachineBrief| {
            // A name is free again at once, so a dying machine may share it with a living one.
            let rank = |one: &MachineBrief| match (one.state.is_gone(), one.state.is_over()) {
                (true, _) => 0,
                (false, true) => 1,
                (false, false) => 2,
            };
            let is_meant = machine.name == name && (filter.include_deleted || rank(&machine) > 0);
            let is_better = found
                .as_ref()
                .is_none_or(|known| rank(known) < 2 && rank(known) <= rank(&machine));
            if is_meant && is_better {
                found = Some(machine);
            }
        };
        self.pages(app, &filter, each).await?;
        Ok(found)
    }

    fn page(
        &self,
        app: &str,
        filter: &ListFilter,
        cursor: Option<&str>,
    ) -> Result<Outgoing, Error> {
        let mut call = self.call(Call::List, Method::GET, &["apps", app, "machines"])?;
        call.limit_bytes = PAGE_BYTES;
        let mut query = call.url.query_pairs_mut();
        if !filter.states.is_empty() {
            let states: Vec<&str> = filter.states.iter().map(MachineState::as_str).collect();
            query.append_pair("state", &states.join(","));
        }
        if let Some(region) = &filter.region {
            query.append_pair("region", region);
        }
        for (key, value) in &filter.metadata {
            query.append_pair(&format!("metadata.{key}"), value);
        }
        if filter.include_deleted {
            query.append_pair("include_deleted", "true");
        }
        if filter.detail == Detail::Summary {
            query.append_pair("summary", "true");
        }
        query.append_pair("limit", &PAGE_MACHINES.to_string());
        if let Some(cursor) = cursor {
            query.append_pair("cursor", cursor);
        }
        drop(query);
        Ok(call)
    }
}

type Page<T> = (Vec<T>, Option<String>, Service);

fn parse_page<T: DeserializeOwned>(answer: &Answer) -> Result<Page<T>, Error> {
    // An app without machines may be answered with null.
    let machines: Option<Vec<T>> = parse(answer)?;
    let next = header(&answer.headers, "fly-next-cursor").filter(|cursor| !cursor.is_empty());
    let service = match header(&answer.headers, LOCAL_SERVER) {
        Some(_) => Service::Local,
        None => Service::Remote,
    };
    Ok((
        machines.unwrap_or_default(),
        next.map(str::to_owned),
        service,
    ))
}
