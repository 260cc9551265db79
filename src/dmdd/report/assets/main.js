// Head, warnings, files, colours; then the parts in their order.
const THEMES = ["auto", "light", "dark"];

function startTheme() {
  let place = 0;
  const show = () => {
    if (place) document.documentElement.dataset.theme = THEMES[place];
    else delete document.documentElement.dataset.theme;
    byId("theme").textContent = `Colours: ${THEMES[place]}`;
  };
  byId("theme").addEventListener("click", () => {
    place = (place + 1) % THEMES.length;
    show();
  });
  show();
}

function startHead() {
  const count = (number, one, many) => `${number} ${number === 1 ? one : many}`;
  const trained = data.runs.filter((run) => run.seed !== null).length;
  const categories = unique(data.runs.map((run) => `${run.dataset}/${run.category}`)).length;
  byId("summary").textContent = [
    count(trained, "run", "runs"),
    data.runs.length > trained ? count(data.runs.length - trained, "evaluation of a saved model", "evaluations of saved models") : "",
    count(categories, "category", "categories"),
    data.unfinished.length ? `${data.unfinished.length} unfinished` : "",
    data.unreadable.length ? count(data.unreadable.length, "file not usable", "files not usable") : "",
    `made ${data.made.replace("T", " ")}`,
  ].filter(Boolean).join(" · ");
  byId("warnings").hidden = !data.warnings.length;
  byId("warnings").querySelector("ul").append(...data.warnings.map((warning) => element("li", {}, warning)));
}

function startFiles() {
  const list = (title, entries) => [
    element("h3", {}, title),
    element("ul", { class: "plain" }, ...entries.map(([name, text]) => element("li", {}, element("strong", {}, name), element("div", { class: "quiet" }, text)))),
  ];
  const body = byId("files-body");
  if (data.unfinished.length) body.append(...list("Unfinished runs: configured, without result", data.unfinished));
  if (data.unreadable.length) body.append(...list("Files that could not be used", data.unreadable));
  if (!body.children.length) body.append(element("p", { class: "quiet" }, "Every run that was found is finished, every file was read."));
}

startTheme();
startHead();
startTable();
startCurves();
startRun();
startGallery();
startFiles();
