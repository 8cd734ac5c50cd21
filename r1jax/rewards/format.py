"""Computes the format reward of R1-Zero and R1, and cuts a completion into chain of thought and answer.

Characters that print nothing (white space, zero-width and control characters) count as white space throughout.
"""

from __future__ import annotations

import time
import unicodedata
from collections.abc import Mapping
from typing import NamedTuple

from r1jax.rewards.math._extract import boxed
from r1jax.rewards.verdict import Verdict, check_arguments

THINK, THINK_END, ANSWER, ANSWER_END = TAGS = ("<think>", "</think>", "<answer>", "</answer>")


class Style(NamedTuple):
    """A form of completions.

    Attributes:
        think: whether one think block must come first, with nothing before it.
        answer: the place of the answer, "tags" (an answer block), "boxed" (a LaTeX box), or "any" (in any form).
    """

    think: bool
    answer: str


STYLES = {
    "r1_zero": Style(True, "tags"),
    "r1": Style(True, "boxed"),
    "think_any": Style(True, "any"),
    "tags": Style(False, "tags"),
    "boxed": Style(False, "boxed"),
    "any": Style(False, "any"),
}


def verify(text: str, example: Mapping) -> Verdict:
    """Returns reward 1 if the completion is well formed, else reward 0.

    If the reward is 0, the verdict's `stage` says what is wrong. The styles require:

        r1_zero         one think block, then one answer block, neither blank; only white space before, between and
                        after them
        r1, think_any   one think block at the beginning, then a summary, neither blank
        tags            one answer block that is not blank
        boxed           a LaTeX box; if the text has a `</think>`, the box comes after the last one
        any             a text that is not blank

    If the example has `think: none`, the styles r1_zero, r1 and think_any require a blank think block instead.

    Args:
        example: `style` (a key of `STYLES`, "r1_zero" by default), `prefilled_think` (True if the prompt already
            ends in `<think>`), `think` ("none" if no thinking is wanted). Other keys are ignored.
    Raises:
        ValueError: `style` or `think` of the example has an unknown value.
    Source: DeepSeek-AI 2025, Table 1 and section 2.2.2 (R1-Zero), section 2.3.1 (R1's readable pattern).
    """
    check_arguments(text, example)
    start = time.perf_counter()
    style = example.get("style") or "r1_zero"
    if style not in STYLES:
        raise ValueError(f"style={style!r} is no answer format; use one of {', '.join(STYLES)}")
    rule = example.get("think")
    if rule not in (None, "none"):
        raise ValueError(
            f"think={rule!r} in the example is unknown; use think='none' for a blank think block, or omit it"
        )
    whole = THINK + text if example.get("prefilled_think") else text
    broken = _broken_rule(whole, style, rule == "none")
    verdict = ("wrong", 0.0) if broken else ("correct", 1.0)
    return Verdict(verdict[1], verdict[0], broken or style, ms=(time.perf_counter() - start) * 1e3)


def _broken_rule(text: str, style: str, blank_think: bool) -> str:
    """Returns what is wrong with the format, in a few words such as "think blank"; "" if nothing is.

    Args:
        text: the completion, with `<think>` at the beginning if the prompt ended in that tag.
        style: a key of `STYLES`.
        blank_think: the think block must be blank; otherwise it must not be blank.
    """
    if not STYLES[style].think:
        return _broken_answer(text, STYLES[style].answer)
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
    if STYLES[style].answer != "tags":
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


def _broken_answer(text: str, answer: str) -> str:
    """Returns what is wrong with a completion that needs no chain of thought; "" if nothing is.

    Args:
        answer: where the answer stands: see `Style`.
    """
    if answer == "boxed":
        return "" if boxed(text[_after_think(text) :]) else "box missing"
    if answer == "any":
        return "blank" if blank(text) else ""
    for tag in (ANSWER, ANSWER_END):
        if text.count(tag) != 1:
            return f"{tag} {'missing' if tag not in text else 'repeated'}"
    _, _, rest = text.partition(ANSWER)
    given, closed, _ = rest.partition(ANSWER_END)
    return "answer out of order" if not closed else "answer blank" if blank(given) else ""


def blank(text: str) -> bool:
    """Returns True if the text holds only white space, control characters and zero-width characters."""
    stripped = text.strip()
    return not stripped or all(unicodedata.category(c)[0] in "ZC" for c in stripped)


def think(text: str) -> str | None:
    """Returns the chain of thought, without tags; None if the text has no think tag.

    The chain of thought begins after the first `<think>`, or at the start of the text if the prompt held this tag. It
    ends at the last `</think>`. In a text without `</think>` it ends at the next `<answer>`, or with the text.
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
    """Returns the content of the last complete `<answer>` block after the last `</think>`; None if there is none."""
    region = text[_after_think(text) :]
    end = region.rfind(ANSWER_END)
    start = region.rfind(ANSWER, 0, max(end, 0))
    if start < 0:
        return None
    return region[start + len(ANSWER) : end].partition(ANSWER_END)[0].strip()


def lenient_answer(text: str) -> str | None:
    """Returns whatever comes closest to an answer in a text of any form; None only if the text is blank.

    The answer is the first of these that is not blank:

    - the last complete `<answer>` block (see `answer`)
    - the text after an `<answer>` that is not closed
    - the text after the last `</think>`
    - the last line that is not blank

    This function is for evaluation only. Rewards use `answer`.
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
    """Returns the part of a completion that a verifier grades; None if that part does not exist or is blank.

    The part is the content of the answer block (see `answer`). If the text has no `<think>`, `</think>`, `<answer>` or
    `</answer>`, the part is the whole text, so that a bare answer can be graded too.

    Args:
        lenient: if `answer` finds nothing, use `lenient_answer`.
    """
    given = answer(text)
    if given is None and lenient:
        given = lenient_answer(text)
    elif given is None and not any(tag in text for tag in TAGS):
        given = text.strip()
    return None if given is None or blank(given) else given


def _after_think(text: str) -> int:
    """Returns the index at which the text after the last `</think>` starts; 0 if there is no `</think>`."""
    closed = text.rfind(THINK_END)
    return 0 if closed < 0 else closed + len(THINK_END)


def reply_of(text: str) -> str:
    """Returns what a completion shows to the user, without the chain of thought.

    The visible part is the last complete `<answer>` block; without a block, the text after the last `</think>`; without
    this tag, the whole text.
    """
    given = answer(text)
    return (text.rpartition(THINK_END)[2] if given is None else given).strip()
