"use strict";

const SHOWN_BY_BROWSERS = ["png", "jpg", "jpeg", "jpe", "jfif", "webp", "bmp"];

// Before and after

/** Whether browsers show a file as it is: 8 bits, in a format they know. */
async function isPlain(blob, name) {
  if (!SHOWN_BY_BROWSERS.includes(name.split(".").pop().toLowerCase())) return false;
  const start = new Uint8Array(await blob.slice(0, 25).arrayBuffer());
  return !(start[0] === 0x89 && start[24] === 16);
}

async function picture(blob, name, look, contrast) {
  if (await isPlain(blob, name)) return { url: URL.createObjectURL(blob) };
  const query = { name: name.split("/").pop(), ...look };
  if (contrast && !look.low) query.low = contrast.low.join(",");
  if (contrast && !look.high) query.high = contrast.high.join(",");
  const answer = await ask(`v1/preview?${new URLSearchParams(query)}`, { method: "POST", body: blob });
  const facts = JSON.parse(answer.headers.get("Img2img-Image"));
  return { url: URL.createObjectURL(await answer.blob()), facts };
}

function look() {
  const values = {};
  for (const name of ["page", "show", "low", "high"]) {
    const text = at(name).value.trim();
    if (text && !(name === "page" && text === "0")) values[name] = text;
  }
  return values;
}

let turn = 0;

async function openItem(item, scroll = true) {
  const mine = ++turn;
  const before = current;
  current = item;
  if (before) render(before);
  render(item);
  at("view").hidden = false;
  at("view-name").textContent = item.path;
  if (before !== item) for (const name of ["show", "low", "high"]) at(name).value = "";
  if (before !== item) at("page").value = "0";
  let facts = null;
  try {
    let contrast = null;
    if (item.file) {
      const shown = await picture(item.file, item.file.name, look());
      if (mine !== turn) return;
      facts = shown.facts;
      if (facts && item.values.format === undefined) contrast = facts;
      show(at("before"), shown.url);
    }
    at("before").hidden = at("edge").hidden = at("slider").closest("label").hidden = !item.file;
    const shown = await picture(item.result, item.resultName, look(), contrast);
    if (mine !== turn) return;
    facts = facts || shown.facts;
    item.contrast = contrast;
    show(at("after"), shown.url);
    at("facts").textContent = facts ? inWords(facts) : "";
  } catch (error) {
    at("facts").textContent = error.message;
  }
  at("look").hidden = !facts && !Object.keys(look()).length;
  if (facts) at("page").closest("label").hidden = facts.pages === 1;
  if (facts) at("show").closest("label").hidden = facts.channels === 1;
  if (scroll) at("view").scrollIntoView({ block: "nearest" });
}

function inWords(facts) {
  const short = (numbers) => numbers.map((x) => Number(x.toPrecision(4))).join(", ");
  const pages = facts.pages > 1 ? `, page ${facts.page} of 0 to ${facts.pages - 1}` : "";
  return `${facts.width} × ${facts.height} px, ${facts.dtype}, ${facts.channels} channels${pages}. Shown: channels ${facts.show.join(", ")}, black ${short(facts.low)}, white ${short(facts.high)}. The files keep their numbers.`;
}

function show(image, url) {
  const former = image.src;
  image.onload = () => image.classList.toggle("small", image.naturalWidth < 256);
  image.src = url;
  if (former.startsWith("blob:") && !items.some((item) => item.thumbnail === former)) URL.revokeObjectURL(former);
}

for (const name of ["page", "show", "low", "high"]) at(name).addEventListener("change", () => current && openItem(current, false));
at("auto").addEventListener("click", () => {
  at("low").value = at("high").value = "";
  if (current) openItem(current, false);
});

const slide = () => at("stage").style.setProperty("--share", `${at("slider").value}%`);
at("slider").addEventListener("input", slide);
function drag(event) {
  const box = at("after").getBoundingClientRect();
  at("slider").value = Math.round((100 * (event.clientX - box.left)) / box.width);
  slide();
}
at("stage").addEventListener("pointerdown", (event) => {
  if (at("before").hidden) return;
  event.preventDefault();
  at("stage").setPointerCapture(event.pointerId);
  drag(event);
  at("stage").onpointermove = drag;
});
for (const kind of ["pointerup", "pointercancel"]) at("stage").addEventListener(kind, () => (at("stage").onpointermove = null));
