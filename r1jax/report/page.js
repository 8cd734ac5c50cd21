
"use strict";
const byId = (id) => document.getElementById(id);
const data = JSON.parse(byId("data").textContent);
const rows = JSON.parse(byId("rows").textContent);

// An element with text, never markup: what a model wrote stays text.
function make(tag, className, text, ...children) {
  const element = document.createElement(tag);
  if (className) element.className = className;
  if (text !== undefined && text !== null) element.textContent = text;
  element.append(...children);
  return element;
}

// ---- colours: as the system has them, light, dark ----
const themes = [["", "◐", "as the system has them"], ["light", "○", "light"], ["dark", "●", "dark"]];
function setTheme(name) {
  const [value, sign, words] = themes.find((t) => t[0] === name) || themes[0];
  if (value) document.documentElement.dataset.theme = value; else delete document.documentElement.dataset.theme;
  byId("theme").textContent = sign;
  byId("theme").setAttribute("aria-label", "Colours: " + words);
  byId("theme").title = "Colours: " + words;
  try { localStorage.setItem("r1jax-theme", value); } catch { /* a file may have no storage */ }
}
byId("theme").onclick = () => {
  const at = themes.findIndex((t) => t[0] === (document.documentElement.dataset.theme || ""));
  setTheme(themes[(at + 1) % themes.length][0]);
};
let remembered = "";
try { remembered = localStorage.getItem("r1jax-theme") || ""; } catch { /* as above */ }
setTheme(remembered);

// ---- curves: one pointer reads all charts at the same step ----
function number(value) {
  if (value === null || value === undefined) return "–";
  const size = Math.abs(value);
  if (size === 0) return "0";
  if (size < 0.001 || size >= 1e7) return value.toExponential(1).replace("e+", "e");
  if (size >= 1000) return value.toLocaleString("en", { maximumFractionDigits: 0 });
  if (Number.isInteger(value)) return String(value);
  return value.toFixed(size >= 100 ? 0 : size >= 10 ? 1 : size >= 1 ? 2 : 3);
}
function nearest(steps, step) {
  let low = 0, high = steps.length - 1;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (steps[middle] < step) low = middle + 1; else high = middle;
  }
  return low > 0 && step - steps[low - 1] <= steps[low] - step ? low - 1 : low;
}
const charts = [...document.querySelectorAll(".chart")].map((figure, i) => {
  const plot = figure.querySelector(".plot"), { high, y, log, series } = data.curves[i];
  const at = make("span", "at");
  const marks = series.map((s) => {
    const mark = make("span", "mark");
    mark.style.setProperty("--c", `var(--${s.c})`);
    return mark;
  });
  return {
    figure, plot, high, series, at, marks,
    items: [...figure.querySelectorAll(".legend li")], output: figure.querySelector("output"),
    rest: [...figure.querySelectorAll(".legend b")].map((b) => b.textContent),
    top: (v) => 100 - 100 * ((log ? Math.log10(v) : v) - y[0]) / (y[1] - y[0]),
  };
});
let current = null;
function readStep(step) {
  current = step;
  for (const c of charts) {
    if (step === null) {
      c.at.remove(); c.marks.forEach((m) => m.remove()); c.output.textContent = "";
      c.items.forEach((item, k) => { item.querySelector("b").textContent = c.rest[k]; item.querySelector("small").textContent = ""; });
      continue;
    }
    let said = "";
    c.series.forEach((s, k) => {
      const i = nearest(s.x, step), value = s.y[i], mark = c.marks[k];
      c.items[k].querySelector("b").textContent = number(value);
      // An evaluation is read at its own step, the nearest one.
      const where = k > 0 && s.x[i] !== c.series[0].x[nearest(c.series[0].x, step)] && s.w === 1 ? ["at " + s.x[i].toLocaleString("en")] : [];
      c.items[k].querySelector("small").textContent = [...where, ...s.others.map((o) => number(o.y[nearest(o.x, step)]))].join(" · ");
      if (value === null || (value <= 0 && c.top(value) === Infinity)) mark.remove();
      else { mark.style.left = 100 * s.x[i] / c.high + "%"; mark.style.top = c.top(value) + "%"; c.plot.append(mark); }
      if (k === 0) said = "step " + Math.floor(s.x[i]).toLocaleString("en") + (s.w > 1 ? ` ± ${s.w >> 1}` : "");
    });
    c.output.textContent = said;
    c.at.style.left = 100 * Math.min(step, c.high) / c.high + "%";
    c.plot.prepend(c.at);
  }
}
const allSteps = [...new Set(charts.flatMap((c) => c.series.flatMap((s) => s.x)))].sort((a, b) => a - b);
// Legends are as tall as they get with numbers in, so that reading a step moves nothing.
let measured = 0;
function reserve() {
  if (measured === innerWidth || !allSteps.length) return;
  measured = innerWidth;
  const captions = charts.map((c) => c.figure.querySelector("figcaption"));
  for (const caption of captions) caption.style.minHeight = "";
  readStep(allSteps[Math.floor(allSteps.length * 0.7)]);
  const heights = captions.map((caption) => caption.offsetHeight);
  readStep(null);
  captions.forEach((caption, i) => { caption.style.minHeight = heights[i] + "px"; });
}
reserve();
addEventListener("resize", reserve);
for (const c of charts) {
  const svg = c.plot.querySelector("svg");
  const stepAt = (event) => {
    const box = svg.getBoundingClientRect();
    const step = Math.max(0, Math.min(1, (event.clientX - box.left) / box.width)) * c.high;
    return allSteps[nearest(allSteps, step)];
  };
  svg.addEventListener("pointermove", (event) => readStep(stepAt(event)));
  svg.addEventListener("pointerdown", (event) => readStep(stepAt(event)));
  svg.addEventListener("pointerleave", () => readStep(null));
  svg.addEventListener("blur", () => readStep(null));
  svg.addEventListener("keydown", (event) => {
    const move = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (!move) return;
    event.preventDefault();
    const i = current === null ? (move > 0 ? -1 : allSteps.length) : nearest(allSteps, current);
    readStep(allSteps[Math.max(0, Math.min(allSteps.length - 1, i + move))]);
  });
  svg.addEventListener("dblclick", (event) => {
    if (!rows.length) return;
    const steps = distinct("step");
    filters.reset();
    filters.step.value = String(steps[nearest(steps, stepAt(event))]);
    apply();
    byId("samples").scrollIntoView();
  });
}

// ---- samples ----
const filters = byId("filters"), list = byId("list"), PAGE = 100;
const isRight = (row) => row.verdict ? row.verdict === "correct" : (row.reward || {}).accuracy >= 1;
const plain = (value) => typeof value === "string" ? value : JSON.stringify(value);
const compare = (a, b) => typeof a === "number" && typeof b === "number" ? a - b : String(a) < String(b) ? -1 : 1;
function distinct(key) {
  return [...new Set(rows.map((row) => row[key]).filter((v) => v !== undefined && v !== null))].sort(compare);
}
function fill(name, choices) {
  for (const [value, words] of choices) {
    const option = make("option", "", words);
    option.value = value;
    filters[name].append(option);
  }
}
for (const name of ["step", "kind", "language"]) {
  fill(name, [["", "all"], ...distinct(name).map((v) => [String(v), String(v)])]);
}
const verdicts = distinct("verdict").filter((v) => v !== "correct").map((v) => ["=" + v, "– " + v.replaceAll("_", " ")]);
fill("verdict", [["", "all"], ["right", "right"], ["other", "not right"], ...(verdicts.length > 1 ? verdicts : [])]);

// Control characters and direction marks are shown, not obeyed.
const visible = (text) => text.replace(/[\u0000-\u0008\u000b-\u001f]/g, (c) => String.fromCharCode(0x2400 + c.charCodeAt(0)))
  .replace(/[\u007f-\u009f\u200e\u200f\u202a-\u202e\u2066-\u2069]/g, (c) => "‹U+" + c.charCodeAt(0).toString(16).toUpperCase().padStart(4, "0") + "›");
// As behaviour.reflective_words: whole words in English, anywhere in Chinese.
const [english, chinese] = data.words, letter = "[\\p{L}\\p{N}_]", han = "\\u3400-\\u9fff";
const reflective = new RegExp(
  `(?<!(?![${han}])${letter})(?:${english.join("|")})(?!(?![${han}])${letter})|${chinese.join("|")}`, "giu");

function marked(element, text, needle) {
  const hits = [];
  for (const hit of text.matchAll(reflective)) hits.push([hit.index, hit.index + hit[0].length, ""]);
  if (needle) {
    const lower = text.toLowerCase();
    // toLowerCase may change the length of rare letters; then the marks would be off, so there are none.
    for (let i = lower.length === text.length ? lower.indexOf(needle) : -1; i >= 0; i = lower.indexOf(needle, i + needle.length)) hits.push([i, i + needle.length, "hit"]);
  }
  hits.sort((a, b) => a[0] - b[0]);
  let end = 0;
  for (const [from, to, name] of hits) {
    if (from < end) continue;
    element.append(visible(text.slice(end, from)), make("mark", name, visible(text.slice(from, to))));
    end = to;
  }
  element.append(visible(text.slice(end)));
  return element;
}
function completion(row, needle) {
  const box = make("div", "text");
  let part = "";
  for (const piece of plain(row.completion ?? "").split(/(<\/?(?:think|answer)>)/)) {
    const tag = /^<(\/?)(think|answer)>$/.exec(piece);
    if (tag) {
      box.append(make("span", "tag", piece));
      part = tag[1] ? "" : tag[2] === "answer" && !isRight(row) ? "bad-answer" : tag[2];
    } else if (piece) box.append(marked(make("span", part), piece, needle));
  }
  box.append(make("span", "end", row.truncated ? " ✂ cut at the token limit" : " ■"));
  return box;
}
let shown = [], chosen = null;
function show(row) {
  chosen = row;
  for (const item of list.querySelectorAll(".item")) item.setAttribute("aria-selected", String(item.row === row));
  const box = byId("sample");
  box.replaceChildren();
  if (!row) { box.append(make("p", "calm", "No sample passes these filters.")); return; }
  const needle = filters.text.value.trim().toLowerCase();
  const same = make("button", "same", "this question at all steps");
  same.type = "button";
  same.onclick = () => { filters.reset(); filters.text.value = "id:" + row.id; apply(); };
  box.append(make("div", "over-sample", "",
    make("span", "", ["step " + row.step, row.kind, row.language, row.id].filter((v) => v !== undefined).map((v) => visible(plain(v))).join(" · ")),
    ...(row.id === undefined ? [] : [same])));
  box.append(make("h3", "", visible(plain(row.problem ?? ""))));
  const figures = make("dl", "figures");
  const figure = (name, value, className) => figures.append(make("div", "", null, make("dt", "", name), make("dd", className || "", visible(plain(value)))));
  figure("verdict", (row.verdict ?? (isRight(row) ? "right" : "not right")).replaceAll("_", " "), isRight(row) ? "good" : "bad");
  if (row.gold !== undefined) figure("gold", row.gold);
  for (const [name, value] of Object.entries(row.reward || {})) figure("reward: " + name, value === null ? "–" : number(value));
  if (typeof row.advantage === "number") figure("advantage", (row.advantage > 0 ? "+" : "") + number(row.advantage));
  if (row.length !== undefined) figure("tokens", row.length);
  if (row.words !== undefined) figure("reflective words", row.words);
  if (row.key) figure("key (seed, round, prompt, sample)", Array.isArray(row.key) ? row.key.map(plain).join(", ") : row.key);
  box.append(figures, completion(row, needle.startsWith("id:") ? "" : needle));
}
function item(row) {
  const right = isRight(row), element = make("div", "item");
  element.row = row;
  element.setAttribute("role", "option");
  element.setAttribute("aria-selected", "false");
  element.append(
    make("p", "", null, make("span", right ? "good" : "bad", right ? "✓" : "✗"), make("span", "", "step " + row.step),
      make("span", "", visible(plain(row.kind ?? ""))), make("span", "", visible(plain(row.language ?? ""))),
      make("span", "", row.length === undefined ? "" : row.length + " tokens" + (row.truncated ? " ✂" : ""))),
    make("p", "", visible(plain(row.problem ?? "")).slice(0, 160)));
  element.onclick = () => show(row);
  return element;
}
function extend() {
  const from = list.querySelectorAll(".item").length;
  list.querySelector(".more")?.remove();
  list.append(...shown.slice(from, from + PAGE).map(item));
  const left = shown.length - from - PAGE;
  if (left > 0) {
    const more = make("button", "more", `${left.toLocaleString("en")} more`);
    more.type = "button";
    more.onclick = extend;
    list.append(more);
  }
}
function passes(row) {
  for (const name of ["step", "kind", "language"]) {
    if (filters[name].value && String(row[name]) !== filters[name].value) return false;
  }
  const verdict = filters.verdict.value;
  if (verdict === "right" && !isRight(row)) return false;
  if (verdict === "other" && isRight(row)) return false;
  if (verdict.startsWith("=") && row.verdict !== verdict.slice(1)) return false;
  const needle = filters.text.value.trim().toLowerCase();
  if (needle.startsWith("id:")) return String(row.id).toLowerCase() === needle.slice(3);
  return !needle || [row.problem, row.completion, row.id].some((text) => text !== undefined && plain(text).toLowerCase().includes(needle));
}
const fields = ["step", "kind", "verdict", "language", "order", "text"];
function apply() {
  shown = rows.filter(passes);
  const order = filters.order.value;
  if (order) shown.sort((a, b) => (b[order] ?? -Infinity) - (a[order] ?? -Infinity));
  byId("count").textContent = `${shown.length.toLocaleString("en")} of ${rows.length.toLocaleString("en")} shown`;
  list.replaceChildren();
  list.scrollTop = 0;
  extend();
  show(shown.includes(chosen) ? chosen : shown[0] || null);
  const state = new URLSearchParams(fields.map((name) => [name, filters[name].value]).filter(([, value]) => value));
  try { if (ready) history.replaceState(null, "", state.size ? "#samples?" + state : location.pathname + location.search); } catch { /* opened from a place without history */ }
}
let ready = false;
if (rows.length) {
  filters.addEventListener("input", apply);
  filters.addEventListener("reset", () => setTimeout(apply));
  filters.addEventListener("submit", (event) => event.preventDefault());
  list.addEventListener("keydown", (event) => {
    const move = { ArrowDown: 1, ArrowUp: -1, j: 1, k: -1 }[event.key];
    if (!move) return;
    event.preventDefault();
    const i = Math.max(0, Math.min(shown.length - 1, shown.indexOf(chosen) + move));
    while (list.querySelectorAll(".item").length <= i) extend();
    show(shown[i]);
    list.querySelectorAll(".item")[i].scrollIntoView({ block: "nearest" });
  });
  // A filtered view can be linked to: report.html#samples?kind=chain&verdict=right
  if (location.hash.startsWith("#samples?")) {
    for (const [name, value] of new URLSearchParams(location.hash.slice(9))) if (fields.includes(name)) filters[name].value = value;
    byId("samples").scrollIntoView();
  }
  apply();
  ready = true;
}
