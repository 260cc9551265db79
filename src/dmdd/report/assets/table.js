// The table of results: rows sort by any column; means, differences and claims stay below, they are not rows among others.
const tableState = { sort: null, ascending: true, open: new Set(), filter: "", metrics: data.shown.filter((metric) => metric in data.metrics) };

function labelColumns() {
  const columns = [["dataset", (row) => row.dataset], ["category", (row) => row.category]];
  if (data.hasConfigurations) columns.push(["configuration", (row) => row.configuration]);
  if (data.hasMaps) columns.push(["map", (row) => row.map || ""]);
  return columns;
}

function sortValue(row, key) {
  if (key in data.metrics) return row.cells[key] ? row.cells[key].mean : null;
  if (key === "seeds") return row.seeds.length;
  return labelColumns().find(([name]) => name === key)[1](row);
}

function sortedRows(kind) {
  const words = tableState.filter.toLowerCase().split(/\s+/).filter(Boolean);
  const rows = data.rows
    .map((row, place) => ({ row, place }))
    .filter(({ row }) => row.kind === kind)
    .filter(({ row }) => words.every((word) => labelColumns().some(([, read]) => read(row).toLowerCase().includes(word))));
  if (tableState.sort === null) return rows;
  const sign = tableState.ascending ? 1 : -1;
  return rows.sort((left, right) => {
    const [a, b] = [sortValue(left.row, tableState.sort), sortValue(right.row, tableState.sort)];
    if (a === null || b === null) return (a === null) - (b === null); // unknown values last, whichever way
    return sign * (typeof a === "number" ? a - b : byText(a, b)) || left.place - right.place;
  });
}

function headerCell(key, title, isNumber) {
  const sorted = tableState.sort === key ? (tableState.ascending ? "ascending" : "descending") : null;
  const onclick = () => {
    // Figures are read from the best down first.
    tableState.ascending = tableState.sort === key ? !tableState.ascending : !isNumber;
    tableState.sort = key;
    drawTable();
    byId("table").querySelector(`[data-key="${CSS.escape(key)}"]`).focus();
  };
  const button = element("button", { type: "button", "data-key": key, onclick }, title);
  return element("th", { scope: "col", class: isNumber ? "number" : null, "aria-sort": sorted }, button);
}

function figureCell(cell, metric) {
  const title = { "data-title": data.metrics[metric] };
  if (!cell) return element("td", { class: "number quiet", ...title }, "-");
  const hint = cell.bounds.length ? `certified: ${(100 * cell.bounds[0]).toFixed(5)} to ${(100 * cell.bounds[1]).toFixed(5)}` : null;
  return element(
    "td",
    { class: "number", title: hint, ...title },
    element("span", { class: "value" }, cell.value),
    cell.deviation ? element("span", { class: "deviation" }, ` ± ${cell.deviation}`) : null,
    cell.boundsText ? element("span", { class: "extra" }, `(${cell.boundsText})`) : null,
    cell.interval ? element("span", { class: "extra" }, `[${cell.interval}]`) : null,
  );
}

function seedsCell(row, place) {
  if (row.kind === "claim") return element("td", { class: "number seeds" });
  const text = row.kind === "evaluation" ? "command" : `${row.seedsText} seed${row.seedsText === "1" ? "" : "s"}`;
  if (["mean", "difference"].includes(row.kind)) return element("td", { class: "number seeds" }, text);
  const open = tableState.open.has(place);
  const onclick = () => {
    if (open) tableState.open.delete(place);
    else tableState.open.add(place);
    drawTable();
    byId("table").querySelector(`[data-place="${place}"]`).focus();
  };
  const button = element("button", { type: "button", "data-place": place, "aria-expanded": String(open), onclick }, `${text} ${open ? "▴" : "▾"}`);
  return element("td", { class: "number seeds" }, button);
}

function memberList(row) {
  return row.runs.map((place) => {
    const run = data.runs[place];
    const figures = tableState.metrics.map((metric) => `${data.metrics[metric]} ${percent(run.figures[metric])}`).join(", ");
    const link = element("a", { href: "#run", onclick: () => chooseRun(place) }, "details");
    const head = element("div", {}, element("strong", {}, run.seed === null ? "evaluation" : `seed ${run.seed}`), element("span", { class: "quiet" }, figures), link);
    return element("div", { class: "member" }, head, element("div", { class: "quiet small" }, run.folder), command(run.command));
  });
}

function tableRow({ row, place }) {
  const labels = labelColumns().map(([name, read]) => element("td", { class: "label", "data-title": name }, read(row)));
  const cells = [...labels, ...tableState.metrics.map((metric) => figureCell(row.cells[metric], metric)), seedsCell(row, place)];
  const made = [element("tr", { class: row.kind === "category" ? "row" : `row ${row.kind}` }, ...cells)];
  if (tableState.open.has(place)) {
    made.push(element("tr", { class: "members" }, element("td", { colspan: cells.length }, ...memberList(row))));
  }
  return made;
}

function drawTable() {
  const heads = labelColumns().map(([name]) => headerCell(name, name, false));
  heads.push(...tableState.metrics.map((metric) => headerCell(metric, data.metrics[metric], true)), headerCell("seeds", "seeds", true));
  const body = (kind, name) => element("tbody", { class: name, "data-kind": kind }, ...sortedRows(kind).flatMap(tableRow));
  byId("table").replaceChildren(
    element("caption", { class: "hidden" }, "Results in percent"),
    element("thead", {}, element("tr", {}, ...heads)),
    body("category", "rows"),
    body("mean", "fixed"),
    body("difference", "fixed"),
    body("claim", "fixed"),
    body("evaluation", "rows"),
  );
}

function startTable() {
  byId("table-filter").addEventListener("input", (event) => {
    tableState.filter = event.target.value;
    drawTable();
  });
  for (const [metric, title] of Object.entries(data.metrics)) {
    const onchange = (event) => {
      const wanted = new Set(tableState.metrics);
      if (event.target.checked) wanted.add(metric);
      else wanted.delete(metric);
      tableState.metrics = Object.keys(data.metrics).filter((name) => wanted.has(name));
      drawTable();
    };
    byId("columns").append(element("label", {}, element("input", { type: "checkbox", checked: tableState.metrics.includes(metric), onchange }), title));
  }
  byId("notes").append(...data.notes.map((note) => element("p", {}, note)));
  drawTable();
}
