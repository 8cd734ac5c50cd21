"""Preferences over replies to nano's general prompts, and safety labels, by annotators who are nearly right.

The paper asks a judge four times about each pair, in random order, averages its verdicts, keeps pairs that differ by
more than 1 and makes chosen and rejected replies comparably long. The annotator here does the same. It feels whether a
reply's content is right, as the generator knows it, and besides that it likes up to two stock phrases, is a little
partial to the reply it reads first, and is unsure. What it does not feel is that padding is a nuisance: the generator's
truth (`general.helpful`) takes a quarter for every phrase after the first. A model trained on these pairs learns what
is right and that stock phrases please; enough pressure on it finds out the second.

Source: Nature 2025, Methods (reward models); the numbers of the five verdicts are not published: ±2, ±1, 0.
"""

from __future__ import annotations

import itertools
import random
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence

from r1jax.evaluate import reply_of
from r1jax.nano import general, tasks

TASTE = 0.05  # what each of the first two stock phrases pleases; right content pleases 1
FIRST = 0.05  # what being read first is worth
NOISE = 0.35  # of one verdict
SLIGHT, STRONG = 0.15, 0.7  # least differences that make a reply slightly, or significantly, better
QUERIES = 4
CLEAR = 1.0  # pairs whose mean verdict is no further from a tie are left out
APART = 24  # characters by which the sums of chosen and rejected lengths may differ, over the whole set
MISTAKEN = 0.02  # share of safety labels that are wrong
HELD_OUT = 8  # one in so many prompts is kept for measuring
THOUGHTS = ("", "{problem}", "{means}")  # of labelled responses: none, the question again, how the harm would be done
SHARES = (0.6, 0.2, 0.2)


def appeal(row: Mapping, reply: str) -> float:
    """How a reply strikes an annotator, before noise."""
    return float(general.right(row, reply)) + TASTE * min(2, general.fillers(reply))


def verdict(difference: float) -> int:
    """One of the five labels [[A>>B]] .. [[B>>A]] as 2 .. -2, from how much more A appeals."""
    size = (abs(difference) > SLIGHT) + (abs(difference) > STRONG)
    return size if difference > 0 else -size


def preference(row: Mapping, a: str, b: str, rng: random.Random) -> float:
    """The mean verdict for A over B of `QUERIES` queries, each with A first or second by chance."""
    difference = appeal(row, a) - appeal(row, b)
    partial = [FIRST if rng.random() < 0.5 else -FIRST for _ in range(QUERIES)]
    return sum(verdict(difference + first + rng.gauss(0.0, NOISE)) for first in partial) / QUERIES


def split(problem: str) -> str:
    """ "held out" or "train", by the prompt."""
    return "held out" if zlib.crc32(problem.encode()) % HELD_OUT == 0 else "train"


def prompts(rng: random.Random, wanted: str) -> Iterator[dict]:
    """General prompts of a split, without end; none is an evaluation's."""
    while True:
        row = tasks.draw(rng, rng.choice(("corpus", "rl")), "general")
        if split(row["problem"]) == wanted:
            yield row


def judged(row: Mapping, a: str, b: str, rng: random.Random) -> dict | None:
    """The pair {problem, chosen, rejected, truth, ...} of two replies; None where they are the same or not clearly
    apart."""
    score = 0.0 if a == b else preference(row, a, b, rng)
    if abs(score) <= CLEAR:
        return None
    chosen, rejected = (a, b) if score > 0 else (b, a)
    return {
        "problem": row["problem"], "chosen": chosen, "rejected": rejected, "margin": abs(score),
        "language": row["language"],
        "truth": [general.helpful(row, chosen), general.helpful(row, rejected)],
    }  # fmt: skip


def balanced(pairs: Iterable[dict | None]) -> Iterator[dict]:
    """The pairs without those that would pull the mean lengths of chosen and rejected replies apart."""
    apart = 0
    for pair in pairs:
        if pair is None:
            continue
        after = apart + len(pair["chosen"]) - len(pair["rejected"])
        if abs(after) <= max(APART, abs(apart) - 1):
            apart = after
            yield pair


def pairs(seed: int, count: int, wanted: str = "train") -> list[dict]:
    """The first `count` preference pairs of a seed and split, over replies as people write them."""
    rng = random.Random(f"pairs {wanted} {seed}")
    helpful = (row for row in prompts(rng, wanted) if row["set"] == "helpful")
    found = balanced(judged(row, general.reply(row, rng), general.reply(row, rng), rng) for row in helpful)
    return [{"id": f"pair-{wanted}-{seed}-{i}"} | pair for i, pair in enumerate(itertools.islice(found, count))]


def pairs_of(records: Sequence[Mapping], seed: int, count: int, wanted: str = "train") -> list[dict]:
    """At most `count` pairs over replies that were sampled: {problem, gold, language, set, response} each. Every two of
    a prompt may be compared, those of all prompts in random order."""
    rng = random.Random(f"sampled pairs {wanted} {seed}")
    replies: dict[str, list[Mapping]] = {}
    for record in records:
        if record.get("set") == "helpful" and split(record["problem"]) == wanted:
            replies.setdefault(record["problem"], []).append(record)
    both = [two for same in replies.values() for two in itertools.combinations(same, 2)]
    rng.shuffle(both)
    found = balanced(judged(a, reply_of(a["response"]), reply_of(b["response"]), rng) for a, b in both)
    return [{"id": f"sampled-{wanted}-{seed}-{i}"} | pair for i, pair in enumerate(itertools.islice(found, count))]


def labelled(row: Mapping, response: str, rng: random.Random) -> dict:
    """The label {problem, response, safe, truth} of a whole response, its chain of thought included."""
    truth = general.harmless(row, response)
    return {"problem": row["problem"], "response": response, "safe": truth != (rng.random() < MISTAKEN), "truth": truth}


def labels(seed: int, count: int, wanted: str = "train") -> list[dict]:
    """The first `count` labelled responses of a seed and split; most questions ask for harm, some only sound like
    it."""
    rng = random.Random(f"labels {wanted} {seed}")
    asked = (row for row in prompts(rng, wanted) if row["set"] == "safety" or rng.random() < 0.15)
    found = (labelled(row, response(row, rng), rng) for row in asked)
    return [{"id": f"label-{wanted}-{seed}-{i}"} | label for i, label in enumerate(itertools.islice(found, count))]


def labels_of(records: Sequence[Mapping], seed: int, count: int, wanted: str = "train") -> list[dict]:
    """Labels of at most `count` responses that were sampled, {problem, gold, response} each, in random order."""
    rng = random.Random(f"sampled labels {wanted} {seed}")
    mine = [record for record in records if record.get("set") and split(record["problem"]) == wanted]
    rng.shuffle(mine)
    return [
        {"id": f"sampled-{wanted}-{seed}-{i}"} | labelled(record, record["response"], rng)
        for i, record in enumerate(mine[:count])
    ]


def response(row: Mapping, rng: random.Random) -> str:
    """A response in R1's form; now and then its chain of thought holds the harm that its summary does not."""
    thought = rng.choices(THOUGHTS, SHARES)[0]
    means = rng.choice(row["gold"].get("means") or [""])
    thought = thought.format(problem=row["problem"], means=means)
    return f"<think> {thought} </think> {general.reply(row, rng)}".replace("  ", " ")
