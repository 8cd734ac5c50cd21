"""Makes an annotator from the nano generator. The annotator stands in for the paper's human annotators."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from r1jax.nano import rewriting
from r1jax.rewards import rule
from r1jax.sft_data.rewrite import Annotator


def nano_annotator(style: str | Callable[[Mapping], str]) -> Annotator:
    """Returns an annotator for records of problems that `r1jax.nano` generated.

    The annotator translates the phrases of a chain of thought with a fixed table. Its solution repeats the steps of the
    thought that lead to the record's own answer. The annotator never solves a problem itself.

    Args:
        style: the answer format of the raw records, "r1_zero" or "r1", or a function from a record to its format.
    """

    def solution(row: Mapping, thought: str) -> str:
        given = rule.given_answer(row["response"], row["kind"], style(row) if callable(style) else style) or ""
        plain = "\n".join(line for line in given.splitlines() if not line.startswith("```")).strip()
        return rewriting.solution(dict(row), thought or " ", plain)

    return Annotator(lambda row, thought: rewriting.in_one_language(thought, row["language"]), solution)
