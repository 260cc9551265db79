// The live list: what the endpoint or a followed folder has given last, asked for again and again.
import { at, make, model } from "/page.js";

const WAIT_MS = 2000;
let newest = 0;

function card({ name, at: when, score, label, error, picture }) {
  const kind = label === null ? "" : label ? "bad" : "good";
  const verdict = error ? "not read" : label === null ? "no threshold" : label ? "anomalous" : "normal";
  const shown = score === null ? verdict : `${verdict} ${score.toFixed(3)}`;
  const image = picture ? make("img", [], { src: `data:image/jpeg;base64,${picture}`, alt: "" }) : make("div", "no picture", { class: "none" });
  const text = [make("b", name, { title: name }), make("span", shown, { class: "told" }), make("small", error ?? new Date(when).toLocaleTimeString())];
  return make("li", [image, make("div", text)], { class: kind });
}

async function look() {
  const { results, most, drift } = await (await fetch(`/page/live?after=${newest}`)).json();
  newest = results.length ? results[0].number : newest;
  const list = at("newest");
  list.prepend(...results.map(card));
  while (list.children.length > most) list.lastChild.remove();
  at("drift").textContent = drift === null ? "" : `Drift: ${drift}`;
  at("drift").className = drift?.includes("have changed") ? "moved" : "";
  at("live").hidden = !list.children.length;
}

async function follow() {
  // A page that nobody looks at asks for nothing; a server that is gone may come back.
  if (!document.hidden) await look().catch(() => {});
  setTimeout(follow, WAIT_MS);
}

if (model.live_images) follow();
