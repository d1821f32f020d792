"use strict";
// Names of files and of classes are untrusted: they only ever become textContent.

const by = (id) => document.getElementById(id);
const NOTHING = 65535;
let shown = null;  // {width, height, labels, classes, visible} of the picture on the page
let asking = null;  // the request under way

function element(tag, text, kind) {
  const made = document.createElement(tag);
  if (text !== undefined) made.textContent = text;
  if (kind) made.className = kind;
  return made;
}

async function segment(file) {
  asking?.abort();
  const mine = asking = new AbortController();
  by("error").hidden = true;
  by("busy").hidden = false;
  const started = performance.now();
  try {
    const response = await fetch("predict", {
      method: "POST",
      headers: { "Content-Type": "application/octet-stream", Accept: "application/json" },
      body: file,
      signal: mine.signal,
    });
    const answer = await read(response);
    const elapsed = performance.now() - started;
    if (!response.ok) throw answer;
    const picture = await decoded(file, answer.size.picture);
    if (mine !== asking) return;
    show(file, picture, answer, elapsed);
  } catch (problem) {
    if (mine === asking && problem.name !== "AbortError") complain(problem, file);
  } finally {
    if (mine === asking) by("busy").hidden = true;
  }
}

async function read(response) {
  try {
    return await response.json();
  } catch {
    return { expected: "an answer from the model", got: `${response.status} ${response.statusText}`, fix: "see the server's log" };
  }
}

/** The picture as the server saw it; null for what browsers cannot show, such as TIFF. */
async function decoded(file, [height, width]) {
  try {
    for (const imageOrientation of ["from-image", "none"]) {
      const picture = await createImageBitmap(file, { imageOrientation });
      if (picture.width === width && picture.height === height) return picture;
    }
  } catch { /* shown without it */ }
  return null;
}

function complain(problem, file) {
  const text = problem.expected
    ? [`Expected ${problem.expected}.`, `Got ${problem.got}.`, `What to do: ${problem.fix}.`]
    : [problem instanceof Error ? "The server cannot be reached." : "The server did not answer.", String(problem.message ?? problem)];
  const name = element("p");
  name.append(element("strong", file.name || "pasted picture"));
  by("error").replaceChildren(name, ...text.map((line) => element("p", line)));
  by("error").hidden = false;
}

function show(file, picture, answer, elapsed) {
  const [height, width] = answer.size.labels;
  const classes = answer.classes.map((one) => ({ ...one, color: answer.artifact.palette[one.label] })).sort((a, b) => b.share - a.share);
  const labels = new Uint16Array(width * height).fill(NOTHING);
  classes.forEach((one, index) => paintRle(one.rle, index, labels));
  // What was switched off stays off with the next picture.
  const off = new Set(shown ? shown.classes.filter((_, index) => !shown.visible[index]).map((one) => one.label) : []);
  shown = { width, height, labels, classes, visible: classes.map((one) => !off.has(one.label)) };
  for (const canvas of [by("picture"), by("mask")]) [canvas.width, canvas.height] = [width, height];
  by("layers").style.setProperty("--aspect", width / height);
  if (picture) by("picture").getContext("2d").drawImage(picture, 0, 0, width, height);
  by("drop").hidden = true;
  by("figure").hidden = by("side").hidden = false;
  document.querySelector("main").classList.add("found");
  by("name").textContent = `${file.name || "pasted picture"}, ${width} × ${height}` + (picture ? "" : " (this browser cannot show the picture itself)");
  legend();
  paint();
  timings(answer.milliseconds ?? {}, elapsed);
  about(answer);
}

function paint() {
  const { width, height, labels, classes, visible } = shown;
  const image = new ImageData(width, height);
  const pixels = new Uint32Array(image.data.buffer);
  // Little-endian: alpha, blue, green, red.
  const colors = classes.map(({ color: [red, green, blue] }, index) => visible[index] ? (255 << 24 | blue << 16 | green << 8 | red) >>> 0 : 0);
  for (let at = 0; at < labels.length; at++) if (labels[at] !== NOTHING) pixels[at] = colors[labels[at]];
  by("mask").getContext("2d").putImageData(image, 0, 0);
}

function legend() {
  by("legend").replaceChildren(...shown.classes.map((one, index) => {
    const box = element("input");
    box.type = "checkbox";
    box.checked = shown.visible[index];
    box.addEventListener("change", () => { shown.visible[index] = box.checked; paint(); });
    const swatch = element("span", undefined, "swatch");
    swatch.style.backgroundColor = `rgb(${one.color.map(Number).join(" ")})`;
    const name = element("span", one.name, "class");
    name.title = one.name;
    const label = element("label");
    label.append(box, swatch, name, element("span", share(one.share), "share"));
    const item = element("li");
    item.append(label);
    return item;
  }));
}

const share = (part) => part > 0 && part < 0.001 ? "< 0.1 %" : `${(100 * part).toFixed(1)} %`;

function switchAll(on) {
  shown.visible.fill(on);
  for (const box of by("legend").querySelectorAll("input")) box.checked = on;
  paint();
}

function timings(stages, elapsed) {
  const longest = Math.max(1e-9, ...Object.values(stages));
  const rows = Object.entries(stages).map(([stage, ms]) => row(stage, ms, ms / longest));
  const whole = row("asked to answered", elapsed);
  whole.className = "whole";
  by("timings").tBodies[0].replaceChildren(...rows, whole);
}

function row(name, ms, part) {
  const made = element("tr");
  const middle = element("td");
  if (part !== undefined) {
    const bar = element("div", undefined, "bar");
    bar.style.width = `${100 * part}%`;
    middle.append(bar);
  }
  made.append(element("td", name), middle, element("td", `${ms.toFixed(1)} ms`));
  return made;
}

function about({ artifact, size, batch }) {
  const [height, width] = size.network;
  const facts = [
    ["name", artifact.name],
    ["format", artifact.format],
    ["verdict", artifact.verdict ? artifact.verdict.verdict : "never verified"],
    ["network", `${width} × ${height}`],
    ["batch", batch],
    ["sha256", String(Object.values(artifact.files)[0] ?? "").slice(0, 12)],
  ];
  by("about").replaceChildren(...facts.flatMap(([key, value]) => [element("dt", key), element("dd", String(value))]));
  by("model").textContent = `${artifact.name}, ${artifact.format}`;
}

/** The name of the class under the pointer. */
function point(event) {
  const box = by("mask").getBoundingClientRect();
  const x = Math.floor((event.clientX - box.left) / box.width * shown.width);
  const y = Math.floor((event.clientY - box.top) / box.height * shown.height);
  const inside = x >= 0 && y >= 0 && x < shown.width && y < shown.height;
  const index = inside ? shown.labels[y * shown.width + x] : NOTHING;
  by("under").hidden = index === NOTHING;
  if (index !== NOTHING) by("under").textContent = shown.classes[index].name;
}

function opacity() {
  by("mask").style.opacity = by("opacity").value / 100;
  by("percent").textContent = `${by("opacity").value} %`;
}

for (const input of [by("file"), by("again")]) {
  input.addEventListener("change", () => {
    if (input.files[0]) segment(input.files[0]);
    input.value = "";  // the same file may be chosen again
  });
}
let depth = 0;  // of elements that something is dragged over
document.addEventListener("dragenter", () => { depth++; document.body.classList.add("over"); });
document.addEventListener("dragleave", () => { if (--depth <= 0) document.body.classList.remove("over"); });
document.addEventListener("dragover", (event) => event.preventDefault());
document.addEventListener("drop", (event) => {
  event.preventDefault();
  depth = 0;
  document.body.classList.remove("over");
  const file = event.dataTransfer.files[0];
  if (file) segment(file);
});
document.addEventListener("paste", (event) => {
  const file = event.clipboardData.files[0];
  if (file) segment(file);
});
by("all").addEventListener("click", () => switchAll(true));
by("none").addEventListener("click", () => switchAll(false));
by("opacity").addEventListener("input", opacity);
by("layers").addEventListener("pointermove", point);
by("layers").addEventListener("pointerleave", () => { by("under").hidden = true; });
opacity();
