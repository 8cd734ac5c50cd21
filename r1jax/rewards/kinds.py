"""Defines the kinds of questions, such as "math" or "code". Each kind is an entry of the table `KINDS`.

To add a verifier, write one file and one entry.

Worker processes read this table when they start. The table therefore imports no verifier: it names functions
as text, "module:function". This module's `function()` imports a named function on first use.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import json
import math
import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from r1jax.rewards import prompting
from r1jax.rewards.format import STYLES
from r1jax.rewards.verdict import Verdict

Verifier = Callable[[str, Mapping], Verdict]


class Rule(NamedTuple):
    """A condition that a value of a data set must meet, such as "a string".

    Attributes:
        words: the condition in words, for error messages.
        holds: returns True if a value meets the condition.
        read: converts a value before `holds` tests it. A parquet column holds one type only, so an object may come as
            JSON text.
    """

    words: str
    holds: Callable[[object], bool]
    read: Callable[[Any], Any] = lambda value: value


class Columns(NamedTuple):
    """The keys of a row, which is one line of the file that `python -m r1jax.rewards KIND FILE` grades.

    Attributes:
        text: the key under which the row has the model's text.
        required: other keys that a row must have -> the condition on the value.
        optional: keys that a row may have -> the condition on the value.
    """

    text: str
    required: Mapping[str, Rule]
    optional: Mapping[str, Rule] = {}


class Limits(NamedTuple):
    """Time limits, in seconds, of one call of a verifier that starts sandboxes: CPU time and elapsed time.

    Both limit the verifier's own process. The programs in the sandboxes have limits of their own.
    """

    cpu_s: float
    wall_s: float


class Kind(NamedTuple):
    """The properties of one kind of question.

    Attributes:
        verifier: "module:function" of a function `(text, example) -> Verdict`; "" if no program can grade answers of
            this kind. The gold of a question is the right answer, or what is needed to check an answer. The example is
            the gold if the gold is a mapping, else {"gold": gold}.
        gold: the condition that the gold of a question must meet. None if no question has this kind, because the
            verifier grades whole completions, for example their format.
        domain: the subject in the records of supervised fine-tuning, such as "math" or "stem".
        prompt: maps a question (a row of a data set) to its problem with the paper's instructions, for evaluation.
        boxed: whether the answer in R1's format is the last \\boxed{} of the summary, which is the text after the
            thinking. If False, the answer is the whole summary.
        reads_boxes: whether the verifier itself looks for the box. If so, the verifier gets the whole summary, because
            words beside the box may deny the answer.
        in_words: whether evaluation also accepts an answer without a box, in the text after the thinking.
        votes: whether verdicts hold a normal form of the answer (`Verdict.canonical`), which majority votes count.
        columns: the keys of the rows that `python -m r1jax.rewards KIND FILE` grades. Default: `pred` and `gold`.
        grader: "module:function" of the verifier that `python -m r1jax.rewards` uses, if it differs from `verifier`.
        defects: "module:function" of a function `rows -> [reason]`. A reason says why the row's gold is unusable; ""
            means that the gold is usable.
        limits: time limits, for a verifier that starts sandboxes. None: the limits of the `isolate.Pool`.
    """

    verifier: str = ""
    gold: Rule | None = None
    domain: str = ""
    prompt: Callable[[Mapping], str] = prompting.unchanged
    boxed: bool = True
    reads_boxes: bool = False
    in_words: bool = False
    votes: bool = True
    columns: Columns | None = None
    grader: str = ""
    defects: str = "r1jax.data.selfcheck:of_solutions"
    limits: Limits | None = None


@functools.cache
def function(path: str) -> Callable[..., Any]:
    """Imports and returns the function that `path`, in the form "module:function", names.

    Raises:
        ImportError, AttributeError: there is no such module or function.
    """
    module, _, name = path.partition(":")
    return getattr(importlib.import_module(module), name)


def example_of(gold: object) -> Mapping:
    """Returns the `example` that a verifier gets: the gold (right answer) if it is a mapping, else {"gold": gold}."""
    return gold if isinstance(gold, Mapping) else {"gold": gold}


def is_text(x: object) -> bool:
    return isinstance(x, str)


def is_number(x: object) -> bool:
    return isinstance(x, int | float) and not isinstance(x, bool)


def is_finite(x: object) -> bool:
    return is_number(x) and (isinstance(x, int) or math.isfinite(x))


def is_pair(x: object) -> bool:
    return isinstance(x, list) and len(x) == 2


def one_of(*names: str) -> Rule:
    return Rule(f"one of {', '.join(names)}", lambda x: x in names)


def list_of(words: str, holds: Callable[[object], bool]) -> Rule:
    return Rule(f"a list of {words}", lambda x: isinstance(x, list) and all(map(holds, x)))


def is_answer(gold: object) -> bool:
    golds = gold if isinstance(gold, list) else [gold]
    return bool(golds) and all(isinstance(g, str) and g.strip() for g in golds)


def is_letter(gold: object) -> bool:
    return isinstance(gold, str) and bool(re.fullmatch(r"\(?[A-Z]\)?", gold.strip()))


def is_countdown(gold: object) -> bool:
    numbers = gold.get("numbers") if isinstance(gold, Mapping) else None
    return isinstance(numbers, list) and bool(numbers) and all(map(is_number, [*numbers, gold.get("target")]))


def is_program(gold: object) -> bool:
    tests = gold.get("tests") if isinstance(gold, Mapping) else None
    return isinstance(tests, list) and bool(tests) and all(map(is_pair, tests))


def is_theorem(gold: object) -> bool:
    return isinstance(gold, Mapping) and isinstance(gold.get("backend"), str) and isinstance(gold.get("goal"), str)


def is_instructions(gold: object) -> bool:
    from r1jax.rewards.instructions import defect_of

    return isinstance(gold, Mapping) and not defect_of(gold)


def from_number(gold: object) -> object:
    """Converts a gold (right answer) that is a number to text, the form of answers. Returns other golds unchanged."""
    return str(gold) if is_number(gold) else gold


def from_json(gold: object) -> object:
    """Parses a gold (right answer) that is JSON text. Returns other golds, and malformed JSON, unchanged."""
    if isinstance(gold, str):
        with contextlib.suppress(ValueError, RecursionError):  # the rule then rejects the text
            return json.loads(gold)
    return gold


TEXT = Rule("a string", is_text)
NUMBER = Rule("a finite number", is_finite)
FLAG = Rule("true or false", lambda x: isinstance(x, bool))
TABLE = Rule("an object", lambda x: isinstance(x, dict))
TEXTS = list_of("strings", is_text)
ANSWERS = Rule(
    "a string, a number or a list of strings", lambda x: is_text(x) or (bool(x) and TEXTS.holds(x)), from_number
)

ANSWER = Rule("a string that is not blank, or a list of such strings", is_answer, from_number)
LETTER = Rule("one option letter", is_letter)
NUMBERS = Rule('{"numbers": [...], "target": n}', is_countdown, from_json)
INSTRUCTIONS = Rule(
    '{"instructions": [name, ...], "kwargs": [{...}, ...]}, names as in IFEval', is_instructions, from_json
)
TESTS = Rule('{"tests": [[input, output], ...]} with at least one test', is_program, from_json)
THEOREM = Rule('{"backend": string, "goal": string, ...}', is_theorem, from_json)
ANYTHING = Rule("anything", lambda gold: True)

CODE_ROW = Columns(
    "program",
    {"tests": list_of("[input, output] pairs", is_pair)},
    {"mode": one_of("stdin", "function"), "entry": TEXT, "limits": TABLE, "score": one_of("all", "fraction")},
)
PROOF_ROW = Columns("proof", {"backend": TEXT, "goal": TEXT}, {"preamble": TEXT, "allowed_axioms": TEXTS})
FORMAT_ROW = Columns("completion", {}, {"style": one_of(*STYLES), "prefilled_think": FLAG, "think": one_of("none")})

GENERAL = "general"  # questions whose answers no verifier grades
KINDS: dict[str, Kind] = {
    "math": Kind(
        "r1jax.rewards.math:verify",
        ANSWER,
        "math",
        prompting.math,
        reads_boxes=True,
        columns=Columns("pred", {"gold": ANSWERS}),
        defects="r1jax.data.selfcheck:of_math",
    ),
    "choice": Kind(
        "r1jax.rewards.choice:verify",
        LETTER,
        "stem",
        prompting.choice,
        reads_boxes=True,
        in_words=True,
        columns=Columns("pred", {"gold": TEXT}),
        defects="r1jax.data.selfcheck:of_choice",
    ),
    "countdown": Kind(
        "r1jax.rewards.countdown:verify",
        NUMBERS,
        "logic",
        columns=Columns("pred", {"numbers": list_of("finite numbers", is_finite), "target": NUMBER}),
        defects="r1jax.data.selfcheck:of_countdown",
    ),
    "code": Kind(
        "r1jax.rewards.code:verify",
        TESTS,
        "code",
        prompting.code,
        boxed=False,
        votes=False,
        columns=CODE_ROW,
        grader="r1jax.rewards.code:grade",
        limits=Limits(cpu_s=60.0, wall_s=300.0),
    ),
    "proof": Kind(
        "r1jax.rewards.proof:verify",
        THEOREM,
        "math",
        boxed=False,
        votes=False,
        columns=PROOF_ROW,
        limits=Limits(cpu_s=60.0, wall_s=600.0),
    ),
    "instructions": Kind(
        "r1jax.rewards.instructions:verify",
        INSTRUCTIONS,
        "general",
        boxed=False,
        votes=False,
        columns=Columns("pred", {"instructions": TEXTS, "kwargs": list_of("objects", lambda x: isinstance(x, dict))}),
    ),
    GENERAL: Kind(gold=ANYTHING, domain="general", votes=False),
    "format": Kind("r1jax.rewards.format:verify", columns=FORMAT_ROW),
    "language": Kind("r1jax.rewards.language:verify", columns=Columns("cot", {"target": TEXT})),
}
