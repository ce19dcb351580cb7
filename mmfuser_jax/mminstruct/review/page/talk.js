// Talks with the server, one thing at a time, and tells the person what came of it.

const token = document.querySelector("meta[name=token]").content;
let busy = false; // keys that are pressed until an answer is there would mean another item

export const isBusy = () => busy;

// Gets a path, or posts fields to it; gives what the server says.
export async function ask(path, fields) {
  const headers = { "x-review-token": token, "content-type": "application/json" };
  const options = fields ? { method: "POST", headers, body: JSON.stringify(fields) } : { headers };
  let answer;
  try {
    answer = await fetch(path, options);
  } catch {
    throw new Error("The server does not answer. Is it still running?");
  }
  const said = await answer.json().catch(() => null);
  if (answer.ok && said) return said;
  throw new Error(said?.error ?? `The server answers ${answer.status}; open the address that it has printed.`);
}

// Does one thing, unless another is under way; what goes wrong is said, and nothing is lost by it.
export async function once(work) {
  if (busy) return;
  busy = true;
  document.body.classList.add("busy");
  say("");
  try {
    await work();
  } catch (error) {
    say(error.message, true);
  }
  busy = false;
  document.body.classList.remove("busy");
}

export function say(text, wrong = false) {
  const message = document.getElementById("message");
  message.textContent = text;
  message.classList.toggle("wrong", wrong);
}
