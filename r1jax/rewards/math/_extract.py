"""Finds the answer in a model's text: boxes, <answer> tags, #### lines, statements, the last formula.

All scans take time linear in the length of the text.
"""

from __future__ import annotations

import re
from collections import deque

from r1jax.rewards.math._denials import CONTEXT, is_denied

TAIL = 65_536
RULES = ("auto", "boxed", "answer_tag", "hash")

_BRACES = re.compile(r"\\(?:boxed|fbox|framebox)\s*\{|\\.|[{}]", re.DOTALL)
_BARE_BOX = re.compile(r"\\(?:boxed|fbox|framebox)(?:\s+|(?=\d))([^\s{$][^$\n]*)")
_BETWEEN_BOXES = re.compile(
    r"(?:\$+|\\[()\[\],;:! ]|\\q?quad|[\s,;.]|(?:\\text\s*\{)?\s*(?:and|or|和|或)\s*\}?"
    r"|[A-Za-z](?:_\{?\w{1,3}\}?)?\s*=)*"
)
_WORD_BETWEEN = re.compile(r"and|or|[,;和或]|=")
_STATEMENT = re.compile(
    r"(?:(?:correct|right|best)\s+(?:option|choice)|final\s+answer|the\s+answer|answers?|result)\s*"
    r"(?:to\s+[^.\n]{0,60}\s)?(?:is|are|:|=)+"
    r"(?:\s*(?:that|:|equal to))?"
    r"|答案\s*(?:是|为|:|：|选|应)+|(?:故|应|本题|因此|所以)选\s*[:：]?|最终答案\s*[:：]?|答[:：]",
    re.IGNORECASE,
)
_CHAT = re.compile(r"<\|[a-z_]+\|>")
_SENTENCE_END = re.compile(r"(?<![\d\s][A-Za-z])(?<!\.)\.(?=\s+[A-Z\u4e00-\u9fff]|\s*$)|\n\s*\n|。")
MOST_BETWEEN = 160  # characters between two boxes that words may join
_CHOICE = re.compile(
    r"\b(?:or|perhaps|maybe|possibly|alternatively|either|otherwise|else|if|unless|when|another|case)\b"
    r"|\b(?:answer|option|candidate|guess|possibility|solution)\s*(?:[2-9]|two|b)\b"
    r"|\b(?:second|2nd|next|other)\s+(?:answer|option|candidate|guess|possibility)\b|或|也可能|要么|还是|如果|若|当|情况",
    re.IGNORECASE,
)
_CHOICE_BEFORE = re.compile(
    r"\b(?:either|if|one of|maybe|perhaps|possibly|could be|might be)\b|要么|如果|若|可能", re.IGNORECASE
)
_CHOICE_AFTER = re.compile(
    r"^\W*(?:if|when|unless|otherwise|depending|\(\s*if)\b|^\W*(?:respectively\W+)?(?:alternatively|perhaps|maybe)\b",
    re.IGNORECASE,
)
_CORRECTION = re.compile(
    r"\b(?:wrong|incorrect|wait|actually|mistakes?|errors?|recheck|correct(?:ed|ion|ing)?|oops|"
    r"sorry|hold on|reconsider\w*|"
    r"redo|so|thus|hence|therefore)\b|\bno\b\s*[,.]|不对|错|更正|等等|所以|因此",
    re.IGNORECASE,
)
_HOPE = re.compile(r"I hope (?:it|this) is correct", re.IGNORECASE)


def boxes(text: str) -> tuple[list[tuple[int, int, str]], bool]:
    """Finds the outermost complete boxes (\\boxed{} or \\fbox{}) in a text.

    Returns:
        ([(start, end, content)] of each box, whether another box opens after the last one and is cut off).
    """
    found: list[tuple[int, int, str]] = []
    stack: list[int] = []
    content_from: dict[int, int] = {}
    for match in _BRACES.finditer(text):
        token = match[0]
        if token == "{":
            stack.append(-1)
        elif token == "}":
            start = stack.pop() if stack else -1
            if start >= 0:
                while found and found[-1][0] > start:
                    found.pop()
                found.append((start, match.end(), text[content_from.pop(start) : match.start()].strip()))
        elif token.endswith("{") and len(token) > 2:
            stack.append(match.start())
            content_from[match.start()] = match.end()
    opened = max((start for start in stack if start >= 0), default=-1)
    return found, opened >= 0 and (not found or opened > found[-1][0])


def boxed(text: str) -> str | None:
    """Returns the content of the last box; None if there is no box or the last box is cut off."""
    found, cut = boxes(text)
    if cut:
        return None
    bare = _last(_BARE_BOX, text)
    if bare and (not found or bare.start() > found[-1][0]):
        return bare[1].strip()
    return found[-1][2] if found else None


def joined_boxes(text: str) -> str | None:
    r"""Returns the content of the last box, or the contents of the last boxes if they form a list.

    For example, returns "1 ; 2" for \boxed{1} and \boxed{2}. Returns None if there is no box, if the last box is
    cut off, if words beside the box deny its content, or if words between the last two boxes offer a choice ("or").
    """
    found, cut = boxes(text)
    if cut or not found:
        return boxed(text)
    if _is_choice(text, found):
        return None
    parts = [found[-1]]
    for before in reversed(found[:-1]):
        gap = text[before[1] : parts[-1][0]]
        if len(gap) > 60 or not _BETWEEN_BOXES.fullmatch(gap) or "\n\n" in gap:
            break
        if not _WORD_BETWEEN.search(gap) and gap.strip(" $\\()[]"):
            break
        parts.append(before)
    if is_denied(text[max(0, parts[-1][0] - CONTEXT) : parts[-1][0]], text[parts[0][1] : parts[0][1] + CONTEXT]):
        return None
    if len(parts) == 1:
        content = found[-1][2]
        inner = boxes(content)[0] if content.startswith("\\boxed") and content.endswith("}") else []
        return inner[0][2] if len(inner) == 1 and inner[0][:2] == (0, len(content)) else content
    if len({content for _, _, content in parts}) == 1:
        return parts[0][2]
    return " ; ".join(content for _, _, content in reversed(parts))


def _is_choice(text: str, found: list[tuple[int, int, str]]) -> bool:
    """Returns True if words round the last two different boxes offer them as alternatives."""
    others = [box for box in found[:-1] if box[2] != found[-1][2]]
    if not others or found[-1][0] - others[-1][1] > MOST_BETWEEN:
        return False
    gap = text[others[-1][1] : found[-1][0]]
    before = re.split(r"[.!?。\n]", text[max(0, others[-1][0] - 80) : others[-1][0]])[-1]
    after = re.split(r"[.!?。\n]", text[found[-1][1] : found[-1][1] + 80])[0]
    if _CORRECTION.search(gap):
        return False
    if not _BETWEEN_BOXES.fullmatch(gap) and _CHOICE.search(gap):
        return True
    return bool(_CHOICE_BEFORE.search(before)) or bool(_CHOICE_AFTER.search(after))


def answer_tag(text: str) -> str | None:
    """Returns the content of the last box in the last complete <answer> block, or the whole block if it has no box.

    Returns None if there is no complete block, or if the last box in it is cut off.
    """
    blocks = answer_blocks(text)
    if not blocks:
        return None
    inner = boxed(blocks[-1]) if "\\boxed" in blocks[-1] or "\\fbox" in blocks[-1] else blocks[-1].strip()
    return inner


def answer_blocks(text: str) -> list[str]:
    """Returns the contents of the complete <answer> blocks, in order."""
    blocks, at = [], 0
    while (start := text.find("<answer>", at)) >= 0 and (end := text.find("</answer>", start)) >= 0:
        start = text.rfind("<answer>", start, end)
        blocks.append(text[start + 8 : end])
        at = end + 9
    return blocks


def hashed(text: str) -> str | None:
    """Returns what follows the last ####, up to the end of the line; None if there is no ####."""
    _, mark, after = text.rpartition("####")
    return (after.strip().splitlines() or [""])[0].strip() if mark else None


def after_thinking(text: str) -> str | None:
    """Returns the text after the last `</think>` or `</reasoning>`; the whole text if it has no thinking block.

    Returns None if the text opens a `<think>` or `<reasoning>` block and never closes it.
    """
    for opening, closing in (("<think>", "</think>"), ("<reasoning>", "</reasoning>")):
        _before, mark, after = text.rpartition(closing)
        if mark:
            text = after
        elif opening in text:
            return None
    return text


def before_chat(text: str) -> str:
    """Returns the part of the text before another speaker's turn, and before a closing phrase such as "I hope it is
    correct".
    """
    text = text.removeprefix("<|im_start|>assistant")
    for pattern in (_CHAT, _HOPE):
        cut = pattern.search(text)
        text = text[: cut.start()] if cut else text
    return text


def statement(text: str) -> tuple[str, str, str] | None:
    """Finds the last statement such as "the answer is 5".

    Returns:
        (the text up to the end of the statement's verb, the rest of the sentence, the text after the sentence); None if
        there is no statement.
    """
    found = _last(_STATEMENT, text)
    if not found:
        return None
    rest = text[found.end() :]
    start = len(rest) - len(rest.lstrip(" :*\n"))
    end = _SENTENCE_END.search(rest, start)
    stop = end.start() if end else len(rest)
    said = rest[start:stop].strip()
    return (text[: found.end()], said, rest[stop:]) if said else None


def _last(pattern: re.Pattern, text: str, start: int = 0) -> re.Match | None:
    """Returns the last match of a pattern in the text from index `start` on; None if there is none."""
    return next(iter(deque(pattern.finditer(text, start), maxlen=1)), None)
