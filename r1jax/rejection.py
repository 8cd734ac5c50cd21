"""Rejection: which sampled records are kept for supervised fine-tuning, and why the others are not."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Mapping, Sequence

from r1jax.rewards import format as format_reward
from r1jax.rewards import rule
from r1jax.rewards.repetition import repeated_share

NGRAM = 8


@dataclasses.dataclass(frozen=True)
class Filters:
    """What a record must be, to be kept. Reasons are looked for in this order."""

    finished: bool = True
    """Ended by itself."""
    right: bool = True
    """Right, where it can be judged."""
    judged: bool = False
    """Judged at all."""
    form: str = ""
    """Well formed: r1_zero, r1; empty: any form."""
    longest: int = 0
    """Tokens; 0: any."""
    most_repeated: float = 0.5
    """Share of its 8-grams that occurred before; 1: any."""
    least_language: float = 0.95
    """Share of the chain of thought's words in the question's language; 0: any."""
    longest_paragraph: int = 0
    """Characters of a paragraph of the chain of thought; 0: any."""
    code_blocks: bool = True
    """Fenced code may stand in the chain of thought."""
    distinct: bool = True
    """Not the same text as an earlier record of its problem."""
    most_each: int = 0
    """Records of one problem; 0: any."""


def filtered(records: Sequence[dict], filters: Filters) -> list[dict]:
    """The records with `keep` and the first `reason` to drop one, in their order. Those dropped before stay dropped."""
    there: Counter[str] = Counter()
    texts: set[tuple[str, str]] = set()
    found = []
    for record in records:
        problem = str(record.get("example") or record["problem"])
        reason = record["reason"] or objection(record, filters)
        if not reason and filters.distinct and (problem, record["response"]) in texts:
            reason = "duplicate"
        if not reason and filters.most_each and there[problem] >= filters.most_each:
            reason = "enough of this problem"
        if not reason:
            there[problem] += 1
            texts.add((problem, record["response"]))
        found.append(record | {"keep": not reason, "reason": reason})
    return found


def objection(record: Mapping, filters: Filters) -> str:
    """Why a record is dropped by itself; empty where it is not."""
    text, right = record["response"], record.get("right")
    if filters.finished and record.get("truncated"):
        return "cut off"
    if filters.right and right is False:
        return "no answer" if record.get("verdict") == "no_answer" else "wrong"
    if right is None and (filters.judged or (filters.right and record.get("verdict"))):  # its verifier gave up
        return "no verdict"
    if filters.form and not rule.well_formed([text], [record], filters.form)[0]:
        return "form"
    if filters.longest and record.get("tokens", 0) > filters.longest:
        return "long"
    if filters.most_repeated < 1 and repeated_share(text, NGRAM) > filters.most_repeated:
        return "repetition"
    if (
        filters.least_language
        and record.get("language")
        and rule.consistency([text], [record])[0] < filters.least_language
    ):
        return "mixed language"
    thought = format_reward.think(text) or ""
    if filters.longest_paragraph and max(map(len, thought.splitlines()), default=0) > filters.longest_paragraph:
        return "long paragraph"
    if not filters.code_blocks and "```" in thought:
        return "code block"
    return ""
