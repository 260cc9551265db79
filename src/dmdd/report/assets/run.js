// Everything about one run.
function chooseRun(place) {
  byId("run-choice").value = place;
  drawRun(data.runs[place]);
}

// What is found on good images are false alarms: they have a column of their own.
const GOOD = "good", ALARMS = "false alarms";

function typeTable(types, intervals) {
  const all = [["images_found", "images found"], ["images_found", ALARMS], ["image_auroc", "image AUROC"], ["pixels_found", "pixels found"], ["aupro_30", "AUPRO@0.3"], ["au_spro_5", "AU-sPRO@0.05"]];
  const has = (name, key, title) => key in types[name] && (key !== "images_found" || (name === GOOD) === (title === ALARMS));
  const columns = all.filter(([key, title]) => Object.keys(types).some((name) => has(name, key, title)));
  const ends = (name, key) => {
    const pair = intervals[name]?.[key];
    return pair ? [element("div", { class: "small quiet" }, `[${pair.map(percent).join(", ")}]`)] : [];
  };
  const head = element("tr", {}, element("th", { scope: "col" }, "type"), ...["images", ...columns.map(([, title]) => title)].map((title) => element("th", { scope: "col", class: "number" }, title)));
  const rows = Object.entries(types).map(([name, figures]) =>
    element("tr", {}, element("td", {}, name), element("td", { class: "number" }, String(figures.images ?? "-")), ...columns.map(([key, title]) => has(name, key, title) ? element("td", { class: "number" }, percent(figures[key]), ...ends(name, key)) : element("td", { class: "number" }, "-"))),
  );
  return element("div", { class: "scroll" }, element("table", {}, element("thead", {}, head), element("tbody", {}, ...rows)));
}

function pairs(entries) {
  return element("dl", {}, ...entries.flatMap(([name, text]) => [element("dt", {}, name.replaceAll("_", " ")), element("dd", {}, text)]));
}

function part(title, ...children) {
  return element("div", {}, element("h3", {}, title), ...children);
}

function lossPart(stage, losses) {
  const series = Object.entries(losses).map(([name, [x, y]], colour) => ({ name, x, y, colour }));
  const xs = series.flatMap((one) => one.x), ys = series.flatMap((one) => one.y);
  const logY = Math.min(...ys) > 0;
  const [low, high] = [Math.min(...ys), Math.max(...ys)];
  const y = logY ? [low / 1.1, high * 1.1] : [Math.min(0, low), high || 1];
  const host = element("div", { class: "chart" });
  const label = `Losses of ${stage}`;
  keepDrawn(host, () => drawLines(host, { series, x: [Math.min(...xs), Math.max(...xs)], y, xLabel: "step", yLabel: "loss", label, height: 260, logY }));
  const keys = series.flatMap((one) => [element("span", { class: `key c${one.colour}` }), ` ${one.name}  `]);
  return part(`Training, ${stage}`, host, element("p", { class: "small quiet" }, ...keys, logY ? "(logarithmic)" : ""));
}

function drawRun(run) {
  const tiles = Object.entries(data.metrics).filter(([metric]) => metric in run.figures).map(([metric, title]) =>
    element("div", { class: "tile" }, element("b", {}, percent(run.figures[metric])), element("span", {}, title)),
  );
  const parts = [];
  if (run.histogram) parts.push(decisionPart(run));
  if (run.suspicious.length) parts.push(suspiciousPart(run));
  for (const [stage, losses] of Object.entries(run.losses)) parts.push(lossPart(stage, losses));
  if (Object.keys(run.types).length) parts.push(part("By defect type, at the calibrated thresholds, percent", typeTable(run.types, run.typeIntervals), element("p", { class: "small quiet" }, "[ ] is the 95 % interval over the choice of test images.")));
  parts.push(part("Recorded", pairs([["folder", run.folder], ...(run.model === null ? [] : [["model", run.model]]), ...run.facts])));
  if (Object.keys(run.protocol).length) parts.push(part("Protocol", pairs(Object.entries(run.protocol))));
  byId("run-body").replaceChildren(
    tiles.length ? element("div", { class: "tiles" }, ...tiles) : element("p", { class: "quiet" }, "No metrics: the test set has images of one label only."),
    command(run.command),
    element("br", {}),
    element("div", { class: "parts" }, ...parts),
  );
}

function startRun() {
  fillSelect(byId("run-choice"), data.runs.map((run, place) => [place, fullName(run)]));
  byId("run-choice").addEventListener("change", (event) => drawRun(data.runs[event.target.value]));
  drawRun(data.runs[0]);
}
