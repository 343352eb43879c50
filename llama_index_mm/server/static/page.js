// The page: what is asked, and where what comes back goes.

import { answer, forget, getJSON, search, upload } from "/static/api.js";
import { el, label, show } from "/static/cards.js";

const at = (id) => document.getElementById(id);
const [words, parts, told, cards, said] = ["words", "parts", "told", "cards", "words-of-answer"].map(at);
const CITED = /\[([0-9]{1,4}(?:\s*[,;]\s*[0-9]{1,4})*)\]/g;
const KINDS = { image: ["image", "images"], audio: ["recording", "recordings"], mesh: ["mesh", "meshes"], text: ["text", "texts"] };

let accepts = null; // what the server takes, once it has said so
let running = null; // what is under way, to be stopped

function tell(text, kind = "") {
  told.textContent = text;
  told.className = `told ${kind}`;
}

// -- what is asked with -----------------------------------------------------------------------------------------------------

function part(name, facts, kind, shown, gone) {
  const drop = el("button", { type: "button", class: "quiet", "aria-label": `Remove ${name}` }, "✕");
  const made = el("li", { class: `part ${kind}` }, shown, el("span", {}, el("bdi", {}, name), el("small", {}, facts)), drop);
  drop.addEventListener("click", () => {
    made.remove();
    gone();
    words.focus();
  });
  parts.append(made);
  return made;
}

async function take(files) {
  const added = await Promise.all([...files].map(async (file) => {
    if (accepts && file.size > accepts.upload_bytes) {
      tell(`${file.name} has ${file.size.toLocaleString("en")} bytes; at most ${accepts.upload_bytes.toLocaleString("en")} are taken.`, "wrong");
      return false;
    }
    const waiting = el("li", { class: "part busy" }, `${file.name} …`);
    parts.append(waiting);
    try {
      const taken = await upload(file);
      const shown = taken.sound
        ? el("audio", { controls: true, preload: "metadata", src: taken.sound, "aria-label": taken.name })
        : el("img", { src: taken.picture, alt: taken.modality === "mesh" ? `Views of ${taken.name}` : taken.name });
      waiting.remove();
      part(taken.name, taken.facts, taken.modality, shown, () => forget(taken.upload)).dataset.upload = taken.upload;
      return true;
    } catch (error) {
      waiting.remove();
      tell(error.message, "wrong");
      return false;
    }
  }));
  if (added.length && added.every(Boolean) && !words.value.trim()) await find();
}

function more(result) {
  parts.replaceChildren();
  words.value = "";
  fit();
  const shown = result.picture ? el("img", { src: result.picture, alt: "" }) : null;
  part(label(result), "more like this", result.modality, shown, () => {}).dataset.like = result.node_id;
  window.scrollTo({ top: 0 });
  find();
}

function asked(limit) {
  const given = { text: words.value, uploads: [], like: [], modalities: [...document.querySelectorAll("[name=kind]:checked")].map((box) => box.value) };
  for (const one of parts.children) {
    if (one.dataset.upload) given.uploads.push(one.dataset.upload);
    if (one.dataset.like) given.like.push(one.dataset.like);
  }
  return limit ? { ...given, k: Number(at("k").value) } : given;
}

// -- what comes back --------------------------------------------------------------------------------------------------------

function begin() {
  if (running) running.abort();
  running = new AbortController();
  return running;
}

function showAnswer(visible) {
  at("answer").hidden = !visible;
  if (visible) return;
  said.replaceChildren();
  at("sources").replaceChildren();
  at("left-out").hidden = true;
}

async function find() {
  const mine = begin();
  tell("Searching", "busy");
  try {
    const found = await search(asked(true), mine.signal);
    showAnswer(false);
    const count = found.results.length;
    tell(count ? `${count} ${count === 1 ? "result" : "results"} in ${found.seconds.toFixed(found.seconds < 1 ? 2 : 1)} s` : "Nothing was found.");
    show(cards, found.results, more);
  } catch (error) {
    if (error.name !== "AbortError") tell(error.message, "wrong");
  }
}

function link(number) {
  const made = el("a", { href: `#source-${number}`, class: "cite", "aria-label": `source ${number}` }, String(number));
  made.addEventListener("click", (event) => {
    event.preventDefault();
    const card = at(`source-${number}`);
    card.scrollIntoView({ block: "center" });
    card.focus({ preventScroll: true });
  });
  return made;
}

// The answer with links for the numbers of its sources.
function write(text, numbers) {
  const pieces = [];
  let from = 0;
  for (const cited of text.matchAll(CITED)) {
    for (const digits of cited[0].matchAll(/[0-9]+/g)) {
      if (!numbers.has(Number(digits[0]))) continue;
      const first = cited.index + digits.index;
      pieces.push(text.slice(from, first), link(Number(digits[0])));
      from = first + digits[0].length;
    }
  }
  said.replaceChildren(...pieces, text.slice(from));
}

async function question() {
  const mine = begin();
  showAnswer(false);
  cards.replaceChildren();
  tell("Looking for sources", "busy");
  let text = "";
  let numbers = new Set();
  let ended = false;
  try {
    for await (const event of answer(asked(false), mine.signal)) {
      if (event.event === "waiting") {
        tell(event.before ? `Waiting for ${event.before === 1 ? "another answer" : `${event.before} other answers`}` : "Looking for sources", "busy");
      } else if (event.event === "sources") {
        numbers = new Set(event.results.map((one) => one.number));
        showAnswer(true);
        at("stop").hidden = false;
        said.setAttribute("aria-busy", "true");
        at("sources").replaceChildren(...event.results.map((one) => el("li", {}, link(one.number), " ", el("bdi", {}, label(one)))));
        tell("Answering", "busy");
        show(cards, event.results, more);
      } else if (event.event === "words") {
        text += event.text;
        write(text.trimStart(), numbers);
      } else if (event.event === "answered") {
        ended = true;
        write(event.text || "The answer is empty.", numbers);
        at("left-out").textContent = event.left_out.map((one) => one.reason).join(" ");
        at("left-out").hidden = !event.left_out.length;
        tell(`Answered in ${event.seconds.toFixed(1)} s from ${numbers.size} ${numbers.size === 1 ? "source" : "sources"}`);
      } else if (event.event === "error") {
        ended = true;
        tell(event.error.message, "wrong");
      }
    }
    if (!ended) tell("The answer broke off.", "wrong");
  } catch (error) {
    if (error.name !== "AbortError") tell(error.message, "wrong");
    else if (running === mine) tell("Stopped");
  } finally {
    if (running === mine) {
      said.setAttribute("aria-busy", "false");
      at("stop").hidden = true;
    }
  }
}

async function status() {
  try {
    const now = await getJSON("/api/status");
    accepts = now.accepts;
    at("file").accept = Object.values(accepts.endings).flat().join(",");
    const there = Object.entries(KINDS).filter(([kind]) => now.nodes[kind]);
    at("holds").textContent = there.map(([kind, [one, many]]) => `${now.nodes[kind].toLocaleString("en")} ${now.nodes[kind] === 1 ? one : many}`).join(" · ") || "This index is empty.";
    at("ask").hidden = now.answers_with === null;
    const facts = [
      ["Preset", now.preset], ["Spaces", now.spaces.join(", ")], ["Files", now.files.toLocaleString("en")],
      ["Answers come from", now.answers_with ?? "nobody: there is no LLM"],
    ];
    if (now.not_taken) facts.push([`Not taken (${now.not_taken})`, now.problems.map((one) => `${one.name}: ${one.reason}`).join("\n")]);
    at("facts").replaceChildren(...facts.flatMap(([name, value]) => [el("dt", {}, name), el("dd", { dir: "auto" }, value)]));
  } catch (error) {
    tell(error.message, "wrong");
  }
}

// -- hands and keys ---------------------------------------------------------------------------------------------------------

function fit() {
  words.style.height = "auto";
  words.style.height = `${words.scrollHeight}px`;
}

const stop = () => running && running.abort();
at("form").addEventListener("submit", (event) => {
  event.preventDefault();
  find();
});
at("ask").addEventListener("click", question);
at("stop").addEventListener("click", stop);
at("about").addEventListener("toggle", () => at("about").open && status());
words.addEventListener("input", fit);
words.addEventListener("keydown", (event) => {
  if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
  event.preventDefault();
  if ((event.ctrlKey || event.metaKey) && !at("ask").hidden) question();
  else find();
});
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape") stop();
  if (event.key === "/" && !event.ctrlKey && !event.metaKey && !event.target.closest("textarea, input, select")) {
    event.preventDefault();
    words.focus();
  }
});
for (const box of document.querySelectorAll("[name=kind], #k")) {
  box.addEventListener("change", () => cards.children.length && at("answer").hidden && find());
}

at("add").addEventListener("click", () => at("file").click());
at("file").addEventListener("change", () => {
  const files = [...at("file").files];
  at("file").value = "";
  take(files);
});
const carries = (event) => event.dataTransfer && [...event.dataTransfer.types].includes("Files");
for (const name of ["dragenter", "dragover"]) {
  document.addEventListener(name, (event) => {
    if (!carries(event)) return;
    event.preventDefault();
    at("field").classList.add("over");
  });
}
for (const name of ["dragleave", "drop"]) {
  document.addEventListener(name, (event) => {
    if (name === "drop" || event.relatedTarget === null) at("field").classList.remove("over");
    if (name !== "drop" || !carries(event)) return;
    event.preventDefault();
    take(event.dataTransfer.files);
  });
}
words.addEventListener("paste", (event) => {
  if (!event.clipboardData.files.length) return;
  event.preventDefault();
  take(event.clipboardData.files);
});

status();
