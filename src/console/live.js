// Replaces what is live on a page, as the server sends it. Everything works without this.
"use strict";
const live = document.getElementById("live");
const state = document.getElementById("state");
const csrf = document.querySelector("meta[name=csrf]");
// How far the server's clock is ahead of this one.
const skew = csrf ? Number(csrf.dataset.now) - Date.now() : 0;
const SELECTOR = "a,button,input,select,summary";

function arm() {
  for (const field of document.querySelectorAll("input[name=csrf]")) field.value = csrf.content;
}

// As the server writes it: at most two units.
function words(ms) {
  const s = Math.floor(ms / 1000);
  if (s < 60) return s + " s";
  if (s < 3600) return Math.floor(s / 60) + " min " + s % 60 + " s";
  if (s < 86400) return Math.floor(s / 3600) + " h " + Math.floor(s % 3600 / 60) + " min";
  return Math.floor(s / 86400) + " d " + Math.floor(s % 86400 / 3600) + " h";
}

function tick() {
  for (const time of document.querySelectorAll("time[data-ms]")) {
    const ms = Date.now() + skew - Number(time.dataset.ms);
    time.textContent = words(Math.max(0, ms)) + (time.dataset.end || "");
  }
}

function isInUse() {
  const at = document.activeElement;
  const typing = live.contains(at) && at.matches("input,select,textarea");
  return typing || live.querySelector("input[type=checkbox]:checked") !== null;
}

function replace(html) {
  const before = [...live.querySelectorAll(SELECTOR)].indexOf(document.activeElement);
  const open = [...live.querySelectorAll("details")].map((it) => it.open);
  live.innerHTML = html;
  arm();
  live.querySelectorAll("details").forEach((it, at) => { if (open[at]) it.open = true; });
  if (before >= 0) live.querySelectorAll(SELECTOR)[before]?.focus();
}

if (live && csrf && window.EventSource) {
  arm();
  setInterval(tick, 1000);
  const source = new EventSource("/live?topic=" + encodeURIComponent(live.dataset.topic));
  source.onopen = () => { state.textContent = "live"; };
  source.onmessage = (event) => { if (!isInUse()) replace(event.data); };
  source.onerror = () => {
    state.textContent = source.readyState === EventSource.CLOSED ? "not live: load the page again" : "connecting again…";
  };
}
