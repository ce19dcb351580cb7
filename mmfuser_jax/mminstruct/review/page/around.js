// What stands around an item: its picture and captions, what people have said of it, and how far they are.

import { drawItem, made } from "./item.js";

export const FILTERS = ["domain", "type", "language", "doubt"];

export const byId = (id) => document.getElementById(id);

export function note(id, text) {
  byId(id).hidden = !text;
  byId(id).textContent = text || "";
}

export function verdictWords(verdict) {
  return `${verdict.verdict}${verdict.reason ? `, ${verdict.reason}` : ""}${verdict.final ? " (final)" : ""}`;
}

export function drawPicture(item) {
  byId("frame").classList.remove("close");
  byId("picture").src = `picture/${item.image}`;
  byId("picture").alt = `picture of the domain ${item.domain}`;
  const captions = item.captions.map(({ language, model, text }) => {
    return made("p", "", made("span", "source", `${language} · ${model}`), text);
  });
  byId("captions").replaceChildren(...(captions.length ? captions : [made("p", "source", "no caption")]));
  byId("captions").scrollTop = 0;
}

// What others say, where it is to be settled; `take` is called with the verdict that the person takes.
export function drawOthers(item, letters, take) {
  const box = byId("others");
  box.hidden = !item.conflict;
  box.replaceChildren();
  if (!item.conflict) return;
  box.append(made("p", "note warning", `Conflict: ${item.conflict}. What you say now settles it.`));
  for (const [place, verdict] of item.others.entries()) {
    const button = made("button", "take", made("kbd", "", String(place + 1)), " take this");
    button.type = "button";
    button.addEventListener("click", () => take(verdict));
    const words = made("p", "", made("b", "", verdict.reviewer), `: ${verdictWords(verdict)} `, button);
    const entry = made("div", "other", words);
    if (verdict.exchanges) {
      const edited = made("div", "edited");
      drawItem(edited, { ...item, verdict }, letters);
      entry.append(edited);
    }
    box.append(entry);
  }
}

export function showProgress(progress) {
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

// Why there is no item.
export function nothingWords({ queue, filters }, { waiting }) {
  const what = queue === "conflicts" ? "There is no conflict to settle" : "There is nothing left for you to look at";
  const words = `${what}${Object.values(filters).some(Boolean) ? " that fits the filters" : ""}.`;
  if (!waiting || queue === "conflicts") return words;
  const items = waiting === 1 ? "1 item waits" : `${waiting} items wait`;
  return `${words} ${items} for a second person, who can open the same address under another name.`;
}

// `choose` is called with the code of the reason that a person gives.
export function drawReasons(rejections, choose) {
  const buttons = rejections.map(({ code, words }, place) => {
    const button = made("button", "", made("kbd", "", String(place + 1)), words);
    button.type = "button";
    button.addEventListener("click", () => choose(code));
    return button;
  });
  byId("reasons").replaceChildren(...buttons);
}

export function fillFilters({ choices, doubts }, { queue, filters }) {
  byId("queue").value = queue;
  for (const name of FILTERS) {
    const entries = Object.entries(choices[name]).map(([value, count]) => {
      const words = name === "doubt" ? doubts[value] ?? value : value.replaceAll("_", " ");
      const option = made("option", "", `${words} (${count})`);
      option.value = value;
      return option;
    });
    const all = made("option", "", "all");
    all.value = "";
    byId(name).replaceChildren(all, ...entries);
    byId(name).value = filters[name] ?? "";
  }
}
