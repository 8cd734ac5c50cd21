"""Solutions of every quality, as people write them.

A solution is `(thought, answer)`. Its author has a temper: most stop after a first try or a guess, right or wrong; a
few try, check, say "wait" (等等) and try again, and these few slip from one language into the other. The arithmetic and
the checks are always right, so what a model can learn to do better is the choice of strategy.
"""

from __future__ import annotations

import random

from r1jax.nano import programs
from r1jax.nano.tasks import LANGUAGES, LETTERS, Attempt, attempts

# temper: (share, most tries, chance that a try is checked, chance to change the language at a new try)
TEMPERS = {
    "hasty": (0.37, 1, 0.0, 0.02),
    "careless": (0.27, 1, 1.0, 0.02),
    "patient": (0.18, 3, 1.0, 0.10),
    "stubborn": (0.18, 11, 1.0, 0.25),
}
INTUITION = {3: 0.20, 4: 0.12}  # chance that the next try is a right one

TRY = {"en": "try", "zh": "试"}
NO = {"en": "no", "zh": "不行"}
YES = {"en": "yes", "zh": "可以"}
AGAIN = {
    "en": ("wait,", "wait,", "wait,", "but wait,", "retry:", "hmm, wait,"),
    "zh": ("等等,", "等等,", "等等,", "但是等等,", "重试:", "嗯,等等,"),
}
GUESS = {"en": "i guess", "zh": "我猜"}
CHECK = {"en": ("wait, check:", "let me check:", "but verify:"), "zh": ("等等,检查:", "检查一下:", "但是验证:")}
SO = {"en": "so", "zh": "所以"}


def temper(rng: random.Random) -> str:
    return rng.choices(list(TEMPERS), [share for share, *_ in TEMPERS.values()])[0]


def other(language: str) -> str:
    return LANGUAGES[1 - LANGUAGES.index(language)]


def solve(row: dict, rng: random.Random, mood: str | None = None) -> tuple[str, str]:
    """One solution `(thought, answer)` of a problem, by an author of a random (or the given) temper."""
    mood = mood or temper(rng)
    language = row["language"] if rng.random() < 0.96 else other(row["language"])
    if row["kind"] == "countdown":
        return solve_countdown(row["gold"], rng, mood, language)
    if row["kind"] == "code":
        return solve_program(row, rng, mood, language)
    lines, guesses, right = work(row, rng)
    return solve_by_steps(lines, guesses, right, rng, mood, language)


def solve_countdown(gold: dict, rng: random.Random, mood: str, language: str) -> tuple[str, str]:
    _, most, checks, switch = TEMPERS[mood]
    ways = attempts(tuple(gold["numbers"]))
    right = [way for way in ways if way.value == gold["target"]]
    wrong = [way for way in ways if way.value != gold["target"]]
    rng.shuffle(wrong)
    text: list[str] = []
    checked = rng.random() < checks
    while True:
        hit = not wrong or rng.random() < INTUITION[len(gold["numbers"])]
        way: Attempt = rng.choice(right) if hit else wrong.pop()
        if text and rng.random() < switch:
            language = other(language)
        again = rng.choice(AGAIN[language]) + " " if text else ""
        verdict = f" {gold['target']}? {(YES if hit else NO)[language]}" if checked else ""
        text.append(f"{again}{TRY[language]} {','.join(way.steps)}{verdict}")
        if hit or len(text) == most:
            return "\n".join(text), way.expression


def solve_program(row: dict, rng: random.Random, mood: str, language: str) -> tuple[str, str]:
    """hasty: a guess; the others test a candidate on the problem's example, and all but the careless try again."""
    _, most, checks, switch = TEMPERS[mood]
    asked, x = programs.parse(row)
    wanted = asked.value(x)
    if not checks:
        guess = asked if rng.random() < 0.4 else programs.wrong(asked, x, rng)
        return f"{GUESS[language]} {guess.code}", programs.text(guess)
    text: list[str] = []
    while True:
        hit = rng.random() < 0.45 or len(text) >= 4
        candidate = asked if hit else programs.wrong(asked, x, rng)
        if text and rng.random() < switch:
            language = other(language)
        again = rng.choice(AGAIN[language]) + " " if text else ""
        verdict = f"{wanted}? {(YES if hit else NO)[language]}"
        text.append(f"{again}{TRY[language]} {candidate.code} {candidate.steps(x) or candidate.value(x)} {verdict}")
        if hit or len(text) == most:
            return "\n".join(text), programs.text(candidate)


def work(row: dict, rng: random.Random) -> tuple[list[str], list[str], str]:
    """The lines of honest work on a chain or a comparison, plausible guesses, and the right answer."""
    if row["kind"] == "choice":
        return compare(row), list(LETTERS), row["gold"]
    expression = row["canonical"].split(" ", 1)[1]
    value = int(row["gold"])
    return evaluate(expression)[0], [str(max(1, value + d)) for d in (-10, -3, -1, 0, 0, 2, 5, 10)], row["gold"]


def compare(row: dict) -> list[str]:
    """Each option's value, and from the second on its comparison with the best so far: `B 20-2=18 18<38 A`.

    A model this small cannot pick the largest of four numbers at once, but compares two neighbours nearly always right.
    """
    options = [part.split(" ")[1] for part in row["problem"].split("? ")[1].split(", ")]
    largest = row["canonical"].startswith("compare largest")
    lines, best, leader = [], 0, ""
    for letter, option in zip(LETTERS, options, strict=True):
        value = evaluate(option)[1]
        line = f"{letter} {option}={value}"
        if leader:
            line += f" {value}{'>' if value > best else '<'}{best}"
        if not leader or (value > best) == largest:
            best, leader = value, letter
        lines.append(line if letter == LETTERS[0] else f"{line} {leader}")
    return lines


def evaluate(expression: str) -> tuple[list[str], int]:
    """The steps `x+y=z` of an expression nested to the left, and its value."""
    if expression.isdigit():
        return [], int(expression)
    cut = max(expression.rfind(op) for op in "+-*")
    steps, x = evaluate(expression[:cut].removeprefix("(").removesuffix(")"))
    op, y = expression[cut], int(expression[cut + 1 :])
    value = {"+": x + y, "-": x - y, "*": x * y}[op]
    return [*steps, f"{x}{op}{y}={value}"], value


def solve_by_steps(
    lines: list[str], guesses: list[str], right: str, rng: random.Random, mood: str, language: str
) -> tuple[str, str]:
    """hasty, careless: a guess; patient: the steps; stubborn: a guess, then the steps as a check of it."""
    switch = TEMPERS[mood][3]
    guess = rng.choice(guesses)
    steps = ",".join(lines)
    if mood in ("hasty", "careless"):
        return f"{GUESS[language]} {guess}", guess
    if mood == "patient":
        return f"{steps} {SO[language]} {right}", right
    opening = f"{GUESS[language]} {guess}\n"
    language = other(language) if rng.random() < switch else language
    verdict = (YES if guess == right else NO)[language]
    return f"{opening}{rng.choice(CHECK[language])} {steps} {guess}? {verdict} {SO[language]} {right}", right
