// ---- the table: the kinds of minor figures fold ----
for (const body of document.querySelectorAll("tbody[data-fold]")) {
  const cell = body.previousElementSibling.querySelector("th");
  const button = make("button", "fold", "▸");
  button.type = "button";
  const turn = (open) => {
    body.hidden = !open;
    button.textContent = open ? "▾" : "▸";
    button.setAttribute("aria-expanded", String(open));
    button.setAttribute("aria-label", open ? "Fold the kinds" : "Show the kinds");
  };
  button.onclick = () => turn(body.hidden);
  cell.prepend(button);
  turn(false);
}

// ---- samples: one problem, the completions of the chosen stages side by side ----
const problems = JSON.parse(byId("rows").textContent);
if (problems.length) {
  const form = byId("choice"), { kind, problem } = form;
  const names = data.stages.filter((name) => problems.some((p) => Object.hasOwn(p.completions, name)));
  const off = new Set(), words = (value) => visible(plain(value));
  const right = (said) => ["correct", "right", "helpful"].includes(said.verdict);
  const option = (value, text) => Object.assign(make("option", "", text), { value });
  kind.append(option("", "all"), ...[...new Set(problems.map((p) => plain(p.kind ?? "")))].filter(Boolean).map((k) => option(k, visible(k))));
  let listed = [];
  function list() {
    listed = problems.filter((p) => !kind.value || plain(p.kind ?? "") === kind.value);
    problem.replaceChildren(...listed.map((p, i) => {
      const first = words(p.problem ?? p.id ?? "").replaceAll("\n", " ");
      return option(String(i), first.length > 110 ? first.slice(0, 109) + "…" : first);
    }));
    show();
  }
  function show() {
    const p = listed[problem.selectedIndex] || listed[0];
    byId("before").disabled = problem.selectedIndex <= 0;
    byId("next").disabled = problem.selectedIndex >= listed.length - 1;
    byId("which").replaceChildren(...names.map((name) => {
      const said = p.completions[name], chip = make("button", "chip", name);
      chip.type = "button";
      chip.setAttribute("aria-pressed", String(!off.has(name)));
      if (said?.verdict) chip.append(make("span", right(said) ? "good" : "bad", right(said) ? " ✓" : " ✗"));
      chip.onclick = () => { if (off.has(name)) off.delete(name); else off.add(name); show(); };
      return chip;
    }));
    const gold = p.gold === undefined ? [] : [make("p", "gold", "gold  ", make("code", "", words(p.gold)))];
    byId("question").replaceChildren(make("p", "over-sample", [p.kind, p.id].filter((v) => v !== undefined).map(words).join(" · ")), make("h3", "", words(p.problem ?? "")), ...gold);
    byId("answers").replaceChildren(...names.filter((name) => !off.has(name)).map((name) => {
      const said = p.completions[name], box = make("article", "answer-of");
      const verdict = said?.verdict ? make("span", right(said) ? "good" : "bad", (right(said) ? "✓ " : "✗ ") + words(said.verdict).replaceAll("_", " ")) : make("span", "", "");
      box.append(make("h4", "", "", make("span", "", name), verdict));
      if (!said) { box.append(make("p", "calm", "not sampled")); return box; }
      box.append(completion({ completion: said.text, verdict: right(said) ? "correct" : said.verdict, truncated: said.truncated }, ""));
      return box;
    }));
  }
  const move = (by) => { problem.selectedIndex = Math.max(0, Math.min(listed.length - 1, problem.selectedIndex + by)); show(); };
  kind.onchange = list;
  problem.onchange = show;
  byId("before").onclick = () => move(-1);
  byId("next").onclick = () => move(1);
  form.onsubmit = (event) => event.preventDefault();
  list();
}
