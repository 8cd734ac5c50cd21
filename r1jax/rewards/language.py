r"""Language consistency: the share of target-language words in a chain of thought.

R1's reward is Num(Words_target) / Num(Words); the paper says neither what a word is nor how its
language is found. Here:

**Left out.** Closed code fences and `inline code`, formulas between $ $, \( \), \[ \] or in an
environment (their \text and their Chinese, Japanese, Korean or Cyrillic letters stay in), LaTeX
commands, tags, addresses. Latin, Greek and Cyrillic words of one letter (variables), of capitals up
to three (ABC) or holding a digit, an underscore or an operator (x1, ab=cd), names of functions and
units (sin, log, cm), and whatever a bracket follows at once, as in len(x).

**Words.** After NFKC, scripts written without spaces (Han, kana, Thai, Lao, Khmer, Burmese) count
each character as a word, all others each run of letters, where apostrophe and hyphen end a run. A
run that mixes Latin with Greek or Cyrillic (homoglyphs) is a word of no language.

**Language.** By script, but for the Latin one: Han is zh, in a sentence with kana ja. Other
languages that share a script (ru, uk, bg; ar, fa, ur; hi, mr) each count it as theirs. Latin words
take the language with most common words (`words.COMMON`) in their sentence, at least two different
ones; else that of the whole text by the same rule; else the target where it is written in Latin
letters, else en. A common word of another language keeps its own where its sentence holds two.
"""

from __future__ import annotations

import re
import time
import unicodedata
from collections import Counter
from collections.abc import Mapping
from functools import lru_cache

from r1jax.rewards.verdict import Verdict
from r1jax.rewards.words import COMMON

LONGEST = 1 << 18  # characters read

_LANGUAGES: dict[str, tuple[str, ...]] = {}
for _language, _words in COMMON.items():
    for _word in set(_words.split()):
        _LANGUAGES[_word] = (*_LANGUAGES.get(_word, ()), _language)

_SYMBOLS = frozenset(
    """sin cos tan cot sec csc sinh cosh tanh arcsin arccos arctan log ln lg exp lim max min sup inf
    mod gcd lcm det dim ker sqrt frac mm cm dm km kg mg ml hz kb mb gb""".split()
)
_SCRIPTS = {  # script of the token pattern -> languages written in it
    "kana": ("ja",), "hangul": ("ko",), "thai": ("th",), "lao": ("lo",), "khmer": ("km",),
    "burmese": ("my",),
    "hebrew": ("he", "yi"), "arabic": ("ar", "fa", "ur"), "devanagari": ("hi", "mr", "ne"),
    "cyrillic": ("ru", "uk", "bg", "sr", "kk"), "greek": ("el",),
}  # fmt: skip
_NAMES = {
    "english": "en", "chinese": "zh", "中文": "zh", "japanese": "ja", "korean": "ko",
    "french": "fr", "german": "de",
    "spanish": "es", "italian": "it", "portuguese": "pt", "dutch": "nl", "russian": "ru",
}  # fmt: skip

_LETTERS = r"A-Za-zÀ-ÖØ-öø-ɏḀ-ỿͰ-ϿЀ-ӿ"
_TOKEN = re.compile(
    rf"(?P<spaced>[{_LETTERS}0-9_=^*+<>]+)|(?P<han>[\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]+)"
    r"|(?P<kana>[\u3041-\u3096\u30a1-\u30fa]+)|(?P<hangul>[\uac00-\ud7a3]+)"
    r"|(?P<arabic>[\u0620-\u065f\u066e-\u06d3\u0750-\u077f]+)|(?P<hebrew>[\u05d0-\u05ea]+)"
    r"|(?P<devanagari>[\u0900-\u0963]+)|(?P<thai>[\u0e01-\u0e4e]+)|(?P<lao>[\u0e80-\u0ecf]+)"
    r"|(?P<khmer>[\u1780-\u17d3]+)|(?P<burmese>[\u1000-\u103f]+)|(?P<other>[^\W\d_])"
)
_BY_CHARACTER = frozenset({"han", "kana", "thai", "lao", "khmer", "burmese"})
_ALPHABETS = {
    "latin": re.compile("[A-Za-zÀ-ÖØ-öø-ɏḀ-ỿ]"),
    "cyrillic": re.compile("[Ѐ-ӿ]"),
    "greek": re.compile("[Ͱ-Ͽ]"),
}
_SENTENCE = re.compile(r"[.!?;:\n。！？；：…]+")
# No alternative reads past the next opening of its own kind, so the scan is linear
_APART = re.compile(
    r"```[^`]*(?:`(?!``)[^`]*)*```|(?P<code>`[^`\n]+`)"
    r"|(?P<formula>\$\$[^$]*\$\$|\$(?=[^\s$])[^$\n]*(?<=[^\s\\])\$(?!\d)|\\\([^\\]*(?:\\(?![()])[^\\]*)*\\\)"
    r"|\\\[[^\\]*(?:\\(?![\[\]])[^\\]*)*\\\]|\\begin\{(\w+\*?)\}[^\\]*(?:\\(?!begin|end)[^\\]*)*\\end\{\3\})"
    r"|\\(?:begin|end)\{\w+\*?\}|\\[a-zA-Z]+|</?[a-zA-Z]+/?>|https?://\S+"
)
_PROSE = re.compile(
    r"\\(?:text|mbox|textbf|textit)\{([^{}]*)\}|([\u3040-\u30ff\u3400-\u9fff\uac00-\ud7a3\u0400-\u04ff]+)"
)


def verify(text: str, example: Mapping) -> Verdict:
    """The language consistency of a chain of thought as a reward; 0 where it has no word.

    Args:
        text: the chain of thought alone (`format.think`).
        example: `language` or `target`: an ISO 639-1 code ("en", "zh-CN") or the English name of a
            common language.
    """
    start = time.perf_counter()
    target = _code(example.get("language") or example.get("target"))
    if target is None:
        return Verdict(None, "gold_unusable", "target", ms=(time.perf_counter() - start) * 1e3)
    share = consistency(text, target)
    name = "no_answer" if share is None else "wrong" if share == 0 else "correct"
    return Verdict(share or 0.0, name, "share", ms=(time.perf_counter() - start) * 1e3)


def consistency(cot: str, target: str) -> float | None:
    """The share of target-language words in a chain of thought; None if it has no word.

    Args:
        target: an ISO 639-1 code or name, as in `verify`.
    Raises:
        ValueError: target is no language.
    Source: DeepSeek-AI 2025, section 2.3.2; Nature 2025, eq. 7. Words and languages as the module
    says.
    """
    code = _code(target)
    if code is None:
        raise ValueError(f"target={target!r} is no language; use an ISO 639-1 code such as 'en' or 'zh'")
    words = languages(cot, code)
    total = words.total()
    return words[code] / total if total else None


def languages(cot: str, target: str = "en") -> Counter[str]:
    """The number of words of each language, "?" for none; shared scripts go to the target."""
    counts: Counter[str] = Counter()
    sentences: list[list[str]] = []
    for sentence in _SENTENCE.split(_prose(cot)):
        scripts: Counter[str] = Counter()
        latin: list[str] = []
        for token in _TOKEN.finditer(sentence):
            script = token.lastgroup or "other"
            if script != "spaced":
                scripts[script] += len(token[0]) if script in _BY_CHARACTER else 1
                continue
            if sentence[token.end() : token.end() + 1] == "(":  # a function's name
                continue
            script, word = _kind(token[0])
            if script == "latin":
                latin.append(word)
            elif script:
                scripts[script] += 1
        if han := scripts.pop("han", 0):
            counts["ja" if scripts["kana"] else "zh"] += han
        for script, number in scripts.items():
            owners = _SCRIPTS.get(script, ("?",))
            counts[target if target in owners else owners[0]] += number
        if latin:
            sentences.append(latin)
    counts.update(_latin(sentences, target))
    return +counts


def spoken(text: str) -> str:
    """The language most words of a text are in; en where none is."""
    return next((name for name, _ in languages(text).most_common() if name != "?"), "en")


def _prose(text: str) -> str:
    """The text in NFKC without code, formulas, commands, tags and addresses."""
    text = unicodedata.normalize("NFKC", text[:LONGEST])
    if not any(mark in text for mark in ("`", "$", "\\", "<", "://")):
        return text

    def kept(match: re.Match[str]) -> str:
        if match["formula"] is None:
            return " "
        return f" {' '.join(a or b for a, b in _PROSE.findall(match['formula']))} "

    return _APART.sub(kept, text)


@lru_cache(1 << 16)  # words repeat
def _kind(token: str) -> tuple[str, str]:
    """(script, lower-case word) of a run of letters, digits and operators; ("", "") of no word."""
    word = token.strip("*_=<>+")
    if len(word) < 2 or not word.isalpha():
        return "", ""
    lower = word.lower()
    if word.isascii():
        symbol = lower in _SYMBOLS or (len(word) <= 3 and word.isupper() and lower not in _LANGUAGES)
        return ("", "") if symbol else ("latin", lower)
    scripts = [name for name, letter in _ALPHABETS.items() if letter.search(word)]
    return (scripts[0] if len(scripts) == 1 else "other"), lower


def _latin(sentences: list[list[str]], target: str) -> Counter[str]:
    """The languages of Latin words, given sentence by sentence."""
    elsewhere = target == "zh" or any(target in owners for owners in _SCRIPTS.values())
    overall = _leader({word for sentence in sentences for word in sentence}, "en" if elsewhere else target)
    counts: Counter[str] = Counter()
    for sentence in sentences:
        language = _leader(set(sentence), overall)
        own = [x[0] for word in set(sentence) if len(x := _LANGUAGES.get(word, ())) == 1]
        foreign = {x for x, n in Counter(own).items() if n > 1 and x != language}
        for word in sentence:
            x = _LANGUAGES.get(word, ())
            counts[x[0] if len(x) == 1 and x[0] in foreign else language] += 1
    return counts


def _leader(words: set[str], preferred: str) -> str:
    """The language with most of its common words among these, two or more; else the preferred."""
    votes = Counter(language for word in words for language in _LANGUAGES.get(word, ()))
    language = max(votes, key=votes.__getitem__, default=preferred)
    return language if votes[language] > max(1, votes[preferred]) else preferred


def _code(target: object) -> str | None:
    """The two or three letters of a language's code; None where the target names no language."""
    if not isinstance(target, str):
        return None
    lower = target.strip().lower()
    code = _NAMES.get(lower, re.split(r"[-_]", lower)[0])
    return code if re.fullmatch(r"[a-z]{2,3}", code) else None
