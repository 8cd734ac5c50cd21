"""Rejection: which sampled records are kept for supervised fine-tuning, and why the others are not."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Mapping, Sequence

from r1jax.rewards import format as format_reward
from r1jax.rewards.repetition import repeated_share
from r1jax.rewards.rule import consistency

NGRAM = 8


@dataclasses.dataclass(frozen=True)
class Filters:
    """What a record must be, to be kept. Reasons are looked for in this order."""

    finished: bool = True
    """Ended by itself."""
    right: bool = True
    """Right, where it can be judged."""
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
    most_each: int = 0
    """Records of one problem; 0: any."""


def filtered(records: Sequence[dict], filters: Filters) -> list[dict]:
    """The records with `keep` and the first `reason` to drop one. Those dropped before stay dropped."""
    kept: Counter[str] = Counter()
    found = []
    for record in records:
        reason = record["reason"] or objection(record, filters)
        if not reason and filters.most_each and kept[record["example"]] >= filters.most_each:
            reason = "enough of this problem"
        kept[record["example"]] += not reason
        found.append(record | {"keep": not reason, "reason": reason})
    return found


def objection(record: Mapping, filters: Filters) -> str:
    """Why a record is dropped; empty where it is not."""
    thought = format_reward.think(record["response"]) or ""
    if filters.finished and record["truncated"]:
        return "cut off"
    if filters.right and record["right"] is False:
        return "no answer" if record["verdict"] == "no_answer" else "wrong" if record["verdict"] == "wrong" else "no verdict"
    if filters.longest and record["tokens"] > filters.longest:
        return "long"
    if filters.most_repeated < 1 and repeated_share(record["response"], NGRAM) > filters.most_repeated:
        return "repetition"
    if filters.least_language and record["language"] and consistency([record["response"]], [record])[0] < filters.least_language:
        return "mixed language"
    if filters.longest_paragraph and max(map(len, thought.splitlines()), default=0) > filters.longest_paragraph:
        return "long paragraph"
    if not filters.code_blocks and "```" in thought:
        return "code block"
    return ""


def counts(records: Sequence[Mapping]) -> dict:
    """How many records there are by route and by domain, kept and not, by reason of rejection, and by who rewrote them."""

    def by(key: str, chosen: Sequence[Mapping]) -> dict[str, int]:
        return dict(sorted(Counter(str(record[key]) for record in chosen).items()))

    kept = [record for record in records if record["keep"]]
    return {
        "records": len(records), "kept": len(kept), "route": by("route", kept), "domain": by("domain", kept),
        "rewritten_by": by("rewritten_by", kept), "reason": by("reason", [record for record in records if not record["keep"]]),
    }  # fmt: skip
