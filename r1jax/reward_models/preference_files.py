"""Reads judged replies from JSON lines: pairs {problem, chosen, rejected} or labels {problem, response, safe}.

The key `prompt` is accepted in place of `problem`. A pair's replies may be bare replies or full completions with a
chain of thought. The label `safe` is about the entire response.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

import numpy as np

from r1jax import storage
from r1jax.rewards.format import THINK, THINK_END

KINDS = ("helpful", "safety")
KEYS = {
    "helpful": {"problem": str, "chosen": str, "rejected": str},
    "safety": {"problem": str, "response": str, "safe": (bool, int)},
}


def read(path: str, kind: str, flag: str = "--data") -> list[dict]:
    """Reads all judgements of a file: pairs {problem, chosen, rejected} or labels {problem, response, safe}.

    Args:
        kind: "helpful" for pairs, "safety" for labels.
        flag: the command-line flag whose value is `path`; errors name this flag.
    Raises:
        ValueError: the file cannot be read or holds fewer than two judgements, or a line is not a judgement; the
            message names the line.
    """
    form = f"{{{', '.join(KEYS[kind])}}}"
    items = [item_of(line, kind, where) for where, line in read_lines(path, flag, form)]
    if len(items) < 2:
        raise ValueError(
            f"{flag}={path} holds {len(items)} items; at least 2 are needed, one to train on and one to measure with"
        )
    return items


def read_lines(path: str, flag: str, form: str) -> list[tuple[str, str]]:
    """Returns (where, line) for each line of a file; skips blank lines. `where` is the flag, file and line number.

    Args:
        flag: the command-line flag whose value is `path`.
        form: the keys that a line must have, for the error message.

    Raises:
        ValueError: the file cannot be read.
    """
    try:
        lines = storage.path_of(path, flag).read_text(encoding="utf-8").split("\n")  # U+2028 may stand in a line
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{flag}={path} cannot be read ({error}). Give a .jsonl file of {form}") from error
    return [(f"{flag}={path} line {number}", line) for number, line in enumerate(lines, 1) if line.strip()]


def read_object(line: str, where: str, end: str) -> dict:
    """Returns the JSON object of a line.

    Args:
        where: the flag, file and line number; error messages begin with this text.
        end: what a line should be; error messages end with this text.

    Raises:
        ValueError: the line is not JSON, or not an object.
    """
    try:
        value = json.loads(line)
    except ValueError as error:
        raise ValueError(f"{where} is not JSON ({error}){end}") from error
    if not isinstance(value, dict):
        raise ValueError(f"{where} is not a JSON object but {line:.60}{end}")
    return value


def item_of(line: str, kind: str, where: str) -> dict:
    """Parses one line of the file and checks its keys and types. Returns the judgement.

    Args:
        kind: "helpful" or "safety".
        where: the flag, file and line number; error messages begin with this text.
    Raises:
        ValueError: the line is not a judgement of this kind.
    """
    form = f"a {kind} item is {{{', '.join(KEYS[kind])}}}"
    item = read_object(line, where, f"; {form}")
    if "problem" not in item and "prompt" in item:
        item["problem"] = item["prompt"]
    for key, kinds in KEYS[kind].items():
        if key not in item:
            raise ValueError(f"{where} lacks the key {key}; {form}")
        if not isinstance(item[key], kinds) or (key == "safe" and item[key] not in (0, 1)):
            raise ValueError(
                f"{where}: {key} is {item[key]!r:.60}; it must be {'a string' if kinds is str else 'true or false'}"
            )
    if kind == "helpful" and item["chosen"] == item["rejected"]:
        raise ValueError(f"{where}: chosen and rejected are the same text, which teaches nothing; remove the line")
    return item


def completion_of(reply: str) -> str:
    """Returns the reply as a completion: an empty <think> </think> is put before a reply that has no think tags."""
    return reply if THINK in reply or THINK_END in reply else f"{THINK} {THINK_END} {reply}"


def replies(item: Mapping, kind: str) -> tuple[str, ...]:
    """Returns the completions of an item: (chosen, rejected) for kind "helpful", (response,) for "safety"."""
    return (
        (completion_of(item["chosen"]), completion_of(item["rejected"])) if kind == "helpful" else (item["response"],)
    )


def split_by_problem(items: Sequence[dict], held_out: int, seed: int) -> tuple[list[dict], list[dict]]:
    """Splits items by problem into (training items, held-out items).

    All items of a problem go to the same side. One random problem is always held out. The other problems follow in
    random order. Each is held out unless more than `held_out` items, or more than a fifth of all items, would then be
    held out.

    Raises:
        ValueError: all items belong to one problem.
    """
    of: dict[str, list[dict]] = {}
    for item in items:
        of.setdefault(item["problem"], []).append(item)
    if len(of) < 2:
        raise ValueError(
            "--data holds items of only one problem, but training and held-out items must be of different problems: "
            "add items of another problem"
        )
    problems, most, kept = list(of), min(held_out, len(items) // 5), []
    for i in np.random.default_rng(seed).permutation(len(problems)):
        if not kept or len(kept) + len(of[problems[i]]) <= most:
            kept += of.pop(problems[i])
    return [item for some in of.values() for item in some], kept
