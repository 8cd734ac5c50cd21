"""Grades a file, tests a data set, or shows how one text is read.

`python -m r1jax.rewards KIND FILE` grades a file. `python -m r1jax.rewards check DATASET` tests a data set.
`python -m r1jax.rewards explain math --gold=1/2 --text='The answer is 0.5.'` shows how one text is read.

FILE holds one JSON object per line, here called a row. The command prints one verdict per row, in the same order, with
`reward`, `verdict`, `stage` (the step that decided) and `ms` (milliseconds), and with the row's `id` if it has one.
KIND says how to grade, and which keys a row has. Keys in square brackets are optional:

    math          gold (the right answer, or a list of right answers, each accepted), pred (the model's text)
    extract       text, [rule] (auto, boxed, answer_tag or hash; default auto). The verdict has `extracted`, the answer
                  found
    countdown     numbers, target, pred
    choice        gold, pred
    format        completion, [style] (r1_zero, r1, think_any, tags, boxed or any; default r1_zero),
                  [prefilled_think] (true or false; default false),
                  [think] (its only value is "none": the think block must be blank)
    language      cot, target
    code          program, tests (a list of [input, output] pairs), [mode] (stdin or function), [entry], [limits],
                  [score] (all or fraction; default all)
    instructions  instructions (a list of names), kwargs (a list of objects), both as in IFEval, pred
    proof         backend (coq, lean4 or metamath), goal, proof, [preamble], [allowed_axioms]

Programs and proofs are graded in parallel, one per core; `ms` is the time of the check alone, without waiting.

`check` takes rows {id, problem, gold, kind}, or a file in the form of GSM8K, MATH, AIME, AMC or OlympiadBench, as jsonl
or parquet. A row fails if its verifier rejects the gold (the right answer), or accepts a mutant (a wrong answer made
from the gold). The command prints the rows that fail, and exits with status 1 if there are any.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path

from r1jax.rewards.explain import explain
from r1jax.rewards.grading import check_row, verdicts
from r1jax.rewards.kinds import KINDS


def main(arguments: list[str] | None = None) -> int:
    """Grades a file, tests a data set or explains one verdict, as the command line says.

    Args:
        arguments: the command line without the program's name; None means the command line of this process.
    Returns:
        the exit status: 0; 1 if `check` found rows that cannot be graded; 2 if the input is malformed.
    """
    parser = argparse.ArgumentParser(
        prog="python -m r1jax.rewards",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    kinds = [*(name for name, kind in KINDS.items() if kind.verifier), "extract", "check"]
    parser.add_argument("kind", metavar="KIND", choices=[*kinds, "explain"], help=", ".join(kinds))
    parser.add_argument(
        "file", metavar="FILE", type=Path, help="the file to grade or test; for explain, the kind of question"
    )
    parser.add_argument(
        "--gold", default="", help="for explain: the right answer (math, choice), or a JSON object (other kinds)"
    )
    parser.add_argument("--text", default="", help="for explain: the model's text")
    chosen = parser.parse_args(arguments)
    if chosen.kind != "explain" and (chosen.gold or chosen.text):
        parser.error(
            "--gold and --text work only with explain: leave them out, because the rows of a file hold gold and text"
        )
    try:
        if chosen.kind == "explain":
            for line in explain(str(chosen.file), chosen.gold, chosen.text):
                print(line)
            return 0
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
    """Returns the rows of a file, one for each line that is not blank. Checks all rows before any is graded.

    Args:
        kind: the KIND of the command, such as "math" or "extract".
    Raises:
        ValueError: a line is not a JSON object, lacks a key, or has a value that this kind does not allow. The message
            names the file and the line. If a key is missing or a value is wrong, the message also names the key, and
            says what the row or the value must be.
    """
    rows = []
    with path.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            where = f"{path}:{number}"
            try:
                row = json.loads(line.decode("utf-8-sig"))
            except (ValueError, RecursionError) as problem:
                raise ValueError(f"{where} is not JSON in UTF-8 ({problem}); write one JSON object per line") from None
            if not isinstance(row, dict):
                raise ValueError(f"{where} is a JSON {type(row).__name__}; write one JSON object per line")
            rows.append(check_row(kind, row, where))
    return rows


def grade(kind: str, rows: list[dict]) -> Iterator[dict]:
    """Yields, for each row, the dict that the command prints: {reward, verdict, stage, ms} of the row's `Verdict`.

    If the row has an `id`, the dict has the `id`, too.

    Args:
        kind: the KIND of the command. For "extract" the dict also has `extracted`.
    """
    for row, verdict in zip(rows, verdicts(kind, rows), strict=True):
        line = {"id": row["id"]} if "id" in row else {}
        line |= {
            "reward": verdict.reward,
            "verdict": verdict.verdict,
            "stage": verdict.stage,
            "ms": round(verdict.ms, 3),
        }
        yield line | ({"extracted": verdict.extracted} if kind == "extract" else {})


def check(path: Path) -> int:
    """Prints each row whose gold (right answer) is unusable, with the reason.

    Then prints, for each kind, the number of rows and the number of unusable rows.

    Returns:
        the exit status: 1 if there are unusable rows, else 0.
    """
    from r1jax.data.readers import rows
    from r1jax.data.selfcheck import find_unusable

    dataset = list(rows(path))
    bad = find_unusable(dataset)
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
