//! What a call is about, which decides the rules that apply to it.

use crate::local::faults::Subject;
use crate::local::routes::Route;

/// What a call is about, kept while it is carried out.
#[derive(Debug)]
pub(crate) struct CallSubject {
    call: &'static str,
    app: String,
    /// The machine's id.
    machine: String,
    /// The machine's name, once it is known.
    pub(crate) name: Option<String>,
    /// The machine's region, once it is known.
    pub(crate) region: Option<String>,
    /// Rules are not held against it: it is how they are changed.
    pub(crate) exempt: bool,
}

impl CallSubject {
    /// That of a route.
    pub(crate) fn of(route: &Route) -> Self {
        Self {
            call: route.call,
            app: route.app.clone(),
            machine: route.machine.clone(),
            name: None,
            region: None,
            exempt: route.call.starts_with("faults-"),
        }
    }

    /// As rules are compared with it.
    pub(crate) fn borrow(&self) -> Subject<'_> {
        Subject {
            call: self.call,
            app: (!self.app.is_empty()).then_some(&self.app),
            name: self.name.as_deref(),
            region: self.region.as_deref(),
            id: match self.machine.as_str() {
                "" => &self.app,
                machine => machine,
            },
        }
    }

    /// The same in another region.
    pub(crate) fn in_region<'a>(&'a self, region: &'a str) -> Subject<'a> {
        Subject {
            region: Some(region),
            ..self.borrow()
        }
    }
}
