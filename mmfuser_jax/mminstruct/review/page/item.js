// Draws an item, to be looked at or to be edited. Whatever a model or a person wrote is only ever set as text.

import { changes } from "./words.js";

const YES_NO = { en: { yes: "Yes", no: "No" }, zh: { yes: "是", no: "否" } };

export function made(tag, className = "", ...children) {
  const element = document.createElement(tag);
  if (className) element.className = className;
  element.append(...children); // strings become text
  return element;
}

// Of each exchange as it was made, what it was edited to: {place, keep, question, answer, options}.
export function asFields(exchanges, edited) {
  return exchanges.map((original, place) => {
    const now = edited ? edited.find((one) => one.place === place) : original;
    const { question, answer, options } = now ?? original;
    return { place, keep: Boolean(now), question, answer, options: [...options] };
  });
}

export function drawItem(box, item, letters) {
  const fields = asFields(item.exchanges, item.verdict?.exchanges);
  box.replaceChildren(...fields.map((field) => drawExchange(item, item.exchanges[field.place], field, letters)));
}

function drawExchange(item, before, now, letters) {
  const article = made("article", now.keep ? "exchange" : "exchange left-out");
  if (item.exchanges.length > 1) article.append(made("h2", "", `round ${now.place + 1}${now.keep ? "" : ", left out"}`));
  article.append(made("p", "question", ...difference(before.question, now.question)));
  if (before.type === "choice") {
    const count = Math.max(before.options.length, now.options.length);
    const list = made("ol", "options");
    for (let place = 0; place < count; place++) {
      const right = letters[place] === now.answer;
      const words = difference(before.options[place] ?? "", now.options[place] ?? "");
      const entry = made("li", right ? "right" : "", made("b", "", letters[place]), made("span", "", ...words));
      if (right) entry.append(made("span", "mark", "✓ right"));
      if (before.answer !== now.answer && letters[place] === before.answer) entry.append(made("span", "was", "was marked right"));
      list.append(entry);
    }
    article.append(list);
  } else {
    const shown = (answer) => (before.type === "judgement" ? YES_NO[item.language]?.[answer] ?? answer : answer);
    article.append(made("p", `answer ${before.type}`, ...difference(shown(before.answer), shown(now.answer))));
  }
  return article;
}

export function difference(before, now) {
  const tags = { same: "span", gone: "del", new: "ins" };
  return before === now ? [before] : changes(before, now).map(([kind, text]) => made(tags[kind], "", text));
}

// Draws fields to be edited; `changed` is called with them after every change.
export function drawFields(box, item, fields, letters, changed) {
  box.replaceChildren(...fields.map((field) => fieldSet(item, item.exchanges[field.place], field, letters, changed)));
}

function fieldSet(item, before, field, letters, changed) {
  const set = made("fieldset", "exchange");
  if (item.exchanges.length > 1) {
    set.append(made("legend", "", `round ${field.place + 1}`));
    const keep = made("input");
    keep.type = "checkbox";
    keep.checked = field.keep;
    keep.addEventListener("change", () => {
      field.keep = keep.checked;
      changed();
    });
    set.append(made("label", "keep", keep, "keep this round"));
  }
  const write = (key) => (text) => {
    field[key] = text;
    changed();
  };
  set.append(textField("question", before.question, field.question, write("question")));
  if (before.type === "choice") set.append(optionFields(before, field, letters, changed));
  else if (before.type === "judgement") set.append(truthFields(item, field, changed));
  else set.append(textField("answer", before.answer, field.answer, write("answer")));
  return set;
}

function textField(name, before, text, write) {
  const area = made("textarea");
  area.value = text;
  area.rows = Math.min(10, 1 + Math.ceil(text.length / 70));
  const shown = made("p", "difference");
  const show = () => shown.replaceChildren(...(area.value === before ? [] : difference(before, area.value)));
  area.addEventListener("input", () => {
    write(area.value);
    show();
  });
  show();
  return made("div", "field", made("label", "", name, area), shown);
}

function optionFields(before, field, letters, changed) {
  const group = made("div", "options");
  group.setAttribute("role", "radiogroup");
  group.setAttribute("aria-label", "options; the marked one is right");
  const draw = () => group.replaceChildren(...field.options.map((text, place) => option(text, place)), more());
  const option = (text, place) => {
    const right = made("input");
    right.type = "radio";
    right.name = `right-${field.place}`;
    right.checked = field.answer === letters[place];
    right.setAttribute("aria-label", `${letters[place]} is right`);
    right.addEventListener("change", () => {
      field.answer = letters[place];
      changed();
    });
    const words = made("input");
    words.type = "text";
    words.value = text;
    words.setAttribute("aria-label", `option ${letters[place]}`);
    const shown = made("p", "difference");
    const show = () => {
      const was = before.options[place] ?? "";
      shown.replaceChildren(...(words.value === was ? [] : difference(was, words.value)));
    };
    words.addEventListener("input", () => {
      field.options[place] = words.value;
      show();
      changed();
    });
    show();
    return made("div", "option", right, made("b", "", letters[place]), words, shown);
  };
  const more = () => {
    const button = made("button", "quiet", "one more option");
    button.type = "button";
    button.disabled = field.options.length >= letters.length;
    button.addEventListener("click", () => {
      field.options.push("");
      changed();
      draw();
    });
    return button;
  };
  draw();
  return group;
}

function truthFields(item, field, changed) {
  const group = made("div", "truth");
  group.setAttribute("role", "radiogroup");
  group.setAttribute("aria-label", "answer");
  for (const answer of ["yes", "no"]) {
    const right = made("input");
    right.type = "radio";
    right.name = `right-${field.place}`;
    right.checked = field.answer === answer;
    right.addEventListener("change", () => {
      field.answer = answer;
      changed();
    });
    group.append(made("label", "", right, YES_NO[item.language]?.[answer] ?? answer));
  }
  return group;
}

// What is posted: kept exchanges without their empty options, the letter of the right one moved accordingly.
export function asExchanges(item, fields, letters) {
  return fields.filter((field) => field.keep).map(({ place, question, answer, options }) => {
    if (item.exchanges[place].type !== "choice") return { place, question, answer, options: [] };
    const filled = options.filter((text) => text.trim());
    const at = letters.indexOf(answer);
    const emptied = !options[at]?.trim();
    const before = options.slice(0, at).filter((text) => text.trim()).length;
    return { place, question, answer: emptied ? "" : letters[before], options: filled };
  });
}
