// The review page: what is shown, which keys do what, and how long a person looks. What is decided lies with the server;
// where a person was and what they were writing is kept in the tab's session storage.

import { clock } from "./clock.js";
import { asExchanges, asFields, drawFields, drawItem, made } from "./item.js";
import { ask as askServer, isBusy, once, say } from "./talk.js";

const FILTERS = ["domain", "type", "language", "doubt"];
const byId = (id) => document.getElementById(id);

let start; // what the server says once
let reviewer = "";
let item = null; // what is shown
let mode = "look"; // or "edit" or "reject"
let kept = null; // { seen: ids, at: place in seen, queue, filters, drafts: id → fields, looked: { id, seconds } }

async function ask(path, fields) {
  const said = await askServer(path, fields);
  if (said.progress) showProgress(said.progress);
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
    const filtered = Object.values(kept.filters).some(Boolean);
    const what = kept.queue === "conflicts" ? "There is no conflict to settle" : "There is nothing left for you to look at";
    byId("nothing").textContent = `${what}${filtered ? " that fits the filters" : ""}.`;
    return;
  }
  clock.begin(kept.looked?.id === item.id ? kept.looked.seconds : 0);
  drawPicture();
  drawItem(byId("exchanges"), item, start.letters);
  const tags = [item.domain, item.type, item.language, item.step].filter(Boolean);
  byId("tags").replaceChildren(...tags.map((text) => made("span", "tag", text.replaceAll("_", " "))));
  note("doubt-note", item.doubt && `Doubtful: ${item.doubt}.`);
  note("own", item.verdict && `You have decided: ${verdictWords(item.verdict)}.`);
  drawOthers();
  const sources = [item.model && `model ${item.model}`, item.prompt && `prompt ${item.prompt}`, item.origin, `item ${item.id}`];
  byId("provenance").textContent = sources.filter(Boolean).join(" · ");
  if (kept.drafts[item.id]) edit();
}

function note(id, text) {
  byId(id).hidden = !text;
  byId(id).textContent = text || "";
}

function verdictWords(verdict) {
  return `${verdict.verdict}${verdict.reason ? `, ${verdict.reason}` : ""}${verdict.final ? " (final)" : ""}`;
}

function drawPicture() {
  byId("frame").classList.remove("close");
  byId("picture").src = `picture/${item.image}`;
  byId("picture").alt = `picture of the domain ${item.domain}`;
  const captions = item.captions.map(({ language, model, text }) => {
    return made("p", "", made("span", "source", `${language} · ${model}`), text);
  });
  byId("captions").replaceChildren(...(captions.length ? captions : [made("p", "source", "no caption")]));
  byId("captions").scrollTop = 0;
}

function drawOthers() {
  const box = byId("others");
  box.hidden = !item.conflict;
  box.replaceChildren();
  if (!item.conflict) return;
  box.append(made("p", "note warning", `Conflict: ${item.conflict}. What you say now settles it.`));
  for (const verdict of item.others) {
    const words = made("p", "", made("b", "", verdict.reviewer), `: ${verdictWords(verdict)}`);
    const entry = made("div", "other", words);
    if (verdict.exchanges) {
      const edited = made("div", "edited");
      drawItem(edited, { ...item, verdict }, start.letters);
      entry.append(edited);
    }
    box.append(entry);
  }
}

function showProgress(progress) {
  byId("bar").value = progress.planned ? progress.done / progress.planned : 1;
  const counts = [`${progress.done} of ${progress.planned} done`, `${progress.mine} by you`];
  if (progress.seconds) counts.push(`${progress.seconds.toFixed(1)} s each`);
  if (progress.conflicts) counts.push(`${progress.conflicts} ${progress.conflicts === 1 ? "conflict" : "conflicts"}`);
  byId("counts").textContent = counts.join(" · ");
  const lines = progress.agreements.map(({ words }) => words);
  const known = progress.agreements.filter(({ kappa }) => kappa !== null);
  const shown = known.map(({ first, second, kappa, both }) => `${first} – ${second}: κ ${kappa.toFixed(2)} (${both})`);
  byId("agreement").textContent = shown.length ? `agreement ${shown.join(", ")}` : lines.length ? "agreement undefined so far" : "";
  byId("agreement").title = lines.join("\n");
}

function setMode(now) {
  mode = now;
  byId("actions").hidden = mode === "edit";
  byId("saving").hidden = mode !== "edit";
  byId("reasons").hidden = mode !== "reject";
  for (const id of ["accept", "edit", "reject"]) byId(id).disabled = !item;
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
  const said = { item: item.id, reviewer, verdict, seconds: clock.seconds(), ...more };
  said.final = Boolean(item.conflict || item.verdict?.final);
  await ask("api/verdict", said);
  delete kept.drafts[item.id];
  kept.looked = null;
  item = null;
  if (kept.at + 1 < kept.seen.length) await go(kept.at + 1);
  else await next();
}

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
    remember();
  });
  byId("exchanges").fields = fields;
  setMode("edit");
  byId("exchanges").querySelector("textarea")?.focus();
}

function leave() {
  if (mode === "edit") {
    delete kept.drafts[item.id];
    remember();
    drawItem(byId("exchanges"), item, start.letters);
  }
  setMode("look");
}

const save = () => decide("edit", { exchanges: asExchanges(item, byId("exchanges").fields, start.letters) });

function drawReasons() {
  const buttons = start.rejections.map(({ code, words }, place) => {
    const button = made("button", "", made("kbd", "", String(place + 1)), words);
    button.type = "button";
    button.addEventListener("click", () => once(() => decide("reject", { reason: code })));
    return button;
  });
  byId("reasons").replaceChildren(...buttons);
}

// ---- keys and buttons

const ACTIONS = {
  accept: () => item && once(() => decide("accept")),
  edit: () => item && !isBusy() && edit(),
  reject: () => item && !isBusy() && setMode(mode === "reject" ? "look" : "reject"),
  undo: () => once(undo),
  back: () => once(() => go(kept.at - 1)),
  forward: () => once(() => go(kept.at + 1)),
  save: () => once(save),
  leave,
  "show-help": () => byId("help").showModal(),
  "close-help": () => byId("help").close(),
  closer: () => item && byId("frame").classList.toggle("close"),
};

const KEYS = {
  a: "accept", e: "edit", r: "reject", u: "undo", z: "closer", "?": "show-help", ArrowLeft: "back", ArrowRight: "forward",
};

function pressed(event) {
  if (document.querySelector("dialog[open]") || !kept) return;
  if (mode === "edit") {
    if (event.key === "Escape") leave();
    else if (event.key === "Enter" && (event.ctrlKey || event.metaKey) && !event.repeat) ACTIONS.save();
    return;
  }
  if (event.ctrlKey || event.metaKey || event.altKey || event.target.matches("select, input, textarea")) return;
  if (mode === "reject" && event.key === "Escape") {
    setMode("look");
  } else if (mode === "reject" && /^[1-9]$/.test(event.key)) {
    byId("reasons").children[Number(event.key) - 1]?.click();
  } else {
    const action = KEYS[event.key.length === 1 ? event.key.toLowerCase() : event.key];
    if (!action || (event.repeat && !event.key.startsWith("Arrow"))) return;
    event.preventDefault(); // or an E would be typed into the field that it opens
    ACTIONS[action]();
  }
}

function listen() {
  document.addEventListener("keydown", pressed);
  for (const [id, act] of Object.entries(ACTIONS)) byId(id)?.addEventListener("click", act);
  byId("frame").addEventListener("click", ACTIONS.closer);
  byId("frame").addEventListener("mousemove", ({ clientX, clientY }) => {
    const { left, top, width, height } = byId("frame").getBoundingClientRect();
    const across = Math.round((100 * (clientX - left)) / width);
    byId("picture").style.transformOrigin = `${across}% ${Math.round((100 * (clientY - top)) / height)}%`;
  });
  window.addEventListener("pagehide", remember);
  byId("reviewer").addEventListener("click", askName);
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
  if (name === "queue") Object.assign(kept, { queue: value, seen: [], at: 0 });
  else kept.filters[name] = value;
  once(next);
}

function fillFilters() {
  byId("queue").value = kept.queue;
  for (const name of FILTERS) {
    const entries = Object.entries(start.choices[name]).map(([value, count]) => {
      const words = name === "doubt" ? start.doubts[value] ?? value : value.replaceAll("_", " ");
      const option = made("option", "", `${words} (${count})`);
      option.value = value;
      return option;
    });
    const all = made("option", "", "all");
    all.value = "";
    byId(name).replaceChildren(all, ...entries);
    byId(name).value = kept.filters[name] ?? "";
  }
}

// ---- the beginning

const nameKey = () => `review ${start.project} ${start.reviewer}`;

function askName() {
  byId("name").value = reviewer;
  byId("ask-name").showModal();
}

function begin(name) {
  reviewer = name;
  byId("reviewer").textContent = name;
  recall();
  fillFilters();
  once(() => (kept.at < kept.seen.length ? go(kept.at).catch(next) : next()));
}

async function open() {
  history.replaceState(null, "", location.pathname); // the cookie has the token; the address need not show it
  start = await ask("api/start");
  clock.most = start.most_seconds;
  document.title = `Review of ${start.project}`;
  byId("project").textContent = start.project;
  drawReasons();
  listen();
  const name = localStorage.getItem(nameKey()) ?? start.reviewer;
  if (name) begin(name);
  else askName();
}

open().catch((error) => say(error.message, true));
