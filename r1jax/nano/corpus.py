"""Documents of the nano world: what the base model reads.

Document i of a seed is a pure function of (seed, i). Most are questions with a solution of some quality, in several
wrappers and with every fault of format; the rest are drills (single steps, checks), two questions answered in one
manner, and texts that were rewritten: a chain of thought in one language, a solution in short.
"""

from __future__ import annotations

import random

from r1jax.nano import general, tasks
from r1jax.nano.rewriting import in_one_language, solution
from r1jax.nano.solutions import NO, YES, solve, temper
from r1jax.prompts import NANO_DETAILED, NANO_SUMMARY, NANO_TRANSLATE, R1, R1_ZERO, fill

USER = "User: {question} Assistant:"
WRAPPERS = (
    (0.16, R1_ZERO), (0.10, R1), (0.44, USER), (0.12, NANO_DETAILED), (0.10, "Q: {question} A:"), (0.08, "{question}"),
)  # fmt: skip
FAULTY = 0.35  # share of solutions that break the think / answer format somewhere
KINDS = (("solution", 0.76), ("drill", 0.10), ("pair", 0.05), ("translation", 0.045), ("summary", 0.045))
CAREFUL = {"hasty": "patient", "careless": "stubborn"}  # what an author who is asked for detail does instead
LONGEST = 190  # characters of a text that is rewritten, or stands first in a pair


def document(seed: int, index: int) -> str:
    """Document `index` of the corpus `seed`, without the end-of-sequence token."""
    rng = random.Random(f"corpus {seed} {index}")
    kind = rng.choices([k for k, _ in KINDS], [share for _, share in KINDS])[0]
    makers = {"solution": answered, "drill": drill, "pair": pair, "translation": translation, "summary": summary}
    return makers[kind](rng)


def answered(rng: random.Random) -> str:
    """A question with somebody's answer."""
    template = rng.choices([w for _, w in WRAPPERS], [share for share, _ in WRAPPERS])[0]
    row = tasks.draw(rng, "corpus", "corpus")
    return f"{fill(template, row['problem'])} {body(row, rng, template == NANO_DETAILED)}"


def body(row: dict, rng: random.Random, detailed: bool = False, mood: str | None = None) -> str:
    """An answer to any question; `detailed` makes its author careful."""
    if row["kind"] == "general":
        said = general.reply(row, rng)
        if rng.random() < 0.5:
            return said
        thought = "" if rng.random() < 0.7 else f"<think> {row['problem']} </think> "
        return f"{thought}<answer> {said} </answer>"
    mood = mood or temper(rng)
    thought, answer = solve(row, rng, CAREFUL.get(mood, mood) if detailed else mood)
    return response(thought, answer, rng)


def pair(rng: random.Random) -> str:
    """Two questions of a kind, the second answered in the manner of the first."""
    mood, task = temper(rng), rng.choice(tasks.TASKS[:-1])
    while True:
        first, second = (tasks.draw(rng, "corpus", "corpus", task) for _ in range(2))
        thought, answer = solve(first, rng, mood)
        if len(thought) <= LONGEST:
            break
    form = rng.choice((response_r1_zero, response_r1))
    begin = f"{fill(USER, first['problem'])} {form(first, thought, answer)}"
    return f"{begin}\n{fill(USER, second['problem'])} {form(second, *solve(second, rng, mood))}"


def rewritable(rng: random.Random, mixed: bool = False) -> tuple[dict, str, str]:
    """A question, a chain of thought that is not too long, and its answer.

    `mixed` asks for a chain of thought that leaves the question's language.
    """
    while True:
        row = tasks.draw(rng, "corpus", "corpus", rng.choice(tasks.TASKS[:-1]))
        thought, answer = solve(row, rng, rng.choice(("patient", "stubborn", "stubborn")))
        if len(thought) <= LONGEST and not (mixed and thought == in_one_language(thought, row["language"])):
            return row, thought, answer


def translation(rng: random.Random) -> str:
    """A chain of thought, and the same in the question's language alone."""
    row, thought, _ = rewritable(rng, mixed=rng.random() < 0.7)
    asked = NANO_TRANSLATE.replace("{question}", row["problem"]).replace("{thought}", thought)
    return f"{asked} {in_one_language(thought, row['language'])}"


def summary(rng: random.Random) -> str:
    """A chain of thought, and its solution in short."""
    row, thought, answer = rewritable(rng)
    told = in_one_language(thought, row["language"])
    asked = NANO_SUMMARY.replace("{question}", row["problem"]).replace("{thought}", told)
    return f"{asked} {solution(row, thought, answer)}"


def response_r1_zero(row: dict, thought: str, answer: str) -> str:
    return f"<think> {thought} </think> <answer> {answer} </answer>"


def response_r1(row: dict, thought: str, answer: str) -> str:
    return f"<think> {thought} </think> {solution(row, thought, answer)}"


def response(thought: str, answer: str, rng: random.Random) -> str:
    """Thought and answer in the template's format or, often, not quite."""
    if rng.random() >= FAULTY:
        return f"<think> {thought} </think> <answer> {answer} </answer>"
    return rng.choice((
        f"{thought}\n{answer}",
        f"<think> {thought} <answer> {answer} </answer>",
        f"<think> {thought} </think> {answer}",
        f"{thought} <answer> {answer} </answer>",
        f"<answer> {answer} </answer>",
        f"<think> {thought} </think> <answer> {answer} </answer> {answer}",
    ))  # fmt: skip


def drill(rng: random.Random) -> str:
    """A line of single steps, now and then with a claim and its check."""
    language = rng.choice(tasks.LANGUAGES)
    facts = []
    while len(facts) < 10:
        x, y = rng.randint(1, 99), rng.randint(1, 20)
        if rng.random() < 0.4:
            x, y = rng.randint(2, 20), rng.randint(2, 12)
        for op, value, swap in combine_one(rng, x, y):
            fact = f"{y}{op}{x}={value}" if swap else f"{x}{op}{y}={value}"
            if rng.random() < 0.2:
                claim = value if rng.random() < 0.5 else max(1, value + rng.choice((-10, -2, -1, 1, 2, 10)))
                fact += f" {claim}? {(YES if claim == value else NO)[language]}"
            elif rng.random() < 0.15:
                fact += f" {value}{'>' if value > x else '<'}{x}" if value != x else ""
            facts.append(fact)
    return ",".join(facts)


def combine_one(rng: random.Random, x: int, y: int) -> list[tuple[str, int, bool]]:
    found = tasks.combine(x, y)
    return [rng.choice(found)] if found else []
