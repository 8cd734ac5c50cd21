"""Grades mathematical answers: exactly, at bounded cost, and without ever running any of the model's text.

The comparison is symmetric: exchanging the gold (the right answer) and the answer gives the same verdict. One rule is
an exception (module `_variants`): the answer m+n=5 is right if the gold is 5, but the answer 5 is wrong if the gold is
m+n=5.

The stages are, cheapest first:

1. Find the answer in the text.
2. Compare gold and answer letter by letter.
3. Compare them as exact numbers.
4. Parse both to syntax trees.
5. Compare exact values, then residues modulo a prime, then numerical values to more digits than could agree by chance.

`Verdict.stage` names the stage that decided. A computation that would cost too much is not begun.
"""

from __future__ import annotations

import functools
import itertools
import time
from collections.abc import Iterable, Mapping, Sequence

from r1jax.rewards.math import _reading
from r1jax.rewards.math._ast import OverBudget
from r1jax.rewards.math._compare import Comparison
from r1jax.rewards.math._exact import Undefined
from r1jax.rewards.math._extract import RULES
from r1jax.rewards.math._reading import Reading
from r1jax.rewards.math._scalars import LONG_DECIMAL
from r1jax.rewards.verdict import Verdict, check_arguments

QUICK = 4096  # most characters of a text that the caller's own process checks
Gold = str | Sequence[str]


def extract(text: str, rule: str = "auto") -> str | None:
    """Returns the answer in a model's text; None if there is none.

    Args:
        rule: how to find the answer.
            "auto": looks in the text after the thinking, or in the <answer> block there. Takes the first of these that
            exists: the last box (with the boxes that form a list with it), a #### line, a statement ("the answer is",
            答案是), the text itself if all of it is mathematics, the last formula or number.
            "boxed": the last box; None if it is cut off.
            "answer_tag": the last box in the last <answer> block, or the whole block if it has no box. In a text
            without such a block, the last box.
            "hash": what follows the last ####, up to the end of the line.

    Raises:
        ValueError: the rule is unknown.
    """
    if rule not in RULES:
        raise ValueError(f"rule={rule!r} must be one of {', '.join(RULES)}")
    return _reading.extract(text, rule)


def verify(text: str, example: Mapping) -> Verdict:
    """Returns reward 1 if the answer in a model's text equals the gold answer, else 0.

    Runs in this process, without a deadline. `isolate.Pool` calls this function in a worker process, with a deadline.

    Args:
        example: a mapping. `gold` is the right answer, or a list of right answers, each of which is accepted. `extract`
            is the argument `rule` of the function `extract`, "auto" by default.

    Raises:
        TypeError: the text is not a string or the example not a mapping, for example if the two are swapped.
    """
    check_arguments(text, example)
    return _verdict(example.get("gold"), text, example.get("extract", "auto"), quick=False)


def grade_pair(gold: Gold, text: str, *, deadline: float = 2.0) -> Verdict:
    """Grades the answer in one completion by comparison with the gold (right) answer, within `deadline` seconds.

    A worker process does any check that may take long. After the deadline the verdict is `timeout`.

    Args:
        gold: the right answer, plain or LaTeX; or a list of right answers, each of which is accepted.
        text: the completion.

    Raises:
        TypeError: the text is not a string.
    """
    check_arguments(text, {"gold": gold})
    quick = _quick(_key(gold), text)
    if quick is not None:
        return quick
    _started()
    return grade_pairs([(gold, text)], deadline=deadline)[0]


def grade_pairs(pairs: Iterable[tuple[Gold, str]], deadline: float | None = None) -> list[Verdict]:
    """Returns one verdict for each (gold, completion) pair, in order. Never raises on the content of a pair.

    Equal pairs are checked once.

    Args:
        pairs: (gold, completion) pairs. The gold is the right answer, or a list of right answers, each of which is
            accepted. The completion is a model's text.
        deadline: seconds for all pairs together; None for no such limit. Pairs that are not checked by then get the
            verdict `timeout`.
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
    """Imports the modules that the first comparison in this process would otherwise import."""
    from r1jax.rewards.math._numeric import context

    context()


def _key(gold: object) -> object:
    """Returns the gold (right answer) as a hashable value, for a dictionary key: a text, a tuple of texts, or None."""
    if isinstance(gold, (list, tuple)):
        return tuple(map(str, gold))
    return gold if gold is None else str(gold)


@functools.cache
def _started() -> None:
    """Waits until a worker process of the shared pool has judged a trivial job; later calls return at once.

    So a deadline covers the check alone, not the start of Python.
    """
    from r1jax.rewards import isolate

    isolate.shared().run([("math", "1", {"gold": "1"})])


def _quick(gold: object, text: str) -> Verdict | None:
    """Returns the verdict if comparing letters and plain numbers is enough; None if a worker process must check.

    Args:
        gold: the right answer, a tuple of right answers, or None.
        text: the completion.
    """
    if not isinstance(text, str) or len(text) > QUICK or len(str(gold)) > QUICK:
        return None
    return _verdict(gold, text, "auto", quick=True)


def _verdict(gold: object, text: str, rule: str, quick: bool) -> Verdict | None:
    start = time.perf_counter()

    def verdict(reward: float | None, name: str, stage: str, read: Reading | None = None) -> Verdict:
        shown = (read.extracted, _canonical(read)) if read else (None, None)
        return Verdict(reward, name, stage, *shown, ms=round((time.perf_counter() - start) * 1e3, 3))

    readings = _reading.answers(text, rule)
    first = next(readings, None)
    if first is None:
        return verdict(0.0, "no_answer", "extract")
    golds = [gold] if isinstance(gold, str) or not isinstance(gold, (list, tuple)) else list(gold)
    references = [r for g in golds if g is not None for r in _reading.references(str(g))]
    if not references:
        return verdict(None, "gold_unusable", "gold", first)
    same_money = [r for r in references if not (r.currency and first.currency) or r.currency == first.currency]
    if any(r.spelling == first.spelling for r in same_money):
        return verdict(1.0, "correct", "string", first)
    if first.number is not None and all(r.number is not None for r in references):
        right = any(type(r.number) is type(first.number) and r.number == first.number for r in same_money)
        if right or not any(_is_long_decimal(r) for r in (first, *references)):
            return verdict(*((1.0, "correct") if right else (0.0, "wrong")), "number", first)
    if quick:
        return None
    answer = _reading.best(itertools.chain([first], readings))
    if answer is not first and any(_same_in_words(r, first) for r in references):
        return verdict(1.0, "correct", "text", first)
    if answer is not first and _compare_weaker(references, first):  # "c x where c is a constant" is read whole
        return verdict(1.0, "correct", "named", first)
    return verdict(*_compare(references, answer), answer)


def _same_in_words(one: Reading, other: Reading) -> bool:
    return _reading.same_word(one, other) or _reading.same_option(one, other)


def _compare(references: list[Reading], answer: Reading) -> tuple[float, str, str]:
    """Compares an answer with the gold answers, given as readings (parsed forms).

    Returns:
        (reward, verdict, stage): for the first gold that equals the answer, or for the last failure if none does.
    """
    stage, over = "structure", False
    for reference in references:
        if reference.spelling == answer.spelling and not (reference.currency and answer.currency):
            return 1.0, "correct", "string"
        if _same_in_words(reference, answer):
            return 1.0, "correct", "text"
        try:
            for gold_tree in reference.trees:
                for tree in answer.trees:
                    comparison = Comparison()
                    if comparison.same(gold_tree, tree):
                        return 1.0, "correct", comparison.stage
                    stage = comparison.stage
        except OverBudget as error:
            over, stage = True, str(error).partition(":")[0]
        except RecursionError:
            over, stage = True, "depth"
        except Undefined:
            stage = "undefined"
    if not over and _compare_weaker(references, answer):
        return 1.0, "correct", "named"
    return (0.0, "budget", stage) if over else (0.0, "wrong", stage)


def _compare_weaker(references: list[Reading], answer: Reading) -> bool:
    """Returns True if the answer without its name, its qualifier or the letter of a point equals a gold answer.

    The gold must not have such a part. A qualifier may stand on either side; if it stands on both, they must agree.
    """
    for reference in references:
        if any(_same_trees(reference, one) for one in _reading.without_name(answer, reference)):
            return True
        pair = _reading.without_qualifiers(reference, answer)
        if pair and _same_trees(*pair):
            return True
    return False


def _same_trees(one: Reading, other: Reading) -> bool:
    try:
        return any(Comparison().same(left, right) for left in one.trees for right in other.trees)
    except (OverBudget, RecursionError, Undefined):
        return False


def _is_long_decimal(read: Reading) -> bool:
    """Returns True if the answer is a decimal with so many digits that it may stand for a fraction such as 1/3."""
    return "." in read.tidied and len(read.tidied) > LONG_DECIMAL


def _canonical(read: Reading) -> str:
    number = read.number
    return read.spelling if number is None else str(number)
