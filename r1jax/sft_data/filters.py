"""Filters sampled records (rejection sampling): decides which to keep for SFT, and why the others are dropped.

Reasons such as "wrong" or "long" are stored in the records' field `reason`, and counted in manifests and reports.
"""

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
    """The conditions on which a record is kept, checked in the order of the fields."""

    finished: bool = True
    """Drop completions that were cut off."""
    right: bool = True
    """Drop records with a wrong answer, and records whose verifier gave no verdict. Records of questions without a
    verifier are not dropped."""
    judged: bool = False
    """Drop all records without a verdict, also those of questions that have no verifier."""
    form: str = ""
    """Answer format that the response must have, r1_zero or r1; empty: any."""
    longest: int = 0
    """Largest number of tokens in a response; 0: no limit."""
    most_repeated: float = 0.5
    """Largest allowed share of the response's 8-grams that occurred earlier in the response; 1: no limit."""
    least_language: float = 0.95
    """Smallest allowed share of the chain of thought's words that are in the question's language; 0: no limit."""
    longest_paragraph: int = 0
    """Largest number of characters in a paragraph (a line) of the chain of thought; 0: no limit."""
    code_blocks: bool = True
    """Allow fenced code in the chain of thought."""
    distinct: bool = True
    """Drop a record whose response equals that of an earlier kept record of the same problem."""
    most_each: int = 0
    """Largest number of kept records of one problem; 0: no limit."""


def apply_filters(records: Sequence[dict], filters: Filters) -> list[dict]:
    """Returns copies of all records, in order, with the fields `keep` and `reason` set.

    `reason` comes from the first filter that drops the record, such as "wrong"; it is empty if the record is kept. A
    record that already has a reason keeps this reason, and stays dropped.
    """
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
    """Returns the reason to drop a record, such as "wrong" or "long"; "" if there is none.

    Looks at this record alone: `apply_filters` compares records with each other.
    """
    text, right = record["response"], record.get("right")
    if filters.finished and record.get("truncated"):
        return "cut off"
    if filters.right and right is False:
        return "no answer" if record.get("verdict") == "no_answer" else "wrong"
    if right is None and (filters.judged or (filters.right and record.get("verdict"))):  # its verifier gave up
        return "no verdict"
    if filters.form and not rule.score_format([text], [record], filters.form)[0]:
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
