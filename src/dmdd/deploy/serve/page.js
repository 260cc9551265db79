// The drop field: sends each file to the server by itself and tells the page which keys came back.
const input = element.querySelector("input");
const zone = element.querySelector(".dmdd-drop");
const status = element.querySelector(".dmdd-status");
const room = Number(zone.dataset.room);
let waiting = [];
let sent = 0;
let running = false;
let problems = [];

function tell() {
  const total = sent + waiting.length;
  const progress = running ? `Inspecting ${Math.min(sent + 1, total)} of ${total} ...` : "";
  status.replaceChildren();
  for (const text of [progress, ...problems]) {
    if (!text) continue;
    const line = document.createElement("div");
    line.textContent = text; // never HTML: file names come from outside
    if (text !== progress) line.className = "problem";
    status.append(line);
  }
}

async function send(file) {
  const query = new URLSearchParams({ name: file.name });
  const headers = { "Content-Type": "application/octet-stream" };
  for (let attempt = 0; ; attempt++) {
    const answer = await fetch(`/findings?${query}`, { method: "POST", body: file, headers });
    const body = await answer.json();
    if (answer.ok) return body.key;
    if (answer.status !== 503 || attempt === 4) throw new Error(body.error);
    await new Promise((wake) => setTimeout(wake, 1000 * Number(answer.headers.get("Retry-After") || 1)));
  }
}

async function work() {
  running = true;
  while (waiting.length) {
    tell();
    const file = waiting.shift();
    try {
      trigger("submit", { key: await send(file) });
    } catch (error) {
      problems.push(`${file.name}: ${error instanceof TypeError ? "the server did not answer" : error.message}`);
    }
    sent += 1;
  }
  running = false;
  sent = 0;
  tell();
}

function take(files) {
  if (!running) problems = [];
  const taken = Array.from(files).slice(0, Math.max(0, room - waiting.length));
  if (taken.length < files.length) problems.push(`only ${room} images at a time; the rest was left out`);
  waiting.push(...taken);
  if (!running) work();
}

input.addEventListener("change", () => { take(input.files); input.value = ""; });
for (const name of ["dragenter", "dragover"])
  zone.addEventListener(name, (event) => { event.preventDefault(); zone.classList.add("over"); });
for (const name of ["dragleave", "drop"])
  zone.addEventListener(name, (event) => { event.preventDefault(); zone.classList.remove("over"); });
zone.addEventListener("drop", (event) => take(event.dataTransfer.files));
