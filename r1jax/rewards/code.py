"""Grades programs: the model's program runs in a sandbox; outside, its outputs are compared with the expected ones.

A task is a mapping with

    mode    "stdin": each test feeds standard input and compares standard output. "function": each test calls `entry`.
            Default: "function" if there is an `entry`, else "stdin".
    entry   name of the function, or of a method of a class `Solution`
    tests   [[input, expected output], ...]. stdin: two strings. function: the list of positional arguments, and the
            value to return.
    limits  {time_s, wall_s, memory_mb, output_bytes, processes, file_mb} of one test, each optional
    score   "all" (default): 1 if every test passes, else 0. "fraction": the share of tests that pass.
    float_tolerance  (optional) allowed error of a float, absolute or relative; default 0. Ints are always exact.
"""

from __future__ import annotations

import json
import math
import re
import time
from collections.abc import Mapping
from typing import NamedTuple

from r1jax.rewards import sandbox
from r1jax.rewards.sandbox import Tier
from r1jax.rewards.sandbox._box import Unavailable
from r1jax.rewards.sandbox._inside import Unsendable, encode
from r1jax.rewards.sandbox._watch import Limits
from r1jax.rewards.verdict import Verdict, check_arguments

MINIMUM = "C"
PROGRAM_BYTES = 1 << 18
PATIENCE = 3  # after so many timeouts of one candidate, its other tests count as failed
KILLED = (b"!ended with status 24", b"!ended with status 9")  # by the CPU limit; 9 if SIGXCPU was ignored
PYTHON = ("python", "python3", "py", "py3")


# LeetCode puts these in front of a class Solution, so models use them without an import
_PRELUDE = {
    "typing": "Any Callable DefaultDict Deque Dict FrozenSet Iterable Iterator List Optional Sequence Set Tuple Union",
    "collections": "Counter OrderedDict defaultdict deque",
    "heapq": "heapify heappop heappush heappushpop heapreplace nlargest nsmallest",
    "math": "ceil comb factorial floor gcd inf isqrt lcm log log2 pi sqrt",
    "bisect": "bisect bisect_left bisect_right insort insort_left insort_right",
    "functools": "cache cmp_to_key lru_cache reduce",
    "itertools": "accumulate chain combinations count cycle groupby pairwise permutations product zip_longest",
}
_MODULES = (*_PRELUDE, "operator", "random", "re", "string", "sys")
_NAME = re.compile(r"[A-Za-z_]\w*")


class Task(NamedTuple):
    """A programming task with its tests, checked by `Task.of`.

    Attributes:
        mode: "stdin" (a test feeds standard input) or "function" (a test calls the function `entry`).
        limits: limits of one test, such as its CPU time.
        score: "all" (reward 1 if every test passes, else 0) or "fraction" (the share of tests that pass).
        inputs: for each test, the bytes of standard input in mode "stdin", or the list of arguments in mode "function".
        outputs: for each test, the expected output. In mode "stdin" it is bytes. In mode "function" it is a value,
            encoded by `_inside.encode` as the sandbox encodes the returned values.
        tolerance: the task's `float_tolerance`.
    """

    mode: str
    entry: str
    inputs: list
    outputs: list[bytes]
    limits: Limits
    score: str
    tolerance: float

    @classmethod
    def of(cls, example: Mapping) -> Task:
        """Checks a task given as a mapping, with the keys that the module's docstring lists. Returns it as a `Task`.

        Raises:
            ValueError: a value is not allowed for its key, or there are no tests. Without tests every program would
                pass.
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
                    encode(given)  # arguments that cannot be sent cannot be a test either
                inputs.append(given if mode == "function" else _bytes(given))
                outputs.append(encode(wanted) if mode == "function" else _bytes(wanted))
            except (Unsendable, RecursionError) as problem:
                raise ValueError(f"tests[{number}]: {problem}") from None
        return cls(mode, entry, inputs, outputs, Limits.of(example.get("limits") or {}), score, float(tolerance))


def verify(text: str, example: Mapping, *, minimum: str = MINIMUM) -> Verdict:
    """Returns the verdict on the program that `extract` finds in a model's text; "no_answer" if it finds none.

    Args:
        example: a task: a mapping with `tests` and the other keys that the module's docstring lists.
        minimum: the weakest sandbox tier to accept, as in `grade`.
    """
    check_arguments(text, example)
    program = extract(text)
    if program is None:
        return Verdict(0.0, "no_answer", "extract")
    return grade(program, example, minimum=minimum)


def grade(program: str, example: Mapping, *, minimum: str = MINIMUM) -> Verdict:
    """Returns the verdict on a program, given as source text. If the program exceeds a limit in a test, the test fails.

    Args:
        example: a task: a mapping with `tests` and the other keys that the module's docstring lists.
        minimum: the weakest sandbox tier to accept, from A (strongest) to D (no isolation); see `sandbox`. If
            this machine has only weaker tiers, the verdict is `sandbox_unavailable`, and its `stage` says why and what
            to install.
    Raises:
        ValueError: `minimum` is not a tier.
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
        run = _stdin if task.mode == "stdin" else _function
        passed, reason, over = run(with_prelude(program) if run is _function else program, task, tier)
    except Unavailable as problem:
        return verdict(None, "sandbox_unavailable", str(problem))
    total = len(task.inputs)
    reward = float(passed == total) if task.score == "all" else passed / total
    if reward:
        return verdict(reward, "correct", reason or "tests")
    return verdict(0.0, "budget" if over else "wrong", reason)


def extract(text: str) -> str | None:
    """Returns the program in a model's text; None if there is none.

    Only the text after the last `</think>` counts; if this text has a complete `<answer>` block, only the last such
    block counts. The program is the last fenced block marked as Python, else the last fenced block without a language,
    else the whole `<answer>` block. A text that ends inside its last code block was cut off and has no program.
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


def with_prelude(program: str) -> str:
    """Returns a program with a `class Solution`, preceded by the imports that LeetCode provides.

    Other programs, and programs with `from __future__`, are returned unchanged. Only names that the program uses are
    imported. The program's own definitions and imports come later, so they replace imported names.
    """
    if "class Solution" not in program or "from __future__" in program:
        return program
    used = set(_NAME.findall(program))
    lines = [f"import {module}" for module in _MODULES if module in used]
    for module, names in _PRELUDE.items():
        if found := [name for name in names.split() if name in used and name != module]:
            lines.append(f"from {module} import {', '.join(found)}")
    return "; ".join(lines) + "\n" + program if lines else program


def _stdin(program: str, task: Task, tier: Tier) -> tuple[int, str, bool]:
    """Runs a task of mode "stdin": each test in its own sandbox.

    Returns:
        (number of tests passed, why the first failed test failed ("" if none did), whether a limit made it fail).
    """
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
    """Runs a task of mode "function": one call of the function per test. Returns the same as `_stdin`.

    All calls run in one sandbox, each call in its own process. If a limit ends the sandbox, a new sandbox runs the
    remaining calls.
    """
    passed, over, reason, beyond, first = 0, 0, "", False, 0
    while first < len(task.inputs) and over < PATIENCE:
        job = {"kind": "calls", "source": program, "entry": task.entry, "inputs": task.inputs[first:]}
        job["may_die"] = 1 if task.score == "all" else PATIENCE - over
        outcome = sandbox.run(job, task.limits, tier=tier, by_line=True)
        lines = outcome.stdout.split(b"\n")[:-1]
        if len(lines) > len(task.inputs) - first:  # the candidate wrote to the channel itself
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
    """Returns True if a program's output equals the expected output line by line.

    White space at the end of lines and empty lines at the end are ignored.

    Args:
        out: the program's standard output.
        wanted: the expected output.
        tolerance: allowed absolute or relative error of a float; integers are always exact.
    """
    ours, theirs = _lines(out), _lines(wanted)
    if ours == theirs or not tolerance or len(ours) != len(theirs):
        return ours == theirs
    pairs = [(x.split(), y.split()) for x, y in zip(ours, theirs, strict=True)]
    return all(len(x) == len(y) and all(map(lambda a, b: _token(a, b, tolerance), x, y)) for x, y in pairs)


def same_value(line: bytes, wanted: bytes, tolerance: float) -> bool:
    """Returns True if a line from the sandbox holds the expected value, with equal types at every level of nesting.

    Args:
        line: "=" and the returned value, encoded by `_inside.encode`; or "!" and the reason why there is no value.
        wanted: the expected value, encoded by `_inside.encode`.
        tolerance: allowed absolute or relative error of a float; ints are always exact.
    """
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
    """Returns `said`, which comes from the candidate's process, as printable ASCII for a log; "no value" if empty."""
    return "".join(c if c.isascii() and c.isprintable() else "?" for c in said.decode("ascii", "replace")) or "no value"
