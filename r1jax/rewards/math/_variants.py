"""Finds weaker readings of an answer. Each leaves out one part: a name, a qualifier, a unit or the letters of points.

Examples are 5 for m+n=5, x+1 for "x+1 for all real x", 6 for "6 m", and (1,2) for A(1,2). A weaker reading is compared
only with a gold answer that has no such part itself. So the answer m+n=5 equals the gold 5, but the answer 5 does not
equal the gold m+n=5.
"""

from __future__ import annotations

import re

from r1jax.rewards.math._ast import Node, OverBudget, Unreadable, holds, symbols
from r1jax.rewards.math._labels import may_be_label
from r1jax.rewards.math._parse import parse
from r1jax.rewards.math._scalars import is_term

RELATION = re.compile(r"=|<|>|\\(?:le|ge|ne|in|notin|approx|equiv|to|mapsto|sim)(?![a-zA-Z])")
WORD = re.compile(r"(?<![\\A-Za-z])[A-Za-z]|\\(?:text|mathrm|mbox)")  # a letter or words outside commands
_OTHER = re.compile(r"<|>|!=|\\(?:le|ge|ne|approx|equiv|to|sim|pm)(?![a-zA-Z])|,|;|\\\\|\b(?:and|or)\b|[和或且]")
_LETTER = re.compile(r"[A-Za-z]")
_COMMANDS = re.compile(r"\\(?:frac|sqrt|cdot|times|div|left|right|pi|infty|quad|text)(?![a-zA-Z])")
_WORDS = re.compile(
    r"\\(?:text|mathrm|mbox|operatorname)\s*\{([^{}]*)\}|(?<![\\A-Za-z])([A-Za-z]{3,}(?:\s+[A-Za-z]+)*)"
)
_DERIVATIVE = re.compile(r"\s*\\frac\s*\{\s*(?:(?:\\mathrm\s*\{?)?d(?![A-Za-z]{2})|\\partial)")
_UNKNOWNS = set("xyzt")
_POINT = re.compile(
    r"(?:\\text\s*\{\s*(?:the\s+)?(?:at|points?|vertex|focus|cent(?:er|re)|midpoint|coordinates?)[a-z\s]{0,12}\}|(?<![A-Za-z\\])[A-Z]'?)\s*"
    r"(?=\([^()]*,)"
)
_NUMBER_SET = r"\\mathbb\s*\{?[A-Z]\}?(?:\s*[_^]\s*(?:\{[^{}]*\}|[*+]|\\\w+))*"
_DOMAIN = (
    rf"[A-Za-z]\w?(?:\s*,\s*[A-Za-z]\w?)*\s*\\in\s*(?:{_NUMBER_SET}|[ZNRQ](?![a-z])(?:[_^]\{{?[*+]\}}?)?)"
    r"|[nkmij]\s*(?:\\ge|\\geq|>=)\s*-?\d+|[nkmij]\s*=\s*[01]\s*,\s*[12]\s*,.{0,20}?\\ldots"
    r"|(?:all\s+)?(?:real\s+)?(?:\$?[a-z]\$?|numbers?|values\s+of\s+\$?[a-z]\$?)"
    r"|[A-Za-z]\w?\s+(?:is|being)\s+(?:an?\s+|any\s+)*(?:arbitrary\s+|positive\s+|real\s+|nonnegative\s+)*(?:integers?|constants?|numbers?|reals?)"
    r"|(?:an?\s+|any\s+|some\s+)?(?:arbitrary\s+|real\s+)*(?:integers?|constants?|numbers?|reals?)\s+\$?[A-Za-z]\w?\$?"
)
_SPACE = r"(?:\\[ ,;:!]|\\q?quad|~|\s)*"
_QUALIFIER = re.compile(
    rf"(?:,|;)?{_SPACE}(?:\({_SPACE}(?:(?:for|where|with)\s+(?:all\s+|any\s+|every\s+|each\s+)*)?(?:{_DOMAIN}){_SPACE}\)"
    rf"|(?:for|where|with)\s+(?:all\s+|any\s+|every\s+|each\s+)*(?:{_DOMAIN})|,{_SPACE}(?:{_DOMAIN})){_SPACE}\.?\s*\Z"
)
_IN_SET = re.compile(
    rf"([A-Za-z]\w?(?:\s*,\s*[A-Za-z]\w?)*)\s*\\in\s*({_NUMBER_SET}|[ZNRQ](?![a-z])(?:[_^]\{{?[*+]\}}?)?)"
)
_INTEGER = re.compile(
    r"([A-Za-z])\w?\s+(?:is|being)\s+(?:an?\s+|any\s+)*(?:arbitrary\s+)?integer|integers?\s+\$?([A-Za-z])"
)
_TEXT = re.compile(r"\\text\s*\{([^{}]*)\}")
_THIN = re.compile(r"\\[,;:! ]|\\q?quad(?![a-z])")
_ENVIRONMENT = re.compile(r"\\begin\{(\w+\*?)\}.*?\\end\{\1\}", re.DOTALL)
_FORALL = re.compile(r"\\forall(?![a-zA-Z])")
LONGEST = 600


def value_named(tidied: str) -> str | None:
    r"""Returns the value of a named expression, such as 42 for m+n=42 or 1/2 for P(X=1)=1/2; None for other texts.

    Returns None if the left side has no letter. Also returns None if the left side is an expression in the unknowns x,
    y, z or t, as in x+y=5.
    """
    if "=" not in tidied or len(tidied) > LONGEST:
        return None
    tidied = _THIN.sub(" ", tidied)
    cut = _first_equals(tidied)
    if cut is None:
        return None
    left, right = tidied[:cut].strip(), tidied[cut + 1 :].strip()
    if not left or not right or not _LETTER.search(_COMMANDS.sub("", left)):
        return None
    for words in _WORDS.findall(left):
        if not may_be_label(words[0] or words[1], of_equation=True):
            return None
    tree = _tree(left)
    is_opaque = tree is None or not is_term(tree) or holds(tree, "apply") or bool(_DERIVATIVE.match(left))
    if not is_opaque:
        if not symbols(tree) or symbols(tree) & _UNKNOWNS:
            return None
        value = _tree(right)
        if value is None or symbols(value):
            return None
    elif tree is None and re.search(r"[-+*/^]\s*$|^\s*[*/^]", left):
        return None
    return right


def unqualified(tidied: str) -> tuple[str, str] | None:
    r"""Splits an answer such as `2k, k \in \mathbb{Z}` into (answer without qualifier, qualifier).

    Returns None if no qualifier is found behind the answer. The qualifier is returned in a short form, such as "kinZ".
    A qualifier that restricts nothing, such as "for all real x", is returned as "".
    """
    if len(tidied) > LONGEST:
        return None
    plain = _FORALL.sub("for all ", tidied) if "forall" in tidied else tidied
    plain = _TEXT.sub(r" \1 ", plain) if "\\text" in plain else plain
    match = _QUALIFIER.search(plain)
    if not match or not match.start():
        return None
    rest = plain[: match.start()].strip().rstrip(",;").strip()
    return (rest, _domain(match[0])) if rest and not rest.endswith(("(", "|", ":", "\\mid")) else None


def _domain(qualifier: str) -> str:
    """Returns a qualifier in short form, such as "kinZ" for "k in Z"; "" for one that restricts nothing."""
    found = _IN_SET.search(qualifier)
    if found:
        return f"{found[1]} in {re.sub(r'[^A-Z*+^_]', '', found[2].replace('mathbb', ''))}".replace(" ", "")
    integer = _INTEGER.search(qualifier)
    return f"{integer[1] or integer[2]}inZ" if integer else ""


def without_letters(tidied: str) -> str | None:
    """Returns points without the letters or words before them: (1,2) for A(1,2); None for all other answers."""
    if "(" not in tidied or len(tidied) > LONGEST or RELATION.search(tidied):
        return None
    plain = _POINT.sub("", tidied)
    return plain.strip() if plain != tidied else None


def _first_equals(text: str) -> int | None:
    """Returns the index of the first equal sign outside brackets; None if another relation or comma is there."""
    depth, found = 0, None
    text = _ENVIRONMENT.sub(lambda match: "(" + "." * (len(match[0]) - 2) + ")", text)
    outside = []
    for at, c in enumerate(text):
        if c in "([{":
            depth += 1
        elif c in ")]}":
            depth -= 1
        elif depth == 0:
            if (
                c == "="
                and found is None
                and text[at - 1 : at] not in ("<", ">", "!", "=", "~")
                and text[at + 1 : at + 2] != "="
            ):
                found = at
            outside.append(c)
            continue
        outside.append(" ")
    if found is None or depth or _OTHER.search("".join(outside)):
        return None
    return found


def _tree(text: str) -> Node | None:
    try:
        return parse(text)
    except (Unreadable, OverBudget, RecursionError):
        return None


_LONE_UNIT = re.compile(r"(?<=[\d})])(?:\\[ ,;]|~|\s)+(?:m|g|s|L|l|h)(?:\s*\^\s*\{?[23]\}?)?$")


def without_unit(tidied: str) -> str | None:
    """Returns a value without its unit if the unit is a letter behind a space, as in "6 m"; None if there is no such
    unit.
    """
    plain = _LONE_UNIT.sub("", tidied)
    return plain if plain != tidied else None
