// The review page: what is shown, which keys do what, and how long a person looks. What is decided lies with the server;
// where a person was and what they were writing is kept in the tab's session storage.

import {
  FILTERS, byId, drawOthers, drawPicture, drawReasons, fillFilters, note, nothingWords, showProgress, verdictWords,
} from "./around.js";
import { clock } from "./clock.js";
import { asExchanges, asFields, drawFields, drawItem, made } from "./item.js";
import { ask as askServer, isBusy, once, say } from "./talk.js";

let start; // what the server says once
let reviewer = "";
let item = null; // what is shown
let mode = "look"; // or "edit" or "reject"
let leaving = false; // whether Esc was pressed on an edit that would be lost by it
let progress = null; // of all people
let kept = null; // { seen: ids, at: place in seen, queue, filters, drafts: id → fields, looked: { id, seconds } }

async function ask(path, fields) {
  const said = await askServer(path, fields);
  if (said.progress) showProgress((progress = said.progress));
  return said;
}

const query = (more = {}) => new URLSearchParams({ reviewer, queue: kept.queue, ...more });

// ---- what is kept in the tab

const place = () => `review ${start.project} ${reviewer}`;

function remember() {
  if (!kept) return;
  kept.looked = item ? { id: item.id, seconds: clock.seconds() } : null;
  sessionStorage.setItem(place(), JSON.stringify(kept));
}

function recall() {
  const fresh = { seen: [], at: 0, queue: "plan", filters: {}, drafts: {}, looked: null };
  kept = { ...fresh, ...JSON.parse(sessionStorage.getItem(place()) ?? "{}") };
}

// ---- what is shown

function show(found) {
  item = found;
  setMode("look");
  byId("nothing").hidden = Boolean(item);
  document.querySelector("main").hidden = !item;
  if (!item) {
    byId("nothing").textContent = nothingWords(kept, progress);
    byId("others").replaceChildren(); // or keys would press what nobody sees
    return;
  }
  clock.begin(kept.looked?.id === item.id ? kept.looked.seconds : 0);
  drawPicture(item);
  drawItem(byId("exchanges"), item, start.letters);
  const tags = [item.domain, item.type, item.language, item.step].filter(Boolean);
  byId("tags").replaceChildren(...tags.map((text) => made("span", "tag", text.replaceAll("_", " "))));
  note("doubt-note", item.doubt && `Doubtful: ${item.doubt}.`);
  note("own", item.verdict && `You have decided: ${verdictWords(item.verdict)}.`);
  drawOthers(item, start.letters, (verdict) => item && once(() => take(verdict)));
  const sources = [item.model && `model ${item.model}`, item.prompt && `prompt ${item.prompt}`, item.origin, `item ${item.id}`];
  byId("provenance").textContent = sources.filter(Boolean).join(" · ");
  if (kept.drafts[item.id]) edit();
}

function setMode(now) {
  mode = now;
  byId("actions").hidden = mode === "edit";
  byId("saving").hidden = mode !== "edit";
  byId("reasons").hidden = mode !== "reject";
  for (const id of ["accept", "edit", "reject"]) byId(id).disabled = !item;
  for (const button of document.querySelectorAll(".take")) button.disabled = mode === "edit";
  byId("reject").setAttribute("aria-expanded", String(mode === "reject"));
}

// ---- going through items

async function next() {
  const filters = Object.fromEntries(FILTERS.filter((name) => kept.filters[name]).map((name) => [name, kept.filters[name]]));
  const found = (await ask(`api/next?${query(filters)}`)).item;
  if (found) {
    kept.seen = [...kept.seen.filter((id) => id !== found.id), found.id];
    kept.at = kept.seen.length - 1;
  } else {
    kept.at = kept.seen.length;
  }
  show(found);
  remember();
}

async function go(to) {
  if (to < 0) return say("This is the first one that you have seen.");
  if (to >= kept.seen.length) return item ? say("Decide on this one first; then comes the next.") : next();
  const found = (await ask(`api/item/${encodeURIComponent(kept.seen[to])}?${query()}`)).item;
  kept.at = to;
  show(found);
  return remember();
}

async function decide(verdict, more = {}) {
  const said = { item: item.id, reviewer, verdict, seconds: clock.seconds(), ...more, final: settles(item) };
  await ask("api/verdict", said).catch(async (error) => {
    if (said.final) await seeAgain().catch(() => {}); // the conflict may be gone
    throw error;
  });
  delete kept.drafts[item.id];
  kept.looked = null;
  if (mode === "edit") drawItem(byId("exchanges"), { ...item, verdict: said }, start.letters); // until the next one is there
  setMode("look");
  item = null;
  if (kept.at + 1 < kept.seen.length) await go(kept.at + 1);
  else await next();
}

const settles = ({ conflict, verdict }) => Boolean(conflict || verdict?.final);

async function seeAgain() {
  const found = (await ask(`api/item/${encodeURIComponent(item.id)}?${query()}`)).item;
  if (settles(found) === settles(item)) return;
  remember();
  show(found);
}

// Decides as a person has decided before.
function take({ verdict, code, exchanges }) {
  const written = exchanges?.map(({ place, question, answer, options }) => ({ place, question, answer, options }));
  return decide(verdict, written ? { exchanges: written } : { reason: code });
}

// What is shown is accepted: of an item that the person has edited, the edit.
const accept = () => (item.verdict?.exchanges ? take(item.verdict) : decide("accept"));

async function undo() {
  const found = (await ask("api/undo", { reviewer })).item;
  if (!found) return say("There is nothing to undo.");
  const current = item && !item.verdict ? item.id : null;
  kept.seen = kept.seen.filter((id) => id !== found.id);
  const before = current ? kept.seen.indexOf(current) : -1;
  kept.at = before < 0 ? kept.seen.length : before;
  kept.seen.splice(kept.at, 0, found.id);
  show(found);
  remember();
  return say("Taken back; decide again.");
}

// ---- editing and rejecting

function edit() {
  const fields = kept.drafts[item.id] ?? asFields(item.exchanges, item.verdict?.exchanges);
  drawFields(byId("exchanges"), item, fields, start.letters, () => {
    kept.drafts[item.id] = fields;
    if (leaving) say("");
    leaving = false;
    remember();
  });
  leaving = false;
  byId("exchanges").fields = fields;
  setMode("edit");
  byId("exchanges").querySelector("textarea")?.focus();
}

function leave() {
  if (mode === "edit" && kept.drafts[item.id] && !leaving) {
    leaving = true;
    return say("Esc once more drops what you have written.");
  }
  if (mode === "edit") {
    say("");
    delete kept.drafts[item.id];
    remember();
    drawItem(byId("exchanges"), item, start.letters);
  }
  setMode("look");
}

function writeOriginal() {
  kept.drafts[item.id] = asFields(item.exchanges);
  remember();
  edit();
}

const save = () => decide("edit", { exchanges: asExchanges(item, byId("exchanges").fields, start.letters) });

// ---- keys and buttons

const ACTIONS = {
  accept: () => item && once(accept),
  edit: () => item && !isBusy() && edit(),
  reject: () => item && !isBusy() && setMode(mode === "reject" ? "look" : "reject"),
  undo: () => once(undo),
  back: () => once(() => go(kept.at - 1)),
  forward: () => once(() => go(kept.at + 1)),
  save: () => item && once(save),
  original: () => item && !isBusy() && writeOriginal(),
  leave: () => item && !isBusy() && leave(),
  "show-help": () => byId("help").showModal(),
  "close-help": () => byId("help").close(),
  closer: () => item && byId("frame").classList.toggle("close"),
};

const KEYS = {
  a: "accept", e: "edit", r: "reject", u: "undo", z: "closer", "?": "show-help", ArrowLeft: "back", ArrowRight: "forward",
};

function pressed(event) {
  if (event.isComposing || event.keyCode === 229) return; // keys of an input method, as for Chinese
  if (document.querySelector("dialog[open]") || !kept) return;
  if (mode === "edit") {
    const command = event.ctrlKey || event.metaKey;
    const action = event.key === "Escape" ? "leave" : event.altKey && event.code === "KeyG" ? "original" : "";
    if (action && !event.repeat) ACTIONS[action]();
    else if (event.key === "Enter" && command && !event.repeat) ACTIONS.save();
    if (action) event.preventDefault();
    return;
  }
  if (event.ctrlKey || event.metaKey || event.altKey || event.target.matches("select, input, textarea")) return;
  if (mode === "reject" && event.key === "Escape") {
    setMode("look");
  } else if (/^[1-9]$/.test(event.key)) {
    const buttons = mode === "reject" ? byId("reasons").children : document.querySelectorAll("#others:not([hidden]) .take");
    if (!event.repeat) buttons[Number(event.key) - 1]?.click();
  } else {
    const action = KEYS[event.key.length === 1 ? event.key.toLowerCase() : event.key];
    if (!action || (event.repeat && !event.key.startsWith("Arrow"))) return;
    event.preventDefault(); // or an E would be typed into the field that it opens
    ACTIONS[action]();
  }
}

function listen() {
  document.addEventListener("keydown", pressed);
  for (const [id, act] of Object.entries(ACTIONS)) byId(id)?.addEventListener("click", () => (kept ? act() : askName()));
  byId("frame").addEventListener("click", ACTIONS.closer);
  byId("frame").addEventListener("mousemove", ({ clientX, clientY }) => {
    const { left, top, width, height } = byId("frame").getBoundingClientRect();
    const across = Math.round((100 * (clientX - left)) / width);
    byId("picture").style.transformOrigin = `${across}% ${Math.round((100 * (clientY - top)) / height)}%`;
  });
  window.addEventListener("pagehide", remember);
  byId("reviewer").addEventListener("click", askName);
  byId("ask-name").addEventListener("cancel", (event) => reviewer || event.preventDefault());
  byId("ask-name").addEventListener("close", () => reviewer || askName()); // a second Esc is not asked about
  byId("name-form").addEventListener("submit", (event) => {
    event.preventDefault();
    const name = byId("name").value.trim().replace(/\s+/g, " ");
    if (!name) return;
    byId("ask-name").close();
    localStorage.setItem(nameKey(), name);
    remember();
    begin(name);
  });
  for (const name of ["queue", ...FILTERS]) byId(name).addEventListener("change", () => choose(name));
}

function choose(name) {
  const value = byId(name).value;
  byId(name).blur(); // so that keys mean items again
  if (!kept) return;
  if (name === "queue") Object.assign(kept, { queue: value, seen: [], at: 0 });
  else kept.filters[name] = value;
  once(next);
}

// ---- the beginning

const nameKey = () => `review ${start.project} ${start.reviewer}`;

function askName() {
  if (byId("ask-name").open) return;
  byId("name").value = reviewer;
  byId("ask-name").showModal();
}

function begin(name) {
  reviewer = name;
  byId("reviewer").textContent = name;
  recall();
  fillFilters(start, kept);
  once(() => (kept.at < kept.seen.length ? go(kept.at).catch(next) : next()));
}

async function open() {
  history.replaceState(null, "", location.pathname); // the cookie has the token; the address need not show it
  start = await ask("api/start");
  clock.most = start.most_seconds;
  document.title = `Review of ${start.project}`;
  byId("project").textContent = start.project;
  drawReasons(start.rejections, (reason) => item && once(() => decide("reject", { reason })));
  listen();
  const name = localStorage.getItem(nameKey()) ?? start.reviewer;
  if (name) begin(name);
  else askName();
}

open().catch((error) => say(error.message, true));
