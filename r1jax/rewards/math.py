"""Whether an answer in mathematics is right: exact, symmetric, bounded, and nothing of the text is ever run.

The stages, cheapest first: the answer is found in the text; letters; exact numbers; an own parser to a small tree;
exact values, residues modulo a prime, then as many digits as equality by chance would need. Costs are bounded before
they arise. `Verdict.stage` names the stage that decided.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Iterable, Mapping, Sequence

from r1jax.rewards import _reading
from r1jax.rewards._ast import OverBudget
from r1jax.rewards._compare import Comparison
from r1jax.rewards._exact import Undefined
from r1jax.rewards._extract import RULES
from r1jax.rewards._reading import Reading
from r1jax.rewards._scalars import LONG_DECIMAL
from r1jax.rewards.verdict import Verdict

QUICK = 4096  # characters up to which the caller's own process looks at a text
Gold = str | Sequence[str]


def extract(text: str, rule: str = "auto") -> str | None:
    """The answer in a text, None if there is none.

    Args:
        rule: "auto" reads what follows the thinking: an answer block, the last box (with those it stands in one list
            with), a #### line, a statement ("the answer is", 答案是), a text that is all mathematics, the last formula
            or number. "boxed": the last complete box. "answer_tag": the last <answer> block, its box if it has one;
            without a block the last box. "hash": what follows the last ####.
    """
    if rule not in RULES:
        raise ValueError(f"rule={rule!r} must be one of {', '.join(RULES)}")
    return _reading.extract(text, rule)


def judge(text: str, example: Mapping) -> Verdict:
    """The verdict on a completion, in this process.

    Args:
        example: `gold`, an answer or a list of answers of which any will do; `extract`, a rule as in `extract`,
            default auto.
    """
    return _verdict(example.get("gold"), text, example.get("extract", "auto"), quick=False)


def verify(gold: Gold, text: str, *, deadline: float = 2.0) -> Verdict:
    """The verdict on one completion, within `deadline` seconds, from a worker process where it may take long.

    Args:
        gold: the reference answer, plain or LaTeX; of a list, any will do.
    """
    quick = _quick(_key(gold), text)
    if quick is not None:
        return quick
    _started()
    return verify_batch([(gold, text)], deadline=deadline)[0]


def verify_batch(pairs: Iterable[tuple[Gold, str]], deadline: float | None = None) -> list[Verdict]:
    """The verdicts on (gold, completion) pairs, in their order. Never raises on what they say.

    Equal pairs are checked once.

    Args:
        deadline: seconds for all; what is open then gets `timeout`.
    """
    from r1jax.rewards import isolate

    keys = [(_key(gold), text if isinstance(text, str) else "") for gold, text in pairs]
    verdicts: dict[tuple, Verdict | None] = {}
    for key in keys:
        if key not in verdicts:
            verdicts[key] = _quick(*key)
    waiting = [key for key, verdict in verdicts.items() if verdict is None]
    if waiting:
        jobs = [("math", text, {"gold": list(gold) if isinstance(gold, tuple) else gold}) for gold, text in waiting]
        verdicts.update(zip(waiting, isolate.shared().run(jobs, deadline), strict=False))
    return [verdicts[key] for key in keys]


def warm() -> None:
    """Imports what the first comparison would import."""
    from r1jax.rewards._numeric import context

    context()


def _key(gold: object) -> object:
    """The gold as something to look up: a text, several, or None."""
    if isinstance(gold, (list, tuple)):
        return tuple(map(str, gold))
    return gold if gold is None else str(gold)


@functools.cache
def _started() -> None:
    """Waits, once, until a worker has answered: a deadline is for the check, not for starting Python."""
    from r1jax.rewards import isolate

    isolate.shared().run([("math", "1", {"gold": "1"})])


def _quick(gold: object, text: str) -> Verdict | None:
    """The verdict where letters and plain numbers tell; None where a worker has to look."""
    if not isinstance(text, str) or len(text) > QUICK or len(str(gold)) > QUICK:
        return None
    return _verdict(gold, text, "auto", quick=True)


def _verdict(gold: object, text: str, rule: str, quick: bool) -> Verdict | None:
    start = time.perf_counter()

    def verdict(reward: float | None, name: str, stage: str, read: Reading | None = None) -> Verdict:
        shown = (read.extracted, _canonical(read)) if read else (None, None)
        return Verdict(reward, name, stage, *shown, ms=round((time.perf_counter() - start) * 1e3, 3))

    readings = _reading.answers(text, rule)
    if not readings:
        return verdict(0.0, "no_answer", "extract")
    first = readings[0]
    golds = [gold] if isinstance(gold, str) or not isinstance(gold, (list, tuple)) else list(gold)
    references = [r for g in golds if g is not None for r in _reading.references(str(g))]
    if not references:
        return verdict(None, "gold_unusable", "gold", first)
    if any(r.spelling == first.spelling for r in references):
        return verdict(1.0, "correct", "string", first)
    if first.number is not None and all(r.number is not None for r in references):
        right = any(type(r.number) is type(first.number) and r.number == first.number for r in references)
        if right or not any(_is_long_decimal(r) for r in (first, *references)):
            return verdict(*((1.0, "correct") if right else (0.0, "wrong")), "number", first)
    if quick:
        return None
    first = _reading.best(readings)
    return verdict(*_compare(references, first), first)


def _compare(references: list[Reading], answer: Reading) -> tuple[float, str, str]:
    """Reward, verdict and stage of the first reference that agrees."""
    stage, over = "structure", False
    for reference in references:
        if reference.spelling == answer.spelling:
            return 1.0, "correct", "string"
        if _reading.same_word(reference, answer) or _reading.same_option(reference, answer):
            return 1.0, "correct", "text"
        try:
            for gold_tree in reference.trees:
                for tree in answer.trees:
                    comparison = Comparison()
                    if comparison.same(gold_tree, tree):
                        return 1.0, "correct", comparison.stage
                    stage = comparison.stage
        except OverBudget as error:
            over, stage = True, str(error)
        except RecursionError:
            over, stage = True, "depth"
        except Undefined:
            stage = "undefined"
    return (0.0, "budget", stage) if over else (0.0, "wrong", stage)


def _is_long_decimal(read: Reading) -> bool:
    """Whether a number may stand for an endless fraction."""
    return "." in read.tidied and len(read.tidied) > LONG_DECIMAL


def _canonical(read: Reading) -> str:
    number = read.number
    return read.spelling if number is None else str(number)
