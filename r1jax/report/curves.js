// ---- curves: the pointer reads all charts with a common axis at the same step ----
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
  const plot = figure.querySelector(".plot"), { high, y, log, series, axis = 0, stages, word = "step" } = data.curves[i];
  const svg = plot.querySelector("svg");
  const at = make("span", "at");
  const marks = series.map((s) => {
    const mark = make("span", "mark");
    mark.style.setProperty("--c", `var(--${s.c})`);
    return mark;
  });
  return {
    figure, plot, svg, high, series, axis, stages, word, at, marks,
    items: [...figure.querySelectorAll(".legend li")], output: figure.querySelector("output"),
    rest: [...figure.querySelectorAll(".legend b")].map((b) => b.textContent),
    stepAt: (event) => {
      const box = svg.getBoundingClientRect(), steps = allSteps[axis];
      const step = Math.max(0, Math.min(1, (event.clientX - box.left) / box.width)) * high;
      return steps[nearest(steps, step)];
    },
    // If several stages share the axis, a position on it means a stage and a step of that stage.
    words: (x) => {
      if (!stages) return Math.floor(x).toLocaleString("en");
      const [name, from, to, steps] = stages.find((s) => x <= s[2]) || stages[stages.length - 1];
      return name + " · step " + Math.round(steps * (x - from) / (to - from)).toLocaleString("en");
    },
    top: (v) => 100 - 100 * ((log ? Math.log10(v) : v) - y[0]) / (y[1] - y[0]),
  };
});
let current = null;
function readStep(step, axis) {
  current = step;
  for (const c of charts) {
    if (step === null) {
      c.at.remove(); c.marks.forEach((m) => m.remove()); c.output.textContent = "";
      c.items.forEach((item, k) => { item.querySelector("b").textContent = c.rest[k]; item.querySelector("small").textContent = ""; });
      continue;
    }
    if (c.axis !== axis) continue;
    let said = "";
    c.series.forEach((s, k) => {
      const i = nearest(s.x, step), value = s.y[i], mark = c.marks[k];
      c.items[k].querySelector("b").textContent = number(value);
      // An evaluation is read at its own step nearest to the pointer.
      const where = k > 0 && s.x[i] !== c.series[0].x[nearest(c.series[0].x, step)] && s.w === 1 ? ["at " + c.words(s.x[i])] : [];
      c.items[k].querySelector("small").textContent = [...where, ...s.others.map((o) => number(o.y[nearest(o.x, step)]))].join(" · ");
      if (value === null || (value <= 0 && c.top(value) === Infinity)) mark.remove();
      else { mark.style.left = 100 * s.x[i] / c.high + "%"; mark.style.top = c.top(value) + "%"; c.plot.append(mark); }
      if (k === 0) said = (c.stages ? "" : c.word + " ") + c.words(s.x[i]) + (s.w > 1 ? ` ± ${s.w >> 1}` : "");
    });
    c.output.textContent = said;
    c.at.style.left = 100 * Math.min(step, c.high) / c.high + "%";
    c.plot.prepend(c.at);
  }
}
const allSteps = {};
for (const c of charts) allSteps[c.axis] = [...(allSteps[c.axis] || []), ...c.series.flatMap((s) => s.x)];
for (const axis in allSteps) allSteps[axis] = [...new Set(allSteps[axis])].sort((a, b) => a - b);
// Legends are reserved the height they have with numbers, so that reading a step moves nothing.
let measured = 0;
function reserve() {
  if (measured === innerWidth || !charts.length) return;
  measured = innerWidth;
  const captions = charts.map((c) => c.figure.querySelector("figcaption"));
  for (const caption of captions) caption.style.minHeight = "";
  for (const axis in allSteps) readStep(allSteps[axis][Math.floor(allSteps[axis].length * 0.7)], Number(axis));
  const heights = captions.map((caption) => caption.offsetHeight);
  readStep(null);
  captions.forEach((caption, i) => { caption.style.minHeight = heights[i] + "px"; });
}
reserve();
addEventListener("resize", reserve);
for (const c of charts) {
  const read = (event) => readStep(c.stepAt(event), c.axis);
  c.svg.addEventListener("pointermove", read);
  c.svg.addEventListener("pointerdown", read);
  c.svg.addEventListener("pointerleave", () => readStep(null));
  c.svg.addEventListener("blur", () => readStep(null));
  c.svg.addEventListener("keydown", (event) => {
    const move = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (!move) return;
    event.preventDefault();
    const steps = allSteps[c.axis], i = current === null ? (move > 0 ? -1 : steps.length) : nearest(steps, current);
    readStep(steps[Math.max(0, Math.min(steps.length - 1, i + move))], c.axis);
  });
}
