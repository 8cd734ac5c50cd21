"""The format reward of R1-Zero and R1, and the parts of a completion: chain of thought, answer.

A character that prints nothing (white space, zero-width and control characters) counts as white
space throughout.
"""

from __future__ import annotations

import time
import unicodedata
from collections.abc import Mapping

from r1jax.rewards.verdict import Verdict

THINK, THINK_END, ANSWER, ANSWER_END = TAGS = ("<think>", "</think>", "<answer>", "</answer>")
STYLES = ("r1_zero", "r1")


def verify(text: str, example: Mapping) -> Verdict:
    """1 where the completion is well formed, else 0 with the broken rule as `stage`.

    r1_zero: one think block, one answer block, both with something besides white space; white space
    before, between and after is allowed, nothing else. r1: one think block, then a summary that is
    not blank. Where the example says `think: none` the think block is there and blank.

    Args:
        example: `style` ("r1_zero" by default, or "r1"), `prefilled_think` (True where the prompt
            already ends in `<think>`), `think` ("none" where no thinking is wanted). Other keys are
            ignored.
    Raises:
        ValueError: the example asks for an unknown style or think rule.
    Source: DeepSeek-AI 2025, Table 1 and section 2.2.2 (R1-Zero), section 2.3.1 (R1's readable
    pattern).
    """
    start = time.perf_counter()
    style = example.get("style") or "r1_zero"
    if style not in STYLES:
        raise ValueError(f"style={style!r} is no format style; use one of {', '.join(STYLES)}")
    rule = example.get("think")
    if rule not in (None, "none"):
        raise ValueError(f"think={rule!r} is no think rule; use 'none' or leave it out")
    whole = THINK + text if example.get("prefilled_think") else text
    broken = _broken_rule(whole, style, rule == "none")
    verdict = ("wrong", 0.0) if broken else ("correct", 1.0)
    return Verdict(verdict[1], verdict[0], broken or style, ms=(time.perf_counter() - start) * 1e3)


def _broken_rule(text: str, style: str, blank_think: bool) -> str:
    """The first rule the text breaks, in a few words; empty if it breaks none."""
    for tag in TAGS if style == "r1_zero" else TAGS[:2]:
        if text.count(tag) != 1:
            return f"{tag} {'missing' if tag not in text else 'repeated'}"
    before, _, rest = text.partition(THINK)
    thought, closed, rest = rest.partition(THINK_END)
    if not closed:
        return "think closed before it opens"
    if not blank(before):
        return "text before think"
    if blank(thought) != blank_think:
        return "think not blank" if blank_think else "think blank"
    if style == "r1":
        return "summary blank" if blank(rest) else ""
    between, opened, rest = rest.partition(ANSWER)
    given, closed, after = rest.partition(ANSWER_END)
    if not opened or not closed:
        return "answer out of order"
    if not blank(between):
        return "text between think and answer"
    if blank(given):
        return "answer blank"
    return "" if blank(after) else "text after answer"


def blank(text: str) -> bool:
    """Whether the text prints nothing: white space, control and zero-width characters only."""
    stripped = text.strip()
    return not stripped or all(unicodedata.category(c)[0] in "ZC" for c in stripped)


def think(text: str) -> str | None:
    """The chain of thought, tags left out; None if the text has no think tag.

    From the first `<think>` (the start, where the prompt held it) to the last `</think>`; an
    unclosed block runs to the first `<answer>` after it, or to the end.
    """
    opened = text.find(THINK)
    closed = text.rfind(THINK_END)
    start = 0 if opened < 0 or 0 <= closed < opened else opened + len(THINK)
    if closed >= 0:
        return text[start:closed].strip()
    if opened < 0:
        return None
    return text[start:].partition(ANSWER)[0].strip()


def answer(text: str) -> str | None:
    """The content of the last complete answer block after the last `</think>`; None without one."""
    region = text[_after_think(text) :]
    end = region.rfind(ANSWER_END)
    start = region.rfind(ANSWER, 0, max(end, 0))
    if start < 0:
        return None
    return region[start + len(ANSWER) : end].partition(ANSWER_END)[0].strip()


def lenient_answer(text: str) -> str | None:
    """The last answer-like thing in a text of any form; None only if nothing prints.

    In this order: the last complete answer block; the content of an unclosed one; the text after
    the last `</think>`; the last line that prints. For evaluation only: rewards use `answer`.
    """
    region = text[_after_think(text) :]
    for given in (answer(text), region.rpartition(ANSWER)[2] if ANSWER in region else None):
        if given is not None and not blank(given):
            return given.replace(ANSWER_END, "").strip()
    if THINK_END in text and not blank(region):
        return region.strip()
    for tag in TAGS:
        text = text.replace(tag, "\n")
    return next((line.strip() for line in reversed(text.splitlines()) if not blank(line)), None)


def graded(text: str, lenient: bool = False) -> str | None:
    """The part of a completion that a verifier reads; None if there is nothing to read.

    The strict answer block; without any tag the text itself, so that bare answers can be graded
    too.
    """
    given = answer(text)
    if given is None and lenient:
        given = lenient_answer(text)
    elif given is None and not any(tag in text for tag in TAGS):
        given = text.strip()
    return None if given is None or blank(given) else given


def _after_think(text: str) -> int:
    """Where the text after the last `</think>` starts; 0 without one."""
    closed = text.rfind(THINK_END)
    return 0 if closed < 0 else closed + len(THINK_END)
