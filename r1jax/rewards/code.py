"""Rewards of programs: the candidate runs in a sandbox, its values come back, and the comparison is made here.

A task is a mapping with

    mode    "stdin": each test feeds standard input and compares standard output; "function": it calls `entry`.
            Default: "function" where there is an `entry`.
    entry   name of the function, or of a method of a class `Solution`
    tests   [[input, output], ...]. stdin: two strings. function: the list of positional arguments, and the value.
    limits  {time_s, wall_s, memory_mb, output_bytes, processes, file_mb}, each of them optional, for one test
    score   "all" (default): 1 if every test passes, else 0. "fraction": the share that passes.
    float_tolerance  (optional) how far a float may lie off, absolute or relative; 0 without it. Ints are always exact.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping
from typing import NamedTuple

from r1jax.rewards import sandbox
from r1jax.rewards._inside import Unsendable, encode
from r1jax.rewards.sandbox import Limits, Tier, Unavailable
from r1jax.rewards.verdict import Verdict

MINIMUM = "C"
PROGRAM_BYTES = 1 << 18
PATIENCE = 3  # tests of one candidate that may run into the clock; the others then count as failed
KILLED = (b"!ended with status 24", b"!ended with status 9")  # by the limit on CPU time, where it was ignored
PYTHON = ("python", "python3", "py", "py3")


class Task(NamedTuple):
    """A task that can be run. Outputs are in the form values are compared in."""

    mode: str
    entry: str
    inputs: list
    outputs: list[bytes]
    limits: Limits
    score: str
    tolerance: float

    @classmethod
    def of(cls, example: Mapping) -> Task:
        """The task of a row.

        Raises:
            ValueError: a key breaks its rule; a task without tests would pay everything.
        """
        entry = example.get("entry") or ""
        mode = example.get("mode") or ("function" if entry else "stdin")
        score, tests = example.get("score") or "all", example.get("tests")
        tolerance = example.get("float_tolerance") or 0.0
        if mode not in ("stdin", "function"):
            raise ValueError(f"mode={mode!r:.60} must be stdin or function")
        if mode == "function" and not (isinstance(entry, str) and entry.isidentifier()):
            raise ValueError(f"entry={entry!r:.60} must name a function, as mode=function needs")
        if score not in ("all", "fraction"):
            raise ValueError(f"score={score!r:.60} must be all or fraction")
        if isinstance(tolerance, bool) or not isinstance(tolerance, int | float) or not 0 <= tolerance < 1:
            raise ValueError(f"float_tolerance={tolerance!r:.60} must lie in [0, 1)")
        if not isinstance(tests, list | tuple) or not tests:
            raise ValueError("tests must be a list of [input, output] pairs, at least one")
        inputs, outputs = [], []
        for number, test in enumerate(tests):
            if not isinstance(test, list | tuple) or len(test) != 2:
                raise ValueError(f"tests[{number}] must be an [input, output] pair")
            given, wanted = test
            if mode == "stdin" and not (isinstance(given, str) and isinstance(wanted, str)):
                raise ValueError(f"tests[{number}] must be two strings, as mode=stdin needs")
            if mode == "function" and not isinstance(given, list | tuple):
                raise ValueError(f"tests[{number}][0] must be the list of positional arguments, as mode=function needs")
            try:
                if mode == "function":
                    encode(given)  # what cannot be sent cannot be a test either
                inputs.append(given if mode == "function" else _bytes(given))
                outputs.append(encode(wanted) if mode == "function" else _bytes(wanted))
            except (Unsendable, RecursionError) as problem:
                raise ValueError(f"tests[{number}]: {problem}") from None
        return cls(mode, entry, inputs, outputs, Limits.of(example.get("limits") or {}), score, float(tolerance))


def verify(text: str, example: Mapping, *, minimum: str = MINIMUM) -> Verdict:
    """The verdict on the program in a model's text: see `extract` and `grade`."""
    program = extract(text)
    if program is None:
        return Verdict(0.0, "no_answer", "extract")
    return grade(program, example, minimum=minimum)


def grade(program: str, example: Mapping, *, minimum: str = MINIMUM) -> Verdict:
    """The verdict on a bare program. Beyond a limit of the task, time included, it is worth 0.

    Args:
        example: a task, see above.
        minimum: the weakest tier of isolation to run at, A to D (D: none). Below it the verdict is
            `sandbox_unavailable`, whose stage says why and what to install.
    Raises:
        ValueError: `minimum` is no tier.
    """
    begun = time.perf_counter()

    def verdict(reward: float | None, name: str, stage: str) -> Verdict:
        return Verdict(reward, name, stage, program, None, (time.perf_counter() - begun) * 1e3)

    try:
        task = Task.of(example)
    except ValueError as problem:
        return verdict(None, "gold_unusable", str(problem))
    if len(program) > PROGRAM_BYTES:
        return verdict(0.0, "budget", f"program longer than {PROGRAM_BYTES} characters")
    try:
        tier = sandbox.require(minimum)
        passed, reason, over = (_stdin if task.mode == "stdin" else _function)(program, task, tier)
    except Unavailable as problem:
        return verdict(None, "sandbox_unavailable", str(problem))
    total = len(task.inputs)
    reward = float(passed == total) if task.score == "all" else passed / total
    if reward:
        return verdict(reward, "correct", reason or "tests")
    return verdict(0.0, "budget" if over else "wrong", reason)


def extract(text: str) -> str | None:
    """The last Python block of the answer: fenced and marked as Python, else fenced and unmarked, else the bare answer.

    The answer is what follows the last `</think>`, and inside it the last complete `<answer>` block if there is one. A
    text that ends inside its last block of code has no answer: it was cut off.
    """
    text = text.rpartition("</think>")[2]
    inside = None
    if (close := text.rfind("</answer>")) >= 0 and (start := text.rfind("<answer>", 0, close)) >= 0:
        text = inside = text[start + len("<answer>") : close]
    marked = unmarked = None
    block: list[str] | None = None
    language = ticks = ""
    for line in text.split("\n"):
        bare = line.strip()
        if block is None:
            if bare.startswith("```"):
                language = bare.lstrip("`")
                ticks = bare[: len(bare) - len(language)]
                language = language.strip().lower()
                if "`" not in language:  # ```x``` is code inside a sentence
                    block = []
        elif bare.startswith(ticks) and not bare.strip("`"):
            found = "\n".join(block)
            if language.split(" ")[0] in PYTHON:
                marked = found
            elif not language:
                unmarked = found
            block = None
        else:
            block.append(line)
    if block is not None and (language.split(" ")[0] in PYTHON or marked is None):
        return None
    program = marked if marked is not None else unmarked if unmarked is not None else inside
    return program if program and program.strip() else None


def _stdin(program: str, task: Task, tier: Tier) -> tuple[int, str, bool]:
    """Tests passed, the first reason for a failure, and whether that was a limit. Every test has its own sandbox."""
    passed, over, reason, beyond = 0, 0, "", False
    for number, (given, wanted) in enumerate(zip(task.inputs, task.outputs, strict=True)):
        if over >= PATIENCE:
            break
        outcome = sandbox.run({"kind": "program", "source": program}, task.limits, tier=tier, stdin=given)
        if outcome.status == "exited" and outcome.code == 0 and same_output(outcome.stdout, wanted, task.tolerance):
            passed += 1
            continue
        limit = outcome.status != "exited"
        over += outcome.status in ("time", "wall")
        why = outcome.status if limit else f"exit status {outcome.code}" if outcome.code else "output"
        reason, beyond = (reason, beyond) if reason else (f"test {number}: {why}", limit)
        if task.score == "all":
            break
    return passed, reason, beyond


def _function(program: str, task: Task, tier: Tier) -> tuple[int, str, bool]:
    """As `_stdin`. One sandbox serves all calls, each in its own process; after a limit another serves the rest."""
    passed, over, reason, beyond, first = 0, 0, "", False, 0
    while first < len(task.inputs) and over < PATIENCE:
        job = {"kind": "calls", "source": program, "entry": task.entry, "inputs": task.inputs[first:]}
        job["may_die"] = 1 if task.score == "all" else PATIENCE - over
        outcome = sandbox.run(job, task.limits, tier=tier, by_line=True)
        lines = outcome.stdout.split(b"\n")[:-1]
        if len(lines) > len(task.inputs) - first:  # it wrote to the channel itself
            return 0, "more answers than calls", False
        for number in range(first, len(task.inputs)):
            line = lines[number - first] if number - first < len(lines) else b"!"
            if same_value(line, task.outputs[number], task.tolerance):
                passed += 1
                continue
            cut = outcome.status != "exited" and number - first >= len(lines)
            limit = cut or line in KILLED
            why = outcome.status if cut else "time" if limit else "value" if line[:1] == b"=" else _reason(line[1:81])
            reason, beyond = (reason, beyond) if reason else (f"test {number}: {why}", limit)
            over += limit
            if cut:
                first = number + 1
                break
            if task.score == "all":
                return passed, reason, beyond
        else:
            break
        if task.score == "all":
            break
    return passed, reason, beyond


def same_output(out: bytes, wanted: bytes, tolerance: float) -> bool:
    """Whether two outputs have the same lines, blanks at the end of lines and empty lines at the end aside."""
    ours, theirs = _lines(out), _lines(wanted)
    if ours == theirs or not tolerance or len(ours) != len(theirs):
        return ours == theirs
    pairs = [(x.split(), y.split()) for x, y in zip(ours, theirs, strict=True)]
    return all(len(x) == len(y) and all(map(lambda a, b: _token(a, b, tolerance), x, y)) for x, y in pairs)


def same_value(line: bytes, wanted: bytes, tolerance: float) -> bool:
    """Whether a line from the sandbox carries the value wanted: the same types all through, and equal."""
    if line == b"=" + wanted or not tolerance or line[:1] != b"=":
        return line == b"=" + wanted
    try:
        return _near(json.loads(line[1:]), json.loads(wanted), tolerance)
    except (ValueError, RecursionError):
        return False


def _near(value: object, wanted: object, tolerance: float) -> bool:
    if type(value) is not type(wanted):
        return False
    if isinstance(wanted, float):
        return math.isclose(value, wanted, rel_tol=tolerance, abs_tol=tolerance)
    if isinstance(wanted, list):
        return len(value) == len(wanted) and all(_near(x, y, tolerance) for x, y in zip(value, wanted, strict=True))
    if isinstance(wanted, dict):
        return value.keys() == wanted.keys() and all(_near(value[key], wanted[key], tolerance) for key in wanted)
    return value == wanted


def _token(ours: bytes, wanted: bytes, tolerance: float) -> bool:
    if ours == wanted:
        return True
    if wanted.lstrip(b"+-").isdigit():  # an integer is exact
        return False
    try:
        x, y = float(ours), float(wanted)
    except ValueError:
        return False
    return math.isfinite(x) and math.isclose(x, y, rel_tol=tolerance, abs_tol=tolerance)


def _lines(data: bytes) -> list[bytes]:
    lines = [line.rstrip(b" \t\r\f\v") for line in data.split(b"\n")]
    while lines and not lines[-1]:
        lines.pop()
    return lines


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


def _reason(said: bytes) -> str:
    """Words of the candidate's own process, fit for a log."""
    return "".join(c if c.isascii() and c.isprintable() else "?" for c in said.decode("ascii", "replace")) or "no value"
