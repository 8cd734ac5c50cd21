"""Where the answer is in a text: boxes, answer tags, #### lines, statements, the last formula. Linear scans only."""

from __future__ import annotations

import re
from collections import deque

TAIL = 65_536
RULES = ("auto", "boxed", "answer_tag", "hash")

_BRACES = re.compile(r"\\(?:boxed|fbox)\s*\{|\\.|[{}]", re.DOTALL)
_BARE_BOX = re.compile(r"\\(?:boxed|fbox)(?:\s+|(?=\d))([^\s{$][^$\n]*)")
_BETWEEN_BOXES = re.compile(
    r"(?:\$+|\\[()\[\],;:! ]|\\q?quad|[\s,;.]|(?:\\text\s*\{)?\s*(?:and|or|和|或)\s*\}?"
    r"|[A-Za-z](?:_\{?\w{1,3}\}?)?\s*=)*"
)
_WORD_BETWEEN = re.compile(r"and|or|[,;和或]|=")
_STATEMENT = re.compile(
    r"(?:final\s+answer|the\s+answer|answer|result)\s*(?:to\s+[^.\n]{0,60}\s)?(?:is|are|:|=)+"
    r"(?:\s*(?:that|:|equal to))?"
    r"|答案\s*(?:是|为|:|：|选|应)+|(?:故|应|本题|因此|所以)选\s*[:：]?|最终答案\s*[:：]?|答[:：]",
    re.IGNORECASE,
)
_DELIMITER = re.compile(r"\\\$|\$\$|\$|\\[()\[\]]")
_CLOSES = {"$": "$", "$$": "$$", "\\(": "\\)", "\\[": "\\]"}
_NUMBER = re.compile(
    r"(?<![A-Za-z0-9_.\\])[-+]?\$?(?:\d{1,3}(?:,\d{3})+(?:\.\d+)?|\d{1,2}:\d{2}(?:\s*[ap]\.?m\b)?|\d+(?:[.,]\d+)?|\.\d+)"
    r"(?:\s*/\s*\d+(?!\d|\.\d))?(?:\s*%|\\%)?"
)
_CHAT = re.compile(r"<\|[a-z_]+\|>")
_SENTENCE_END = re.compile(r"(?<![\d\s][A-Za-z])\.(?=\s+[A-Z\u4e00-\u9fff]|\s*$)|\n\s*\n|。")
# "not 5", "cannot be equal to $5": at most two words before the formula; "5 is wrong" behind it
_NOT = re.compile(
    r"(?:\b(?:not|never|neither|nor|cannot)\b|n['’]t\b)(?:\s+[a-z]+){0,2}[\s$\\([*_]*\Z|不(?:是|等于|会是)?[\s$\\([*_]*\Z",
    re.IGNORECASE,
)
_DENIED = re.compile(
    r"\W{0,3}\s*(?:(?:is|was|are|would be)\s+(?:not|wrong|incorrect)\b|(?:isn|wasn|aren)['’]t)|\s*(?:不对|不是|错)"
)
_HOPE = re.compile(r"I hope (?:it|this) is correct", re.IGNORECASE)


def boxes(text: str) -> tuple[list[tuple[int, int, str]], bool]:
    """The complete boxes (start, end, content), none inside another, and whether one is left open after the last."""
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
    """The last box; None if there is none or the last is cut off."""
    found, cut = boxes(text)
    if cut:
        return None
    bare = _last(_BARE_BOX, text)
    if bare and (not found or bare.start() > found[-1][0]):
        return bare[1].strip()
    return found[-1][2] if found else None


def joined_boxes(text: str) -> str | None:
    """The last box together with those it stands in one list with: \\boxed{1} and \\boxed{2}."""
    found, cut = boxes(text)
    if cut or not found:
        return boxed(text)
    parts = [found[-1]]
    for before in reversed(found[:-1]):
        gap = text[before[1] : parts[-1][0]]
        if len(gap) > 60 or not _BETWEEN_BOXES.fullmatch(gap) or "\n\n" in gap:
            break
        if not _WORD_BETWEEN.search(gap) and gap.strip(" $\\()[]"):
            break
        parts.append(before)
    if len(parts) == 1:
        return found[-1][2]
    if len({content for _, _, content in parts}) == 1:
        return parts[0][2]
    return " ; ".join(content for _, _, content in reversed(parts))


def answer_tag(text: str) -> str | None:
    """What the last answer block holds: its last box, or all of it."""
    blocks = answer_blocks(text)
    if not blocks:
        return None
    inner = boxed(blocks[-1]) if "\\boxed" in blocks[-1] or "\\fbox" in blocks[-1] else blocks[-1].strip()
    return inner


def answer_blocks(text: str) -> list[str]:
    blocks, at = [], 0
    while (start := text.find("<answer>", at)) >= 0 and (end := text.find("</answer>", start)) >= 0:
        start = text.rfind("<answer>", start, end)
        blocks.append(text[start + 8 : end])
        at = end + 9
    return blocks


def hashed(text: str) -> str | None:
    """What follows the last ####, up to the end of its line."""
    _, mark, after = text.rpartition("####")
    return (after.strip().splitlines() or [""])[0].strip() if mark else None


def after_thinking(text: str) -> str | None:
    """The text after the last closed chain of thought; None if one is still open."""
    for opening, closing in (("<think>", "</think>"), ("<reasoning>", "</reasoning>")):
        _before, mark, after = text.rpartition(closing)
        if mark:
            text = after
        elif opening in text:
            return None
    return text


def free(text: str) -> tuple[list[str], bool]:
    """The readings of an answer in running text, the likeliest first; whether a statement ("the answer is") says it."""
    text = text.removeprefix("<|im_start|>assistant")
    for pattern in (_CHAT, _HOPE):
        cut = pattern.search(text)
        text = text[: cut.start()] if cut else text
    text = text.rstrip()
    statement = _last(_STATEMENT, text)
    if statement:
        said = text[statement.end() :].strip(" :*\n")
        end = _SENTENCE_END.search(said)
        said = said[: end.start()] if end else said
        if said.strip():
            return [said.strip(), *([] if said.lower().startswith("not ") else last_formula(said))], True
    return last_formula(text), False


def last_formula(text: str) -> list[str]:
    """The formula between math signs or the number that ends last; nothing where the sentence denies it."""
    span, covered = last_span(text)
    number = _last(_NUMBER, text, covered)
    found, start, end = (number[0].strip(), *number.span()) if number else (span, text.rfind(span, 0, covered), covered)
    denied = _NOT.search(text[max(0, start - 40) : start]) or _DENIED.match(text, end)
    return [found] if found and not denied else []


def last_span(text: str) -> tuple[str, int]:
    """The content of the last $...$, \\(...\\) or display with a letter or digit in it; where the last of all ends."""
    opened, start, found, covered = "", 0, "", 0
    for match in _DELIMITER.finditer(text):
        sign = match[0]
        if opened and sign == _CLOSES[opened]:
            content = text[start : match.start()].strip()
            found = content if any(c.isalnum() for c in content) else found
            opened, covered = "", match.end()
        elif sign in _CLOSES and not (opened.startswith("$") and sign.startswith("\\")):
            opened, start = sign, match.end()
    return found, covered


def _last(pattern: re.Pattern, text: str, start: int = 0) -> re.Match | None:
    return next(iter(deque(pattern.finditer(text, start), maxlen=1)), None)
