"""Generates solutions of every quality, as people write them.

A solution is `(thought, answer)`: a chain of thought and an answer. It imitates an author with a temper, a key of
`TEMPERS`. Most authors stop after a first try or a guess, right or wrong. A few authors try, check, say "wait" (等等)
and try again; these few sometimes slip from one language into the other. The arithmetic and the checks are always
right, so a model can only improve by a better choice of strategy.
"""

from __future__ import annotations

import random

from r1jax.nano import programs
from r1jax.nano.tasks import LANGUAGES, LETTERS, Attempt, attempts

# temper -> (share of authors, most tries, chance that tries are checked, chance to change the language at a new try)
TEMPERS = {
    "hasty": (0.37, 1, 0.0, 0.02),
    "careless": (0.27, 1, 1.0, 0.02),
    "patient": (0.18, 3, 1.0, 0.10),
    "stubborn": (0.18, 11, 1.0, 0.25),
}
INTUITION = {3: 0.20, 4: 0.12}  # numbers in a countdown problem -> chance that the next try is right

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
    """Returns a random temper of an author, a key of `TEMPERS`, drawn with the probabilities given there."""
    return rng.choices(list(TEMPERS), [share for share, *_ in TEMPERS.values()])[0]


def other(language: str) -> str:
    """Returns the other one of the two languages: "zh" for "en", "en" for "zh"."""
    return LANGUAGES[1 - LANGUAGES.index(language)]


def solve(row: dict, rng: random.Random, mood: str | None = None) -> tuple[str, str]:
    """Returns a random solution `(thought, answer)`, right or wrong, of the problem `row`.

    Args:
        mood: the author's temper, a key of `TEMPERS`; if None, one is drawn.
    """
    mood = mood or temper(rng)
    language = row["language"] if rng.random() < 0.96 else other(row["language"])
    if row["kind"] == "countdown":
        return solve_countdown(row["gold"], rng, mood, language)
    if row["kind"] == "code":
        return solve_program(row, rng, mood, language)
    lines, guesses, right = work(row, rng)
    return solve_by_steps(lines, guesses, right, rng, mood, language)


def solve_countdown(gold: dict, rng: random.Random, mood: str, language: str) -> tuple[str, str]:
    """Returns a random solution `(thought, answer)` of a countdown problem.

    An imagined author tries one combination of the numbers after another, until one reaches the target or the author
    gives up.

    Args:
        gold: the problem's gold, {numbers, target}.
        mood: the author's temper, a key of `TEMPERS`.
        language: language of the first try.
    """
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
    """Returns a random solution `(thought, answer)` of the problem `row`, which asks for a program.

    A hasty author guesses. The other authors test a program on the problem's example. If the program fails, careless
    authors stop, and patient and stubborn authors try another program.

    Args:
        mood: the author's temper, a key of `TEMPERS`.
        language: language of the first try.
    """
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
    """Returns what an author needs to solve the problem `row`, of the task "chain" or "compare".

    Returns:
        (steps of a right solution, plausible answers to guess from, right answer).
    """
    if row["kind"] == "choice":
        return compare(row), list(LETTERS), row["gold"]
    expression = row["canonical"].split(" ", 1)[1]
    value = int(row["gold"])
    return evaluate(expression)[0], [str(max(1, value + d)) for d in (-10, -3, -1, 0, 0, 2, 5, 10)], row["gold"]


def compare(row: dict) -> list[str]:
    """Returns the steps that solve the multiple-choice problem `row`, one line for each option.

    A line such as `B 20-2=18 18<38 A` evaluates option B, compares its value with the best value so far, and names the
    option that is now the best. A model this small cannot pick the largest of four numbers at once, but it is nearly
    always right about the larger of two.
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
    """Returns (steps, value) of an expression that is nested to the left, such as "(3+4)*2".

    A step is a text such as "3+4=7".
    """
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
    """Returns a random solution `(thought, answer)` of a problem of the task "chain" or "compare".

    Hasty and careless authors guess. Patient authors write the steps. Stubborn authors guess, and then check the guess
    by the steps.

    Args:
        lines, guesses, right: steps, plausible answers and right answer, from `work`.
        mood: the author's temper, a key of `TEMPERS`.
        language: language of the thought.
    """
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
