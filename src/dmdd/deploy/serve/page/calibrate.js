// Thresholds from photographs of the line: scores are collected here, the server calibrates, people decide.
import { adopt, at, draw, judged, make, model, plural, send } from "/page.js";

const BARS = 30, WIDE = 600, HIGH = 120;
const photographs = { good: [], bad: [] };
let waiting = [], problems = [], running = false, proposal = null, note = "";



// ---- scoring

async function work() {
  running = true;
  while (waiting.length) {
    tell();
    const [kind, file] = waiting[0];
    try {
      photographs[kind].push({ name: file.name, ...(await send("/page/score", file)) });
    } catch (error) {
      problems.push(`${file.name}: ${error instanceof TypeError ? "the server did not answer" : error.message}`);
    }
    waiting.shift();
  }
  running = false;
  await propose();
}

function take(kind, files) {
  if (!running) problems = [];
  note = "";
  waiting.push(...Array.from(files, (file) => [kind, file]));
  if (!running && waiting.length) work();
}

// ---- asking for a calibration

async function ask(keep) {
  const scores = (kind) => photographs[kind].map(({ raw_score, peak }) => ({ raw_score, peak }));
  const rate = Number(at("rate").value) / 100;
  const body = JSON.stringify({ good: scores("good"), bad: scores("bad"), rate, keep });
  const answer = await fetch(judged("/page/calibrate"), { method: "POST", body, headers: { "Content-Type": "application/json" } });
  const found = await answer.json();
  if (!answer.ok) throw new Error(found.error);
  return found;
}

async function propose() {
  proposal = null;
  if (photographs.good.length && !running) {
    try {
      proposal = await ask(false);
    } catch (error) {
      note = error instanceof TypeError ? "the server did not answer" : error.message;
    }
  }
  tell();
}

async function keep() {
  try {
    await ask(true);
    await adopt();
    Object.assign(photographs, { good: [], bad: [] });
    proposal = null;
    note = "The new thresholds are in force and written to the model; the former ones are kept there. " +
      "Images inspected before were judged by the former ones: drop them again.";
  } catch (error) {
    note = error.message;
  }
  tell();
}

// ---- showing it

function histogram({ threshold, good, bad }) {
  const all = [...good, ...bad, ...(threshold === null ? [] : [threshold])];
  const scaled = threshold === 0.5; // the scale of scores; older models show raw ones, which need a close look
  const low = scaled ? 0 : Math.min(...all), high = scaled ? 1 : Math.max(...all) + 1e-6;
  const x = (score) => (WIDE * (score - low)) / (high - low);
  const bars = Array.from({ length: BARS }, () => ({ good: 0, bad: 0 }));
  for (const [kind, scores] of Object.entries({ good, bad }))
    for (const score of scores) bars[Math.min(BARS - 1, Math.floor((x(score) / WIDE) * BARS))][kind] += 1;
  const top = Math.max(1, ...bars.map((bar) => bar.good + bar.bad)), step = WIDE / BARS;
  const shapes = bars.flatMap((bar, place) => ["good", "bad"].map((kind) => {
    const height = (HIGH * bar[kind]) / top;
    const y = HIGH - height - (kind === "bad" ? (HIGH * bar.good) / top : 0);
    return draw("rect", { class: kind, x: place * step + 1, y, width: step - 2, height });
  }));
  if (threshold !== null) shapes.push(draw("line", { x1: x(threshold), x2: x(threshold), y1: 0, y2: HIGH }));
  const text = (at, anchor, value) => draw("text", { x: at, y: HIGH + 16, "text-anchor": anchor }, [value.toFixed(2)]);
  shapes.push(text(0, "start", low), text(WIDE, "end", high));
  if (threshold !== null) shapes.push(text(x(threshold), "middle", threshold));
  return draw("svg", { viewBox: `0 0 ${WIDE} ${HIGH + 22}`, role: "img", "aria-label": "Histogram of scores" }, shapes);
}

function panel(title, shown) {
  const { threshold, good, bad } = shown;
  const reached = (scores) => scores.filter((score) => score >= threshold).length;
  const parts = [`${reached(good)} of ${good.length} good rejected`];
  if (bad.length) parts.push(`${reached(bad)} of ${bad.length} bad found`);
  const words = threshold === null ? "no threshold" : parts.join(", ");
  return make("div", [make("b", title), ` ${words}`, histogram(shown)], { class: "panel" });
}

function tell() {
  for (const kind of ["good", "bad"]) at(`${kind}-count`).textContent = plural(photographs[kind].length, "photograph");
  const lines = [];
  if (waiting.length) lines.push(make("p", `Scoring, ${plural(waiting.length, "photograph")} left ...`));
  lines.push(...problems.map((text) => make("p", text, { class: "problem" })));
  if (note) lines.push(make("p", note, { class: proposal || photographs.good.length ? "problem" : "done" }));
  if (proposal) {
    const { before, now, promise, strange } = proposal;
    lines.push(make("div", [panel("Before:", before), panel("Now:", now)], { class: "panels" }));
    lines.push(make("p", `${promise[0].toUpperCase()}${promise.slice(1)}.`));
    for (const place of strange)
      lines.push(make("p", `Look at ${photographs.good[place].name}: given as good, scores like none of the others. ` +
        "It was left out.", { class: "problem" }));
    const button = make("button", "Use these thresholds", { type: "button", id: "keep" });
    button.addEventListener("click", keep);
    button.disabled = model.fixed !== null;
    lines.push(button);
    if (model.fixed !== null) lines.push(make("p", `Thresholds cannot be changed here: ${model.fixed}.`));
  }
  at("calibration").replaceChildren(...lines);
}

for (const kind of ["good", "bad"]) {
  const zone = at(`${kind}-parts`), input = zone.querySelector("input");
  input.addEventListener("change", () => { take(kind, input.files); input.value = ""; });
  for (const name of ["dragenter", "dragover", "dragleave", "drop"])
    zone.addEventListener(name, (event) => {
      event.preventDefault();
      zone.classList.toggle("over", name === "dragenter" || name === "dragover");
    });
  zone.addEventListener("drop", (event) => take(kind, event.dataTransfer.files));
}
for (const id of ["rate", "category"]) at(id).addEventListener("change", () => { note = ""; propose(); });
at("forget").addEventListener("click", () => {
  Object.assign(photographs, { good: [], bad: [] });
  waiting.splice(1); // the one that is being scored comes back
  problems = [];
  note = "";
  propose();
});
tell();
document.body.dataset.calibrate = "ready";
