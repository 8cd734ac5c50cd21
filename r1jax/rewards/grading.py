"""Grades many rows at once: the functions behind `python -m r1jax.rewards KIND FILE`, for use in Python."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

from r1jax.rewards.kinds import KINDS, TEXT, Columns, function, one_of
from r1jax.rewards.verdict import Verdict

EXTRACT = Columns("text", {}, {"rule": one_of("auto", "boxed", "answer_tag", "hash")})


def columns(kind: str) -> Columns:
    """Returns the keys that a row must or may have.

    Args:
        kind: a kind of question, such as "math"; or "extract", which finds the answers in texts without grading them.
    """
    if kind == "extract":
        return EXTRACT
    known = KINDS[kind]
    return known.columns or Columns("pred", {"gold": known.gold or TEXT})


def check_row(kind: str, row: Mapping, where: str = "the row") -> dict:
    """Checks a row and returns a copy that is ready for grading.

    In the copy, a gold that is a number becomes text, and a model's text that is null becomes "".

    Args:
        kind: as in `columns`.
        where: names the row in error messages.

    Raises:
        ValueError: the row lacks a key, or has a value that this kind does not allow.
    """
    text_key, required, optional = columns(kind)
    row = dict(row)
    if text_key in row and row[text_key] is None:
        row[text_key] = ""  # null: the model wrote nothing
    rules = {text_key: TEXT} | required | {key: rule for key, rule in optional.items() if row.get(key) is not None}
    for key, rule in rules.items():
        if row.get(key) is None:
            raise ValueError(f"{where} has no {key!r}; a {kind} row needs {', '.join([text_key, *required])}")
        row[key] = rule.read(row[key])
        if not rule.holds(row[key]):
            raise ValueError(f"{where} has {key}={row[key]!r:.80}; it must be {rule.words}")
    return row


def verify_batch(kind: str, rows: Sequence[Mapping], deadline: float | None = None) -> list[Verdict]:
    """Returns one verdict for each row, in order. Never raises on a model's text.

    Mathematics is compared in worker processes with limits; programs and proofs run in sandboxes, one on each core.

    Args:
        kind: the kind of question, such as "math": a key of `kinds.KINDS`.
        rows: the rows, as in a file for `python -m r1jax.rewards KIND FILE`, such as {"gold": "4", "pred": "4"}.
        deadline: seconds for all rows of kind math; rows that are not graded by then get the verdict `timeout`.

    Raises:
        ValueError: the kind is unknown, or a row lacks a key or has a value that the kind does not allow.
    """
    if kind != "extract" and not (kind in KINDS and KINDS[kind].verifier):
        known = ", ".join(name for name, of in KINDS.items() if of.verifier)
        raise ValueError(f"kind={kind!r:.40} has no verifier; use one of {known}")
    checked = [check_row(kind, row, f"rows[{number}]") for number, row in enumerate(rows)]
    return list(verdicts(kind, checked, deadline))


def verdicts(kind: str, rows: Sequence[Mapping], deadline: float | None = None) -> Iterator[Verdict]:
    """Yields the verdict on each row, in order.

    Args:
        kind: as in `verify_batch`, or "extract". The verdict of "extract" is `correct` if the text has an answer.
        rows: rows that `check_row` returned.
        deadline: as in `verify_batch`.
    """
    texts = [row[columns(kind).text] for row in rows]
    if kind == "math":
        from r1jax.rewards.math import grade_pairs

        yield from grade_pairs([(row["gold"], text) for row, text in zip(rows, texts, strict=True)], deadline)
    elif kind == "extract":
        from r1jax.rewards.math import extract

        for text, row in zip(texts, rows, strict=True):
            start = time.perf_counter()
            found = extract(text, row.get("rule") or "auto")
            name = "no_answer" if found is None else "correct"
            yield Verdict(float(found is not None), name, "extract", found, ms=(time.perf_counter() - start) * 1e3)
    else:
        of = KINDS[kind]
        threads = len(os.sched_getaffinity(0)) if of.limits and hasattr(os, "sched_getaffinity") else 1
        with ThreadPoolExecutor(threads) as pool:  # each thread waits for its own sandboxes
            yield from pool.map(function(of.grader or of.verifier), texts, rows)
