"""Grades instruction following: the 25 instructions of IFEval that a program can check.

The answer is what a completion shows to the user: its `<answer>` block, or else the text after the chain of thought.
Source: Zhou et al. 2023, "Instruction-Following Evaluation for Large Language Models", Table 1, strict accuracy. This
module counts words and sentences and detects languages by its own rules, and IFEval uses NLTK and langdetect. So the
two may disagree if a count is near the number that the instruction asks for.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Mapping

from r1jax.rewards import language
from r1jax.rewards.format import reply_of
from r1jax.rewards.verdict import Verdict, check_arguments

LONGEST = 1 << 16  # characters of a reply that are read
SHARE = 0.6  # of the words that must be in the language asked for
_SENTENCE = re.compile(r"[^.!?。！？\n]*\w[^.!?。！？\n]*(?:[.!?。！？]+|\n|\Z)")
_WORD = re.compile(r"\w+")
_TITLE = re.compile(r"<<([^\n]+?)>>")
_CHOICES = ("My answer is yes.", "My answer is no.", "My answer is maybe.")
_ABBREVIATIONS = re.compile(r"\b(?:Mr|Mrs|Ms|Dr|Prof|St|vs|etc|e\.g|i\.e|[A-Z])\.(?=\s|\w)")


def verify(text: str, example: Mapping) -> Verdict:
    """Returns reward 1 if a completion follows all its instructions, else 0.

    If the example's `score` is "fraction", the reward is the share of instructions that the completion follows. The
    verdict's `stage` names the first instruction that the completion does not follow.

    Args:
        example: a mapping with keys as in IFEval. `instructions` lists names such as "keywords:existence". `kwargs`
            lists a mapping of arguments for each name. `score` is "all" (default) or "fraction".
    Raises:
        TypeError: the text is not a string or the example not a mapping.
    """
    check_arguments(text, example)
    start = time.perf_counter()

    def verdict(reward: float | None, name: str, stage: str, given: str | None = None) -> Verdict:
        return Verdict(reward, name, stage, given, None, (time.perf_counter() - start) * 1e3)

    problem = defect_of(example)
    if problem:
        return verdict(None, "gold_unusable", problem)
    said = reply_of(text)
    if not said.strip():
        return verdict(0.0, "no_answer", "extract")
    if len(said) > LONGEST:
        return verdict(0.0, "budget", "length", said[:100])
    names, kwargs = example["instructions"], example["kwargs"]
    failed = [name for name, given in zip(names, kwargs, strict=True) if not CHECKS[name][0](said, given)]
    share = 1 - len(failed) / len(names)
    reward = share if example.get("score") == "fraction" else float(not failed)
    return verdict(reward, "correct" if reward else "wrong", failed[0] if failed else "instructions", said)


def defect_of(example: Mapping) -> str:
    """Returns why the instructions of an example cannot be checked; "" if they can."""
    names, kwargs = example.get("instructions"), example.get("kwargs")
    if not isinstance(names, list) or not names or not isinstance(kwargs, list) or len(names) != len(kwargs):
        return "instructions and kwargs must be lists of the same length with at least one entry"
    for name, given in zip(names, kwargs, strict=True):
        if name not in CHECKS:
            return f"instruction {name!r:.60} is unknown; use one of {', '.join(CHECKS)}"
        if not isinstance(given, Mapping):
            return f"the kwargs of {name} must be an object"
        for key, kind in CHECKS[name][1].items():
            if not isinstance(given.get(key), kind) or isinstance(given.get(key), bool):
                return f"{name} needs {key} ({' or '.join(k.__name__ for k in _kinds(kind))})"
    return ""


def _kinds(kind: type | tuple[type, ...]) -> tuple[type, ...]:
    return kind if isinstance(kind, tuple) else (kind,)


def _related(count: int, bound: float, relation: object) -> bool:
    """Returns True if a count is "less than" a bound or, for any other relation, at least the bound."""
    return count < bound if relation == "less than" else count >= bound


def _paragraphs(said: str, mark: str) -> list[str] | None:
    """Returns the parts of a text between marks; None if a part in the middle is blank."""
    parts = re.split(rf"\s?{re.escape(mark)}\s?", said)
    inner = [part for i, part in enumerate(parts) if part.strip() or 0 < i < len(parts) - 1]
    return None if any(not part.strip() for part in inner) else inner


def _two_responses(said: str, given: Mapping) -> bool:
    parts = _paragraphs(said, "******")
    return parts is not None and len(parts) == 2 and parts[0].strip() != parts[1].strip()


def _is_json(said: str, given: Mapping) -> bool:
    plain = said.strip()
    for fence in ("```json", "```Json", "```JSON", "```"):
        plain = plain.removeprefix(fence)
    try:
        json.loads(plain.removesuffix("```").strip())
    except (ValueError, RecursionError):
        return False
    return True


def _first_word(said: str, given: Mapping) -> bool:
    blocks = re.split(r"\n\n", said)
    n = given["nth_paragraph"]
    if len([block for block in blocks if block.strip()]) != given["num_paragraphs"] or not 1 <= n <= len(blocks):
        return False
    words = blocks[n - 1].split()
    word = re.split(r"[.,?!'\"]", words[0].lstrip("'\""))[0].lower() if words else ""
    return word == given["first_word"].lower()


def _postscript(said: str, given: Mapping) -> bool:
    marker = given["postscript_marker"].strip().lower()
    letters = [re.escape(letter) for letter in re.sub(r"[.\s]", "", marker)]
    spelled = r"\.\s?".join(letters) if marker in ("p.s.", "p.p.s", "p.p.s.") else re.escape(marker)
    return bool(re.search(rf"(?:^|\s){spelled}", said.lower()))


def _highlights(said: str, given: Mapping) -> bool:
    bold = [part for part in re.findall(r"\*\*([^\n*]*)\*\*", said) if part.strip()]
    italic = [part for part in re.findall(r"(?<!\*)\*([^\n*]+)\*(?!\*)", said) if part.strip()]
    return len(bold) + len(italic) >= given["num_highlights"]


def _speaks(said: str, code: str) -> bool:
    share = language.consistency(said, code)
    return share is None or share >= SHARE


def _sentences(said: str) -> int:
    return len(_SENTENCE.findall(_ABBREVIATIONS.sub(lambda m: m[0].replace(".", ""), said)))


def _count(pattern: str, said: str) -> int:
    return len(re.findall(pattern, said, re.IGNORECASE))


def _wholly(said: str, of: Callable[[str], bool]) -> bool:
    return of(said) and _speaks(said.lower(), "en")


Check = tuple[Callable[[str, Mapping], bool], Mapping[str, type | tuple[type, ...]]]
NUMBER = (int, float)
CHECKS: dict[str, Check] = {  # name -> (the check, the arguments it needs)
    "keywords:existence": (
        lambda said, given: all(_count(re.escape(word), said) for word in given["keywords"]),
        {"keywords": list},
    ),
    "keywords:frequency": (
        lambda said, given: _related(
            _count(re.escape(given["keyword"]), said), given["frequency"], given.get("relation")
        ),
        {"keyword": str, "frequency": NUMBER},
    ),
    "keywords:forbidden_words": (
        lambda said, given: not any(_count(rf"\b{re.escape(word)}\b", said) for word in given["forbidden_words"]),
        {"forbidden_words": list},
    ),
    "keywords:letter_frequency": (
        lambda said, given: _related(
            said.lower().count(given["letter"].lower()), given["let_frequency"], given.get("let_relation")
        ),
        {"letter": str, "let_frequency": NUMBER},
    ),
    "language:response_language": (lambda said, given: _speaks(said, given["language"]), {"language": str}),
    "length_constraints:number_sentences": (
        lambda said, given: _related(_sentences(said), given["num_sentences"], given.get("relation")),
        {"num_sentences": NUMBER},
    ),
    "length_constraints:number_paragraphs": (
        lambda said, given: len(_paragraphs(said, "***") or ()) == given["num_paragraphs"],
        {"num_paragraphs": NUMBER},
    ),
    "length_constraints:number_words": (
        lambda said, given: _related(len(_WORD.findall(said)), given["num_words"], given.get("relation")),
        {"num_words": NUMBER},
    ),
    "length_constraints:nth_paragraph_first_word": (
        _first_word,
        {"num_paragraphs": int, "nth_paragraph": int, "first_word": str},
    ),
    "detectable_content:number_placeholders": (
        lambda said, given: len(re.findall(r"\[[^\n]*?\]", said)) >= given["num_placeholders"],
        {"num_placeholders": NUMBER},
    ),
    "detectable_content:postscript": (_postscript, {"postscript_marker": str}),
    "detectable_format:number_bullet_lists": (
        lambda said, given: len(re.findall(r"^\s*(?:\*[^*]|-).*$", said, re.MULTILINE)) == given["num_bullets"],
        {"num_bullets": NUMBER},
    ),
    "detectable_format:constrained_response": (lambda said, given: any(choice in said for choice in _CHOICES), {}),
    "detectable_format:number_highlighted_sections": (_highlights, {"num_highlights": NUMBER}),
    "detectable_format:multiple_sections": (
        lambda said, given: (
            len(re.findall(rf"{re.escape(given['section_spliter'].strip())}\s?\d+", said)) >= given["num_sections"]
        ),
        {"section_spliter": str, "num_sections": NUMBER},
    ),
    "detectable_format:json_format": (_is_json, {}),
    "detectable_format:title": (
        lambda said, given: any(title.strip("<> ") for title in _TITLE.findall(said)),
        {},
    ),
    "combination:two_responses": (_two_responses, {}),
    "combination:repeat_prompt": (
        lambda said, given: said.strip().lower().startswith(given["prompt_to_repeat"].strip().lower()),
        {"prompt_to_repeat": str},
    ),
    "startend:end_checker": (
        lambda said, given: said.strip().strip('"').lower().endswith(given["end_phrase"].strip().lower()),
        {"end_phrase": str},
    ),
    "startend:quotation": (
        lambda said, given: len(said.strip()) > 1 and said.strip()[0] == said.strip()[-1] == '"',
        {},
    ),
    "change_case:capital_word_frequency": (
        lambda said, given: _related(
            sum(word.isupper() for word in re.findall(r"[^\W\d_]+(?:['’-][^\W\d_]+)*", said)),
            given["capital_frequency"],
            given.get("capital_relation"),
        ),
        {"capital_frequency": NUMBER},
    ),
    "change_case:english_capital": (lambda said, given: _wholly(said, str.isupper), {}),
    "change_case:english_lowercase": (lambda said, given: _wholly(said, str.islower), {}),
    "punctuation:no_comma": (lambda said, given: "," not in said, {}),
}
