"""Splits an answer into tokens: numbers, letters, LaTeX commands, words, signs. One pass, no backtracking."""

from __future__ import annotations

import re
from typing import NamedTuple

from r1jax.rewards.math._ast import OverBudget, Unreadable
from r1jax.rewards.math._letters import COMMAS
from r1jax.rewards.math._units import DEGREES, PERCENT, SPEEDS, TIMES, UNITS, singular

MOST_TOKENS = 4096
MOST_WORDS = 24  # a text with more words is prose
LONGEST_NUMBER = 3000  # most digits of one number


class Token(NamedTuple):
    kind: str  # num, let, cmd, word, text, op, or "end"
    value: str
    spaced: bool = False  # white space before it


END = Token("end", "")
FUNCTIONS = set(
    "sin cos tan cot sec csc arcsin arccos arctan arccot arcsec arccsc sinh cosh tanh coth ln log lg exp "
    "gcd lcm max min det arg re im deg sgn sign cis".split()
)
_ALIASES = {
    "asin": "arcsin",
    "acos": "arccos",
    "atan": "arctan",
    "infinity": "infty",
    "inf": "infty",
    "oo": "infty",
    "cosec": "csc",
    "tg": "tan",
    "ctg": "cot",
    "arctg": "arctan",
    "asinh": "arcsinh",
    "acosh": "arccosh",
    "atanh": "arctanh",
}
_PLAIN_COMMANDS = FUNCTIONS - {"arg", "re", "im", "deg", "sign", "det", "max", "min"} | set(
    "sqrt cbrt pi infty abs floor ceil cup arcsinh arccosh arctanh theta alpha beta".split()
)
_SHORT_WORDS = set(
    "no yes so ok the is all any for if not odd two one ten six are of to it he she we an as by on at be do us up "
    "true false none".split()
)
_NUMBER = re.compile(r"\d+(?:\.\d+)?(?:[eE][+-]?\d{1,6}(?![\d.]))?|\.\d+")
_REPEATING = re.compile(
    r"(\d*\.\d*)(?:\\(?:overline|bar|dot)\s*\{(\d+)\}|\\(?:overline|bar|dot)\s*(\d))(?:(\d*)\\dot\s*\{?(\d)\}?)?"
    r"|(\d+\.\d*)\((\d+)\)(?=\s*$)|(\d*\.\d*?(\d)\9{2,})\s*\\ldots"
)
_PERIODS = re.compile(r"(?=[\d.]{5,60}\s*\\ldots)(\d*\.\d{0,12}?)(\d{2,18}?)\2+\s*\\ldots")  # two periods or more
_LETTERS = re.compile(r"[A-Za-z]+")
_LETTERS_APART = re.compile(r"[A-Z](?:[\s,;]+(?:(?:and|or)\s+)?[A-Z])+")
_CJK = re.compile(r"[\u4e00-\u9fff]+")
_COMMAND = re.compile(r"\\([A-Za-z]+\*?|.)", re.DOTALL)
_TEXTS = {
    "text",
    "textbf",
    "textit",
    "textrm",
    "textsf",
    "mbox",
    "hbox",
    "textnormal",
    "texttt",
    "textsl",
    "textsc",
    "emph",
}
_FONTS = set(
    "mathrm mathbf mathit mathsf mathcal operatorname boldsymbol bm mathfrak mathtt mathbfit "
    "pmb operatorname* mathscr".split()
)
_COMPOUND = re.compile(r"[A-Za-z]+(?:\^\{?-?\d\}?)?(?:\s*(?:/|\\cdot|\s)\s*[A-Za-z]+(?:\^\{?-?\d\}?)?)+")  # m/s^2
_NOT_UNITS = {"am", "pm", "in", "mi", "ha"}  # behind a formula these may be products of variables
_FORMULA_INSIDE = re.compile(
    r"\\(?:[dt]?frac|sqrt|pi|left|begin|overline|infty|cdot|times|mathbb)(?![a-zA-Z])|^[-+]?[\w.]+[-+*/^=][-+*/^=\w.(){}]*$"
)
_SPACES = {",", ";", ":", "!", ">", " ", "quad", "qquad", "thinspace", "enspace"}
_DROPPED_GROUPS = {"color", "label", "tag", "hspace", "vspace", "textcolor"}
_UNWRAPPED = set("boxed fbox underline vec overrightarrow hat widehat tilde mathop ensuremath".split())
_CASED = {"vec", "overrightarrow", "hat", "widehat", "tilde"}


def scan(text: str, commas: bool = True) -> list[Token]:
    """Returns the tokens of an answer.

    Args:
        text: the answer after `_letters.tidy` and `_letters.unwrap`.
        commas: if True, 28,800 outside brackets is one number; if False, two.
    Raises:
        Unreadable: the answer has a construct that cannot be split, such as a brace that is never closed.
        OverBudget: the answer, or a number in it, is too long.
    """
    tokens: list[Token] = []
    at, depth, end = 0, 0, len(text)
    spaced = False

    words = 0

    def add(kind: str, value: str) -> None:
        nonlocal spaced, words
        words += kind == "word"
        if words > MOST_WORDS:
            raise Unreadable("the answer is running text")
        tokens.append(Token(kind, value, spaced))
        spaced = False
        if len(tokens) > MOST_TOKENS:
            raise OverBudget(f"tokens: the answer has more than {MOST_TOKENS} tokens")

    while at < end:
        c = text[at]
        if c in " \n\t":
            spaced, at = True, at + 1
        elif (c.isdigit() and c.isascii()) or (c == "." and text[at + 1 : at + 2].isdigit()):
            repeating = _REPEATING.match(text, at)
            if repeating:
                add("num", _repeating_literal(repeating))
                at = repeating.end()
                continue
            periods = _PERIODS.match(text, at)
            if periods:
                add("num", f"{periods[1]}({periods[2]})")
                at = periods.end()
                continue
            grouped = COMMAS.match(text, at) if commas and not depth else None
            if grouped:
                tail = re.compile(r"\.\d+").match(text, grouped.end())
                literal, at = grouped[0].replace(",", "") + (tail[0] if tail else ""), (tail or grouped).end()
            else:
                match = _NUMBER.match(text, at)
                literal, at = match[0], match.end()
            if len(literal) > LONGEST_NUMBER:
                raise OverBudget(f"digits: a number in the answer has more than {LONGEST_NUMBER} characters")
            add("num", literal)
        elif c == "\\":
            match = _COMMAND.match(text, at)
            if not match:
                raise Unreadable("the answer ends with a lone backslash")
            name, at = match[1], match.end()
            if name in _SPACES:
                spaced = True
                if name in ("quad", "qquad"):
                    add("op", "quad")
            elif name in _TEXTS or name in _FONTS:
                content, at = _group(text, at)
                if _FORMULA_INSIDE.search(content) and not _COMPOUND.fullmatch(content.strip()):
                    for token in (Token("op", "{"), *scan(content.replace("$", "")), Token("op", "}")):
                        add(*token[:2])
                else:
                    _add_text(add, tokens, name, content)
            elif name == "mathbb":
                content, at = _group(text, at)
                add("cmd", "mathbb " + content.strip())
            elif name in _DROPPED_GROUPS:
                _, at = _group(text, at)
            elif name in _UNWRAPPED:
                spaced = spaced or name not in _CASED
            elif name == "not":
                add("cmd", "not")
            elif name in ("begin", "end"):
                content, at = _group(text, at)
                add("cmd", f"{name} {content.strip().rstrip('*')}")
                depth += 1 if name == "begin" else -1
            elif name in "{}":
                depth += 1 if name == "{" else -1
                add("op", "\\" + name)
            elif name in ("%", "$", "&", "#", "_"):
                add("op", name)
            elif name == "\\":
                add("op", "\\\\")
            elif name == "|":
                add("op", "\\|")
            else:
                add("cmd", _ALIASES.get(name, name))
        elif c.isascii() and c.isalpha():
            match = _LETTERS.match(text, at)
            at = match.end()
            _add_letters(add, tokens, match[0], spaced)
        elif _CJK.match(c):
            match = _CJK.match(text, at)
            at = match.end()
            _add_cjk(add, match[0])
        elif c.isalpha():
            add("let", c)
            at += 1
        else:
            if c in "([":
                depth += 1
            elif c in ")]":
                depth -= 1
            add("op", c)
            at += 1
    return tokens


def _group(text: str, at: int) -> tuple[str, int]:
    """Returns (content of the braces that open at index `at`, index after them); without braces, of one letter."""
    while at < len(text) and text[at] in " \n":
        at += 1
    if at >= len(text) or text[at] != "{":
        return text[at : at + 1], at + 1
    depth, start = 0, at + 1
    for end in range(at, len(text)):
        if text[end] in "{}" and text[end - 1] != "\\":
            depth += 1 if text[end] == "{" else -1
            if not depth:
                return text[start:end], end + 1
    raise Unreadable("a brace is not closed")


def _add_text(add, tokens: list[Token], name: str, content: str) -> None:
    r"""Adds the tokens of \text{content}, \mathrm{content} and the like.

    Args:
        add: the function `add(kind, value)` that appends a token.
        tokens: the tokens so far.
        name: the command, such as "text" or "mathrm".
    """
    plain = re.sub(r"\\[,;:! ]|~", " ", content).strip().replace("$", "")
    if _LETTERS_APART.fullmatch(plain):
        for token in scan(plain):
            add(*token[:2])
        return None
    if "\\text" in plain:
        raise Unreadable("a \\text command stands inside another one")
    after_number = bool(tokens) and (tokens[-1].kind in ("num", "text") or tokens[-1].value in (")", "}"))
    if after_number and _COMPOUND.fullmatch(plain) and all(w in UNITS for w in re.findall("[A-Za-z]+", plain)):
        return add("text", plain)
    if after_number and plain == "to":
        return add("op", ":")
    if name in _FONTS:
        lower = _ALIASES.get(plain.lower(), plain.lower())
        if plain in FUNCTIONS or (lower in _PLAIN_COMMANDS and len(lower) > 2):
            return add("cmd", lower)
        if (
            len(plain) == 1
            and plain.isalpha()
            and (not after_number or plain in "eid" or name not in ("mathrm", "operatorname"))
        ):
            return add("let", plain)
    if plain[:1].isdigit():
        plain = plain.rstrip(".,;")
    if plain[:1].isdigit() or (
        not re.search(r"[A-Za-z\u4e00-\u9fff]{2}", plain) and not (after_number and plain.isalpha())
    ):
        for token in scan(plain):
            add(*token[:2])
        return None
    if plain.strip(" ,;.").lower() in ("and", "or", "and/or", "或", "和"):
        return add("op", plain.strip(" ,;.").lower())
    if plain.lower() in PERCENT:
        return add("op", "%")
    return add("text", plain)


def _add_letters(add, tokens: list[Token], run: str, spaced: bool) -> None:
    """Adds the tokens of adjacent letters: a function, a separator, a unit, a word, or a product of variables.

    Args:
        add: the function `add(kind, value)` that appends a token.
        tokens: the tokens so far.
        run: the letters.
        spaced: white space stands before them.
    """
    lower = _ALIASES.get(run.lower(), run.lower())
    after_number = bool(tokens) and tokens[-1].kind == "num"
    if len(run) == 1:
        return add("let", run)
    if lower in _PLAIN_COMMANDS and (run.islower() or run.istitle()):
        return add("cmd", lower)
    if lower in ("and", "or"):
        return add("op", lower)
    if lower == "to" and spaced and after_number:
        return add("op", ":")
    if lower == "in" and spaced:
        return add("cmd", "in")
    if lower == "mod":
        return add("cmd", "bmod")
    if lower in PERCENT:
        return add("op", "%")
    for function in ("arcsin", "arccos", "arctan", "sqrt", "sin", "cos", "tan", "log", "ln"):
        if run.startswith(function) and len(run) == len(function) + 1 and function != "sin" * (run == "sing"):
            add("cmd", function)
            return add("let", run[-1])
    is_unit = (
        lower in UNITS
        or lower in SPEEDS
        or singular(run) in UNITS
        or lower in DEGREES
        or lower in TIMES
        or lower in ("sq", "cu")
    )
    after_value = bool(tokens) and (tokens[-1].value in ("}", ")", "pi") or tokens[-1].kind == "num")
    if is_unit and spaced and after_value and lower not in _NOT_UNITS:
        return add("word", run)
    if (after_number and (is_unit or (spaced and len(run) > 3))) or _is_word(run, tokens):
        return add("word", run)
    for letter in run:
        add("let", letter)
    return None


def _is_word(run: str, tokens: list[Token]) -> bool:
    """Returns True if adjacent letters, after the given tokens, are a word; False if a product of variables."""
    lower = run.lower()
    if tokens and tokens[-1].kind in ("word", "text") and len(run) > 1:
        return True
    if lower in _SHORT_WORDS:
        return True
    if len(run) < 4 or run.isupper() or lower in "abcdefghijklmnopqrstuvwxyz":
        return False
    return bool(re.search("[aeiouy]", lower))


def _add_cjk(add, run: str) -> None:
    for part in re.split("([或和且])", run):
        if part in ("或", "且", "和"):
            add("op", "or" if part == "或" else "and")
        elif part:
            add("word", part)


def _repeating_literal(match: re.Match) -> str:
    """Returns a repeating decimal in the form 0.1(6), however it is written. `match` is a match of `_REPEATING`."""
    if match[6] is not None:
        return f"{match[6]}({match[7]})"
    if match[8] is not None:
        digit = match[9]
        return f"{match[8].rstrip(digit)}({digit})"
    digits = match[2] or match[3]
    if match[5] is not None:
        digits += (match[4] or "") + match[5]
    return f"{match[1]}({digits})"
