
"use strict";
const byId = (id) => document.getElementById(id);
const data = JSON.parse(byId("data").textContent);

// Makes an element with text, never markup: what a model wrote stays text.
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

// ---- what models wrote ----
const isRight = (row) => row.verdict ? row.verdict === "correct" : (row.reward || {}).accuracy >= 1;
const plain = (value) => typeof value === "string" ? value : JSON.stringify(value);
// Control characters and direction marks are shown, not obeyed.
const visible = (text) => text.replace(/[\u0000-\u0008\u000b-\u001f]/g, (c) => String.fromCharCode(0x2400 + c.charCodeAt(0)))
  .replace(/[\u007f-\u009f\u200e\u200f\u202a-\u202e\u2066-\u2069]/g, (c) => "‹U+" + c.charCodeAt(0).toString(16).toUpperCase().padStart(4, "0") + "›");
// As evaluation.completions.reflective_words: whole words in English, anywhere in Chinese.
const [english, chinese] = data.words, letter = "[\\p{L}\\p{N}_]", han = "\\u3400-\\u9fff";
const reflective = new RegExp(
  `(?<!(?![${han}])${letter})(?:${english.join("|")})(?!(?![${han}])${letter})|${chinese.join("|")}`, "giu");

function marked(element, text, needle) {
  const hits = [];
  for (const hit of text.matchAll(reflective)) hits.push([hit.index, hit.index + hit[0].length, ""]);
  if (needle) {
    const lower = text.toLowerCase();
    // toLowerCase may change a text's length; the marks would then be misplaced, so none are drawn.
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
    } else if (part === "think") box.append(marked(make("span", part), piece, needle));
    else for (const text of piece.split(/(\\boxed\{(?:[^{}]|\{[^{}]*\})*\})/)) {
      const name = !part && text.startsWith("\\boxed{") ? (isRight(row) ? "answer" : "bad-answer") : part;
      if (text) box.append(marked(make("span", name), text, needle));
    }
  }
  box.append(make("span", "end", row.truncated ? " ✂ cut at the token limit" : " ■"));
  return box;
}
