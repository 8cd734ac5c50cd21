"""Measures the throughput of the mathematics verifier, compared with math-verify on pairs of the same kinds.

Run: python -m experiments.bench.verify_math --peer-python=PYTHON_WITH_MATH_VERIFY
Prints one JSON line. A pair is a gold answer and a text. All pairs are distinct. Every repeat has new worker processes,
warmed up with other pairs, so that no result is cached. The two verifiers take turns, and the medians of their repeats
are compared. `value` is the checks per second of r1jax, and `baseline` those of math-verify. Both are measured on
competition problems, where half of the answers are wrong. CPU milliseconds per check are reported too, because other
work on the machine stretches wall time. math-verify runs under the interpreter `--peer-python`. If it is not installed
there, `baseline` is "missing".
Cost: a minute on 2 cores.
"""

from __future__ import annotations

import json
import os
import platform
import random
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path

import tyro

from r1jax.rewards.isolate import Pool
from r1jax.rewards.sandbox._watch import usage
from r1jax.rewards.verdict import Verdict

CASES = Path(__file__).parents[2] / "tests" / "cases"
BOMBS = (
    r"9^{9^{9^{9}}}",
    r"(10^9)!",
    r"\binom{10^{9}}{5\cdot 10^{8}}",
    r"\sum_{k=1}^{10^{12}}\sin(k^2)",
    "(" * 900 + "1",
)
# As its documentation says: gold in math signs, default extraction and time limits. One process per core.
PEER = r"""
import json, logging, sys, time
logging.disable(logging.CRITICAL)
from importlib.metadata import version
from math_verify import parse, verify
verify(parse("$1$"), parse("\\boxed{2}"))
print(json.dumps({"math-verify": version("math-verify"), "sympy": version("sympy")}), flush=True)
for line in sys.stdin:
    begun, spent, right = time.perf_counter(), time.process_time(), 0
    for gold, text in json.loads(line):
        right += bool(verify(parse(f"${gold}$"), parse(text)))
    print(json.dumps([time.perf_counter() - begun, time.process_time() - spent, right]), flush=True)
"""
Pair = tuple[str, str]


def rows(name: str) -> list[dict]:
    return [json.loads(line) for line in (CASES / name).read_text(encoding="utf-8").splitlines()]


def grade_school(count: int, draw: random.Random) -> list[Pair]:
    """Returns `count` pairs (gold answer, text).

    A text is a short chain of thought that ends in an integer. The integer is wrong in a third of the pairs.
    """
    pairs = []
    for i in range(count):
        a, b = draw.randrange(2, 900), draw.randrange(2, 900)
        gold, given = a * b + i, a * b + i + (i % 3 == 0)
        chain = f"There are {a} boxes with {b} eggs each, so {a} * {b} = {a * b} eggs. Adding {i} gives {given}.\n" * 3
        pairs.append((f"{gold:,}", f"{chain}The answer is \\boxed{{{given}}}."))
    return pairs


def mathematics(count: int, draw: random.Random) -> list[Pair]:
    """Returns `count` pairs (gold answer, text) of competition problems.

    Half of the texts hold the gold answer, written in another way. The other half hold a wrong answer. Each
    text begins with the index of its pair, so all texts are distinct.
    """
    right = [(row["gold"], row["pred"]) for row in rows("selfcheck/rewrites.jsonl") + rows("selfcheck/self.jsonl")]
    wrong = [(row["gold"], row["pred"]) for row in rows("selfcheck/mutants.jsonl") + rows("selfcheck/pairs.jsonl")]
    pairs = []
    for i in range(count):
        gold, text = draw.choice(wrong if i % 2 else right)
        pairs.append((gold, f"Case {i}. Let n = {i}.\n{text}"))
    return pairs


def hostile() -> list[Pair]:
    """Returns (gold answer, text) of each adversarial case in the tests.

    Such a text is written to be costly to check, or to be graded as right although it is wrong.
    """

    def part(row: dict, key: str) -> str:
        return row[key] if key in row else "".join(text * times for text, times in row[f"{key}_parts"])

    return [(part(row, "gold"), part(row, "pred")) for row in rows("adversarial.jsonl")]


def cpu_s() -> float:
    """Returns the CPU seconds of this process and all its children, finished or running."""
    spent = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return usage(os.getpid())[0] + sum(each.ru_utime + each.ru_stime for each in spent)


def timed(pairs: list[Pair], workers: int) -> tuple[float, float, list[Verdict]]:
    """Verifies the pairs with new, warmed-up workers. Returns wall seconds, CPU seconds and verdicts."""
    with Pool(workers) as pool:
        pool.run(jobs(grade_school(workers * 256, random.Random(-1))))
        spent, start = cpu_s(), time.perf_counter()
        verdicts = pool.run(jobs(pairs))
        return time.perf_counter() - start, cpu_s() - spent, verdicts


def jobs(pairs: list[Pair]) -> list[tuple[str, str, dict]]:
    return [("math", text, {"gold": gold}) for gold, text in pairs]


class Peer:
    """Runs math-verify in processes of its own.

    Attributes:
        workers: the processes, as many as the argument `workers` says.
        versions: versions of math-verify and sympy; None if the interpreter cannot import math-verify.
    """

    def __init__(self, python: str, workers: int):
        options = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL, "text": True}
        command = [os.path.expanduser(python), "-c", PEER]
        self.workers = [subprocess.Popen(command, **options) for _ in range(workers)]
        said = [worker.stdout.readline() for worker in self.workers]
        self.versions = json.loads(said[0]) if all(said) else None

    def run(self, pairs: list[Pair]) -> tuple[float, float]:
        """Verifies the pairs. Returns wall seconds and CPU seconds."""
        start = time.perf_counter()
        for i, worker in enumerate(self.workers):
            worker.stdin.write(json.dumps(pairs[i :: len(self.workers)]) + "\n")
            worker.stdin.flush()
        said = [json.loads(worker.stdout.readline()) for worker in self.workers]
        return time.perf_counter() - start, sum(spent for _, spent, _ in said)

    def close(self) -> None:
        for worker in self.workers:
            worker.stdin.close()
            worker.wait()


def rates(runs: list[tuple[int, float, float]]) -> dict:
    """Returns the medians over runs as a dict.

    "per_s" is the number of checks per second of wall time, and "per_cpu_s" is the number per CPU second. "cpu_ms" is
    CPU milliseconds per check. "spread" is (maximum − minimum) / median of the checks per second of wall time.

    Args:
        runs: (number of checks, wall seconds, CPU seconds) of each run.
    """
    each = [count / wall for count, wall, _ in runs]
    median = statistics.median(each)
    cpu = statistics.median(1e3 * spent / count for count, _, spent in runs)
    return {
        "per_s": round(median, 1),
        "cpu_ms": round(cpu, 3),
        "per_cpu_s": round(1e3 / cpu),
        "spread": round((max(each) - min(each)) / median, 3),
    }


def measure(count: int, peer_count: int, workers: int, repeats: int, peer_python: str, seed: int) -> dict:
    draw = random.Random(seed)
    peer = Peer(peer_python, workers)
    ours: dict[str, list] = {"grade_school": [], "mathematics": []}
    theirs: dict[str, list] = {"grade_school": [], "mathematics": []}
    make = {"grade_school": grade_school, "mathematics": mathematics}
    checked: list[Verdict] = []
    for _ in range(repeats):
        for name in make:
            wall, spent, verdicts = timed(make[name](count, draw), workers)
            ours[name].append((count, wall, spent))
            checked += verdicts if name == "mathematics" else []
            if peer.versions:
                theirs[name].append((peer_count, *peer.run(make[name](peer_count, draw))))
    hostile_s, hostile_cpu_s, bad = timed(hostile(), workers)
    mixed = mathematics(8192, draw)
    plain = timed(mixed, workers)[2]
    bombs = range(0, 8192, 100)
    for i in bombs:
        mixed[i] = ("5", f"Case {i}: \\boxed{{{draw.choice(BOMBS)}+{i}}}")
    mixed_s, mixed_cpu_s, verdicts = timed(mixed, workers)
    peer.close()
    value = {name: rates(runs) for name, runs in ours.items()}
    baseline = {name: rates(runs) if runs else "missing" for name, runs in theirs.items()}
    has_peer = peer.versions is not None
    return {
        "name": "verify_math",
        "value": value["mathematics"]["per_s"],
        "baseline": baseline["mathematics"]["per_s"] if has_peer else "missing",
        "ratio": round(value["mathematics"]["per_s"] / baseline["mathematics"]["per_s"], 1) if has_peer else "missing",
        "spread": value["mathematics"]["spread"],
        "ours": value,
        "math_verify": baseline,
        "cpu_ratio": {
            name: round(baseline[name]["cpu_ms"] / value[name]["cpu_ms"], 1) if has_peer else "missing" for name in make
        },
        "p99_ms": sorted(v.ms for v in checked)[int(len(checked) * 0.99)],
        "hostile": {"s": round(hostile_s, 2), "cpu_s": round(hostile_cpu_s, 2), "worst_ms": max(v.ms for v in bad)},
        "batch_8192_with_bombs": {
            "s": round(mixed_s, 2),
            "cpu_s": round(mixed_cpu_s, 2),
            "bombs_paid": sum(bool(verdicts[i].reward) for i in bombs),
            "others_changed": sum(plain[i].reward != verdicts[i].reward for i in range(8192) if i not in bombs),
        },
        "timeouts": sum(v.verdict == "timeout" for v in [*checked, *verdicts, *bad]),
        "workers": workers,
        "repeats": repeats,
        "load": round(os.getloadavg()[0], 1),
        "versions": {"python": platform.python_version(), "cores": os.cpu_count(), **(peer.versions or {})},
    }


def main(
    count: int = 4096,
    peer_count: int = 256,
    workers: int = 2,
    repeats: int = 3,
    peer_python: str = sys.executable,
    seed: int = 0,
) -> None:
    """Measures the checks per second of both verifiers. Prints the JSON line.

    Args:
        count: number of checks of each kind (grade school, mathematics) in one repeat.
        peer_count: number of checks of each kind in one repeat of math-verify.
        workers: number of processes for each of the two verifiers.
        repeats: number of repeats; medians are compared.
        peer_python: an interpreter that can import math_verify.
        seed: seed of the pairs.
    """
    print(json.dumps(measure(count, peer_count, workers, repeats, peer_python, seed)))


if __name__ == "__main__":
    tyro.cli(main)
