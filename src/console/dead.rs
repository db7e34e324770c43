//! Dead letters: entries that are no request, and what can be done about them.

use maud::{Markup, html};

use crate::console::page::{self, Rendered, View, block, path, query};
use crate::store::Error;
use crate::store::dead::Letter;

/// Letters on a page.
const PAGE: usize = 50;
/// Fields of a letter that are shown.
const FIELDS: usize = 100;
/// Bytes of a field that are shown, and of a request that can be edited.
const FIELD_BYTES: usize = 16 * 1024;
const EDITED_BYTES: usize = 128 * 1024;

pub(super) async fn list(before: Option<&str>, view: &View<'_>) -> Result<Rendered, Error> {
    let store = &view.console.deps.store;
    let (count, entries) = tokio::try_join!(store.count_dead(), store.dead_before(before, PAGE))?;
    let letters: Vec<Letter> = entries.iter().map(Letter::new).collect();
    let live = html! {
        @if letters.is_empty() { p { "None." } }
        @else {
            form method="post" action="/acts/dead-requeue" {
                (view.hidden())
                div.scroll { table {
                    caption { (count) " in all, newest first" }
                    thead { tr {
                        @if view.is_operator() { th scope="col" { "Choose" } }
                        th scope="col" { "Entry" } th scope="col" { "Set aside" } th scope="col" { "Reason" } th scope="col" { "What it says" }
                    } }
                    tbody { @for letter in &letters { tr {
                        @if view.is_operator() {
                            td { input type="checkbox" name="entry" value=(letter.entry) aria-label={"choose " (letter.entry)}; }
                        }
                        th scope="row" { a href=(path("dead", &letter.entry)) { (letter.entry) } }
                        td { (view.ago(letter.set_aside_ms())) }
                        td.bad { (page::text(&letter.reason)) }
                        td { (page::text(&letter.body())) }
                    } } }
                } }
                @if view.is_operator() { p { button { "Put those that are chosen back" } } }
            }
        }
        @if let (PAGE, Some(last)) = (letters.len(), letters.last()) {
            p { a href=(query("/dead", &[("before", &letter_id(last))])) rel="next" { "Older" } }
        }
    };
    Ok(Rendered::new("Dead letters", live))
}

fn letter_id(letter: &Letter) -> String {
    letter.entry.clone()
}

pub(super) async fn one(entry: &str, view: &View<'_>) -> Result<Rendered, Error> {
    let found = view.console.deps.store.dead_entry(entry).await?;
    let Some(found) = found else {
        let live = html! { p { "There is no such dead letter: it was put back, deleted, or more have come since than are kept." } };
        return Ok(Rendered::new("Dead letter", live));
    };
    let letter = Letter::new(&found);
    let fields = [("entry", letter.entry.as_str())];
    let live = html! {
        p.bad { (block(&letter.reason, FIELD_BYTES)) }
        dl { dt { "Was" } dd { (page::text(&letter.source_id)) " of " (page::text(&letter.source_stream)) } }
        @if let Some(run) = &letter.run { h2 { "run" } pre tabindex="0" { (block(run, FIELD_BYTES)) } }
        @for (name, value) in letter.fields.iter().take(FIELDS) {
            h2 { (page::text(name)) }
            pre tabindex="0" { (block(value, FIELD_BYTES)) }
        }
        @if letter.fields.len() > FIELDS { p { (letter.fields.len() - FIELDS) " fields more." } }
        (view.button("dead-requeue", &fields, "Put back as it came", ""))
        (view.button("dead-delete", &fields, "Delete", "danger"))
    };
    Ok(Rendered::new(format!("Dead letter {}", letter.entry), live).with(edit(&letter, view)))
}

fn edit(letter: &Letter, view: &View<'_>) -> Markup {
    let run = letter.run.as_deref().unwrap_or("{}");
    html! {
        @if view.is_operator() && run.len() <= EDITED_BYTES && letter.source_stream != "control" {
            h2 { "Edit and put back" }
            form method="post" action="/acts/dead-edit" {
                (view.hidden())
                input type="hidden" name="entry" value=(letter.entry);
                label for="edited" { "The request, as JSON" }
                textarea #edited name="run" rows="12" spellcheck="false" { (run) }
                p { button { "Put the edited request back" } }
            }
        }
    }
}
