"""Prints how a verifier reads a text: `python -m r1jax.rewards explain KIND --gold=GOLD --text=TEXT`."""

from __future__ import annotations

import json
from collections.abc import Iterator

from r1jax.rewards.kinds import KINDS, example_of, function
from r1jax.rewards.verdict import describe

MOST_SHOWN = 300  # characters of one line


def explain(kind: str, gold: str, text: str) -> Iterator[str]:
    """Yields the lines to print, which end with the reward and the verdict.

    For math, the first lines say how the gold was read, where the answer was found, and how the answer was read.

    Args:
        kind: the kind of question, such as "math".
        gold: the right answer as text; JSON for a kind whose gold is an object.
        text: the model's text.

    Raises:
        ValueError: the kind has no verifier, or the gold does not have the form that this kind needs.
    """
    of = KINDS.get(kind)
    if of is None or not of.verifier:
        known = ", ".join(name for name, known in KINDS.items() if known.verifier)
        raise ValueError(f"explain {kind!r:.40}: this kind has no verifier; use one of {known}")
    if of.gold is None:  # such as format: the gold holds the arguments
        example = _object(kind, gold)
    else:
        value = of.gold.read(gold)
        if not of.gold.holds(value):
            raise ValueError(f"--gold={gold!r:.80} must be {of.gold.words} for kind {kind}")
        example = dict(example_of(value))
    if kind == "math":
        yield from _math(gold, text)
    verdict = function(of.verifier)(text, example)
    yield f"reward   {verdict.reward}"
    yield f"verdict  {describe(verdict)}"[:MOST_SHOWN]


def _object(kind: str, gold: str) -> dict:
    try:
        value = json.loads(gold or "{}")
    except ValueError:
        value = None
    if not isinstance(value, dict):
        raise ValueError(
            f"--gold={gold!r:.80} must be a JSON object with the arguments of kind {kind}, "
            'such as {"style": "r1"} for format or {"target": "en"} for language'
        )
    return value


def _math(gold: str, text: str) -> Iterator[str]:
    """Yields how the math verifier reads gold and text."""
    from r1jax.rewards.math import _reading

    for read in _reading.references(gold):
        yield _line("gold", read)
    place, said = _reading.find_place(text)
    yield f"found    {place}" + (f": {said}"[:MOST_SHOWN] if said else "")
    readings = list(_reading.answers(text))
    for number, read in enumerate(readings):
        yield _line("answer" if not number else "or", read)
    if readings and not any(read.readable for read in readings):
        yield "         no reading is mathematics: words beside the number deny, bound or change it, or it is a text"


def _line(name: str, read) -> str:
    from r1jax.rewards.math._ast import OverBudget

    try:
        trees = " or ".join(show(tree) for tree in read.trees)
    except OverBudget as problem:
        trees = f"too large ({problem})"
    return f"{name:<8} {read.extracted!r:.100} is {trees}"[:MOST_SHOWN]


def show(node) -> str:
    """Returns a syntax tree on one line, such as "rel(=, x, 5)"."""
    if not hasattr(node, "kind"):
        if isinstance(node, tuple):
            return " ".join(show(part) for part in node)
        return str(node)
    if node.kind == "num":
        return str(node.args[0])
    if node.kind in ("sym", "const"):
        return str(node.args[0])
    if node.kind == "text":
        return f"the words {node.args[0]!r}"
    return f"{node.kind}({', '.join(show(arg) for arg in node.args)})"
