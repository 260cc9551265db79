// Pictures of all runs, filtered and ranked; a picture opens large.
const PAGE = 24;
const galleryState = { run: "", type: "", show: "worst", shown: PAGE, list: [], open: 0 };
const SHOWS = [["worst", "worst first"], ["best", "best first"], ["false alarm", "false alarms"], ["missed", "missed"]];

const allPictures = data.runs.flatMap((run, place) => run.pictures.map((picture) => ({ ...picture, run, place })));

// Among equally ordered ones, an image further on the wrong side of its run's threshold is worse.
function wrongness(picture) {
  const distance = picture.score === null || picture.run.threshold === null ? 0 : (picture.score - picture.run.threshold) / (Math.abs(picture.run.threshold) || 1);
  return [picture.disorder ?? -1, picture.label ? -distance : distance];
}

function filteredPictures() {
  const { run, type, show } = galleryState;
  const kept = allPictures
    .filter((picture) => run === "" || picture.place === Number(run))
    .filter((picture) => type === "" || picture.defect === type)
    .filter((picture) => show === "worst" || show === "best" || picture.verdict === show)
    .filter((picture) => show !== "best" || picture.disorder !== null);
  const sign = show === "best" ? -1 : 1;
  return kept.sort((left, right) => {
    const [a, b] = [wrongness(left), wrongness(right)];
    return sign * (b[0] - a[0] || b[1] - a[1]);
  });
}

function panels(picture) {
  const text = `${picture.name}: image, mask, map, overlay`;
  const half = (alt) => element("span", { class: "half" }, element("img", { src: picture.source, width: picture.width, height: picture.height, alt }));
  return element("span", { class: "panels" }, half(text), half(""));
}

function verdictBadge(picture) {
  const kind = { found: "right", passed: "right", "false alarm": "wrong", missed: "wrong" }[picture.verdict] || "open";
  return element("span", { class: `badge ${kind}` }, picture.verdict || "no verdict");
}

function describe(picture) {
  if (picture.score === null) return "score not known: several images share this name, or scores.csv is missing";
  const limit = picture.run.threshold === null ? "no threshold" : `threshold ${Number(picture.run.threshold.toPrecision(4))}`;
  const order = picture.label ? "below" : "above";
  const others = picture.label ? "normal" : "anomalous";
  return `score ${Number(picture.score.toPrecision(4))}, ${limit}; ${order} ${(100 * picture.disorder).toFixed(0)} % of the ${others} images`;
}

function card(picture, place) {
  const open = element("button", { type: "button", "aria-label": `Enlarge ${picture.name}`, onclick: () => openViewer(place) }, panels(picture));
  return element(
    "figure",
    { "data-verdict": picture.verdict, "data-type": picture.defect },
    open,
    element("figcaption", {}, verdictBadge(picture), " ", element("strong", {}, picture.name), element("div", { class: "quiet" }, describe(picture)), element("div", { class: "quiet" }, fullName(picture.run))),
  );
}

function drawGallery() {
  galleryState.list = filteredPictures();
  const cards = galleryState.list.slice(0, galleryState.shown).map(card);
  byId("gallery").replaceChildren(...(cards.length ? cards : [element("p", { class: "quiet" }, "No picture fits.")]));
  const there = data.runs.filter((run, place) => galleryState.run === "" || place === Number(galleryState.run)).reduce((sum, run) => sum + run.picturesThere, 0);
  byId("picture-count").textContent = `${galleryState.list.length} of ${allPictures.length} in this page (${there} in the run folders)`;
  byId("picture-more").hidden = galleryState.list.length <= galleryState.shown;
}

function openViewer(place) {
  galleryState.open = place;
  const picture = galleryState.list[place];
  byId("viewer-title").replaceChildren(picture.name, " ", verdictBadge(picture));
  byId("viewer-panels").replaceChildren(panels(picture));
  byId("viewer-caption").textContent = `${fullName(picture.run)}. ${describe(picture)}`;
  byId("viewer-before").disabled = place === 0;
  byId("viewer-next").disabled = place === galleryState.list.length - 1;
  if (!byId("viewer").open) byId("viewer").showModal();
}

function turn(step) {
  const place = galleryState.open + step;
  if (place >= 0 && place < galleryState.list.length) openViewer(place);
}

function startGallery() {
  if (!allPictures.length) {
    byId("pictures").replaceChildren(element("h2", {}, "Pictures"), element("p", { class: "quiet" }, "No run has pictures (images/), or the page was made without."));
    return;
  }
  const runs = data.runs.map((run, place) => [place, fullName(run)]).filter(([place]) => data.runs[place].pictures.length);
  const types = unique(allPictures.map((picture) => picture.defect).filter(Boolean)).sort(byText);
  fillSelect(byId("picture-run"), [["", "all"], ...runs]);
  fillSelect(byId("picture-type"), [["", "all"], ...types.map((type) => [type, type])]);
  fillSelect(byId("picture-show"), SHOWS);
  for (const key of ["run", "type", "show"]) {
    byId(`picture-${key}`).addEventListener("change", (event) => {
      galleryState[key] = event.target.value;
      galleryState.shown = PAGE;
      drawGallery();
    });
  }
  byId("picture-more").addEventListener("click", () => {
    galleryState.shown += PAGE;
    drawGallery();
  });
  byId("viewer-before").addEventListener("click", () => turn(-1));
  byId("viewer-next").addEventListener("click", () => turn(1));
  byId("viewer-close").addEventListener("click", () => byId("viewer").close());
  byId("viewer").addEventListener("keydown", (event) => turn({ ArrowLeft: -1, ArrowRight: 1 }[event.key] || 0));
  drawGallery();
}
