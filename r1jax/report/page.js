// ---- samples ----
const rows = JSON.parse(byId("rows").textContent);
const filters = byId("filters"), list = byId("list"), PAGE = 100;
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
  if (row.why) figure("how it was read", row.why);
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
  // A double click on a curve shows the samples of the nearest step.
  for (const c of charts) c.svg.addEventListener("dblclick", (event) => {
    const steps = distinct("step");
    filters.reset();
    filters.step.value = String(steps[nearest(steps, c.stepAt(event))]);
    apply();
    byId("samples").scrollIntoView();
  });
  // A filtered view can be linked to: report.html#samples?kind=chain&verdict=right
  if (location.hash.startsWith("#samples?")) {
    for (const [name, value] of new URLSearchParams(location.hash.slice(9))) if (fields.includes(name)) filters[name].value = value;
    byId("samples").scrollIntoView();
  }
  apply();
  ready = true;
}
