"""Provides verifiers, which are functions `(text, example) -> Verdict`. Training computes its rewards from verdicts.

One answer:

    >>> from r1jax.rewards import verify
    >>> verify("math", "The answer is \\\\boxed{0.5}.", {"gold": "1/2"}).reward
    1.0
    >>> verify("math", "at least 5", {"gold": 5}).verdict
    'wrong'

Many answers, as rows of the files that `python -m r1jax.rewards KIND FILE` grades:

    >>> from r1jax.rewards import verify_batch
    >>> rows = [{"gold": 42, "pred": "It is 42."}, {"gold": "B", "pred": "(B)"}]
    >>> [verdict.reward for verdict in verify_batch("math", rows)]
    [1.0, 1.0]

The kinds, and what `example` (or a row) holds besides the text:

    math          gold: the right answer as text or number, or a list of answers of which any will do
    choice        gold: the option letter
    countdown     numbers, target
    code          tests: [[input, output], ...]; entry: the function; mode: stdin or function; limits: {time_s, ...}
    proof         backend: coq, lean4 or metamath; preamble, goal, allowed_axioms
    instructions  instructions: [name, ...], kwargs: [{...}, ...] as in IFEval
    format        style: r1_zero or r1
    language      target: the language

A `Verdict` has `reward`, `verdict` (one of VERDICTS), `stage` (the step that decided), `extracted` and `canonical`. A
reward of None means that the text could not be graded. Leave such a text out, and do not count it as 0. A verifier
never raises on a model's text. Swapped or wrong arguments raise TypeError. For a row or a gold of the wrong form,
`verify_batch` raises ValueError, and `verify` returns the verdict `gold_unusable`.

`python -m r1jax.rewards explain math --gold=1/2 --text='The answer is 0.5.'` shows how a text is read.
docs/extending/verifier.md says how to add a verifier. This package never imports jax.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from r1jax.rewards.verdict import UNGRADED, VERDICTS, Verdict, describe

__all__ = ["UNGRADED", "VERDICTS", "Verdict", "describe", "verify", "verify_batch"]


def verify(kind: str, text: str, example: Mapping) -> Verdict:
    """Returns the verdict on one text by the verifier of a kind of question.

    Math answers are compared in this process, without a time limit.

    Args:
        kind: the kind of question, such as "math".
        text: the model's text.
        example: what the verifier needs besides the text, such as {"gold": "1/2"} with the right answer. The package's
            docstring lists the keys for each kind.

    Raises:
        ValueError: the kind has no verifier.
        TypeError: the text is not a string or the example not a mapping.
    """
    from r1jax.rewards.kinds import KINDS, function

    of = KINDS.get(kind)
    if of is None or not of.verifier:
        known = ", ".join(name for name, known in KINDS.items() if known.verifier)
        raise ValueError(f"kind={kind!r:.40} has no verifier; use one of {known}")
    return function(of.verifier)(text, example)


def verify_batch(kind: str, rows: Sequence[Mapping], deadline: float | None = None) -> list[Verdict]:
    """Returns one verdict for each row, such as {"gold": 42, "pred": "It is 42."}.

    `grading.verify_batch` describes the arguments and the errors.
    """
    from r1jax.rewards.grading import verify_batch

    return verify_batch(kind, rows, deadline)
