r"""Computes language consistency: the share of target-language words in a chain of thought.

R1's reward is Num(Words_target) / Num(Words). The paper defines neither a word nor how to find the language of a word.
Here:

**Left out.** These parts of a text are not counted:

- code in closed code fences, and `inline code`
- formulas between $ $, \( \) or \[ \] or in an environment, except their \text and their Chinese, Japanese, Korean and
  Cyrillic letters
- LaTeX commands, tags and addresses

Of the Latin, Greek and Cyrillic words, these are not counted:

- words of one letter (variables)
- words that hold a digit, an underscore or an operator (x1, ab=cd)
- words of two or three ASCII capitals (ABC), unless they are common words
- names of functions and units (sin, log, cm)
- words directly before an opening bracket, as in len(x)

**Words.** The text is normalised to NFKC. In scripts written without spaces (Han, kana, Thai, Lao, Khmer, Burmese) each
character is a word; in all other scripts each run of letters is a word, and an apostrophe or a hyphen ends the run. A
run that mixes Latin with Greek or Cyrillic (homoglyphs) is a word of no language.

**Language.** All scripts but Latin determine the language: Han is zh, or ja in a sentence with kana. If several
languages share a script (ru, uk, bg; ar, fa, ur; hi, mr) and the target is one of these languages, all words in this
script count for the target.

**Latin words.** They count for the language of their sentence. To find the language of a sentence, the module counts,
for each language, how many of that language's common words (`words.COMMON`) occur in the sentence. The language with
the largest count wins if this count is at least two. Otherwise the counts over the whole text decide by the same rule.
If they do not decide either, the language is the target if the target is written in Latin letters, else en. There is
one exception, for foreign phrases. Some common words are in the list of a single language only. If a sentence has two
or more different words of this sort from a language that is not the sentence's, these words count for that language.
"""

from __future__ import annotations

import re
import time
import unicodedata
from collections import Counter
from collections.abc import Mapping
from functools import lru_cache

from r1jax.rewards.verdict import Verdict, check_arguments
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
    "kana": ("ja",),
    "hangul": ("ko",),
    "thai": ("th",),
    "lao": ("lo",),
    "khmer": ("km",),
    "burmese": ("my",),
    "hebrew": ("he", "yi"),
    "arabic": ("ar", "fa", "ur"),
    "devanagari": ("hi", "mr", "ne"),
    "cyrillic": ("ru", "uk", "bg", "sr", "kk"),
    "greek": ("el",),
}
_NAMES = {
    "english": "en",
    "chinese": "zh",
    "中文": "zh",
    "japanese": "ja",
    "korean": "ko",
    "french": "fr",
    "german": "de",
    "spanish": "es",
    "italian": "it",
    "portuguese": "pt",
    "dutch": "nl",
    "russian": "ru",
}

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
    """Returns as reward the share of words of a chain of thought that are in the target language; 0 without words.

    Args:
        text: the chain of thought alone (`format.think`).
        example: a mapping whose key "language" or "target" holds the target language: an ISO 639-1 code ("en",
            "zh-CN"), or the English name of a common language.
    """
    check_arguments(text, example)
    start = time.perf_counter()
    target = _code(example.get("language") or example.get("target"))
    if target is None:
        return Verdict(None, "gold_unusable", "target", ms=(time.perf_counter() - start) * 1e3)
    share = consistency(text, target)
    name = "no_answer" if share is None else "wrong" if share == 0 else "correct"
    return Verdict(share or 0.0, name, "share", ms=(time.perf_counter() - start) * 1e3)


def consistency(cot: str, target: str) -> float | None:
    """Returns the share of words of a chain of thought that are in the target language, in [0, 1]; None without words.

    Args:
        target: the language, as an ISO 639-1 code or an English name; see `verify`.
    Raises:
        ValueError: `target` does not name a language.
    Source: DeepSeek-AI 2025, section 2.3.2; Nature 2025, eq. 7. The module's docstring defines words and languages.
    """
    code = _code(target)
    if code is None:
        raise ValueError(f"target={target!r} is not a language; use an ISO 639-1 code such as 'en' or 'zh'")
    words = languages(cot, code)
    total = words.total()
    return words[code] / total if total else None


def languages(cot: str, target: str = "en") -> Counter[str]:
    """Returns {language code: number of words} of a chain of thought. The key "?" counts words of no known language.

    Words in a script that several languages share count for the target language if it is one of those languages.

    Args:
        target: a two- or three-letter language code.
    """
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
            if sentence[token.end() : token.end() + 1] == "(":  # the name of a function
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
    """Returns the code of the language that most words of a text are in; "en" if no word is in a known language."""
    return next((name for name, _ in languages(text).most_common() if name != "?"), "en")


def _prose(text: str) -> str:
    """Returns the text in NFKC without code, formulas, commands, tags and addresses."""
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
    """Returns (script, the word in lower case) for a token of letters, digits and operators.

    The script is "latin", "cyrillic", "greek", or "other" for a mixture. ("", "") if the token is not a word, for
    example a variable or a unit.
    """
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
    """Returns {language code: number of words} of the words in Latin letters.

    Args:
        sentences: the lower-case Latin words of each sentence.
        target: the code of the target language.
    """
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
    """Returns the language that has the most of its common words among `words`.

    If no language has at least two, or none has more than `preferred`, returns `preferred`.
    """
    votes = Counter(language for word in words for language in _LANGUAGES.get(word, ()))
    language = max(votes, key=votes.__getitem__, default=preferred)
    return language if votes[language] > max(1, votes[preferred]) else preferred


def _code(target: object) -> str | None:
    """Returns the two- or three-letter code of a language; None if `target` does not name a language.

    Args:
        target: a code such as "en" or "zh-CN", or a name such as "english".
    """
    if not isinstance(target, str):
        return None
    lower = target.strip().lower()
    code = _NAMES.get(lower, re.split(r"[-_]", lower)[0])
    return code if re.fullmatch(r"[a-z]{2,3}", code) else None
