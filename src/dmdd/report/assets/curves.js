// Curves of several runs in one drawing.
const CURVES = {
  pixel_roc: ["pixel ROC", "false-positive rate", "true-positive rate"],
  pro: ["per-region overlap (PRO)", "false-positive rate", "mean overlap"],
  pixel_pr: ["pixel precision-recall", "recall", "precision"],
  image_roc: ["image ROC", "false-positive rate", "true-positive rate"],
  image_pr: ["image precision-recall", "recall", "precision"],
};
const SHOWN_AT_FIRST = 6;
const curveState = { kind: null, zoom: 1, category: "", chosen: new Map() };

function curveRuns() {
  return data.runs
    .map((run, place) => ({ run, place }))
    .filter(({ run }) => run.curves[curveState.kind])
    .filter(({ run }) => !curveState.category || `${run.dataset}/${run.category}` === curveState.category);
}

// The smallest colour that no chosen run has, so that the others keep theirs.
function freeColour() {
  const used = new Set(curveState.chosen.values());
  let colour = 0;
  while (used.has(colour)) colour++;
  return colour;
}

function drawCurves() {
  const [title, xLabel, yLabel] = CURVES[curveState.kind];
  const series = curveRuns()
    .filter(({ place }) => curveState.chosen.has(place))
    .map(({ run, place }) => ({ name: fullName(run), x: run.curves[curveState.kind][0], y: run.curves[curveState.kind][1], colour: curveState.chosen.get(place) }));
  const limit = xLabel === "recall" ? 1 : curveState.zoom;
  byId("curve-zoom-label").hidden = xLabel === "recall";
  drawLines(byId("curve-chart"), { series, x: [0, limit], y: [0, 1], xLabel, yLabel, label: `${title} of ${series.length} runs`, height: 420 });
}

function drawLegend() {
  const entries = curveRuns().map(({ run, place }) => {
    const colour = curveState.chosen.get(place);
    const key = element("span", { class: `key ${colour === undefined ? "" : `c${colour % 8}`}` });
    const onchange = (event) => {
      if (event.target.checked) curveState.chosen.set(place, freeColour());
      else curveState.chosen.delete(place);
      drawLegend();
      drawCurves();
      byId("curve-legend").querySelector(`[data-place="${place}"]`).focus();
    };
    const box = element("input", { type: "checkbox", "data-place": place, checked: colour !== undefined, onchange });
    return element("label", {}, box, key, fullName(run));
  });
  byId("curve-legend").replaceChildren(element("legend", { class: "hidden" }, "Runs in the drawing"), ...entries);
}

// One run of each row first, so that the rows of the table are what is compared.
function chooseCurves() {
  curveState.chosen.clear();
  const there = new Set(curveRuns().map(({ place }) => place));
  const firsts = data.rows.filter((row) => row.kind === "category").map((row) => row.runs[0]);
  for (const place of unique([...firsts, ...there]).filter((one) => there.has(one)).slice(0, SHOWN_AT_FIRST)) {
    curveState.chosen.set(place, freeColour());
  }
  drawLegend();
  drawCurves();
}

function startCurves() {
  const kinds = Object.keys(CURVES).filter((kind) => data.runs.some((run) => run.curves[kind]));
  if (!kinds.length) {
    byId("curves").replaceChildren(element("h2", {}, "Curves"), element("p", { class: "quiet" }, "No run has curves (curves.json)."));
    return;
  }
  curveState.kind = kinds[0];
  fillSelect(byId("curve-kind"), kinds.map((kind) => [kind, CURVES[kind][0]]));
  fillSelect(byId("curve-zoom"), [1, 0.3, 0.1, 0.05, 0.01].map((limit) => [limit, String(limit)]));
  const categories = unique(data.runs.map((run) => `${run.dataset}/${run.category}`)).sort(byText);
  fillSelect(byId("curve-category"), [["", "all"], ...categories.map((name) => [name, name])]);
  byId("curve-kind").addEventListener("change", (event) => {
    curveState.kind = event.target.value;
    drawLegend();
    drawCurves();
  });
  byId("curve-zoom").addEventListener("change", (event) => {
    curveState.zoom = Number(event.target.value);
    drawCurves();
  });
  byId("curve-category").addEventListener("change", (event) => {
    curveState.category = event.target.value;
    chooseCurves();
  });
  chooseCurves();
  keepDrawn(byId("curve-chart"), drawCurves);
}
