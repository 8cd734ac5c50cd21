"""Grade a file: `python -m r1jax.rewards KIND FILE`, or test a data set: `python -m r1jax.rewards check DATASET`.

FILE holds one JSON object a line; one verdict a line comes out, in order, with `reward`, `verdict`, `stage` and `ms`,
and with the row's `id` where it has one.

    math       gold (string or list of strings: any of them), pred
    extract    text, rule: auto (default), boxed, answer_tag, hash; the verdict has `extracted`
    countdown  numbers, target, pred
    choice     gold, pred
    format     completion, style: r1_zero (default), r1; prefilled_think: false (default), true; think: none
    language   cot, target
    code       program, mode: stdin, function; entry, tests: [[input, output], ...], limits, score: all (default),
               fraction
    proof      backend: coq, lean4, metamath; preamble, goal, proof, allowed_axioms

Programs and proofs are graded one on each core; `ms` is the time of the check alone, without waiting for its turn.

`check` takes rows {id, problem, gold, kind}, or a file of GSM8K, MATH, AIME, AMC or OlympiadBench form, as jsonl or
parquet: every gold must verify against itself and none of its mutants may. It prints the rows that fail, and exits
with 1 if there are any.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from r1jax.rewards.verdict import Verdict


class Rule(NamedTuple):
    """What a value of a row must be, in words and as a test."""

    words: str
    holds: Callable[[object], bool]


def one_of(*names: str) -> Rule:
    return Rule(f"one of {', '.join(names)}", lambda x: x in names)


def list_of(words: str, holds: Callable[[object], bool]) -> Rule:
    return Rule(f"a list of {words}", lambda x: isinstance(x, list) and all(map(holds, x)))


def is_text(x: object) -> bool:
    return isinstance(x, str)


def is_number(x: object) -> bool:
    return (isinstance(x, int) and not isinstance(x, bool)) or (isinstance(x, float) and math.isfinite(x))


def is_pair(x: object) -> bool:
    return isinstance(x, list) and len(x) == 2


TEXT, NUMBER = Rule("a string", is_text), Rule("a finite number", is_number)
FLAG, TABLE = (
    Rule("true or false", lambda x: isinstance(x, bool)),
    Rule("an object", lambda x: isinstance(x, dict)),
)
TEXTS = list_of("strings", is_text)
# kind -> (key of the model's text, further keys, keys that may be left out)
ROWS: dict[str, tuple[str, dict[str, Rule], dict[str, Rule]]] = {
    "math": (
        "pred",
        {
            "gold": Rule(
                "a string or a list of strings",
                lambda x: is_text(x) or (bool(x) and TEXTS.holds(x)),
            )
        },
        {},
    ),
    "extract": ("text", {}, {"rule": one_of("auto", "boxed", "answer_tag", "hash")}),
    "countdown": ("pred", {"numbers": list_of("finite numbers", is_number), "target": NUMBER}, {}),
    "choice": ("pred", {"gold": TEXT}, {}),
    "format": (
        "completion",
        {},
        {"style": one_of("r1_zero", "r1"), "prefilled_think": FLAG, "think": one_of("none")},
    ),
    "language": ("cot", {"target": TEXT}, {}),
    "code": (
        "program",
        {"tests": list_of("[input, output] pairs", is_pair)},
        {
            "mode": one_of("stdin", "function"),
            "entry": TEXT,
            "limits": TABLE,
            "score": one_of("all", "fraction"),
        },
    ),
    "proof": (
        "proof",
        {"backend": TEXT, "goal": TEXT},
        {"preamble": TEXT, "allowed_axioms": TEXTS},
    ),
}


SANDBOXED = ("code", "proof")


def main(arguments: list[str] | None = None) -> int:
    """The exit status: 0; 1 where `check` found unusable rows; 2, with a reason, for bad input."""
    parser = argparse.ArgumentParser(
        prog="python -m r1jax.rewards",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("kind", metavar="KIND", choices=[*ROWS, "check"], help=", ".join([*ROWS, "check"]))
    parser.add_argument("file", metavar="FILE", type=Path)
    chosen = parser.parse_args(arguments)
    try:
        if chosen.kind == "check":
            return check(chosen.file)
        for line in grade(chosen.kind, read(chosen.kind, chosen.file)):
            print(json.dumps(line), flush=True)
    except BrokenPipeError:  # the reader, such as head, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except (ValueError, OSError) as problem:
        print(f"python -m r1jax.rewards: {problem}", file=sys.stderr)
        return 2
    return 0


def read(kind: str, path: Path) -> list[dict]:
    """The rows of a file to grade, all checked before any is graded; blank lines are left out.

    Raises:
        ValueError: a line is no JSON object or breaks a rule of its kind; names file, line, key and
        rule.
    """
    text_key, required, optional = ROWS[kind]
    rows = []
    with path.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            where = f"{path}:{number}"
            try:
                row = json.loads(line.decode("utf-8-sig"))
            except (ValueError, RecursionError) as problem:
                raise ValueError(f"{where} is not JSON in UTF-8 ({problem}); write one JSON object a line") from None
            if not isinstance(row, dict):
                raise ValueError(f"{where} is a JSON {type(row).__name__}; write one JSON object a line")
            if text_key in row and row[text_key] is None:
                row[text_key] = ""  # null: the model wrote nothing
            rules = (
                {text_key: TEXT} | required | {key: rule for key, rule in optional.items() if row.get(key) is not None}
            )
            for key, rule in rules.items():
                if row.get(key) is None:
                    raise ValueError(f"{where} has no {key!r}; a {kind} row needs {', '.join([text_key, *required])}")
                if not rule.holds(row[key]):
                    raise ValueError(f"{where} has {key}={row[key]!r:.80}; it must be {rule.words}")
            rows.append(row)
    return rows


def grade(kind: str, rows: list[dict]) -> Iterator[dict]:
    """One line of output for each row, in order."""
    key = ROWS[kind][0]
    for row, (verdict, extracted) in zip(rows, verdicts(kind, [row[key] for row in rows], rows), strict=True):
        line = {"id": row["id"]} if "id" in row else {}
        line |= {
            "reward": verdict.reward,
            "verdict": verdict.verdict,
            "stage": verdict.stage,
            "ms": round(verdict.ms, 3),
        }
        yield line | ({"extracted": extracted} if kind == "extract" else {})


def verdicts(kind: str, texts: list[str], rows: list[dict]) -> Iterator[tuple[Verdict, str | None]]:
    """The verdict on each text, and what was extracted from it."""
    if kind == "math":
        from r1jax.rewards.math import verify_batch

        pairs = [(row["gold"], text) for row, text in zip(rows, texts, strict=True)]
        yield from ((verdict, verdict.extracted) for verdict in verify_batch(pairs))
    elif kind == "extract":
        from r1jax.rewards.math import extract

        for text, row in zip(texts, rows, strict=True):
            start = time.perf_counter()
            found = extract(text, row.get("rule") or "auto")
            ms = (time.perf_counter() - start) * 1e3
            yield (
                Verdict(
                    float(found is not None),
                    "no_answer" if found is None else "correct",
                    "extract",
                    found,
                    ms=ms,
                ),
                found,
            )
    else:
        threads = len(os.sched_getaffinity(0)) if kind in SANDBOXED and hasattr(os, "sched_getaffinity") else 1
        with ThreadPoolExecutor(threads) as pool:  # each waits for sandboxes of its own
            for verdict in pool.map(verifier(kind), texts, rows):
                yield verdict, verdict.extracted


def verifier(kind: str) -> Callable[..., Verdict]:
    """The function (text, row) -> Verdict of a kind; programs and proofs come bare."""
    if kind == "countdown":
        from r1jax.rewards.countdown import verify
    elif kind == "choice":
        from r1jax.rewards.choice import verify
    elif kind == "format":
        from r1jax.rewards.format import verify
    elif kind == "language":
        from r1jax.rewards.language import verify
    elif kind == "code":
        from r1jax.rewards.code import grade as verify
    else:
        from r1jax.rewards.proof import verify
    return verify


def check(path: Path) -> int:
    """1 where a row has no usable gold, else 0; prints such rows, and the sums of each kind."""
    from r1jax.data.readers import rows
    from r1jax.rewards.selfcheck import unusable

    dataset = list(rows(path))
    bad = unusable(dataset)
    for row, reason in bad:
        print(
            json.dumps(
                {"id": row["id"], "kind": row["kind"], "gold": row["gold"], "reason": reason},
                ensure_ascii=False,
            )
        )
    for kind in sorted({row["kind"] for row in dataset}):
        of_kind = [row for row in dataset if row["kind"] == kind]
        failed = sum(row["kind"] == kind for row, _ in bad)
        print(f"{path}: {kind}: {len(of_kind)} rows, {failed} unusable", file=sys.stderr)
    return int(bool(bad))


if __name__ == "__main__":
    sys.exit(main())
