"use strict";

const at = (id) => document.getElementById(id);
const AT_ONCE = 4; // requests of this page
let served = { models: [], formats: { read: [], written: [] } };
let token = sessionStorage.getItem("token") || "";
let items = [];
let current = null;
let running = 0;

// The server

async function ask(path, options = {}) {
  const headers = { ...(options.headers || {}), ...(token ? { Authorization: `Bearer ${token}` } : {}) };
  const answer = await fetch(path, { ...options, headers });
  if (answer.ok) return answer;
  let sentence = `The server answered ${answer.status}.`;
  try {
    sentence = (await answer.json()).error || sentence;
  } catch {
    // not ours: a proxy's
  }
  throw Object.assign(new Error(sentence), { status: answer.status, wait: Number(answer.headers.get("Retry-After")) || 1 });
}

async function connect() {
  try {
    served = await (await ask("v1/models")).json();
  } catch (error) {
    at("key").hidden = error.status !== 401;
    at("about").textContent = error.status === 401 ? "This server asks for a token." : `No connection: ${error.message}`;
    if (error.status === 401) at("token").focus();
    return;
  }
  at("key").hidden = true;
  const link = (run) => Object.assign(document.createElement("a"), { href: `runs/${encodeURIComponent(run)}`, textContent: `Report of ${run}` });
  at("runs").replaceChildren(...served.runs.map(link));
  if (!served.models.length) {
    at("about").textContent = "Runs that are shown here:";
    return;
  }
  fill(at("model"), served.models.map((model) => model.name));
  fill(at("format"), ["as the original", ...served.formats.written]);
  at("choices").hidden = false;
  modelChosen();
}

at("key").addEventListener("submit", (event) => {
  event.preventDefault();
  token = at("token").value.trim();
  sessionStorage.setItem("token", token);
  connect();
});

// Choices

const model = () => served.models[at("model").selectedIndex];
const direction = () => model().directions[at("direction").value];

function fill(select, words) {
  select.replaceChildren(...words.map((word) => new Option(word)));
}

function offer(id, offered) {
  at(id).closest("label").hidden = !offered;
}

function modelChosen() {
  const chosen = model();
  const draws = chosen.kind === "sampler";
  fill(at("direction"), Object.keys(chosen.directions));
  fill(at("label"), draws ? ["all in turn", ...chosen.classes] : chosen.classes);
  offer("model", served.models.length > 1);
  offer("direction", Object.keys(chosen.directions).length > 1);
  offer("count", draws);
  offer("ensemble", !draws);
  at("drop").hidden = draws;
  at("draw").hidden = !draws;
  at("about").textContent = `${chosen.name}: ${chosen.method}${chosen.size ? `, trained at ${chosen.size} px` : ""}`;
  directionChosen();
}

function directionChosen() {
  const chosen = direction();
  offer("label", chosen.takes_label);
  offer("seed", chosen.takes_seed);
  offer("convert", chosen.input && [1, 3].includes(chosen.input.channels));
}

at("model").addEventListener("change", modelChosen);
at("direction").addEventListener("change", directionChosen);

function asked() {
  const values = { model: model().name };
  const draws = model().kind === "sampler";
  if (!draws) values.direction = at("direction").value;
  if (direction().takes_label && !(draws && at("label").selectedIndex === 0)) values.label = at("label").value;
  if (direction().takes_seed) values.seed = at("seed").value || "0";
  if (at("format").selectedIndex > 0) values.format = at("format").value;
  if (!draws && at("ensemble").checked) values.ensemble = "true";
  if (!draws && direction().input.channels !== 2 && at("convert").checked) values.channels = "convert";
  return values;
}

// Files

const isImage = (name) => served.formats.read.includes(name.split(".").pop().toLowerCase());

function add(files, fromFolder) {
  const values = asked();
  for (const { file, path } of files) {
    if (fromFolder && !isImage(path)) continue;
    addItem({ path, file, values, state: "waiting", sentence: "" });
  }
  work();
}

function addItem(item) {
  const row = at("row").content.firstElementChild.cloneNode(true);
  item.row = row;
  row.querySelector(".name").textContent = item.path;
  row.querySelector(".open").addEventListener("click", () => openItem(item));
  row.querySelector(".again").addEventListener("click", () => {
    item.values = asked();
    item.state = "waiting";
    work();
  });
  items.push(item);
  at("list").append(row);
  render(item);
}

const plain = (list) => [...list].map((file) => ({ file, path: file.webkitRelativePath || file.name }));

for (const [button, input] of [["pick", "files"], ["pick-folder", "folder"], ["shoot", "camera"]]) {
  at(button).addEventListener("click", () => at(input).click());
  at(input).addEventListener("change", () => {
    add(plain(at(input).files), input === "folder");
    at(input).value = "";
  });
}

async function inside(entry) {
  if (entry.isFile) {
    const file = await new Promise((good, bad) => entry.file(good, bad));
    return [{ file, path: entry.fullPath.replace(/^\//, "") }];
  }
  const reader = entry.createReader();
  const found = [];
  for (;;) {
    const some = await new Promise((good, bad) => reader.readEntries(good, bad)); // a hundred at a time
    if (!some.length) break;
    for (const inner of some.sort((a, b) => a.name.localeCompare(b.name))) found.push(...(await inside(inner)));
  }
  return found;
}

for (const kind of ["dragenter", "dragover"])
  document.addEventListener(kind, (event) => {
    event.preventDefault();
    at("drop").classList.add("over");
  });
document.addEventListener("dragleave", (event) => {
  if (!event.relatedTarget) at("drop").classList.remove("over");
});
document.addEventListener("drop", async (event) => {
  event.preventDefault();
  at("drop").classList.remove("over");
  if (at("drop").hidden) return;
  const entries = [...event.dataTransfer.items].map((item) => item.webkitGetAsEntry && item.webkitGetAsEntry()).filter(Boolean);
  if (!entries.length) return add(plain(event.dataTransfer.files), false);
  for (const entry of entries) add(await inside(entry), entry.isDirectory);
});

// Work

function work() {
  for (const item of items) {
    if (running >= AT_ONCE) break;
    if (item.state === "waiting") compute(item);
  }
  progress();
}

async function compute(item) {
  running++;
  item.state = "working";
  item.sentence = "";
  item.stop = new AbortController();
  render(item);
  try {
    for (;;) {
      try {
        const answer = await request(item);
        item.result = await answer.blob();
        item.resultName = nameOf(answer, item);
        item.sentence = remarks(answer);
        item.state = "done";
        break;
      } catch (error) {
        if (error.status !== 429) throw error;
        await new Promise((good) => setTimeout(good, 1000 * error.wait * (0.5 + Math.random())));
        if (item.stop.signal.aborted) throw new DOMException("", "AbortError");
      }
    }
    if (!current) openItem(item, false);
  } catch (error) {
    item.state = error.name === "AbortError" ? "stopped" : "failed";
    item.sentence = error.name === "AbortError" ? "Stopped." : error.message;
    if (error.status === 401) at("key").hidden = false;
  }
  running--;
  item.thumbnail = item.state === "done" ? await thumbnail(item) : "";
  render(item);
  if (current === item) openItem(item, false);
  work();
}

function request(item) {
  const options = { method: "POST", signal: item.stop.signal };
  if (!item.file) return ask(`v1/sample?${new URLSearchParams(item.values)}`, options);
  const form = new FormData();
  for (const [name, value] of Object.entries(item.values)) form.append(name, value);
  form.append("file", item.file, item.file.name);
  return ask("v1/translate", { ...options, body: form });
}

/** The path of a result: that of its file, with the suffix that the server gave it. */
function nameOf(answer, { path, file }) {
  const words = answer.headers.get("Content-Disposition") || "";
  const coded = /filename\*=utf-8''([^;]+)/i.exec(words);
  const name = coded ? decodeURIComponent(coded[1]) : (/filename="([^"]*)"/.exec(words) || [])[1] || path;
  return file ? path.slice(0, path.lastIndexOf("/") + 1) + name : path + name.slice(name.lastIndexOf("."));
}

function remarks(answer) {
  const outside = Number(answer.headers.get("Img2img-Outside"));
  const notes = JSON.parse(answer.headers.get("Img2img-Notes") || "[]");
  if (outside) notes.push(`${(100 * outside).toPrecision(2)} % of its values are outside the range of the training data.`);
  return notes.join(" ");
}

async function thumbnail(item) {
  const kept = item.contrast;
  try {
    return (await picture(item.result, item.resultName, {}, kept)).url;
  } catch {
    return "";
  }
}

function render(item) {
  const words = { waiting: "waiting", working: "working…", done: item.sentence, failed: item.sentence, stopped: item.sentence };
  const row = item.row;
  row.className = item.state + (item === current ? " chosen" : "");
  row.querySelector(".what").textContent = words[item.state];
  row.querySelector(".open").disabled = item.state !== "done";
  row.querySelector(".again").hidden = !["failed", "stopped"].includes(item.state);
  const image = row.querySelector("img");
  if (item.thumbnail) image.src = item.thumbnail;
  const link = row.querySelector(".get");
  link.hidden = item.state !== "done";
  if (item.state === "done" && link.dataset.of !== item.resultName) {
    link.href = URL.createObjectURL(item.result);
    link.download = item.resultName.split("/").pop();
    link.dataset.of = item.resultName;
    link.setAttribute("aria-label", `Download ${item.resultName}`);
  }
}

function progress() {
  const count = (state) => items.filter((item) => item.state === state).length;
  const [done, failed, stopped] = ["done", "failed", "stopped"].map(count);
  const over = done + failed + stopped;
  at("state").hidden = !items.length;
  const parts = [`${done} of ${items.length} done`];
  if (failed) parts.push(`${failed} failed`);
  if (stopped) parts.push(`${stopped} stopped`);
  at("progress").textContent = parts.join(", ");
  at("bar").max = items.length || 1;
  at("bar").value = over;
  at("stop").hidden = over === items.length;
  at("save").hidden = !done;
  at("clear").hidden = over !== items.length;
}

at("go").addEventListener("click", () => {
  const values = asked();
  const n = Math.max(1, Math.min(64, Number(at("count").value) || 1));
  const first = Number(values.seed);
  for (let k = 0; k < n; k++) {
    const seed = String(first + k);
    addItem({ path: `${values.model}_${values.label ? `${values.label}_` : ""}seed_${seed}`, values: { ...values, n: "1", batch_size: "1", seed }, state: "waiting", sentence: "" });
  }
  work();
});

at("stop").addEventListener("click", () => {
  for (const item of items) {
    if (item.state === "working") item.stop.abort();
    if (item.state === "waiting") Object.assign(item, { state: "stopped", sentence: "Stopped." });
    render(item);
  }
  progress();
});

at("clear").addEventListener("click", () => {
  for (const item of items) {
    for (const url of [item.thumbnail, item.row.querySelector(".get").href]) if (url) URL.revokeObjectURL(url);
  }
  items = [];
  current = null;
  at("list").replaceChildren();
  at("view").hidden = true;
  progress();
});

at("save").addEventListener("click", async () => {
  const done = items.filter((item) => item.state === "done");
  const names = new Set();
  const unique = (name) => {
    const dot = name.lastIndexOf(".");
    let free = name;
    for (let k = 2; names.has(free); k++) free = `${name.slice(0, dot)} (${k})${name.slice(dot)}`;
    names.add(free);
    return free;
  };
  try {
    const archive = await zipped(done.map((item) => ({ name: unique(item.resultName), blob: item.result })));
    const link = Object.assign(document.createElement("a"), { href: URL.createObjectURL(archive), download: "results.zip" });
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 60000);
  } catch (error) {
    at("progress").textContent = error.message;
  }
});

connect();
