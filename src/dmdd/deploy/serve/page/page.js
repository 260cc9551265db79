// The page: sends each image to this server, keeps what comes back in the browser, and judges by the sliders.
const MAP_TOP = 65535; // a map value of 1
const LEAST_LEFT = 0.25; // of a region, however much blur adds to it
const COLOURS = ["000004", "420a68", "932667", "dd513a", "fca50a", "fcffa4"].map((hex) =>
  [0, 2, 4].map((at) => parseInt(hex.slice(at, at + 2), 16)));

export const at = (id) => document.getElementById(id);

export function make(tag, content = [], attributes = {}) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...[content].flat()); // strings become text, never HTML: file names come from outside
  return element;
}

export function draw(tag, attributes, content = []) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...content);
  return element;
}

const bytes = (text) => Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
export const plural = (count, word) => `${count} ${word}${count === 1 ? "" : "s"}`;

// An address with the chosen category, whose thresholds judge.
export const judged = (address) =>
  at("category").value ? `${address}?category=${encodeURIComponent(at("category").value)}` : address;

export const model = await (await fetch("/model")).json();
const start = { image: model.image_threshold ?? 0.5, pixel: model.pixel_threshold ?? 0.5 };
const cut = { ...start };
let middle = model.pixel_threshold || 0.5; // map value at the middle of the colours
let findings = [];

// ---- what the model is

const between = (ends) =>
  (ends === null ? "" : `; 90 % interval ${ends.map((end) => (100 * end).toFixed(1)).join(" to ")} %`);

// How likely a good image is to score so high, in words.
function chance({ false_alarm_probability: share }) {
  if (share === null) return "";
  const shown = share < 1e-4 ? "fewer than 0.01" : Number((100 * share).toPrecision(2));
  return `${shown} % of good images score so high`;
}

// After the model's thresholds have changed: its card, sliders and an empty table.
export async function adopt() {
  Object.assign(model, await (await fetch(judged("/model"))).json());
  Object.assign(start, { image: model.image_threshold ?? 0.5, pixel: model.pixel_threshold ?? 0.5 });
  middle = model.pixel_threshold || 0.5;
  findings = [];
  showModel();
  at("reset").click();
}

function showModel() {
  for (const id of ["facts", "origin", "accepted"]) at(id).replaceChildren();
  document.title = `dmdd: ${model.model}`;
  const shown = (value) => (value === null ? "none" : value.toFixed(4));
  const rate = model.false_alarm_rate;
  const facts = [
    ["Model", model.model, model.weights_sha256 ? `weights ${model.weights_sha256.slice(0, 8)}` : ""],
    ["Input size", `${model.input_width} x ${model.input_height} px`, "images are resized to it"],
    ["Image threshold", shown(model.image_threshold), "a score at or above it: anomalous"],
    ["Pixel threshold", shown(model.pixel_threshold), "the map at or above it is in the mask, less what blur adds"],
    ["False alarms", rate === null ? "unknown" : `${(100 * rate).toFixed(1)} %`,
      rate === null ? "the model states no rate" : `of good images, expected${between(model.false_alarm_interval)}`],
  ];
  at("facts").append(...facts.map(([name, value, note]) =>
    make("div", [make("dt", name), make("dd", [value, make("small", note)])])));
  if (model.image_threshold === null) {
    at("origin").append(make("strong", "This model has no calibrated thresholds."),
      " The sliders begin at 0.5, which means nothing for it; verdicts follow them.");
  } else {
    const count = model.normal_images === null ? "" : ` (${plural(model.normal_images, "normal image")})`;
    const promise = model.promise === null ? "" : `${model.promise[0].toUpperCase()}${model.promise.slice(1)}. `;
    at("origin").append(`Thresholds: ${model.thresholds_from ?? "an unknown source"}${count}. ${promise}The false-alarm rate ` +
      "holds for good images like those, taken the same way. A score is not a probability.");
  }
  at("accepted").append(`PNG, JPEG, BMP, TIFF, WebP, GIF or PPM, up to ${model.upload_mb} MB each. ` +
    "They are never written to disk.");
}

// ---- sending images

let waiting = [], problems = [], sent = 0, running = false;

function tell() {
  const progress = running ? [`Inspecting ${Math.min(sent + 1, sent + waiting.length)} of ${sent + waiting.length} ...`] : [];
  at("status").replaceChildren(...progress.map((text) => make("div", text)),
    ...problems.map((text) => make("div", text, { class: "problem" })));
}

export async function send(address, file) {
  for (let attempt = 0; ; attempt++) {
    const headers = { "Content-Type": "application/octet-stream" };
    const answer = await fetch(address, { method: "POST", body: file, headers });
    const body = await answer.json();
    if (answer.ok) return body;
    if (answer.status !== 503 || attempt === 4) throw new Error(body.error);
    await new Promise((wake) => setTimeout(wake, 1000 * Number(answer.headers.get("Retry-After") || 1)));
  }
}

async function work() {
  running = true;
  while (waiting.length) {
    tell();
    const file = waiting[0];
    try {
      const address = judged("/page/inspect"), answer = await send(address, file);
      if (address !== judged("/page/inspect")) continue; // another category was chosen meanwhile
      add(file.name, answer);
    } catch (error) {
      problems.push(`${file.name}: ${error instanceof TypeError ? "the server did not answer" : error.message}`);
    }
    waiting.shift();
    sent += 1;
  }
  running = false;
  sent = 0;
  tell();
}

function take(files) {
  if (!running) problems = [];
  const taken = Array.from(files).slice(0, Math.max(0, model.page_images - waiting.length));
  if (taken.length < files.length) problems.push(`only ${model.page_images} images at a time; the rest was left out`);
  waiting.push(...taken);
  if (!running) work();
}

// ---- what came back

function add(name, answer) {
  const map = new Uint16Array(bytes(answer.map).buffer); // little-endian, as every browser's machine
  const finding = { ...answer, name, map, wide: answer.map_width, high: answer.map_height, spot: answer.spot_area };
  finding.photo = `data:image/jpeg;base64,${answer.photo}`;
  finding.heat = colour(finding);
  findings = [...findings, finding].slice(-model.page_images);
  judge();
}

function colour({ map, wide, high }) {
  const canvas = make("canvas", [], { width: wide, height: high });
  const image = new ImageData(wide, high);
  for (let i = 0; i < map.length; i++) {
    const place = Math.min(1, map[i] / MAP_TOP / (2 * middle)) * (COLOURS.length - 1);
    const low = Math.min(COLOURS.length - 2, Math.floor(place));
    for (let c = 0; c < 3; c++)
      image.data[4 * i + c] = COLOURS[low][c] + (place - low) * (COLOURS[low + 1][c] - COLOURS[low][c]);
    image.data[4 * i + 3] = 255;
  }
  canvas.getContext("2d").putImageData(image, 0, 0);
  return canvas.toDataURL("image/png");
}

// The mask at a threshold: its border and area as SVG paths, regions (8-connected), share.
function outline(finding, threshold) {
  const { wide, high } = finding, { mask, regions } = findMask(finding, threshold);
  const inside = (x, y) => x >= 0 && y >= 0 && x < wide && y < high && mask[y * wide + x] > 0;
  let border = "", fill = "", area = 0;
  for (let y = 0; y <= high; y++)
    for (let x = 0, from = -1; x <= wide; x++) {
      const edge = x < wide && inside(x, y) !== inside(x, y - 1);
      if (edge && from < 0) from = x;
      if (!edge && from >= 0) { border += `M${from},${y}H${x}`; from = -1; }
    }
  for (let x = 0; x <= wide; x++)
    for (let y = 0, from = -1; y <= high; y++) {
      const edge = y < high && inside(x, y) !== inside(x - 1, y);
      if (edge && from < 0) from = y;
      if (!edge && from >= 0) { border += `M${x},${from}V${y}`; from = -1; }
    }
  for (let y = 0; y < high; y++)
    for (let x = 0, from = -1; x <= wide; x++) {
      const here = inside(x, y);
      if (here && from < 0) from = x;
      if (!here && from >= 0) { fill += `M${from},${y}H${x}v1H${from}z`; area += x - from; from = -1; }
    }
  return { border, fill, regions, share: area / (wide * high) };
}

// As dmdd.core.masks: each region where the map reaches the threshold loses the area that blur adds, `spot` pixels.
function findMask({ map, wide, high, spot }, threshold) {
  const least = threshold * MAP_TOP - 0.5; // the map was rounded
  const seen = new Uint8Array(wide * high), mask = new Uint8Array(wide * high);
  let regions = 0;
  for (let begin = 0; begin < seen.length; begin++) {
    if (seen[begin] || map[begin] < least) continue;
    regions += 1;
    const region = [begin];
    seen[begin] = 1;
    for (let i = 0; i < region.length; i++) {
      const x = region[i] % wide, y = (region[i] - x) / wide;
      for (let v = Math.max(0, y - 1); v <= Math.min(high - 1, y + 1); v++)
        for (let u = Math.max(0, x - 1); u <= Math.min(wide - 1, x + 1); u++) {
          const next = v * wide + u;
          if (!seen[next] && map[next] >= least) { seen[next] = 1; region.push(next); }
        }
    }
    const left = Math.max(Math.round(region.length - spot), Math.ceil(LEAST_LEFT * region.length));
    const values = Float64Array.from(region, (place) => map[place]).sort(), weakest = values[region.length - left];
    for (const place of region) if (map[place] >= weakest) mask[place] = 1;
  }
  return { mask, regions };
}

// ---- the table

function judge() {
  if (!findings.length) {
    at("findings").replaceChildren(make("div", "No images yet. Each one that you drop above gets a row here: the " +
      "verdict, the score, and where the image looks anomalous.", { class: "empty" }));
    return;
  }
  for (const finding of findings) Object.assign(finding, outline(finding, cut.pixel), { bad: finding.score >= cut.image });
  const heads = ["Image", "Verdict", "Score", "Photo", "Overlay", "Heat map", "Mask"];
  at("findings").replaceChildren(summary(),
    make("table", [make("thead", make("tr", heads.map((head) => make("th", head)))), make("tbody", findings.map(row))]),
    legend());
}

function summary() {
  const bad = findings.filter((finding) => finding.bad).length;
  const moved = ["image", "pixel"].some((name) => model[`${name}_threshold`] !== null && cut[name] !== start[name]);
  const count = (number, words, name) => make("span", [make("b", String(number)), ` ${words}`], { class: name });
  const link = make("a", "Download scores (CSV)", { class: "csv", download: "scores.csv" });
  link.href = `data:text/csv;charset=utf-8;base64,${btoa(String.fromCharCode(...new TextEncoder().encode(scores())))}`;
  return make("div", [
    count(findings.length, findings.length === 1 ? "image" : "images", ""), count(bad, "anomalous", "bad"),
    count(findings.length - bad, "normal", "good"),
    ...(moved ? [make("span", "by the sliders, not by the model's thresholds", { class: "moved" })] : []), link,
  ], { class: "summary" });
}

function row(finding) {
  const { name, score, bad, width, height, regions, share, wide, high, border, fill } = finding;
  const svg = (...paths) => draw("svg", { viewBox: `0 0 ${wide} ${high}`, preserveAspectRatio: "none" },
    paths.map(([kind, d]) => draw("path", { class: kind, d })));
  const line = () => svg(["under", border], ["line", border]);
  const photo = () => make("img", [], { src: finding.photo, alt: "" });
  const heat = () => make("img", [], { src: finding.heat, alt: "" });
  const pictures = {
    Photo: [photo()], Overlay: [photo(), make("span", [heat()], { class: "veil" }), line()],
    "Heat map": [heat(), line()], Mask: [svg(["fill", fill])],
  };
  const figure = ([label, inside]) => {
    const element = make("figure", inside, { tabindex: "0", role: "img", "aria-label": `${label} of ${name}` });
    element.style.setProperty("--ratio", (wide / high).toFixed(4));
    return make("td", element, { class: "picture", "data-label": label });
  };
  const bar = make("div", [make("i"), make("u")], { class: "bar" });
  bar.firstChild.style.width = `${(100 * score).toFixed(2)}%`;
  bar.lastChild.style.left = `${(100 * cut.image).toFixed(2)}%`;
  const found = regions ? `${plural(regions, "region")}, ${(100 * share).toFixed(1)} % of the area` : "";
  return make("tr", [
    make("td", [make("b", name), make("small", `${width} x ${height} px`), make("small", `${finding.time_ms.toFixed(0)} ms`)],
      { class: "name" }),
    make("td", make("span", bad ? "anomalous" : "normal"), { class: "verdict" }),
    make("td", [make("b", score.toFixed(4)), bar, make("small", found), make("small", chance(finding))], { class: "score" }),
    ...Object.entries(pictures).map(figure),
  ], { class: bad ? "bad" : "good" });
}

function legend() {
  const scale = model.pixel_threshold ? "the model's pixel threshold" : "half of the map's range";
  return make("div", [
    make("span", "Heat map"), make("span", "0"), make("i"),
    make("span", `${(2 * middle).toFixed(2)}; the middle is ${middle.toFixed(4)}, ${scale}`),
    make("span", `White line and mask: the map reaches ${cut.pixel.toFixed(4)}, less what blur adds`),
    make("span", "Click a picture to enlarge it"),
  ], { class: "legend" });
}

function scores() {
  const cell = (value) => (/[",\r\n]/.test(value) ? `"${value.replaceAll('"', '""')}"` : value);
  // A spreadsheet would run a name that begins so as a formula.
  const text = (value) => cell(/^[=+\-@\t\r]/.test(value) ? `'${value}` : value);
  const head = "file,score,verdict,image_threshold,pixel_threshold,area_percent,regions,width,height,model," +
    "weights_sha256,raw_score,false_alarm_probability";
  const lines = findings.map((finding) => [
    text(finding.name), finding.score, finding.bad ? "anomalous" : "normal", cut.image, cut.pixel,
    (100 * finding.share).toFixed(3), finding.regions, finding.width, finding.height, text(model.model), model.weights_sha256,
    finding.raw_score ?? "", finding.false_alarm_probability ?? "",
  ].join(","));
  return [head, ...lines].join("\n") + "\n";
}

// ---- controls

let due = false;
function judgeSoon() {
  if (due) return;
  due = true;
  requestAnimationFrame(() => { due = false; judge(); });
}

const sliders = ["image", "pixel"].map((name) => {
  const number = at(`${name}-threshold`), range = number.parentElement.querySelector("[type=range]");
  const show = () => { number.value = range.value = cut[name].toFixed(4); };
  for (const [from, event] of [[range, "input"], [number, "change"]])
    from.addEventListener(event, () => {
      if (from.value !== "" && from.checkValidity()) cut[name] = Number(from.value);
      show();
      judgeSoon();
    });
  show();
  return { name, show };
});

at("reset").addEventListener("click", () => {
  Object.assign(cut, start);
  for (const { show } of sliders) show();
  judge();
});
at("category").append(...model.categories.map((name) => make("option", name, { value: name })));
at("categories").hidden = model.categories.length === 0;
at("category").value = ""; // a reload keeps what was chosen, but the model was asked for without
at("category").addEventListener("change", adopt);
at("clear").addEventListener("click", () => { findings = []; judge(); });

const zone = at("drop"), input = zone.querySelector("input");
input.addEventListener("change", () => { take(input.files); input.value = ""; });
for (const name of ["dragenter", "dragover"])
  zone.addEventListener(name, (event) => { event.preventDefault(); zone.classList.add("over"); });
for (const name of ["dragleave", "drop"])
  zone.addEventListener(name, (event) => { event.preventDefault(); zone.classList.remove("over"); });
zone.addEventListener("drop", (event) => take(event.dataTransfer.files));

showModel();
judge();
document.body.dataset.ready = "true";
