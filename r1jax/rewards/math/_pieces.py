"""Splits running text into pieces: words, mathematics, punctuation and remarks in brackets. One pass, linear time."""

from __future__ import annotations

import re
from typing import NamedTuple

from r1jax.rewards.math._units import measure

MOST_PIECES = 400


class Piece(NamedTuple):
    """A piece of running text.

    Attributes:
        kind: "word" (English), "zh" (a run of Chinese), "math", "comma", "colon", "stop" (the end of a sentence), or
            "aside" (a remark in brackets).
        text: the piece, without math delimiters; words in lower case.
        start, end: indices of the piece in the running text.
        is_value: the mathematics has a digit or a letter, so it may be an answer.
        begins_capital: the word begins with a capital letter.
    """

    kind: str
    text: str
    start: int
    end: int
    is_value: bool = False
    begins_capital: bool = False


_FUNCTIONS = "sin|cos|tan|cot|sec|csc|arcsin|arccos|arctan|log|ln|lg|exp|sqrt|pi|gcd|lcm|max|min|mod|infty|inf"
_DECORATION = re.compile(
    r"\\(?:checkmark|blacksquare|square|qed|Box|therefore|because|Rightarrow|implies|boxed|quad|qquad|left|right|"
    r"displaystyle|text|mathrm|mathbf|ldots|dots|star|ast|[,;:! ])(?![a-zA-Z])"
)
_TOKEN = re.compile(
    r"(?P<space>\s+|\\[,;:! ]|\\q?quad(?![a-zA-Z])|~)"
    r"|(?P<text>\\(?:text(?:bf|it|rm|sf|tt|normal)?|mbox|hbox|mathrm|mathbf|operatorname)\s*\{(?P<inside>[^{}]*)\})"
    r"|(?P<sign>\$\$?|\\[()\[\]]|\*\*|`+|</?\w{1,10}>)"
    r"|(?P<environment>\\begin\{(?P<name>\w+\*?)\}.*?\\end\{(?P=name)\})"
    r"|(?P<latex>\\[A-Za-z]+|\\.)"
    r"|(?P<ie>(?:i\.\s?e\.|e\.\s?g\.|viz\.)(?!\w))"
    r"|(?P<short>(?:Rs|approx|ca|resp|no|vs|cf|Thm|Eq|Fig)\.(?=\s*[\d$(]))"
    rf"|(?P<function>(?:{_FUNCTIONS})(?![A-Za-z'’]))"
    r"|(?P<time>\d{1,2}:\d{2}(?:\s*[apAP]\.?m\b\.?)?)"
    r"|(?P<number>(?:\d[\d,]*\d|\d)(?:\.\d+)*(?:\s?[apAP]\.?m\.?(?![A-Za-z]))?|\.\d+)"
    r"|(?P<word>[A-Za-z]+(?:['’][A-Za-z]+|-(?=[A-Za-z])[A-Za-z]+)*)"
    r"|(?P<zh>[\u4e00-\u9fff]+)"
    r"|(?P<comma>,|，|;|；|、|[—–]{1,2}(?=\s)|--+(?=\s))"
    r"|(?P<colon>:|：)"
    r"|(?P<stop>[.。?？]|!(?=\s*\Z|\s+[A-Z])|！)"
    r"|(?P<other>.)",
    re.DOTALL,
)
_RATE = re.compile(r"\s?/\s?[A-Za-z]{1,7}(?:\^\{?\d\}?|²|³)?(?![A-Za-z])")
_LINES = re.compile(r"\n\s*\n|\n(?=\s*(?:[-*#]|\d+[.)]\s))")
_WORDS_INSIDE = re.compile(r"(?<![\\A-Za-z])[A-Za-z]{2,}|[\u4e00-\u9fff]")
_CLOSING = {"(": ")", "（": "）", "[": "]"}
_UPPER = re.compile(r"[A-Z]{2,4}")


def split(text: str) -> list[Piece]:
    """Returns the last pieces of a text, at most `MOST_PIECES`."""
    pieces: list[Piece] = []
    run: list[int] = []  # start and end of the mathematics that is being collected

    def close() -> None:
        if run:
            content = text[run[0] : run[1]].strip().strip("$").strip()
            content = _strip_signs(content)
            bare = _DECORATION.sub(" ", content)
            pieces.append(Piece("math", content, *run, any(c.isalnum() for c in bare)))
            run.clear()

    def grow(start: int, end: int) -> None:
        if not run:
            run.extend((start, end))
        run[1] = end

    at, braces, opened = 0, 0, ""
    while at < len(text):
        match = _TOKEN.match(text, at)
        kind, start, end = match.lastgroup, at, match.end()
        if kind == "inside":
            kind = "text"
        elif kind == "name":
            kind = "environment"
        at = end
        token = match[0]
        if kind == "space":
            if "\n" in token and _LINES.search(text, start, end + 1) and not braces:
                close()
                pieces.append(Piece("stop", token, start, end))
            continue
        if kind == "other" and token in "{}":
            braces = max(0, braces + (1 if token == "{" else -1))
            grow(start, end)
        elif kind == "text" and not braces and _WORDS_INSIDE.search(match["inside"]):
            close()
            shift = match.start("inside")
            pieces += [p._replace(start=p.start + shift, end=p.end + shift) for p in split(match["inside"])]
        elif kind == "sign":
            if (opened and token in ("$", "$$", "\\)", "\\]")) or token not in ("$", "$$", "\\(", "\\["):
                close()
                opened = ""
            elif not _is_money(text, start, end):
                close()
                opened = token
            elif run and not re.match(r"\s*-?[\d.]", text[end : end + 3]):
                close()  # a sign of money behind its number
        elif kind == "ie":
            close()
            pieces.append(Piece("word", "namely", start, end))
        elif kind == "short":
            close()
            pieces.append(Piece("word", token.rstrip(".").lower(), start, end))
        elif kind == "word" and not braces and not _is_symbol(text, start, end):
            close()
            rate = _RATE.match(text, end)
            if rate and measure(token + rate[0].replace(" ", "")):
                token, at, end = token + rate[0], rate.end(), rate.end()
            pieces.append(Piece("word", token.lower().replace("’", "'"), start, end, False, token[0].isupper()))
        elif kind == "zh" and not braces:
            close()
            pieces.append(Piece("zh", token, start, end))
        elif (
            kind in ("comma", "colon", "stop") and not braces and not (kind == "colon" and _is_ratio(text, start, end))
        ):
            if kind == "comma" and opened:
                grow(start, end)
                continue
            if kind == "stop" and text[start:end] == "." and opened:
                continue
            close()
            pieces.append(Piece(kind, token, start, end))
        elif kind == "other" and token in _CLOSING and not braces:
            stop = _partner(text, start)
            inner = text[start + 1 : stop]
            remark = token != "[" and stop > 0 and _WORDS_INSIDE.search(re.sub(r"\\[A-Za-z]+", " ", inner))
            if remark and not opened and not re.fullmatch(r"\s*[A-Z]{2,}\s*", inner):
                close()
                pieces.append(Piece("aside", inner.strip(), start, stop + 1))
                at = stop + 1
            elif stop > 0:
                grow(start, stop + 1)
                at = stop + 1
            else:
                grow(start, end)
        else:
            grow(start, end)
    close()
    return pieces[-MOST_PIECES:]


def _strip_signs(content: str) -> str:
    """Returns mathematics without the dashes, bullets and emphasis at its ends that belong to the running text."""
    content = content.strip("*_~ ")
    while content and content[-1] in "-–—=" and content != "-":
        content = content[:-1].rstrip()
    return content.removeprefix("•").strip()


def _is_symbol(text: str, start: int, end: int) -> bool:
    """Returns True if the letters are a variable or a name such as x, AB or x_1; False for a word."""
    word = text[start:end]
    follows = text[end : end + 1]
    if follows and follows in "_^":
        return True
    if len(word) == 1:
        after, before = text[end : end + 2], text[max(0, start - 2) : start]
        stands_alone = before[-1:] in ("", " ", "\n") and after[:1] in ("", " ", ".", ",", "\n")
        in_formula = before.rstrip()[-1:] in tuple("=+-*/") or (after[:1] == " " and after[1:] in tuple("=+-*/<>^_"))
        return not (word in "aAI" and stands_alone and not in_formula)
    return bool(_UPPER.fullmatch(word)) and word not in ("USD", "QED", "RMB", "AND", "OR", "NOT", "IS", "THE", "NO")


def _is_ratio(text: str, start: int, end: int) -> bool:
    return text[start - 1 : start].isdigit() and text[end : end + 1].isdigit()


def _is_money(text: str, start: int, end: int) -> bool:
    """Returns True if a dollar sign means money: a number follows, and no formula that the sign would open."""
    if end - start > 1 or not re.match(r"\s*-?[\d.]", text[end : end + 3]):
        return text[start:end] == "$" and text.find("$", end) < 0
    close = text.find("$", end)
    return (
        close < 0 or "\n" in text[end:close] or bool(_WORDS_INSIDE.search(re.sub(r"\\[A-Za-z]+", " ", text[end:close])))
    )


def _partner(text: str, start: int) -> int:
    """Returns the index of the bracket that closes the one at `start`, -1 if there is none within 400 characters."""
    depth = 0
    for at in range(start, min(len(text), start + 400)):
        if text[at] in "([（":
            depth += 1
        elif text[at] in ")]）":
            depth -= 1
            if not depth:
                return at
    return -1
