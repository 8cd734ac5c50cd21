"""Generates pre-training documents of the nano world.

Document i of a seed is a pure function of (seed, i). Most documents are a question with a solution, which may be right
or wrong. The question stands in one of several prompt templates (`WRAPPERS`), and some solutions break the answer
format. The other documents are drills (lines of single arithmetic steps), pairs of questions answered in the same
manner, and rewritten texts. A rewritten text is a chain of thought in one language, or a short solution.
"""

from __future__ import annotations

import random

from r1jax.nano import general, tasks
from r1jax.nano.rewriting import in_one_language, solution
from r1jax.nano.solutions import NO, YES, solve, temper
from r1jax.prompts import NANO_DETAILED, NANO_SUMMARY, NANO_TRANSLATE, R1, R1_ZERO, fill

USER = "User: {question} Assistant:"
WRAPPERS = (  # (probability, prompt template around the question)
    (0.16, R1_ZERO),
    (0.10, R1),
    (0.44, USER),
    (0.12, NANO_DETAILED),
    (0.10, "Q: {question} A:"),
    (0.08, "{question}"),
)
FAULTY = 0.35  # share of solutions that break the think / answer format somewhere
# Kinds of documents, and their probabilities.
KINDS = (("solution", 0.76), ("drill", 0.10), ("pair", 0.05), ("translation", 0.045), ("summary", 0.045))
# Temper of an author (`solutions.TEMPERS`) -> temper of the same author when the prompt asks for detail.
CAREFUL = {"hasty": "patient", "careless": "stubborn"}
LONGEST = 190  # most characters of a thought that is rewritten or comes first in a pair


def document(seed: int, index: int) -> str:
    """Returns document number `index` of the corpus that `seed` generates, without the end-of-sequence token."""
    rng = random.Random(f"corpus {seed} {index}")
    kind = rng.choices([k for k, _ in KINDS], [share for _, share in KINDS])[0]
    makers = {
        "solution": answered_question,
        "drill": drill,
        "pair": pair,
        "translation": translation,
        "summary": summary,
    }
    return makers[kind](rng)


def answered_question(rng: random.Random) -> str:
    """Returns a random document that holds a question in a prompt template, and an answer of any quality (`body`)."""
    template = rng.choices([w for _, w in WRAPPERS], [share for share, _ in WRAPPERS])[0]
    row = tasks.draw(rng, "corpus", "corpus")
    return f"{fill(template, row['problem'])} {body(row, rng, template == NANO_DETAILED)}"


def body(row: dict, rng: random.Random, detailed: bool = False, mood: str | None = None) -> str:
    """Returns a random answer, right or wrong, to the problem `row` of any task.

    The answer imitates an author with a temper, a key of `solutions.TEMPERS`. If the problem is of the kind "general",
    the temper has no effect.

    Args:
        detailed: whether the prompt asks for detail. If so, a hasty author becomes patient, and a careless author
            becomes stubborn (`CAREFUL`).
        mood: the author's temper; if None, a temper is drawn at random.
    """
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
    """Returns a random document that holds two questions of the same task with answers.

    Both answers have the same format (R1-Zero's or R1's). Both imitate an author of the same temper (see `body`).
    """
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
    """Returns (question, chain of thought, answer) to make a rewriting task from.

    The chain of thought has at most `LONGEST` characters.

    Args:
        mixed: whether the chain of thought must hold phrases in a language other than the question's.
    """
    while True:
        row = tasks.draw(rng, "corpus", "corpus", rng.choice(tasks.TASKS[:-1]))
        thought, answer = solve(row, rng, rng.choice(("patient", "stubborn", "stubborn")))
        if len(thought) <= LONGEST and not (mixed and thought == in_one_language(thought, row["language"])):
            return row, thought, answer


def translation(rng: random.Random) -> str:
    """Returns a random document that asks for a translation and then gives it.

    The prompt (`NANO_TRANSLATE`) holds a chain of thought, often in mixed languages. The answer is the same chain of
    thought in the question's language alone.
    """
    row, thought, _ = rewritable(rng, mixed=rng.random() < 0.7)
    asked = NANO_TRANSLATE.replace("{question}", row["problem"]).replace("{thought}", thought)
    return f"{asked} {in_one_language(thought, row['language'])}"


def summary(rng: random.Random) -> str:
    """Returns a random document that asks for a summary and then gives it.

    The prompt (`NANO_SUMMARY`) holds a chain of thought. The answer is the short solution (`rewriting.solution`).
    """
    row, thought, answer = rewritable(rng)
    told = in_one_language(thought, row["language"])
    asked = NANO_SUMMARY.replace("{question}", row["problem"]).replace("{thought}", told)
    return f"{asked} {solution(row, thought, answer)}"


def response_r1_zero(row: dict, thought: str, answer: str) -> str:
    """Returns chain of thought and answer in R1-Zero's format: <think> .. </think> <answer> .. </answer>."""
    return f"<think> {thought} </think> <answer> {answer} </answer>"


def response_r1(row: dict, thought: str, answer: str) -> str:
    """Returns the response to the problem `row` in R1's format: <think> .. </think>, then a short solution."""
    return f"<think> {thought} </think> {solution(row, thought, answer)}"


def response(thought: str, answer: str, rng: random.Random) -> str:
    """Returns chain of thought and answer in R1-Zero's format, or with probability `FAULTY` in a broken format."""
    if rng.random() >= FAULTY:
        return f"<think> {thought} </think> <answer> {answer} </answer>"
    return rng.choice(
        (
            f"{thought}\n{answer}",
            f"<think> {thought} <answer> {answer} </answer>",
            f"<think> {thought} </think> {answer}",
            f"{thought} <answer> {answer} </answer>",
            f"<answer> {answer} </answer>",
            f"<think> {thought} </think> <answer> {answer} </answer> {answer}",
        )
    )


def drill(rng: random.Random) -> str:
    """Returns a random line of at least ten arithmetic steps, such as "3+4=7".

    Some of the steps have an addition: a claimed result and whether it is right, or a comparison of the result with the
    step's first number.
    """
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
    """Returns one of x + y, |x - y| and x * y, drawn at random: a list with one (operator, value, swapped).

    The list is empty if none of the three values is in 1..99. `swapped` is the same as in `tasks.combine`.
    """
    found = tasks.combine(x, y)
    return [rng.choice(found)] if found else []
