"""Judged replies from files: pairs {problem, chosen, rejected} and labels {problem, response, safe}, as JSON lines.

`prompt` may stand for `problem`. A pair's replies are what a reader saw, or whole completions; labels are on whole
responses.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from r1jax.rewards.format import THINK, THINK_END

KINDS = ("helpful", "safety")
KEYS = {
    "helpful": {"problem": str, "chosen": str, "rejected": str},
    "safety": {"problem": str, "response": str, "safe": (bool, int)},
}


def read(path: str, kind: str, flag: str = "--data") -> list[dict]:
    """All judgements of a file.

    Raises:
        ValueError: the file cannot be read, or a line is no judgement; it names the line.
    """
    try:
        lines = Path(path).read_text(encoding="utf-8").split("\n")  # U+2028 may stand in a line
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(
            f"{flag}={path} cannot be read ({error}). Give a .jsonl file of {{{', '.join(KEYS[kind])}}}"
        ) from error
    items = [
        item_of(line, kind, f"{flag}={path} line {number}") for number, line in enumerate(lines, 1) if line.strip()
    ]
    if len(items) < 2:
        raise ValueError(
            f"{flag}={path} holds {len(items)} items; one is for training and one for measuring: give at least 2"
        )
    return items


def item_of(line: str, kind: str, where: str) -> dict:
    """One judgement of a file, checked."""
    form = f"a {kind} item is {{{', '.join(KEYS[kind])}}}"
    try:
        item = json.loads(line)
    except ValueError as error:
        raise ValueError(f"{where} is not JSON ({error}); {form}") from error
    if not isinstance(item, dict):
        raise ValueError(f"{where} is no object but {line:.60}; {form}")
    if "problem" not in item and "prompt" in item:
        item["problem"] = item["prompt"]
    for key, kinds in KEYS[kind].items():
        if key not in item:
            raise ValueError(f"{where} lacks {key}; {form}")
        if not isinstance(item[key], kinds) or (key == "safe" and item[key] not in (0, 1)):
            raise ValueError(
                f"{where}: {key} is {item[key]!r:.60}; a {'string' if kinds is str else 'true or false'} is needed"
            )
    if kind == "helpful" and item["chosen"] == item["rejected"]:
        raise ValueError(f"{where}: chosen and rejected are the same text, which teaches nothing; remove the line")
    return item


def completion_of(reply: str) -> str:
    """A reply as its reader saw it, as a completion: behind a chain of thought of nothing. What has think tags is a
    completion already."""
    return reply if THINK in reply or THINK_END in reply else f"{THINK} {THINK_END} {reply}"


def replies(item: Mapping, kind: str) -> tuple[str, ...]:
    """The completions that were judged: of a pair the chosen one first."""
    return (
        (completion_of(item["chosen"]), completion_of(item["rejected"])) if kind == "helpful" else (item["response"],)
    )


def parted(items: Sequence[dict], held_out: int, seed: int) -> tuple[list[dict], list[dict]]:
    """(items to train on, held-out items): whole problems, so that none is in both; a fifth of the items at most, but
    one problem at least.

    Raises:
        ValueError: all items are of one problem.
    """
    of: dict[str, list[dict]] = {}
    for item in items:
        of.setdefault(item["problem"], []).append(item)
    if len(of) < 2:
        raise ValueError("--data judges one problem alone: what is measured must be of another. Give more")
    problems, most, kept = list(of), min(held_out, len(items) // 5), []
    for i in np.random.default_rng(seed).permutation(len(problems)):
        if not kept or len(kept) + len(of[problems[i]]) <= most:
            kept += of.pop(problems[i])
    return [item for some in of.values() for item in some], kept
