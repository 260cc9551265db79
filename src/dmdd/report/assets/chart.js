// Line drawings and bars as SVG at the size of their place, drawn anew when that changes.
const MARGIN = { left: 54, right: 14, top: 12, bottom: 42 };

function ticks(low, high, about) {
  const raw = (high - low) / about;
  const power = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 2.5, 5, 10].map((factor) => factor * power).find((size) => size >= raw * 0.999);
  const found = [];
  for (let place = Math.ceil(low / step - 1e-9); place * step <= high + step * 1e-9; place++) found.push(place * step);
  return found;
}

function logTicks(low, high) {
  const found = [];
  for (let power = Math.floor(Math.log10(low)); power <= Math.log10(high) + 1e-9; power++) {
    for (const factor of [1, 2, 5]) found.push(factor * 10 ** power);
  }
  return found.filter((value) => value >= low * 0.999 && value <= high * 1.001);
}

const tidy = (value) => String(Number(value.toPrecision(4)));

function frame(host, { height, x, y, xLabel, yLabel, logY, label, whole = false }) {
  const width = Math.max(240, host.clientWidth || 600);
  const inner = { width: width - MARGIN.left - MARGIN.right, height: height - MARGIN.top - MARGIN.bottom };
  const scale = logY ? Math.log10 : (value) => value;
  const px = (value) => MARGIN.left + ((value - x[0]) / (x[1] - x[0])) * inner.width;
  const py = (value) => MARGIN.top + (1 - (scale(value) - scale(y[0])) / (scale(y[1]) - scale(y[0]))) * inner.height;
  const bottom = MARGIN.top + inner.height;
  const drawing = shape("svg", { viewBox: `0 0 ${width} ${height}`, height, role: "img", "aria-label": label, tabindex: 0 });
  for (const value of logY ? logTicks(...y) : ticks(...y, 5)) {
    if (whole && !Number.isInteger(value)) continue;
    drawing.append(shape("line", { class: "grid", x1: MARGIN.left, x2: width - MARGIN.right, y1: py(value), y2: py(value) }));
    drawing.append(shape("text", { x: MARGIN.left - 8, y: py(value) + 4, "text-anchor": "end" }, tidy(value)));
  }
  for (const value of ticks(...x, Math.max(3, Math.min(8, inner.width / 80)))) {
    drawing.append(shape("line", { class: "grid", y1: MARGIN.top, y2: bottom, x1: px(value), x2: px(value) }));
    drawing.append(shape("text", { x: px(value), y: bottom + 17, "text-anchor": "middle" }, tidy(value)));
  }
  drawing.append(shape("line", { class: "axis", x1: MARGIN.left, x2: width - MARGIN.right, y1: bottom, y2: bottom }));
  drawing.append(shape("text", { x: MARGIN.left + inner.width / 2, y: height - 6, "text-anchor": "middle" }, xLabel));
  const middle = MARGIN.top + inner.height / 2;
  drawing.append(shape("text", { x: 13, y: middle, "text-anchor": "middle", transform: `rotate(-90 13 ${middle})` }, yLabel));
  return { drawing, px, py, width, height, bottom, x, back: (at) => x[0] + ((at - MARGIN.left) / inner.width) * (x[1] - x[0]) };
}

// The value on the line at x: xs ascend, several points may share one.
function valueAt(xs, ys, x) {
  if (!xs.length || x < xs[0] || x > xs[xs.length - 1]) return null;
  let low = 0, high = xs.length - 1;
  while (high - low > 1) {
    const middle = (low + high) >> 1;
    if (xs[middle] <= x) low = middle;
    else high = middle;
  }
  if (xs[high] <= x) return ys[high];
  return xs[high] === xs[low] ? ys[low] : ys[low] + ((x - xs[low]) / (xs[high] - xs[low])) * (ys[high] - ys[low]);
}

// Follow pointer and arrow keys; `read` gives [heading, lines of the box] for a place in x, or null.
function follow(host, at, read) {
  const cross = shape("line", { class: "cross", y1: MARGIN.top, y2: at.bottom, visibility: "hidden" });
  const tip = element("div", { class: "tip", hidden: true, role: "status" });
  at.drawing.append(cross);
  host.append(tip);
  let place = (at.x[0] + at.x[1]) / 2;
  const hide = () => { tip.hidden = true; cross.setAttribute("visibility", "hidden"); };
  const show = (value) => {
    place = Math.min(at.x[1], Math.max(at.x[0], value));
    const found = read(place);
    if (!found) return hide();
    const [heading, lines] = found;
    tip.replaceChildren(element("div", { class: "quiet" }, heading));
    for (const [name, text, key] of lines) {
      tip.append(element("div", {}, element("span", { class: `key ${key}` }), element("span", {}, name), element("b", {}, text)));
    }
    tip.hidden = false;
    const x = at.px(place);
    set(cross, { x1: x, x2: x, visibility: "visible" });
    const left = x > at.width / 2 ? x - tip.offsetWidth - 12 : x + 12;
    tip.style.left = `${Math.max(0, left)}px`;
    tip.style.top = `${MARGIN.top + 4}px`;
  };
  at.drawing.addEventListener("pointermove", (event) => {
    const box = at.drawing.getBoundingClientRect();
    show(at.back(((event.clientX - box.left) / box.width) * at.width));
  });
  at.drawing.addEventListener("pointerleave", hide);
  at.drawing.addEventListener("blur", hide);
  at.drawing.addEventListener("keydown", (event) => {
    const step = { ArrowLeft: -0.01, ArrowRight: 0.01 }[event.key];
    if (!step) return;
    event.preventDefault();
    show(place + step * (at.x[1] - at.x[0]));
  });
}

// series: [{name, x, y, colour}]; colours beyond the eighth repeat with dashes.
function drawLines(host, { series, x, y, xLabel, yLabel, label, height = 380, logY = false, digits = 4 }) {
  host.replaceChildren();
  if (!series.length) return void host.append(element("p", { class: "quiet" }, "Nothing to draw."));
  const at = frame(host, { height, x, y, xLabel, yLabel, logY, label });
  const clip = `clip-${host.id || Math.random().toString(36).slice(2)}`;
  at.drawing.append(shape("clipPath", { id: clip }, shape("rect", {
    x: MARGIN.left, y: MARGIN.top - 2, width: at.width - MARGIN.left - MARGIN.right, height: at.bottom - MARGIN.top + 3,
  })));
  const lines = shape("g", { "clip-path": `url(#${clip})` });
  for (const { x: xs, y: ys, colour } of series) {
    const points = xs.map((value, place) => `${at.px(value).toFixed(1)},${at.py(ys[place]).toFixed(1)}`).join(" ");
    lines.append(shape("polyline", { class: `line c${colour % 8}`, points, "stroke-dasharray": colour < 8 ? null : "6 3" }));
  }
  at.drawing.append(lines);
  host.append(at.drawing);
  follow(host, at, (place) => {
    const found = series.map((one) => [one.name, valueAt(one.x, one.y, place), `c${one.colour % 8}`]).filter((one) => one[1] !== null);
    if (!found.length) return null;
    return [`${xLabel} ${tidy(place)}`, found.map(([name, value, key]) => [name, Number(value.toPrecision(digits)).toString(), key])];
  });
}

function drawHistogram(host, counted, threshold) {
  host.replaceChildren();
  const { low, high, normal, anomalous } = counted;
  const most = Math.max(...normal, ...anomalous, 1);
  const at = frame(host, { height: 260, x: [low, high], y: [0, most], xLabel: "image score", yLabel: "images", whole: true, label: "Image scores by label" });
  const step = (high - low) / normal.length;
  for (const [name, counts] of [["normal", normal], ["anomalous", anomalous]]) {
    counts.forEach((count, place) => {
      if (!count) return;
      const x = at.px(low + place * step);
      at.drawing.append(shape("rect", { class: name, x, y: at.py(count), width: at.px(low + (place + 1) * step) - x, height: at.bottom - at.py(count) }));
    });
  }
  if (threshold !== null && threshold !== undefined) {
    const x = at.px(threshold);
    at.drawing.append(shape("line", { class: "threshold", x1: x, x2: x, y1: MARGIN.top, y2: at.bottom }));
  }
  host.append(at.drawing);
  follow(host, at, (value) => {
    const place = Math.min(normal.length - 1, Math.floor((value - low) / step));
    const range = `score ${tidy(low + place * step)} to ${tidy(low + (place + 1) * step)}`;
    return [range, [["normal", String(normal[place]), "k-normal"], ["anomalous", String(anomalous[place]), "k-anomalous"]]];
  });
}

// Draw now and whenever the place gets another width.
function keepDrawn(host, draw) {
  let width = -1;
  new ResizeObserver(() => {
    if (host.clientWidth === width) return;
    width = host.clientWidth;
    draw();
  }).observe(host);
}
