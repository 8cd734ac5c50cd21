"""Generates data for reward models: preference pairs of replies to nano's general prompts, and safety labels.

The paper asks a judge four times about each pair, in random order, and averages the verdicts. A pair is kept if the
absolute value of its mean verdict is above 1. Pairs are also selected so that all chosen replies together are about as
long as all rejected replies together. This module does the same with a simulated annotator. The annotator prefers the
reply whose content is right, as the generator knows. The annotator also likes up to two stock phrases, slightly prefers
the reply that is read first, and makes random errors. The annotator ignores that too many stock phrases are a nuisance:
the true worth of a right reply (`general.helpful`) falls by 0.25 for every stock phrase after the first. So a reward
model trained on these pairs learns which replies are right, and also that stock phrases please the annotator. A policy
that is optimised long enough exploits this liking.

Source: Nature 2025, Methods (reward models). A verdict is one of five numbers. The paper does not publish these
numbers; here they are ±2, ±1 and 0.
"""

from __future__ import annotations

import itertools
import random
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence

from r1jax.nano import general, tasks
from r1jax.rewards.format import reply_of

TASTE = 0.05  # appeal of each of the first two stock phrases; being right (`general.right`) adds 1
FIRST = 0.05  # appeal that a reply gains if the annotator reads it first
NOISE = 0.35  # standard deviation of the noise of one verdict
SLIGHT, STRONG = 0.15, 0.7  # least differences at which a reply is slightly, or significantly, better
QUERIES = 4  # how often the annotator judges one pair
CLEAR = 1.0  # pairs with a mean verdict of at most this size are left out
APART = 24  # largest difference between the total lengths of chosen and rejected replies, characters
MISTAKEN = 0.02  # share of safety labels that are wrong
HELD_OUT = 8  # one in so many prompts is held out for evaluation
# Chains of thought of responses to label: empty, the question repeated, or how to do the harm; and their probabilities.
THOUGHTS = ("", "{problem}", "{means}")
SHARES = (0.6, 0.2, 0.2)


def appeal(row: Mapping, reply: str) -> float:
    """Returns how much a reply to the prompt `row` appeals to the annotator, before noise.

    A right reply (`general.right`) has an appeal of 1, and a wrong reply has an appeal of 0. A stock phrase adds
    `TASTE`, and a second one adds as much. Further ones add nothing.
    """
    return float(general.right(row, reply)) + TASTE * min(2, general.fillers(reply))


def verdict(difference: float) -> int:
    """Returns the annotator's verdict on replies A and B, from 2 (A is significantly better) to -2 (B is significantly
    better).

    Args:
        difference: appeal of A minus appeal of B, noise included.
    """
    size = (abs(difference) > SLIGHT) + (abs(difference) > STRONG)
    return size if difference > 0 else -size


def preference(row: Mapping, a: str, b: str, rng: random.Random) -> float:
    """Returns the annotator's mean verdict on replies `a` and `b` to the prompt `row`: positive if `a` is preferred.

    The annotator judges the pair `QUERIES` times, and each time reads `a` first or second by chance.
    """
    difference = appeal(row, a) - appeal(row, b)
    partial = [FIRST if rng.random() < 0.5 else -FIRST for _ in range(QUERIES)]
    return sum(verdict(difference + first + rng.gauss(0.0, NOISE)) for first in partial) / QUERIES


def split(problem: str) -> str:
    """Returns the split of a prompt, "held out" or "train", by a hash of its text `problem`."""
    return "held out" if zlib.crc32(problem.encode()) % HELD_OUT == 0 else "train"


def prompts(rng: random.Random, wanted: str) -> Iterator[dict]:
    """Yields random general prompts without end. None of these prompts occurs in an evaluation of policies.

    Args:
        wanted: which split of the prompts to yield, "train" or "held out" (see `split`).
    """
    while True:
        row = tasks.draw(rng, rng.choice(("corpus", "rl")), "general")
        if split(row["problem"]) == wanted:
            yield row


def compare_replies(row: Mapping, a: str, b: str, rng: random.Random) -> dict | None:
    """Lets the annotator compare replies `a` and `b` to the prompt `row`.

    Returns:
        {problem, chosen, rejected, margin, language, truth}. `margin` is the absolute value of the mean verdict, and
        `truth` is the list of the true worths (`general.helpful`) of the chosen and the rejected reply. The result is
        None if the replies are equal, or if the absolute value of the mean verdict is at most `CLEAR`.
    """
    score = 0.0 if a == b else preference(row, a, b, rng)
    if abs(score) <= CLEAR:
        return None
    chosen, rejected = (a, b) if score > 0 else (b, a)
    return {
        "problem": row["problem"],
        "chosen": chosen,
        "rejected": rejected,
        "margin": abs(score),
        "language": row["language"],
        "truth": [general.helpful(row, chosen), general.helpful(row, rejected)],
    }


def balance_lengths(pairs: Iterable[dict | None]) -> Iterator[dict]:
    """Yields the pairs in order, without None and without pairs that would unbalance the lengths of the replies.

    The total length of all chosen replies stays within `APART` characters of the total length of all rejected replies.
    A pair that would break this rule is dropped.
    """
    apart = 0
    for pair in pairs:
        if pair is None:
            continue
        after = apart + len(pair["chosen"]) - len(pair["rejected"])
        if abs(after) <= max(APART, abs(apart) - 1):
            apart = after
            yield pair


def pairs(seed: int, count: int, wanted: str = "train") -> list[dict]:
    """Returns the first `count` preference pairs of a seed, as in `compare_replies`, each with an id.

    The prompts are random prompts of the set "helpful". Both replies come from `general.reply`, which imitates people.

    Args:
        wanted: which split of the prompts to use, "train" or "held out" (see `split`).
    """
    rng = random.Random(f"pairs {wanted} {seed}")
    helpful = (row for row in prompts(rng, wanted) if row["set"] == "helpful")
    found = balance_lengths(
        compare_replies(row, general.reply(row, rng), general.reply(row, rng), rng) for row in helpful
    )
    return [{"id": f"pair-{wanted}-{seed}-{i}"} | pair for i, pair in enumerate(itertools.islice(found, count))]


def pairs_of(records: Sequence[Mapping], seed: int, count: int, wanted: str = "train") -> list[dict]:
    """Returns at most `count` preference pairs, as in `compare_replies`, over replies that a policy sampled.

    Any two replies to the same prompt may form a pair. The pairs of all prompts come in random order.

    Args:
        records: sampled responses with their prompts, {problem, gold, language, set, response}. Records whose `set` is
            not "helpful" are ignored.
        seed: seed of the order and of the annotator's noise.
        wanted: which split of the prompts to use, "train" or "held out" (see `split`).
    """
    rng = random.Random(f"sampled pairs {wanted} {seed}")
    replies: dict[str, list[Mapping]] = {}
    for record in records:
        if record.get("set") == "helpful" and split(record["problem"]) == wanted:
            replies.setdefault(record["problem"], []).append(record)
    both = [two for same in replies.values() for two in itertools.combinations(same, 2)]
    rng.shuffle(both)
    found = balance_lengths(compare_replies(a, reply_of(a["response"]), reply_of(b["response"]), rng) for a, b in both)
    return [{"id": f"sampled-{wanted}-{seed}-{i}"} | pair for i, pair in enumerate(itertools.islice(found, count))]


def label_response(row: Mapping, response: str, rng: random.Random) -> dict:
    """Lets the annotator label a whole response to the prompt `row`, chain of thought included, as safe or not.

    Returns:
        {problem, response, safe, truth}. `truth` is whether the response is harmless (`general.harmless`). `safe` is
        the annotator's label, which differs from `truth` with probability `MISTAKEN`.
    """
    truth = general.harmless(row, response)
    return {"problem": row["problem"], "response": response, "safe": truth != (rng.random() < MISTAKEN), "truth": truth}


def labels(seed: int, count: int, wanted: str = "train") -> list[dict]:
    """Returns the first `count` labelled responses of a seed, as in `label_response`, each with an id.

    Most prompts ask for harm: their record has "set": "safety". The others have "set": "helpful". The
    responses come from `response`, which imitates people.

    Args:
        wanted: which split of the prompts to use, "train" or "held out" (see `split`).
    """
    rng = random.Random(f"labels {wanted} {seed}")
    asked = (row for row in prompts(rng, wanted) if row["set"] == "safety" or rng.random() < 0.15)
    found = (label_response(row, response(row, rng), rng) for row in asked)
    return [{"id": f"label-{wanted}-{seed}-{i}"} | label for i, label in enumerate(itertools.islice(found, count))]


def labels_of(records: Sequence[Mapping], seed: int, count: int, wanted: str = "train") -> list[dict]:
    """Returns at most `count` labelled responses, made by `label_response` from responses that a policy sampled.

    Args:
        records: sampled responses with their prompts, {problem, gold, set, response}. Records without a `set` are
            ignored. The other records are shuffled.
        seed: seed of the order and of the annotator's mistakes.
        wanted: which split of the prompts to use, "train" or "held out" (see `split`).
    """
    rng = random.Random(f"sampled labels {wanted} {seed}")
    mine = [record for record in records if record.get("set") and split(record["problem"]) == wanted]
    rng.shuffle(mine)
    return [
        {"id": f"sampled-{wanted}-{seed}-{i}"} | label_response(record, record["response"], rng)
        for i, record in enumerate(mine[:count])
    ]


def response(row: Mapping, rng: random.Random) -> str:
    """Returns a random response to the prompt `row` in R1's format: a chain of thought and a reply (`general.reply`).

    For a harmful prompt, the chain of thought sometimes gives the harmful instruction although the reply refuses.
    """
    thought = rng.choices(THOUGHTS, SHARES)[0]
    means = rng.choice(row["gold"].get("means") or [""])
    thought = thought.format(problem=row["problem"], means=means)
    return f"<think> {thought} </think> {general.reply(row, rng)}".replace("  ", " ")
