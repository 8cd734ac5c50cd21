"""Rewriting sampled records into R1's form by a model: a chain of thought in one language, then a readable solution.

An edit may delete and translate. That it does not reason is checked: every computation of the new text stands in the
old one.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from r1jax.nano import rewriting
from r1jax.prompts import NANO_SUMMARY, NANO_TRANSLATE, REFERENCE_JUDGE, SUMMARY, TRANSLATE, fill_in
from r1jax.rewards import rule
from r1jax.rewards.format import TAGS, think
from r1jax.rewards.isolate import Pool
from r1jax.rewards.language import consistency
from r1jax.writer import Writer

# Bounded and tied to the beginning of words, so that a text is read in linear time whatever it holds
_CALL = r"(?<!\w)\w{0,40}+[(\[][^()\[\]=<>]{0,80}+[)\]]"
_DIGITS = r"\d{1,40}+"
_OPERAND = rf"(?:{_CALL}|{_DIGITS}(?:\.{_DIGITS})?+)"
_NUMBER = rf"\s{{0,3}}+-?{_DIGITS}(?:[./]{_DIGITS})?+"
_COMPUTATION = re.compile(
    rf"(?:{_OPERAND}\s{{0,3}}+[-+*/^]\s{{0,3}}+){{1,12}}+{_OPERAND}\s{{0,3}}+[=<>]{_NUMBER}"
    rf"|{_CALL}\s{{0,3}}+={_NUMBER}|{_DIGITS}\s{{0,3}}+[<>]{_NUMBER}"
)
_LATEX = (
    ("\\times", "*"),
    ("\\cdot", "*"),
    ("\\div", "/"),
    ("×", "*"),
    ("·", "*"),
    ("÷", "/"),
    ("−", "-"),
    ("\\left", ""),
    ("\\right", ""),
)
ANNOTATOR = "annotator"


class Prompts(NamedTuple):
    """What the model is asked, with {question} and {thought} to be put in."""

    translate: str
    solution: str


NANO = Prompts(NANO_TRANSLATE, NANO_SUMMARY)
PAPER = Prompts(TRANSLATE, SUMMARY)


class Annotator(NamedTuple):
    """Who edits where the model fails: on nano the generator, in place of the paper's people."""

    thought: Callable[[Mapping, str], str]
    solution: Callable[[Mapping, str], str]


def computations(text: str) -> set[str]:
    """The steps x∘y=z and comparisons of a text, without white space and in plain operators."""
    for written, plain in _LATEX:
        text = text.replace(written, plain)
    return {re.sub(r"\s", "", found) for found in _COMPUTATION.findall(text)}


def adds_nothing(raw: str, edited: str) -> bool:
    """Whether every computation of an edited text stands in the raw one."""
    return computations(edited) <= computations(raw)


def keeps_work(raw: str, edited: str) -> bool:
    """Whether an edited text has half of the computations of the raw one, or more."""
    return 2 * len(computations(edited)) >= len(computations(raw))


def fault_of_thought(raw: str, edited: str, language: str | None) -> str:
    """Why a rewritten chain of thought cannot stand for the raw one; empty if it can."""
    if not edited.strip() or any(tag in edited for tag in TAGS):
        return "nothing rewritten"
    if not adds_nothing(raw, edited):
        return "rewriting added a step"
    if not keeps_work(raw, edited):
        return "rewriting lost the work"
    return "rewriting mixed languages" if language and mixed(edited, language) else ""


def mixed(thought: str, language: str) -> bool:
    share = consistency(thought, language)
    return share is not None and share < 1.0


def rewritten(
    records: Sequence[dict],
    writer: Writer,
    prompts: Prompts,
    pool: Pool,
    home: Path,
    *,
    annotator: Annotator | None = None,
    fits: Callable[[str], bool] = lambda prompt: True,
) -> list[dict]:
    """The kept records in R1's form and in one language; those that no edit could mend are dropped with a reason.

    A chain of thought that mixes languages is translated; then a solution is written for each. Where the model's edit
    adds a step, loses the work or the right answer, the annotator's is taken; without one the record is dropped. A
    record gains `rewritten_by` (such as "base+annotator") and `edits`: for thought and solution who, and the prompt.

    Args:
        home: a folder for the model's answers, from which a killed run goes on.
        fits: whether a prompt is short enough for the model; what is not, it is not asked.
    """  # fmt: skip
    chosen = [i for i, record in enumerate(records) if record["keep"]]
    rows = [records[i] for i in chosen]
    raw = [(think(row["response"]) or "").strip() for row in rows]
    thoughts, reasons, edits = list(raw), [""] * len(rows), [{} for _ in rows]
    languages = [row.get("language") for row in rows]

    def asked(template: str, some: Sequence[int], name: str) -> list[str]:
        texts = [fill_in(template, question=rows[i]["problem"], thought=thoughts[i]) for i in some]
        short = [k for k, text in enumerate(texts) if fits(text)]
        found = [""] * len(some)
        if not short:
            return found
        for k, text in zip(short, writer.answers([texts[k] for k in short], home / f"{name}.jsonl"), strict=True):
            found[k] = text.strip()
        return found

    foreign = [i for i, language in enumerate(languages) if language and mixed(raw[i], language)]
    for i, text in zip(foreign, asked(prompts.translate, foreign, "translated"), strict=True):
        by, reasons[i] = writer.name, fault_of_thought(raw[i], text, languages[i])
        if reasons[i] and annotator is not None:
            by, text = ANNOTATOR, annotator.thought(rows[i], raw[i])
            reasons[i] = fault_of_thought(raw[i], text, languages[i])
        thoughts[i] = text
        edits[i]["thought"] = {"by": by, "prompt": prompts.translate if by == writer.name else None}
    left = [i for i, reason in enumerate(reasons) if not reason]
    solutions = asked(prompts.solution, left, "solutions")
    faults = faults_of_solutions(
        [rows[i] for i in left], [thoughts[i] for i in left], [raw[i] for i in left], solutions, pool
    )
    done = list(zip(left, solutions, faults, strict=True))
    if annotator is not None:
        failed = [k for k, (_, _, fault) in enumerate(done) if fault]
        some = [done[k][0] for k in failed]
        by_hand = [annotator.solution(rows[i], thoughts[i]) for i in some]
        again = faults_of_solutions(
            [rows[i] for i in some], [thoughts[i] for i in some], [raw[i] for i in some], by_hand, pool
        )
        for k, i, text, fault in zip(failed, some, by_hand, again, strict=True):
            done[k] = (i, text, fault)
            edits[i]["solution"] = {"by": ANNOTATOR, "prompt": None}
    for i, text, fault in done:
        edits[i].setdefault("solution", {"by": writer.name, "prompt": prompts.solution})
        reasons[i] = fault
        if not fault:
            rows[i] = rows[i] | {"response": f" <think> {thoughts[i]} </think> {text}"}
    out = list(records)
    for i, row, reason, edit in zip(chosen, rows, reasons, edits, strict=True):
        by = "+".join(dict.fromkeys(part["by"] for part in edit.values()))
        out[i] = row | {"keep": not reason, "reason": reason, "rewritten_by": by or None, "edits": edit}
    return out


def faults_of_solutions(
    rows: Sequence[Mapping], thoughts: Sequence[str], raw: Sequence[str], solutions: Sequence[str], pool: Pool
) -> list[str]:
    """Why each solution cannot follow its chain of thought; empty where it can."""
    texts = [f"<think> {thought} </think> {said}" for thought, said in zip(thoughts, solutions, strict=True)]
    found = []
    for row, before, said, verdict in zip(rows, raw, solutions, rule.verify(pool, texts, rows, "r1"), strict=True):
        if not said.strip() or any(tag in said for tag in TAGS):
            found.append("nothing rewritten")
        elif not adds_nothing(f"{before}\n{row['problem']}", said):
            found.append("rewriting added a step")
        elif verdict.reward != 1.0:
            found.append("rewriting lost the answer")
        else:
            given = rule.given_answer(f"</think> {said}", row["kind"], "r1") or ""
            found.append("" if concludes(before, given.strip(), row["kind"]) else "the thought concludes otherwise")
    return found


def concludes(thought: str, answer: str, kind: str) -> bool:
    """Whether a chain of thought comes to an answer: its last letter is the choice's, the number stands in it.

    Other answers, such as formulas and programs, may be written in another way than in the thought: nothing is asked.
    """
    if kind == "choice":
        return re.findall(r"(?<![A-Za-z])[A-Z](?![A-Za-z])", thought)[-1:] == [answer[:1]]
    if kind == "math" and re.fullmatch(r"-?\d+(?:\.\d+)?", answer):
        return re.search(rf"(?<![\w.]){re.escape(answer)}(?!\w|\.\d)", thought) is not None
    return True


def generator(style: str | Callable[[Mapping], str]) -> Annotator:
    """The nano generator as an annotator: it translates by table and repeats the steps that count; it never solves.

    Args:
        style: of the raw records, in which their answer is looked for; or a function of the record.
    """

    def solution(row: Mapping, thought: str) -> str:
        given = rule.given_answer(row["response"], row["kind"], style(row) if callable(style) else style) or ""
        plain = "\n".join(line for line in given.splitlines() if not line.startswith("```")).strip()
        return rewriting.solution(dict(row), thought or " ", plain)

    return Annotator(lambda row, thought: rewriting.in_one_language(thought, row["language"]), solution)


def with_reference(records: Sequence[dict], writer: Writer, path: Path) -> list[dict]:
    """Records that no rule could judge, judged by a model that reads the reference answer (v2, Listing 4).

    A record that was cut off is not asked about. A judge whose answer cannot be read leaves one unjudged.
    """
    asked = [
        i
        for i, r in enumerate(records)
        if r.get("right") is None and isinstance(r.get("gold"), str) and r["gold"].strip() and not r.get("truncated")
    ]
    prompts = [
        fill_in(
            REFERENCE_JUDGE, question=records[i]["problem"], reference=records[i]["gold"],
            answer=records[i]["response"].rpartition("</think>")[2].strip(),
        )
        for i in asked
    ]  # fmt: skip
    out = list(records)
    for i, text in zip(asked, writer.answers(prompts, path), strict=True):
        right = correctness(text)
        if right is not None:
            out[i] = out[i] | {"right": right, "verdict": "correct" if right else "wrong", "judged_by": writer.name}
    return out


def correctness(text: str) -> bool | None:
    """The verdict in a judge's JSON, fenced or not; None where there is none."""
    for found in reversed(re.findall(r"\{.*\}", text, re.DOTALL)):
        try:
            said = json.loads(found, strict=False)["correctness"]
        except (ValueError, LookupError, TypeError):
            continue
        return {"correct": True, "incorrect": False}.get(str(said).strip().strip("*").lower())
    said = re.findall(r"""["']correctness["']\s*:\s*["'](correct|incorrect)["']""", text)
    return said[-1] == "correct" if said else None
