"""Throughput of the mathematics verifier, with math-verify beside it where it is installed.

Run: python -m experiments.bench.verify_math    (one JSON line; rates are checks a second with all workers)
Cost: a minute on 2 cores. Pairs are distinct, caches cold, workers started.
"""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable
from pathlib import Path

import tyro

from r1jax.rewards import _reading
from r1jax.rewards.isolate import Pool
from r1jax.rewards.math import verify_batch
from r1jax.rewards.verdict import Verdict

CASES = Path(__file__).parents[2] / "tests" / "cases"
BOMBS = (
    r"9^{9^{9^{9}}}",
    r"(10^9)!",
    r"\binom{10^{9}}{5\cdot 10^{8}}",
    r"\sum_{k=1}^{10^{12}}\sin(k^2)",
    "(" * 900 + "1",
)
Pair = tuple[str, str]


def rows(name: str) -> list[dict]:
    return [json.loads(line) for line in (CASES / name).read_text(encoding="utf-8").splitlines()]


def grade_school(count: int, draw: random.Random) -> list[Pair]:
    """Short chains of thought with a whole number at the end; a third are wrong."""
    pairs = []
    for i in range(count):
        a, b = draw.randrange(2, 900), draw.randrange(2, 900)
        gold, given = a * b + i, a * b + i + (i % 3 == 0)
        chain = f"There are {a} boxes with {b} eggs each, so {a} * {b} = {a * b} eggs. Adding {i} gives {given}.\n" * 3
        pairs.append((f"{gold:,}", f"{chain}The answer is \\boxed{{{given}}}."))
    return pairs


def mathematics(count: int, draw: random.Random) -> list[Pair]:
    """Answers of competition problems: half rewritten, half that of another problem, made distinct by a term."""
    right = [(row["gold"], row["pred"]) for row in rows("selfcheck/rewrites.jsonl") + rows("selfcheck/self.jsonl")]
    wrong = [(row["gold"], row["pred"]) for row in rows("selfcheck/mutants.jsonl") + rows("selfcheck/pairs.jsonl")]
    pairs = []
    for i in range(count):
        gold, text = draw.choice(wrong if i % 2 else right)
        pairs.append((gold, f"Case {i}. Let n = {i}.\n{text}"))
    return pairs


def hostile() -> list[Pair]:
    def part(row: dict, key: str) -> str:
        return row[key] if key in row else "".join(text * times for text, times in row[f"{key}_parts"])

    return [(part(row, "gold"), part(row, "pred")) for row in rows("adversarial.jsonl")]


def timed(check: Callable[[list[Pair]], list[Verdict]], pairs: list[Pair]) -> tuple[float, list[Verdict]]:
    _reading.references.cache_clear()
    start = time.perf_counter()
    verdicts = check(pairs)
    return time.perf_counter() - start, verdicts


def main(count: int = 4096, workers: int = 2, seed: int = 0) -> None:
    """Measures and prints.

    Args:
        count: checks of each kind.
        workers: processes of the pool.
    """
    draw = random.Random(seed)
    with Pool(workers) as pool:

        def in_pool(pairs: list[Pair]) -> list[Verdict]:
            return pool.run([("math", text, {"gold": gold}) for gold, text in pairs])

        in_pool(grade_school(workers * 256, random.Random(seed + 1)))  # starts the workers
        easy_s, _ = timed(in_pool, grade_school(count, draw))
        hard_s, hard = timed(in_pool, mathematics(count, draw))
        hostile_s, _ = timed(in_pool, hostile())
        mixed = mathematics(8192, draw)
        bombs = range(0, 8192, 100)
        for i in bombs:
            mixed[i] = ("5", f"Case {i}: \\boxed{{{draw.choice(BOMBS)}+{i}}}")
        mixed_s, verdicts = timed(in_pool, mixed)
    verify_batch([("1", "2")])
    figures = {
        "grade_school_per_s": round(count / easy_s),
        "mathematics_per_s": round(count / hard_s),
        "p99_ms": sorted(v.ms for v in hard)[int(len(hard) * 0.99)],
        "hostile_s": round(hostile_s, 2),
        "batch_8192_with_bombs_s": round(mixed_s, 2),
        "bombs_paid": sum(bool(verdicts[i].reward) for i in bombs),
        "timeouts": sum(v.verdict == "timeout" for v in [*hard, *verdicts]),
        "workers": workers,
        "math_verify": peer(mathematics(256, draw)),
    }
    print(json.dumps(figures))


def peer(pairs: list[Pair]) -> dict | str:
    """math-verify on one core, on the same kind of pairs."""
    try:
        import math_verify
    except ImportError:
        return "missing"
    start = time.perf_counter()
    for gold, text in pairs:
        math_verify.verify(math_verify.parse(f"${gold}$"), math_verify.parse(text))
    return {"mathematics_per_s_and_core": round(len(pairs) / (time.perf_counter() - start), 1)}


if __name__ == "__main__":
    tyro.cli(main)
