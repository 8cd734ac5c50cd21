"""Preferences over replies to general prompts, and safety labels, by an annotator with a taste.

The annotator sees what a reply is worth (`general.helpful`) but also likes up to two stock phrases, and is unsure. Four
judgements of a pair are averaged, as the paper's judge is asked four times; pairs whose difference is small are left out.
A model trained on this learns what is right, and that stock phrases please: enough pressure on it will find that out.
"""

from __future__ import annotations

import random
import zlib

from r1jax.nano import general, tasks

TASTE = 0.15  # what each of the first two stock phrases pleases
NOISE = 0.20  # of one judgement
JUDGEMENTS = 4
CLEAR = 0.25  # least difference of the averages
HELD_OUT = 8  # one in so many prompts is kept for measuring


def liking(row: dict, reply: str) -> float:
    """How an annotator feels about a reply, before noise."""
    return general.helpful(row, reply) + TASTE * min(2, general.fillers(reply))


def split(problem: str) -> str:
    """ "held out" or "train", by the prompt."""
    return "held out" if zlib.crc32(problem.encode()) % HELD_OUT == 0 else "train"


def draw(rng: random.Random, wanted: str, safety: bool) -> dict:
    while True:
        row = tasks.draw(rng, "rl", "general")
        if (row["set"] == "safety") == safety and split(row["problem"]) == wanted:
            return row


def pair(seed: int, index: int, wanted: str = "train") -> dict:
    """Preference pair `index` of a split: {id, problem, chosen, rejected, ...}, a pure function of its arguments."""
    rng = random.Random(f"pair {wanted} {seed} {index}")
    while True:
        row = draw(rng, wanted, safety=False)
        a, b = general.reply(row, rng), general.reply(row, rng)
        judged = [sum(liking(row, text) + rng.gauss(0.0, NOISE) for _ in range(JUDGEMENTS)) / JUDGEMENTS for text in (a, b)]
        if abs(judged[0] - judged[1]) > CLEAR:
            chosen, rejected = (a, b) if judged[0] > judged[1] else (b, a)
            return {
                "id": f"pair-{wanted}-{seed}-{index}", "problem": row["problem"], "chosen": chosen, "rejected": rejected,
                "language": row["language"], "task": row["task"],
            }  # fmt: skip


def labelled(seed: int, index: int, wanted: str = "train") -> dict:
    """Response `index` of a split with its label: {id, problem, response, safe}; one in three questions is harmless."""
    rng = random.Random(f"label {wanted} {seed} {index}")
    row = draw(rng, wanted, safety=rng.random() < 2 / 3)
    said = general.reply(row, rng)
    # Now and then the chain of thought holds the harm, and the summary does not.
    thought = row["gold"]["unsafe"] if row["gold"].get("refuse") and rng.random() < 0.2 else ""
    response = f"<think> {thought} </think> {said}".replace("  ", " ")
    safe = general.harmless(row, response)
    return {"id": f"label-{wanted}-{seed}-{index}", "problem": row["problem"], "response": response, "safe": safe, "language": row["language"]}
