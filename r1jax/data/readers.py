"""Problems with answers from files: `rows(path)`.

A row is `{id, problem, gold, kind}`, further keys kept; `kind` picks the verifier and so the form
of `gold`:

    math       a string, or a list of strings of which any counts
    choice     an option letter
    countdown  {"numbers": [...], "target": n}
    code       {"tests": [[input, output], ...], ...}
    proof      {"backend": ..., "goal": ..., ...}
    general    anything, null too: no rule judges it

Files are JSON lines, a JSON array, or parquet. Those of GSM8K, MATH, AIME, AMC and OlympiadBench
form are known by their keys, and so are multiple choice and programs (`forms`).
"""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from r1jax.data import forms


def _is_number(x: object) -> bool:
    return isinstance(x, int | float) and not isinstance(x, bool)


def _is_math(gold: object) -> bool:
    golds = gold if isinstance(gold, list) else [gold]
    return bool(golds) and all(isinstance(g, str) and g.strip() for g in golds)


def _is_countdown(gold: object) -> bool:
    numbers = gold.get("numbers") if isinstance(gold, Mapping) else None
    return isinstance(numbers, list) and bool(numbers) and all(map(_is_number, [*numbers, gold.get("target")]))


def _is_code(gold: object) -> bool:
    tests = gold.get("tests") if isinstance(gold, Mapping) else None
    return isinstance(tests, list) and bool(tests) and all(isinstance(t, list) and len(t) == 2 for t in tests)


def _is_proof(gold: object) -> bool:
    return isinstance(gold, Mapping) and isinstance(gold.get("backend"), str) and isinstance(gold.get("goal"), str)


GOLDS: dict[str, tuple[str, Callable[[object], bool]]] = {
    "math": ("a string that is not blank, or a list of such", _is_math),
    "choice": (
        "one option letter",
        lambda gold: isinstance(gold, str) and bool(re.fullmatch(r"\(?[A-Z]\)?", gold.strip())),
    ),
    "countdown": ('{"numbers": [...], "target": n}', _is_countdown),
    "code": ('{"tests": [[input, output], ...]} with at least one test', _is_code),
    "proof": ('{"backend": string, "goal": string, ...}', _is_proof),
    "general": ("anything", lambda gold: True),
}


def rows(path: str | Path) -> Iterator[dict]:
    """The rows of a file, one by one, each checked.

    Raises:
        ValueError: the file or a row is unusable; names the file, the line (the row in parquet),
        the id and the rule.
        FileNotFoundError: there is no such file.
    """
    path = Path(path)
    seen: dict[str, int] = {}
    for number, record in _records(path):
        where = f"{path}:{number}"
        if not isinstance(record, dict):
            raise ValueError(f"{where} is no object but {record!r:.60}; a row is {{id, problem, gold, kind}}")
        row = _checked(_converted(record, where, f"{path.stem}-{number - 1}"), where)
        if row["id"] in seen:
            raise ValueError(
                f"{where} (id {row['id']!r}) repeats the id of line {seen[row['id']]}; "
                "ids name samples and their randomness, so give each row its own"
            )
        seen[row["id"]] = number
        yield row
    if not seen:
        raise ValueError(f"{path} holds no rows; it needs at least one {{id, problem, gold, kind}}")


def _records(path: Path) -> Iterator[tuple[int, object]]:
    """(line or row number from 1, record) of a file as it stands."""
    if path.suffix == ".parquet":
        yield from _parquet(path)
        return
    if path.suffix not in (".jsonl", ".json"):
        raise ValueError(f"{path} ends in {path.suffix!r}; rows are read from .jsonl, .json and .parquet files")
    if path.suffix == ".json":
        text = path.read_text("utf-8-sig")
        if text.lstrip().startswith("["):
            try:
                yield from enumerate(json.loads(text), 1)
            except ValueError as problem:
                raise ValueError(f"{path} is no JSON array: {problem}") from None
            return
    with path.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            if line.strip():
                try:
                    record = json.loads(line.decode("utf-8-sig"))
                except (ValueError, RecursionError) as problem:
                    raise ValueError(
                        f"{path}:{number} is not JSON in UTF-8 ({problem}); write one object a line"
                    ) from None
                yield number, record


def _parquet(path: Path) -> Iterator[tuple[int, object]]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise ValueError(f"{path} needs pyarrow: pip install 'r1jax[hf]', or give the rows as .jsonl") from None
    try:
        number = 0
        with pyarrow.parquet.ParquetFile(path) as file:
            for batch in file.iter_batches():
                for record in batch.to_pylist():
                    number += 1
                    yield number, record
    except pyarrow.ArrowException as problem:
        raise ValueError(f"{path} is no readable parquet file: {problem}") from None


def _converted(record: dict, where: str, name: str) -> dict:
    """The record with id, problem, gold and kind; known forms are told by their keys."""
    if "gold" in record or "kind" in record:
        return record
    keys = {key.lower(): value for key, value in record.items()}
    problem, answer, solution = (
        keys.get("problem") or keys.get("question"),
        keys.get("answer"),
        keys.get("solution"),
    )
    if "final_answer" in keys:
        answer = keys["final_answer"]
    named = next((keys[k] for k in ("id", "unique_id", "question_id", "task_id") if keys.get(k) is not None), name)
    try:
        if (row := forms.known(keys, str(named))) is not None:
            return record | {"id": named} | row
    except (ValueError, KeyError, TypeError) as problem:
        raise ValueError(f"{where} (id {named!r}) cannot be read as the benchmark it looks like: {problem}") from None
    gold: object = None
    for text in (answer, solution):
        if isinstance(text, str) and "####" in text:  # GSM8K: in `answer`; in `solution` where the answer is apart
            gold = text.rpartition("####")[2].strip().replace(",", "")
    if gold is None and isinstance(answer, list):  # OlympiadBench
        answers = [str(a).strip() for a in answer if a is not None]
        every = keys.get("is_multiple_answer") or keys.get("multiple")
        gold = answers[0] if len(answers) == 1 else ", ".join(answers) if every else answers
    elif gold is None and answer is not None:  # MATH, AIME, AMC; AMC's integers come as floats
        gold = str(int(answer)) if isinstance(answer, float) and answer.is_integer() else str(answer).strip()
    elif gold is None and isinstance(solution, str):  # MATH as first published
        gold = boxed(solution)
    if problem is None or gold is None:
        raise ValueError(
            f"{where} has the keys {', '.join(record)}; a row needs id, problem, gold and kind, "
            "or question with an answer after ####, "
            "or problem with answer, with final_answer or with a solution that holds \\boxed{}"
        )
    chosen = isinstance(gold, str) and re.fullmatch(r"[A-E]", gold) and "(A)" in problem and "(B)" in problem
    return record | {
        "id": named,
        "problem": problem,
        "gold": gold,
        "kind": "choice" if chosen else "math",
    }


def _checked(row: dict, where: str) -> dict:
    """The row as the schema wants it, or a ValueError that names the broken rule."""
    missing = [key for key in ("id", "problem", "gold", "kind") if key not in row]
    if missing:
        raise ValueError(
            f"{where} (id {row.get('id')!r}) has no {', '.join(missing)}; a row needs id, problem, gold and kind"
        )
    name, problem, gold, kind = row["id"], row["problem"], row["gold"], row["kind"]
    if isinstance(name, bool) or not isinstance(name, str | int) or not str(name).strip():
        raise ValueError(f"{where} has id={name!r}; an id is a string that is not blank, or an integer")
    where = f"{where} (id {name!r})"
    if not isinstance(problem, str) or not problem.strip():
        raise ValueError(f"{where} has problem={problem!r:.60}; a problem is a string that is not blank")
    if kind not in GOLDS:
        raise ValueError(f"{where} has kind={kind!r}; use one of {', '.join(GOLDS)}")
    if kind == "math" and _is_number(gold):
        gold = str(gold)
    if kind in ("countdown", "code", "proof") and isinstance(gold, str):  # a parquet column has one type
        with contextlib.suppress(ValueError, RecursionError):  # the rule below says what it must be
            gold = json.loads(gold)
    words, holds = GOLDS[kind]
    if not holds(gold):
        raise ValueError(f"{where} has gold={gold!r:.80}; the gold of kind {kind} is {words}")
    return row | {"id": str(name), "gold": gold}


def boxed(text: str) -> str | None:
    r"""The content of the last `\boxed{}` or `\fbox{}` of a solution; None without one."""
    start = max(text.rfind("\\boxed"), text.rfind("\\fbox"))
    if start < 0:
        return None
    rest = text[start:].split("box" if text[start : start + 5] == "\\fbox" else "boxed", 1)[1].lstrip()
    if not rest.startswith("{"):
        return rest.split(maxsplit=1)[0].strip("$.") if rest.split() else None  # \boxed 3
    depth = 0
    for i, c in enumerate(rest):
        depth += (c == "{") - (c == "}")
        if depth == 0:
            return rest[1:i].strip()
    return None
