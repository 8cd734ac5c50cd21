"""Rewrites sampled records into R1's form with a model: a chain of thought in one language, then a readable solution.

An edit may delete and translate, but not reason. This is checked: every computation in the edited text must occur in
the raw text.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from r1jax.prompts import NANO_SUMMARY, NANO_TRANSLATE, REFERENCE_JUDGE, SUMMARY, TRANSLATE, fill_in
from r1jax.rewards import rule
from r1jax.rewards.format import TAGS, think
from r1jax.rewards.isolate import Pool
from r1jax.rewards.language import consistency
from r1jax.sft_data.llm import Writer

# Quantifiers are bounded and anchored at word starts, so that matching takes linear time on any text
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
    """The two prompt templates for the rewriting model; both hold {question} and {thought}.

    Attributes:
        translate: asks for the chain of thought in the question's language.
        solution: asks for a readable solution that follows from the chain of thought.
    """

    translate: str
    solution: str


NANO = Prompts(NANO_TRANSLATE, NANO_SUMMARY)
PAPER = Prompts(TRANSLATE, SUMMARY)


class Annotator(NamedTuple):
    """Two functions that edit a record if the model's edit fails. With the bundled model nano they replace the paper's
    human annotators.

    Attributes:
        thought: `thought(record, raw thought)` returns the chain of thought in one language.
        solution: `solution(record, thought)` returns the readable solution.
    """

    thought: Callable[[Mapping, str], str]
    solution: Callable[[Mapping, str], str]


def computations(text: str) -> set[str]:
    """Returns the computations (such as 3*4=12) and the comparisons (such as 12<21) in a text.

    White space is removed, and LaTeX and Unicode operators are replaced by + - * /.
    """
    for written, plain in _LATEX:
        text = text.replace(written, plain)
    return {re.sub(r"\s", "", found) for found in _COMPUTATION.findall(text)}


def adds_nothing(raw: str, edited: str) -> bool:
    """Returns whether every computation in the edited text occurs in the raw text."""
    return computations(edited) <= computations(raw)


def keeps_work(raw: str, edited: str) -> bool:
    """Returns whether the edited text has at least half as many computations as the raw text."""
    return 2 * len(computations(edited)) >= len(computations(raw))


def fault_of_thought(raw: str, edited: str, language: str | None) -> str:
    """Returns why a rewritten chain of thought is rejected; an empty string if it is accepted.

    Args:
        raw, edited: the chain of thought before and after rewriting.
        language: the question's language. If it is None, languages are not checked.
    """
    if not edited.strip() or any(tag in edited for tag in TAGS):
        return "nothing rewritten"
    if not adds_nothing(raw, edited):
        return "rewriting added a step"
    if not keeps_work(raw, edited):
        return "rewriting lost the work"
    return "rewriting mixed languages" if language and mixed(edited, language) else ""


def mixed(thought: str, language: str) -> bool:
    """Returns whether a chain of thought has words of a language other than `language`."""
    share = consistency(thought, language)
    return share is not None and share < 1.0


def rewrite_records(
    records: Sequence[dict],
    writer: Writer,
    prompts: Prompts,
    pool: Pool,
    home: Path,
    *,
    annotator: Annotator | None = None,
    fits: Callable[[str], bool] = lambda prompt: True,
) -> list[dict]:
    """Rewrites the records with keep=true into one language and R1's form. Returns all records, in order.

    R1's form is "<think> chain of thought </think> solution". A chain of thought that mixes languages is translated;
    then a solution is written for each record. An edit fails if it adds a step, or loses the work or the right answer.
    If the model's edit fails, the annotator edits instead. If there is no annotator, or the annotator's edit fails too,
    the record is dropped with a reason. Each rewritten record gains `rewritten_by` (such as "base+annotator") and
    `edits`: who wrote the thought and the solution, and with which prompt.

    Args:
        writer: the rewriting model.
        pool: runs the verifiers that check the rewritten answers.
        home: a folder for the model's answers; a killed run resumes from this folder.
        annotator: edits where the model's edit fails; None if there is no annotator.
        fits: returns whether a prompt is short enough for the model. A longer prompt is not sent, and its edit fails.
    """
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
    """Returns, for each solution, why the solution is rejected; an empty string if it is accepted.

    Args:
        rows: the records that the solutions belong to.
        thoughts: the records' chains of thought after rewriting.
        raw: the records' chains of thought before rewriting.
    """
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
    """Returns whether a chain of thought reaches the answer.

    For a multiple-choice question, the last single capital letter in the thought must be the answer's letter. An answer
    that is a number must occur in the thought. Other answers, such as formulas and programs, always pass, because the
    thought may write them in another way.

    Args:
        kind: the kind of the question, such as "math" or "choice".
    """
    if kind == "choice":
        return re.findall(r"(?<![A-Za-z])[A-Z](?![A-Za-z])", thought)[-1:] == [answer[:1]]
    if kind == "math" and re.fullmatch(r"-?\d+(?:\.\d+)?", answer):
        return re.search(rf"(?<![\w.]){re.escape(answer)}(?!\w|\.\d)", thought) is not None
    return True


def judge_with_reference(records: Sequence[dict], writer: Writer, path: Path) -> list[dict]:
    """Lets a model judge each record that has no verdict, by comparing it with the reference answer.

    Returns all records, in order. A judged record gets `right`, `verdict` and `judged_by` (the model's name). Records
    that were cut off or have no reference answer are not judged. If the judge's reply cannot be parsed, the record
    stays without a verdict.

    Args:
        writer: the model that judges.
        path: the file (.jsonl) of the judge's answers; a killed run resumes from it.

    Source: paper v2, Listing 4.
    """
    asked = [
        i
        for i, r in enumerate(records)
        if r.get("right") is None and isinstance(r.get("gold"), str) and r["gold"].strip() and not r.get("truncated")
    ]
    prompts = [
        fill_in(
            REFERENCE_JUDGE,
            question=records[i]["problem"],
            reference=records[i]["gold"],
            answer=records[i]["response"].rpartition("</think>")[2].strip(),
        )
        for i in asked
    ]
    out = list(records)
    for i, text in zip(asked, writer.answers(prompts, path), strict=True):
        right = correctness(text)
        if right is not None:
            out[i] = out[i] | {"right": right, "verdict": "correct" if right else "wrong", "judged_by": writer.name}
    return out


def correctness(text: str) -> bool | None:
    """Parses a judge's reply: a JSON object, in a code fence or not, with the key "correctness".

    Returns True for "correct", False for "incorrect", and None if the reply holds neither.
    """
    for found in reversed(re.findall(r"\{.*\}", text, re.DOTALL)):
        try:
            said = json.loads(found, strict=False)["correctness"]
        except (ValueError, LookupError, TypeError):
            continue
        return {"correct": True, "incorrect": False}.get(str(said).strip().strip("*").lower())
    said = re.findall(r"""["']correctness["']\s*:\s*["'](correct|incorrect)["']""", text)
    return said[-1] == "correct" if said else None
