"""Loads and runs a user's own reward, `--reward=FILE.py:FUNCTION`, in place of rule rewards or beside some of them.

A reward is a function `(texts, examples) -> list of floats, or {part name: list of floats}`, with one float per text.

    texts       completions, without their prompts
    examples    for each text its question, a dict: id, problem, and every other column of the data file

The function runs in the training process, once per round and once per evaluation, on the whole batch. Its failures do
not end a run. If the function raises or returns a list of the wrong length, no completion of the batch gets a reward.
If the function returns a number that is not finite, the completion with this number gets no reward. Completions without
a reward count as rows without a verdict, like rows whose verifier ran out of time. The metric `rows/failed` counts the
completions for which a function failed, and the first failure of each function is printed.
"""

from __future__ import annotations

import hashlib
import importlib.util
import math
import re
import sys
import traceback
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np

from r1jax.rewards import rule
from r1jax.rewards.isolate import Pool

BUILT_IN = ("accuracy", "format", "language")
TAKEN = (
    "mean",
    "std",
    "max",
    "largest_share",
    "overlong",
    "repetition",
)  # reserved: metrics such as reward/mean have these names
FORM = "use FILE.py:FUNCTION, accuracy, format or language; append =WEIGHT for a weight other than 1"

Function = Callable[[list[str], list[dict]], Any]


class Term(NamedTuple):
    """A term of the weighted sum that `--reward` defines: a built-in part of the reward, or a user's function.

    Attributes:
        name: "accuracy", "format", "language", or the name of the function.
        weight: the factor of the term in the sum.
        path: the file that holds the function; "" for a built-in part.
        sha256: the hash of this file; "" for a built-in part.
        function: the function; None for a built-in part.
    """

    name: str
    weight: float = 1.0
    path: str = ""
    sha256: str = ""
    function: Function | None = None


def read(flags: Sequence[str]) -> list[Term]:
    """Returns one term for each value of the flag `--reward`. Imports the files that the flags name.

    Args:
        flags: "FILE.py:FUNCTION", "accuracy", "format" or "language", each optionally followed by "=WEIGHT".

    Raises:
        ValueError: a flag is malformed, a file or function is missing, an import fails, or two terms have one name.
    """
    modules: dict[str, tuple[str, ModuleType]] = {}
    terms: list[Term] = []
    for flag in flags:
        what, number = re.fullmatch(r"(.*?)(?:=([^=:]*))?", flag, re.DOTALL).groups()
        try:
            weight = 1.0 if number is None else float(number)
        except ValueError:
            weight = math.nan
        if not math.isfinite(weight):
            raise ValueError(f"--reward={flag} has the weight {number!r}, which is no finite number; {FORM}")
        path, _, name = what.rpartition(":")
        if what in BUILT_IN:
            term = Term(what, weight)
        elif not path.endswith(".py") or not name.isidentifier():
            raise ValueError(f"--reward={flag} names no reward; {FORM}")
        else:
            if path not in modules:
                modules[path] = import_file(path, flag)
            sha256, module = modules[path]
            term = Term(name, weight, path, sha256, function_of(module, name, flag))
        if term.name in (*TAKEN, *(other.name for other in terms)) or (term.function and term.name in BUILT_IN):
            raise ValueError(
                f"--reward={flag}: another reward or a logged metric has the name {term.name}; rename the function"
                if term.function
                else f"--reward={flag} gives {term.name} a second time; list it once"
            )
        terms.append(term)
    return terms


def import_file(path: str, flag: str) -> tuple[str, ModuleType]:
    """Imports the Python file at `path` and returns (sha256 of the file, module).

    Args:
        flag: the value of `--reward` that names the file, for error messages.
    Raises:
        ValueError: the file cannot be read or its import fails.
    """
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        raise ValueError(f"--reward={flag}: {path} cannot be read ({error.strerror}); {FORM}") from error
    sha256 = hashlib.sha256(content).hexdigest()
    name = f"r1jax_reward_{sha256[:16]}"
    module = importlib.util.module_from_spec(importlib.util.spec_from_file_location(name, path))
    sys.modules[name] = module  # dataclasses look up their own module
    try:
        exec(compile(content, path, "exec"), module.__dict__)  # the hashed bytes; a cached .pyc may be of others
    except Exception as error:
        raise ValueError(f"--reward={flag}: the import of {path} failed: {reason(error, path)}") from error
    return sha256, module


def function_of(module: ModuleType, name: str, flag: str) -> Function:
    """Returns the module's function of this name.

    Args:
        flag: the value of `--reward` that names the function, for error messages.
    Raises:
        ValueError: the module has no function of this name.
    """
    found = getattr(module, name, None)
    if not callable(found):
        here = [
            key
            for key, value in vars(module).items()
            if callable(value) and getattr(value, "__module__", "") == module.__name__
        ]
        raise ValueError(f"--reward={flag}: the file has no function {name}; it has {', '.join(here) or 'none'}")
    return found


def describe_terms(terms: Sequence[Term]) -> dict[str, list[dict]]:
    """Returns the terms as an entry for a run's manifest: {"rewards": [{name, weight, path, sha256}]}.

    The entry belongs under the manifest's key `data`. Built-in parts have no `path` and no `sha256`. Returns {} if
    there are no terms.
    """
    rows = [
        {"name": term.name, "weight": term.weight} | ({"path": term.path, "sha256": term.sha256} if term.path else {})
        for term in terms
    ]
    return {"rewards": rows} if rows else {}


def format_terms(rows: Sequence[Mapping] | None) -> str:
    """Formats reward terms for an error message, for example "accuracy=1 format=0.5".

    Args:
        rows: the list under "rewards" of `describe_terms`; None or empty gives "none".
    """
    return (
        " ".join(
            f"{row['path']}:{row['name']}={row['weight']:g} (sha256 {row['sha256'][:12]})"
            if "path" in row
            else f"{row['name']}={row['weight']:g}"
            for row in rows or ()
        )
        or "none"
    )


def make_reward(
    terms: Sequence[Term], style: str, tell: Callable[[str], None] | None = None
) -> Callable[..., rule.Scores]:
    """Returns the reward function `(pool, texts, examples, step) -> Scores` that adds up the terms, as `score` does.

    Args:
        style: the expected format of completions, a key of `format.STYLES`; the built-in parts need it.
        tell: called with a sentence about the first failure of each function. Default: print it on standard error.
    """
    told: set[str] = set()

    def once(term: Term, problem: str) -> None:
        if term.name not in told:
            told.add(term.name)
            text = (
                f"--reward={term.path}:{term.name} {problem}. These rows have no verdict; "
                "rows/failed in metrics.jsonl counts them. Further failures are not printed"
            )
            tell(text) if tell else print(text, file=sys.stderr, flush=True)

    def reward(pool: Pool, texts: Sequence[str], examples: Sequence[Mapping], step: int) -> rule.Scores:
        return score(pool, texts, examples, terms, style, once)

    return reward


def score(
    pool: Pool,
    texts: Sequence[str],
    examples: Sequence[Mapping],
    terms: Sequence[Term],
    style: str,
    tell: Callable[[Term, str], None],
) -> rule.Scores:
    """Returns the rewards of N completions: Σ weight·part over all parts of all terms.

    A built-in term has one part; a function may return several. Built-in parts that no term names are not computed.
    `Scores.failed` marks the completions for which a user's function failed.

    Args:
        pool: judges the answers for "accuracy".
        texts, examples: [N] completions and their questions, as rows of the data file.
        style: the expected format of completions, a key of `format.STYLES`.
        tell: called as tell(term, description of the failure) for each term whose function failed.
    """
    valid, failed = np.ones(len(texts), bool), np.zeros(len(texts), bool)
    parts: dict[str, np.ndarray] = {}
    weights: dict[str, float] = {}
    verdicts = None
    for term in terms:
        if term.function:
            names = {*TAKEN, *parts, *(other.name for other in terms if other is not term)}
            mine, problem = call_function(term, texts, examples, names)
            finite = np.all([np.isfinite(part) for part in mine.values()], axis=0) if mine else np.zeros_like(valid)
            if problem or not finite.all():
                bad = len(texts) - int(finite.sum())
                tell(term, problem or f"gave numbers that are not finite for {bad} of {len(texts)} completions")
            failed |= ~finite
            valid &= finite
        elif term.name == "accuracy":
            part, judged, verdicts = rule.accuracy(pool, texts, examples, style)
            mine = {term.name: part}
            valid &= judged
        elif term.name == "format":
            mine = {term.name: rule.score_format(texts, examples, style)}
        else:
            mine = {term.name: rule.consistency(texts, examples)}
        parts |= mine
        weights |= dict.fromkeys(mine, term.weight)
    return rule.Scores(*rule.combine_parts(parts, weights, valid), parts, verdicts, failed)


def call_function(
    term: Term, texts: Sequence[str], examples: Sequence[Mapping], taken: Collection[str]
) -> tuple[dict[str, np.ndarray], str]:
    """Calls a term's function on N texts and checks what the function returns.

    Args:
        taken: part names that the function must not return, because other parts have them.
    Returns:
        ({part name: [N] floats}, "") on success, with nan for each None in the function's lists. ({}, a description of
        the failure) if the function raised or did not return N numbers per part.
    """
    try:
        given = term.function(list(texts), [dict(example) for example in examples])
    except Exception as error:
        return {}, f"raised {reason(error, term.path)}"
    found = given if isinstance(given, Mapping) else {term.name: given}
    parts: dict[str, np.ndarray] = {}
    for name, values in found.items():
        if not isinstance(name, str) or name in taken:
            return {}, f"returned a part named {name!r}, which is not a string or is the name of another part"
        try:
            numbers = [math.nan if value is None else float(value) for value in values]
        except (TypeError, ValueError, OverflowError) as error:
            return {}, f"returned {values!r:.60} where a list of floats is due ({error})"
        if len(numbers) != len(texts):
            return {}, f"returned {len(numbers)} numbers for {len(texts)} completions"
        parts[name] = np.asarray(numbers, np.float64)
    return parts, "" if parts else "returned no part"


def reason(error: Exception, path: str) -> str:
    """Returns a description of an error, with the last line number of the traceback in the user's file `path`."""
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == path]
    at = error.lineno if isinstance(error, SyntaxError) else lines[-1] if lines else None
    text = f"{type(error).__name__}: {error}"
    return f"{text} ({path}, line {at})" if at else text
