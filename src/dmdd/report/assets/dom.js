// Elements are made here and nowhere else: texts from files become text nodes, never markup.
const data = JSON.parse(document.getElementById("data").textContent);
const byId = (id) => document.getElementById(id);

function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  set(made, attributes);
  made.append(...children.filter((child) => child !== null && child !== undefined));
  return made;
}

function shape(tag, attributes = {}, ...children) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", tag);
  set(made, attributes);
  made.append(...children);
  return made;
}

function set(node, attributes) {
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (value === true) node.setAttribute(name, "");
    else if (value !== false && value !== null && value !== undefined) node.setAttribute(name, value);
  }
}

const percent = (share) => (share === undefined || share === null ? "-" : (100 * share).toFixed(2));
const byText = new Intl.Collator(undefined, { numeric: true }).compare;
const unique = (values) => [...new Set(values)];

function runName(run) {
  const seed = run.seed === null ? "evaluation" : `seed ${run.seed}`;
  return [`${run.dataset}/${run.category}`, run.shortConfiguration, seed].filter(Boolean).join(" · ");
}

// Runs that the name does not tell apart get their folder too.
const nameCounts = new Map();
for (const run of data.runs) nameCounts.set(runName(run), (nameCounts.get(runName(run)) || 0) + 1);
function fullName(run) {
  return nameCounts.get(runName(run)) > 1 || run.seed === null ? `${runName(run)} · ${run.folder}` : runName(run);
}

function fillSelect(select, options, chosen) {
  select.replaceChildren(...options.map(([value, text]) => element("option", { value }, text)));
  if (options.some(([value]) => String(value) === String(chosen))) select.value = chosen;
}

function command(text) {
  if (!text) return element("p", { class: "quiet" }, "no command recorded");
  const code = element("code", {}, text);
  const button = element("button", { type: "button", onclick: () => copy(text, button, code) }, "Copy");
  return element("div", { class: "command" }, code, button);
}

async function copy(text, button, code) {
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    // Where a page from a file may not write to the clipboard, its text is selected and copied the old way.
    getSelection().selectAllChildren(code);
    document.execCommand("copy");
  }
  button.textContent = "Copied";
  setTimeout(() => (button.textContent = "Copy"), 1500);
}
