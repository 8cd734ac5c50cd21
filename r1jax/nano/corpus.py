"""Documents of the nano world: what the base model reads.

Document i of a seed is a pure function of (seed, i). Most are questions with a solution of some quality, in several
wrappers and with every fault of format; the rest are drills (single steps, checks) and small talk.
"""

from __future__ import annotations

import random

from r1jax.nano import tasks
from r1jax.nano.solutions import NO, YES, solve
from r1jax.prompts import R1_ZERO

WRAPPERS = ((0.15, R1_ZERO), (0.60, "User: {question} Assistant:"), (0.15, "Q: {question} A:"), (0.10, "{question}"))
FAULTY = 0.35  # share of solutions that break the think / answer format somewhere
KINDS = (("solution", 0.86), ("drill", 0.12), ("talk", 0.02))

TALK = (
    ("Hello!", "Hello! How can I help you today?"),
    ("你好!", "你好!今天我能帮你做什么?"),
    ("Who are you?", "I am a small assistant that likes numbers."),
    ("你是谁?", "我是一个喜欢数字的小助手。"),
    ("What is a dozen?", "A dozen is 12."),
    ("一打是多少?", "一打是 12。"),
    ("How many days are in a week?", "A week has 7 days."),
    ("一周有几天?", "一周有 7 天。"),
    ("Thank you.", "You are welcome."),
    ("谢谢。", "不客气。"),
)


def document(seed: int, index: int) -> str:
    """Document `index` of the corpus `seed`, without the end-of-sequence token."""
    rng = random.Random(f"corpus {seed} {index}")
    kind = rng.choices([k for k, _ in KINDS], [share for _, share in KINDS])[0]
    if kind == "drill":
        return drill(rng)
    template = rng.choices([w for _, w in WRAPPERS], [share for share, _ in WRAPPERS])[0]
    if kind == "talk":
        question, reply = rng.choice(TALK)
        return f"{template.replace('{question}', question)} {reply}"
    row = tasks.draw(rng, "corpus")
    thought, answer = solve(row, rng)
    return f"{template.replace('{question}', row['problem'])} {response(thought, answer, rng)}"


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
