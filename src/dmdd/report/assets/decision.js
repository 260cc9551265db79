// What a threshold decides: a slider moves it, and the images that change sides are named.
const SIDES_SHOWN = 40;

function confusion(scores, threshold) {
  const counts = [[0, 0], [0, 0]]; // by label, then by what it is called
  for (const [, label, score] of scores) counts[label][score >= threshold ? 1 : 0] += 1;
  return counts;
}

function confusionTable(counts) {
  const head = ["", "called normal", "called anomalous", "wrong"].map((title, place) => element("th", { scope: "col", class: place ? "number" : null }, title));
  const rows = ["normal", "anomalous"].map((name, label) => {
    const wrong = counts[label][1 - label], total = counts[label][0] + counts[label][1];
    const cells = [...counts[label].map(String), total ? `${((100 * wrong) / total).toFixed(1)} %` : "-"];
    return element("tr", {}, element("td", {}, name), ...cells.map((text) => element("td", { class: "number" }, text)));
  });
  return element("table", { class: "confusion" }, element("thead", {}, element("tr", {}, ...head)), element("tbody", {}, ...rows));
}

function changedSides(scores, from, to) {
  const [low, high] = [Math.min(from, to), Math.max(from, to)];
  return scores.filter(([, , score]) => score >= low && score < high).sort((a, b) => a[2] - b[2]);
}

function sidesList(run, threshold) {
  const moved = changedSides(run.scores, run.threshold, threshold);
  if (!moved.length) return [element("p", { class: "small quiet" }, threshold === run.threshold ? "Move the slider to see which images change sides." : "No image changes sides.")];
  const now = threshold < run.threshold ? "anomalous" : "normal";
  const items = moved.slice(0, SIDES_SHOWN).map(([file, label, score]) => {
    const right = (label === 1) === (now === "anomalous");
    const badge = element("span", { class: `badge ${right ? "right" : "wrong"}` }, right ? "now right" : "now wrong");
    return element("li", {}, badge, ` ${file}, ${tidy(score)}`);
  });
  const more = moved.length > SIDES_SHOWN ? [element("li", { class: "quiet" }, `and ${moved.length - SIDES_SHOWN} more`)] : [];
  return [element("p", { class: "small" }, `${moved.length} now called ${now}:`), element("ul", { class: "plain small" }, ...items, ...more)];
}

function decisionPart(run) {
  const chart = element("div", { class: "chart" });
  const keys = element("p", { class: "small quiet" }, element("span", { class: "key k-normal" }), " normal  ", element("span", { class: "key k-anomalous" }), " anomalous  ");
  if (run.threshold === null || !run.scores.length) {
    keepDrawn(chart, () => drawHistogram(chart, run.histogram, run.threshold));
    return part("Image scores", chart, keys);
  }
  let threshold = run.threshold;
  const { low, high } = run.histogram;
  const step = (high - low) / 500;
  const slider = element("input", { type: "range", class: "threshold-slider", min: low, max: high + step, step: "any", "aria-label": "Image threshold" });
  const number = element("span", { class: "number" });
  const table = element("div", { class: "scroll" }), sides = element("div", { "aria-live": "polite" });
  const draw = () => {
    drawHistogram(chart, run.histogram, threshold);
    number.replaceChildren(`threshold ${Number(threshold.toPrecision(4))}`);
    table.replaceChildren(confusionTable(confusion(run.scores, threshold)));
    sides.replaceChildren(...sidesList(run, threshold));
  };
  const move = (value) => {
    threshold = value;
    draw();
  };
  slider.addEventListener("input", () => move(Number(slider.value)));
  const reset = element("button", { type: "button", onclick: () => { slider.value = run.threshold; move(run.threshold); } }, "Calibrated threshold");
  slider.value = run.threshold;
  keepDrawn(chart, draw);
  keys.append(`┆ threshold, calibrated on normal images at ${Number(run.threshold.toPrecision(5))}`);
  const promise = run.promise ? [element("p", { class: "small" }, `${run.promise[0].toUpperCase()}${run.promise.slice(1)}.`)] : [];
  return part("Decisions", chart, keys, element("div", { class: "slide" }, slider, number, reset), table, ...promise, sides);
}

function suspiciousPart(run) {
  const items = run.suspicious.map(([file, value, source]) => {
    const picture = source ? [element("img", { src: source, alt: "" })] : [];
    return element("li", {}, ...picture, element("span", {}, `${file}, ${value.toFixed(1)}`));
  });
  const note = "Given as good, but like none of the others: how far away, in robust standard deviations. Look at them before you trust the model.";
  return part("Training images to look at", element("ul", { class: "plain small odd" }, ...items), element("p", { class: "small quiet" }, note));
}
