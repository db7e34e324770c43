//! Faults that `machines` and `up` inject.

use clap::Args;

/// Faults that the local Machines server injects, for testing what depends on it.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Fault injection in the local Machines server")]
pub(crate) struct FaultArgs {
    /// A fault, `CALL [key=value…]: ACTION [key=value…]`; can be repeated
    ///
    /// CALL is `create`, `get`, `wait`, `delete`, … or `*` for every call. It can be narrowed by
    /// `app=`, `region=`, `name=` (a `*` at its end stands for any ending), `nth=N` (the Nth call
    /// that matches), `every=N`, `times=N` (at most), `p=0.1` (with that probability, drawn from
    /// `seed=`).
    ///
    /// ACTION is `refuse status=S [error=] [code=] [body=] [retry_after_s=]`, `delay ms=N`, `drop`
    /// (closes the connection), `lose` (does it, then closes the connection), `cut` (does it, then
    /// sends half of the answer), `hang`, `rate-limit per_s=R burst=B`, `no-capacity [kind=]`,
    /// `forget` (the machine never was), `hide ms=N`, `slow-pull ms=N`, `stick state=S [ms=N]`, or
    /// `unreachable`.
    #[arg(long, value_name = "RULE")]
    pub(crate) fault: Vec<String>,
    /// Let faults be changed over HTTP, at `/_faults`
    #[arg(long)]
    pub(crate) fault_control: bool,
    /// Enforce the rate limits that the real service documents
    #[arg(long)]
    pub(crate) documented_limits: bool,
    /// Start no process: after this many milliseconds, post a small result for each guest
    #[arg(long, value_name = "MILLISECONDS")]
    pub(crate) simulate: Option<u64>,
}
