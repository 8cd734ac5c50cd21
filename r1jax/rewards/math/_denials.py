"""Finds out whether words beside a value deny it ("the wrong answer is", "is incorrect") or bound it ("at least")."""

from __future__ import annotations

import re

from r1jax.rewards.math import _lexicon as lexicon
from r1jax.rewards.math._pieces import Piece, split

CONTEXT = 300  # characters beside a box or a statement in which a word may deny it
_BOUNDS_BEFORE = lexicon.BOUNDS - set(
    "all any every some several many few another between past outside inside within through up".split()
) | {"maybe", "perhaps", "possibly", "either"}
_OPERATORS_BEFORE = set("half twice thrice double triple quadruple minus plus negative times except".split())
_OPERATORS_OF = set(
    "half third quarter twice double triple square cube root reciprocal inverse opposite negative logarithm factorial "
    "sine cosine tangent digits multiple factor power successor predecessor percent negation complement".split()
)
_OPERATORS_BEHIND = set(
    "squared cubed factorial times minus plus divided multiplied modulo mod doubled tripled "
    "halved percent thirds tenths "
    "hundredths thousandths millionths halves quarters unless tens dozen gross".split()
) - {"percent"}
TAKEN_BACK = re.compile(
    r"\s*(?:(?:but|no|wait|actually|however|hmm|oh|sorry|and)\b[\s,.!]*)*(?:this|that|it|which|the\s+answer|my\s+answer)\s+"
    r"(?:\w+\s+)?(?:(?:is|was)\s+(?:\w+ly\s+)?(?:wrong|incorrect|false|not\s+(?:right|correct|true|the\s+answer|it)\b|a\s+mistake)"
    r"|(?:isn|wasn)['’]t\s+(?:right|correct|true|the\s+answer|it)\b)|\s*(?:这|那|上面|以上)?(?:个?答案)?(?:是错|不对|不正确|错了)"
    r"|\W*(?:no|nope|wrong|incorrect|not\s+really)\W*$",
    re.IGNORECASE,
)
SENTENCE_START = re.compile(r"\n\s*\n|[.!?]\s+(?=[A-Z\\$]|\Z)|。")
SUBORDINATE = set("since because as when while although though given after if for whereas".split())
CLAUSE_STARTS = set(
    "it's that's there's it the this that we there he she they i and but giving making leaving our".split()
)
ZH_STARTS = re.compile(r"(?:而?是|所以|因此|故|即|则|应|那么|于是|从而|正确|答案|共|一共)")
# a text without any of these words denies nothing, so it need not be split
_MAY_DENY = frozenset(
    lexicon.NEGATIONS | _BOUNDS_BEFORE | _OPERATORS_BEFORE | _OPERATORS_OF | _OPERATORS_BEHIND | lexicon.DENIALS
    | set("untrue bad disagree disbelieve misconception fallacy none neither nobody ruled out contrary perhaps maybe "
          "possibly supposedly allegedly if unless too ruled off fails failed contradicts nope "
          "denies disproves".split())
)  # fmt: skip
_LETTERS = re.compile(r"[a-z]+")


def _may_deny(text: str) -> bool:
    return not text.isascii() or "n't" in text or not _MAY_DENY.isdisjoint(_LETTERS.findall(text.lower()))


def is_denied(before: str, after: str) -> bool:
    """Returns True if the words beside an answer deny it ("is incorrect") or bound it ("at least").

    The answer is the content of a box, or what follows the verb in a statement such as "the answer is 5".

    Args:
        before, after: the text on both sides of the answer.
    """
    before = SENTENCE_START.split(before[-CONTEXT:])[-1]
    if _may_deny(before) and _is_denied_before(split(before)):
        return True
    after = after[:CONTEXT]
    return _may_deny(after) and _is_denied_behind(after)


def _is_denied_before(pieces: list[Piece]) -> bool:
    if not pieces or pieces[-1].kind == "stop":
        return False
    clause = _context_clause([p for p in sentences_of(pieces)[-1] if p.kind != "aside"])
    if not clause:
        return False
    link = max((i for i, p in enumerate(clause) if is_link(p)), default=-1)
    if denies_claim(clause[:link] if link >= 0 else [], clause[link] if link >= 0 else None):
        return True
    if (link < 0 or clause[-1].text == "that") and lexicon.DENIED_CLAIM.search(words_in(clause)):
        return True
    if clause[-1].kind == "zh":
        return changes_zh(clause[-1].text)
    last = [p.text for p in clause[link + 1 :] if p.kind == "word"][-3:]
    if any(word in _BOUNDS_BEFORE or word in lexicon.NEGATIONS or word.endswith("n't") for word in last):
        return True
    if last[-1:] and last[-1] in _OPERATORS_BEFORE:
        return True
    return last[-1:] == ["of"] and len(last) > 1 and last[0] not in ("a", "an") and last[-2] in _OPERATORS_OF


def _is_denied_behind(after: str) -> bool:
    ended = re.match(r"[\s$\\)\]*}]*(?:[.。!;]|\n\s*\n)", after)
    if ended:
        return bool(TAKEN_BACK.match(after, ended.end()))
    said: list[Piece] = []
    for piece in split(after):
        if piece.kind == "stop" or piece.is_value or piece.text in lexicon.BOUNDARIES - {"which"}:
            break
        said.append(piece)
    words = [p.text for p in said if p.kind in ("word", "zh")]
    if not words:
        return False
    rest = after[: said[-1].end]
    if lexicon.STRONG_DENIAL.search(rest) and not re.match(r"\W*(?:that|as|since|because|for)\b", rest):
        return True
    if words[0] in ("or", "and") and len(words) > 1:
        return words[1] in lexicon.BOUNDS
    return words[0] in _OPERATORS_BEHIND


def _context_clause(clause: list[Piece]) -> list[Piece]:
    """Returns the clause that ends at a box or a statement, without the clauses before it."""
    if not clause or clause[-1].text == "that":
        return clause
    start = 0
    for i, piece in enumerate(clause):
        follows = clause[i + 1].text if i + 1 < len(clause) else ""
        if (piece.kind == "word" and piece.text in lexicon.BOUNDARIES | {"but"} and i + 1 < len(clause)) or (
            piece.kind == "comma"
            and (
                follows in CLAUSE_STARTS | lexicon.BOUNDARIES | {""}
                or ZH_STARTS.match(follows)
                or clause[0].text in SUBORDINATE
            )
        ):
            start = i + 1
    return clause[start:]


def words_in(pieces: list[Piece]) -> str:
    return " ".join(p.text for p in pieces)


def denies_claim(subject: list[Piece], link: Piece | None) -> bool:
    """Returns True if the words before a verb deny what follows the verb: "the wrong answer is", "it cannot be".

    Args:
        subject: the words before the verb.
        link: the verb, such as "is"; None if there is none.
    """
    if link is not None and link.kind == "zh" and lexicon.DENIED_CLAIM_ZH.search(link.text):
        return True
    if any(p.kind == "zh" and lexicon.DENIED_CLAIM_ZH.search(p.text) for p in subject):
        return True
    words = [
        p
        for p in subject
        if p.kind == "word" and not p.text.endswith("ly") and p.text not in ("be", "have", "to", "ever")
    ]
    if words and subject and subject[-1].kind == "word":
        last = words[-1].text
        if last in lexicon.NEGATIONS or last.endswith("n't"):
            return True
    return bool(lexicon.DENIED_CLAIM.search(words_in(subject)))


def sentences_of(pieces: list[Piece]) -> list[list[Piece]]:
    found: list[list[Piece]] = [[]]
    for piece in pieces:
        if piece.kind == "stop":
            if found[-1]:
                found.append([])
        else:
            found[-1].append(piece)
    return found if found[-1] else found[:-1]


def is_link(piece: Piece) -> bool:
    if piece.kind == "zh":
        return bool(lexicon.LINKS_ZH.search(piece.text))
    return piece.kind == "colon" or (piece.kind == "word" and piece.text in lexicon.LINKS)


def changes_zh(text: str) -> bool:
    """Returns True if Chinese words before a value deny, bound or change it.

    For example 不是 (is not) denies, 小于 (less than) bounds, and 根号 (the root of) changes the value.
    """
    verb = lexicon.VERB_ZH.match(text)
    if verb and (lexicon.BOUNDED_ZH.search(verb[1]) or lexicon.DENIED_CLAIM_ZH.search(verb[1])):
        return True
    tail = verb[3] if verb else text
    return bool(lexicon.CHANGES_ZH.search(tail) or lexicon.DENIALS_ZH.search(tail))
