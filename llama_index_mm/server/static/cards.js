// Results as cards. Whatever the server says becomes text, never markup; addresses are those of its own API.

import { getJSON } from "/static/api.js";

const BADGES = { text: "Text", image: "Image", audio: "Audio", mesh: "Mesh" };
const CLIP = 480; // characters of a text shown at once
const TURNED = 24; // meshes of a page that can be turned; the others are six views

// An element of a name, with attributes and children; texts become text nodes.
export function el(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (key.startsWith("on")) made.addEventListener(key.slice(2), value);
    else made.setAttribute(key, value === true ? "" : String(value));
  }
  made.append(...children.filter((child) => child !== null && child !== undefined));
  return made;
}

export function clock(seconds) {
  const whole = Math.round(seconds);
  const [hours, minutes, left] = [Math.floor(whole / 3600), Math.floor((whole % 3600) / 60), String(whole % 60).padStart(2, "0")];
  return hours ? `${hours}:${String(minutes).padStart(2, "0")}:${left}` : `${minutes}:${left}`;
}

export function span(result) {
  const last = result.end ?? result.seconds;
  if (last === null) return result.start === null ? "" : `from ${clock(result.start)}`;
  const part = `${clock(result.start ?? 0)}–${clock(last)}`;
  return result.seconds === null || (result.start === null && result.end === null) ? part : `${part} of ${clock(result.seconds)}`;
}

export function label(result) {
  const where = result.modality === "audio" ? span(result) : result.page === null ? "" : `p. ${result.page}`;
  return where ? `${result.name}, ${where}` : result.name;
}

// Put in the place of what can't be loaded, with the server's reason.
function explain(shown, address) {
  shown.addEventListener("error", async () => {
    let reason = "It can't be shown.";
    try {
      const { error } = await (await fetch(address)).json();
      reason = error.message;
    } catch {
      /* then the short words have to do */
    }
    shown.replaceWith(el("p", { class: "notice" }, reason));
  }, { once: true });
  return shown;
}

// Paragraphs of a text, which blank lines part; lines that were wrapped to a width are joined.
function paragraphs(text) {
  return text.replace(/^(.{60,})\n(?=\p{L})/gmu, "$1 ").split(/\n\s*\n/).filter((one) => one.trim()).map((one) => el("p", {}, one.trim()));
}

function words(text, kind, language) {
  let head = text;
  let rest = "";
  if (text.length > CLIP) {
    const at = text.lastIndexOf(" ", CLIP);
    [head, rest] = [text.slice(0, at > CLIP / 2 ? at : CLIP), text.slice(at > CLIP / 2 ? at : CLIP)];
  }
  const box = el("div", { class: `words of-${kind}`, dir: "auto", lang: /^[A-Za-z]{2,3}$/.test(language || "") ? language : null });
  box.append(...paragraphs(head + (rest ? " …" : "")));
  if (rest) box.append(el("details", {}, el("summary", {}, "Show the rest"), ...paragraphs(rest)));
  return box;
}

function media(result) {
  if (result.sound) {
    const facts = [span(result), result.speech ? "speech" : "no speech heard", result.language ? `language: ${result.language}` : ""];
    const player = el("audio", { controls: true, preload: "metadata", src: result.sound, "aria-label": label(result) });
    return el("figure", { class: "sound" }, explain(player, result.sound), el("p", { class: "facts" }, facts.filter(Boolean).join(" · ")));
  }
  if (!result.picture) return null;
  const mesh = result.modality === "mesh";
  const alt = mesh ? `Six views of ${result.name}` : `Picture ${result.name}`;
  const picture = explain(el("img", { src: result.picture, alt, loading: "lazy", decoding: "async" }), result.picture);
  if (!mesh) return el("figure", { class: "picture" }, picture);
  return el("figure", { class: "sheet" }, el("div", { class: "turn", "data-name": result.name, "data-from": result.mesh }, picture));
}

function score(value) {
  if (value === null) return el("p", { class: "score" }, "no score");
  const fill = el("span");
  fill.style.width = `${100 * Math.min(1, Math.max(0, value))}%`;
  const bar = el("span", { class: "bar", "aria-hidden": "true" }, fill);
  return el("p", { class: "score" }, el("span", { class: "unseen" }, "Score "), bar, el("span", {}, value.toFixed(2)));
}

function reasons(result) {
  if (!result.reasons.length) return null;
  const heads = ["Asked", "Space", "Share", "Score", "Weight", "Raw"].map((name) => el("th", { scope: "col" }, name));
  const rows = result.reasons.map((one) => {
    const numbers = [one.share.toFixed(2), one.score.toFixed(2), String(+one.weight.toFixed(3)), one.raw === null ? "" : one.raw.toFixed(2)];
    return el("tr", {},
      el("td", {}, (one.negative ? "not " : "") + one.part), el("td", {}, one.space),
      ...numbers.map((number) => el("td", { class: "figure" }, number)));
  });
  const table = el("table", {},
    el("caption", {}, "The shares add up to the score."), el("thead", {}, el("tr", {}, ...heads)), el("tbody", {}, ...rows));
  return el("details", { class: "reasons" }, el("summary", {}, "Why it was found"), el("div", { class: "wide" }, table));
}

function card(result, more) {
  const id = `source-${result.number}`;
  const shown = result.text.trim();
  const button = el("button", { type: "button", class: "quiet", onclick: () => more(result), "aria-label": `More like ${result.name}` }, "More like this");
  return el("article", { class: "card", id, tabindex: "-1", "aria-labelledby": `${id}-title` },
    el("header", {},
      el("span", { class: "number" }, String(result.number)),
      el("h3", { id: `${id}-title` }, el("bdi", {}, result.name)),
      el("span", { class: `badge ${result.modality}` }, BADGES[result.modality]),
      score(result.score)),
    media(result),
    shown ? words(shown, result.speech ? "speech" : result.modality, result.language) : null,
    el("footer", {}, reasons(result), button));
}

let drawn = 0;

// Show results in a place. Meshes turn once their triangles have come.
export async function show(place, results, more) {
  const turn = ++drawn;
  place.replaceChildren(...results.map((result) => card(result, more)));
  const boxes = [...place.querySelectorAll(".turn[data-from]")].slice(0, TURNED);
  const ready = await Promise.all(boxes.map(async (box) => {
    try {
      const solid = await getJSON(box.dataset.from);
      Object.assign(box.dataset, { mesh: solid.data, vertices: solid.vertices });
      return true;
    } catch {
      return false; // its six views stay
    }
  }));
  // The script starts every mesh that it finds in the page, once each time that it is put there.
  if (turn === drawn && ready.some(Boolean)) {
    const script = el("script", { src: "/static/viewer.js", onload: () => script.remove() });
    document.head.append(script);
  }
}
