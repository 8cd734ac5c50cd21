"""Reads problems with answers from files: `rows(path)`.

A row is a question with its reference answer `gold`: `{id, problem, gold, kind}`. Further keys are kept. `kind` selects
the verifier that grades answers, and determines the form of `gold`:

    math       a string, or a list of strings, each of which is a right answer
    choice     an option letter
    countdown  {"numbers": [...], "target": n}
    code       {"tests": [[input, output], ...], ...}
    proof      {"backend": ..., "goal": ..., ...}
    general    anything, including null: no verifier grades it

The module `files` says what a path may be. The module `forms` recognises the formats of published data sets by the keys
of a record.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from r1jax.data import files, forms
from r1jax.data.rl_forms import read_gold
from r1jax.rewards.kinds import GENERAL, KINDS

OWN = "rows of r1jax: id, problem, gold, kind"
NO_COLUMNS: Mapping[str, str] = {}


def read_columns(flags: Sequence[str]) -> dict[str, str]:
    """Returns {key in r1jax: key in the file} from the values of --column, each of the form HERE=THERE.

    Raises:
        ValueError: a value has another form.
    """
    found = {}
    for flag in flags:
        here, _, there = flag.partition("=")
        if not here or not there:
            raise ValueError(f"--column={flag} must be HERE=THERE, such as problem=question or gold=meta.answer")
        found[here] = there
    return found


def rows(path: str | Path, *, free: bool = False, columns: Mapping[str, str] = NO_COLUMNS) -> Iterator[dict]:
    """Yields the rows of a file as {id, problem, gold, kind, ...}. Checks every row before yielding it.

    If the file has the format of a published data set, a row without an id gets the id "FILE-NUMBER", with NUMBER from
    0.

    Args:
        path: a file, a folder or a data set, as `files.records` takes it.
        free: whether a row needs only a problem. If so, a row without `kind` gets the kind "general", and its `gold`
            may be anything, or missing (then None).
        columns: keys to rename, {key in r1jax: key in the file}. A key in the file may name nested objects with dots,
            such as "meta.answer".

    Raises:
        ValueError: the file cannot be read as rows, or a row is unusable. The message names the file, the line (for
            parquet, the row), the id, and what is wrong with the row.
        FileNotFoundError: there is no such file.
    """
    for _, row in rows_with_forms(path, free=free, columns=columns):
        yield row


def rows_with_forms(
    path: str | Path, *, free: bool = False, columns: Mapping[str, str] = NO_COLUMNS
) -> Iterator[tuple[str, dict]]:
    """Yields (name of the record's format, row) for each row. Otherwise this function is like `rows`."""
    seen: dict[str, int] = {}
    first, before, total = None, 0, 0
    for file, number, record in files.records(path):
        if file != first:  # rows of further files count on, so that ids differ
            first, before = file, total
        total = before + number
        where = f"{file}:{number}"
        if isinstance(record, list) and all(isinstance(turn, dict) for turn in record):  # Open-Reasoner-Zero
            record = {str(i): turn for i, turn in enumerate(record)}
        if not isinstance(record, dict):
            raise ValueError(
                f"{where} is not an object: {record!r:.60}; a row is a JSON object {{id, problem, gold, kind}}"
            )
        name = f"{Path(str(path).partition(':')[0]).stem}-{total - 1}"
        if columns:
            record = {"id": name} | rename(record, columns, where)
        form, row = _converted(record, where, name, free)
        row = _checked(row, where)
        if row["id"] in seen:
            raise ValueError(
                f"{where} (id {row['id']!r}) repeats the id of line {seen[row['id']]}; "
                "an id names the samples of a row and seeds their randomness, so give each row an id of its own"
            )
        seen[row["id"]] = number
        yield form, row
    if not seen:
        raise ValueError(f"{path} holds no rows; it needs at least one {{id, problem, gold, kind}}")


def rename(record: Mapping, columns: Mapping[str, str], where: str) -> dict:
    """Returns a record with its keys renamed as --column asks; see `rows`.

    If `columns` has the key "gold" and the record has no "kind" (the name of its verifier), adds the kind that fits the
    form of the gold answer.

    Raises:
        ValueError: the record lacks a key that `columns` names, or no kind fits the gold answer.
    """
    found = dict(record)
    for here, there in columns.items():
        value: object = record
        for part in there.split("."):
            if not isinstance(value, Mapping) or part not in value:
                raise ValueError(
                    f"{where} has no {there}, which --column={here}={there} names; use one of {list(record)}"
                )
            value = value[part]
        found[here] = value
    if "gold" in columns and "kind" not in found:
        try:
            found |= read_gold(found["gold"])
        except ValueError as error:
            raise ValueError(f"{where}, --column=gold={columns['gold']}: {error}") from error
    return found


def _converted(record: dict, where: str, name: str, free: bool) -> tuple[str, dict]:
    """Turns a record into a row: adds id, problem, gold and kind if they are missing. Returns (name of its form, row).

    Recognises the formats of published data sets by their keys. A record with `gold` or `kind` is a row already and
    stays as it is; only with `free`, or under `--column`, are its missing keys added.

    Args:
        where: "FILE:LINE", for error texts.
        name: the id for a record without id.
        free: see `rows`.
    """
    if "gold" in record or "kind" in record:
        return OWN, {"id": name, "gold": None, "kind": GENERAL} | record if free else record
    keys = {key.lower(): value for key, value in record.items()}
    named = next((keys[k] for k in ("id", "unique_id", "question_id", "task_id") if keys.get(k) is not None), name)
    try:
        if (found := forms.find_question(keys, str(named))) is not None:
            return found.form, record | {"id": named} | found.value
    except (ValueError, KeyError, TypeError, SyntaxError) as problem:
        raise ValueError(
            f"{where} (id {named!r}) has the keys of a known data set, but values that do not fit them "
            f"({type(problem).__name__}: {problem}); mend the row, or give it as {{id, problem, gold, kind}}"
        ) from None
    if free:
        if (problem := keys.get("problem") or keys.get("question") or keys.get("prompt")) is None:
            raise ValueError(
                f"{where} has the keys {', '.join(record)}; a row needs a text under one of the keys "
                "problem, question and prompt"
            )
        return "problems without answers", record | {"id": named, "problem": problem, "gold": None, "kind": GENERAL}
    raise ValueError(
        f"{where} has the keys {', '.join(record)}; a row needs one of these sets of keys: "
        "(1) id, problem, gold and kind; (2) question, and answer with a ####; (3) problem, and one of answer, "
        "final_answer, or solution with a \\boxed{}; (4) the keys of another published data set. "
        "For other keys, give --column=problem=KEY and --column=gold=KEY with the file's keys"
    )


def _checked(row: dict, where: str) -> dict:
    """Returns the row with its id as a string and its gold converted from JSON text where the kind needs that.

    Args:
        where: "FILE:LINE", for error texts.

    Raises:
        ValueError: a key is missing, or a value does not have the form that its key or the row's kind requires.
    """
    missing = [key for key in ("id", "problem", "gold", "kind") if key not in row]
    if missing:
        raise ValueError(
            f"{where} (id {row.get('id')!r}) has no {', '.join(missing)}; a row needs id, problem, gold and kind"
        )
    name, problem, gold, kind = row["id"], row["problem"], row["gold"], row["kind"]
    if isinstance(name, bool) or not isinstance(name, str | int) or not str(name).strip():
        raise ValueError(f"{where} has id={name!r}; an id must be a string that is not blank, or an integer")
    where = f"{where} (id {name!r})"
    if not isinstance(problem, str) or not problem.strip():
        raise ValueError(f"{where} has problem={problem!r:.60}; a problem must be a string that is not blank")
    rules = {name: of.gold for name, of in KINDS.items() if of.gold is not None}
    if not isinstance(kind, str) or kind not in rules:
        raise ValueError(f"{where} has kind={kind!r}; use one of {', '.join(rules)}")
    gold = rules[kind].read(gold)
    if not rules[kind].holds(gold):
        raise ValueError(f"{where} has gold={gold!r:.80}; the gold of kind {kind} is {rules[kind].words}")
    return row | {"id": str(name), "gold": gold}
