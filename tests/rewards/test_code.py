"""Rewards of programs: attacks are worth nothing and harm nothing, honest programs are worth what they pass."""

import json
import os
import time
from pathlib import Path

import pytest

from r1jax.rewards import code, sandbox
from r1jax.rewards.code import extract, grade, verify

CASES = Path(__file__).parents[1] / "cases"
ATTACKS = CASES / "code_attacks"
TASKS = json.loads((ATTACKS / "tasks.json").read_text())
MANIFEST = [json.loads(line) for line in (ATTACKS / "manifest.jsonl").read_text().splitlines()]
CANARIES = Path("/tmp/r1jax_canary")  # the attack programs name it
ADD = {"tests": [["1 2\n", "3\n"], ["-5 3\n", "-2\n"]], "mode": "stdin"}
CALL = {"tests": [[[1, 2], 3], [[-5, 3], -2]], "mode": "function", "entry": "f"}

isolated = pytest.mark.skipif(sandbox.probe().letter > code.MINIMUM, reason=f"no sandbox here: {sandbox.probe()}")


@isolated
@pytest.mark.parametrize("row", MANIFEST, ids=[row["id"] for row in MANIFEST])
def test_attacks_are_worth_nothing_and_honest_programs_are_paid(row, monkeypatch):
    if row.get("needs_ns") and sandbox.probe().letter > "B":
        pytest.skip("wants private namespaces")
    monkeypatch.setenv("R1JAX_SECRET", "s3cr3t")
    CANARIES.mkdir(exist_ok=True)
    (CANARIES / "keep.txt").write_text("canary-content")
    function = row["mode"] == "fn"
    task = TASKS[row.get("task", "default_fn" if function else "default_stdin")]
    example = {"mode": "function" if function else "stdin", "entry": task.get("entry"), "tests": task["hidden"]}
    limits = TASKS["limits"]
    if not row["expected_reward"]:  # an attack that wants to wait has to wait less
        limits = limits | {"time_s": limits["time_s"] / 2, "wall_s": limits["wall_s"] / 2}
    begun = time.monotonic()
    verdict = grade((ATTACKS / row["file"]).read_text(), example | {"limits": limits})
    assert verdict.reward == row["expected_reward"], verdict
    assert time.monotonic() - begun < limits["wall_s"] + 20
    if row["id"] == "r21_daemon_escape":
        time.sleep(3.5)  # the daemon would write after 3 s
    for path in row.get("canary_absent", []):
        assert not os.path.exists(path)
    assert (CANARIES / "keep.txt").read_text() == "canary-content"


@isolated
@pytest.mark.parametrize("line", (CASES / "code" / "verl_code.jsonl").read_text().splitlines(), ids=range(4))
def test_programs_of_a_peers_tests_get_the_peers_verdict(line):
    row = json.loads(line)
    tests = [list(pair) for pair in zip(row["tests"]["inputs"], row["tests"]["outputs"], strict=True)]
    limits = {"time_s": 5, "wall_s": 2 if "time_limit_s" in row else 30}  # that one sleeps for 10 s
    assert grade(row["solution"], {"tests": tests, "limits": limits}).reward == row["expected_binary"]


SOLUTION = """class Solution:
    def f(self, nums: List[int]) -> Optional[int]:
        heap = []
        for x, n in Counter(nums).items():
            heappush(heap, (-n, x))
        best = deque([inf]) if not heap else deque(heap)
        return math.floor(heappop(heap)[1]) if best else None
"""


@isolated
def test_a_class_solution_may_use_what_leetcode_imports():
    task = {"entry": "f", "tests": [[[[3, 3, 1]], 3]], "limits": {"time_s": 5, "wall_s": 60}}
    assert grade(SOLUTION, task).reward == 1.0
    assert grade(SOLUTION.replace("class Solution:", "class Other:"), task).reward == 0.0
    own = SOLUTION.replace("class Solution:", "def heappush(heap, item):\n    heap.append((0, 7))\n\n\nclass Solution:")
    assert grade(own, task).reward == 0.0  # its own function wins


ROUND2 = CASES / "round2" / "code_attacks"
ROUND2_TASKS = json.loads((ROUND2 / "tasks.json").read_text())
ROUND2_ROWS = [json.loads(line) for line in (ROUND2 / "manifest.jsonl").read_text(encoding="utf-8").splitlines()]
ROUND2_ROWS = [row for row in ROUND2_ROWS if not row.get("soft")]


@isolated
@pytest.mark.parametrize("row", ROUND2_ROWS, ids=[row["id"] for row in ROUND2_ROWS])
def test_programs_of_the_second_round(row):
    task = ROUND2_TASKS[row["task"]]
    example = {"mode": row["mode"], "entry": task.get("entry"), "tests": task["hidden"]}
    limits = ROUND2_TASKS["limits"] | task.get("limits", {}) | {"wall_s": 60}
    verdict = grade((ROUND2 / row["file"]).read_text(encoding="utf-8"), example | {"limits": limits})
    assert verdict.reward == row["expected_reward"], verdict


HONEST = {
    "exit": "print(sum(map(int, input().split()))); exit()",
    "sys.exit": "import sys\nprint(sum(map(int, input().split()))); sys.exit(0)",
    "recursion through C": (
        "import sys\nfrom functools import lru_cache\nsys.setrecursionlimit(10**6)\n@lru_cache(None)\n"
        # Python 3.12 has a limit of its own on C calls, some 500 deep, which no program can raise
        "def f(n): return n and 1 + f(n - 1)\n"
        "f(30000 if sys.version_info < (3, 12) else 300)\nprint(sum(map(int, input().split())))"
    ),
    "asyncio": "import asyncio\nasync def m(): print(sum(map(int, input().split())))\nasyncio.run(m())",
    "bytes": "import sys\nsys.stdout.buffer.write(b'%d' % sum(map(int, sys.stdin.buffer.read().split())))",
    "open(0)": "print(sum(map(int, open(0).read().split())))",
    "atexit": "import atexit\nx = sum(map(int, input().split()))\natexit.register(lambda: print(x))",
    "daemon thread": "import threading, time\nthreading.Thread(target=time.sleep, args=(99,), daemon=True).start()\n"
    "print(sum(map(int, input().split())))",
    "dataclass": (
        "from dataclasses import dataclass\n@dataclass\nclass A:\n    a: int\n"
        "print(A(sum(map(int, input().split()))).a)"
    ),
    "long ints": "str(3**20000)\nprint(sum(map(int, input().split())))",
    "line ends of Windows": "print(sum(map(int, input().split())), end='\\r\\n')",
}


@isolated
@pytest.mark.parametrize("program", HONEST.values(), ids=HONEST)
def test_idioms_of_honest_programs_work(program):
    verdict = grade(program, ADD)
    assert verdict.reward == 1, verdict


WRONG = {
    "nothing": "",
    "right, then an error": "print(sum(map(int, input().split()))); 1/0",
    "right, then a bad exit": "import sys\nprint(sum(map(int, input().split()))); sys.exit(1)",
    "a line too many": "print(sum(map(int, input().split()))); print(0)",
    "a blank line before": "print(); print(sum(map(int, input().split())))",
    "float for int": "print(float(sum(map(int, input().split()))))",
    "on the wrong stream": "import sys\nprint(sum(map(int, input().split())), file=sys.stderr)",
    "the first test only": "print(3)",
    "syntax": "print((",
    "not text": "import sys; sys.stdout.buffer.write(b'\\xff\\xfe')",
    "a lone surrogate": "print('\ud800')",
}


@isolated
@pytest.mark.parametrize("program", WRONG.values(), ids=WRONG)
def test_output_must_match_in_every_line_and_the_program_must_end_well(program):
    verdict = grade(program, ADD)
    assert (verdict.reward, verdict.verdict) == (0, "wrong"), verdict


VALUES = [
    # returned, expected, reward
    ("3", 3, 1),
    ("3.0", 3, 0),
    ("True", 1, 0),
    ("1", True, 0),
    ("'3'", 3, 0),
    ("None", None, 1),
    ("[1, 2]", [1, 2], 1),
    ("(1, 2)", [1, 2], 1),
    ("[2, 1]", [1, 2], 0),
    ("{1, 2}", [1, 2], 0),
    ("{'a': 1}", {"a": 1}, 1),
    ("{1: 'x'}", {"1": "x"}, 1),
    ("0.1 + 0.2", 0.3, 0),
    ("0.5", 0.5, 1),
    ("-0.0", 0.0, 1),
    ("2", 2.0, 0),
    ("float('inf')", 1e999, 1),
    ("10**5000", 10**5000, 1),
    ("10**5000 + 1", 10**5000, 0),
    ("'\\u2028é'", "\u2028é", 1),
    ("b'x'", "x", 0),
    ("range(2)", [0, 1], 0),
    ("[[]] * 3", [[], [], []], 1),
]


@isolated
@pytest.mark.parametrize(("returned", "expected", "reward"), VALUES, ids=[value for value, _, _ in VALUES])
def test_values_are_compared_with_their_types(returned, expected, reward):
    assert grade(f"def f(): return {returned}", {"entry": "f", "tests": [[[], expected]]}).reward == reward


@isolated
def test_a_method_of_solution_counts_as_the_function():
    assert grade("class Solution:\n    def f(self, a, b): return a + b", CALL).reward == 1


@isolated
def test_what_one_call_leaves_behind_the_next_does_not_see():
    counts = "n = []\ndef f(a, b):\n    n.append(1)\n    return len(n)"
    assert grade(counts, CALL | {"tests": [[[0, 0], 1], [[0, 0], 1]]}).reward == 1
    assert grade(counts, CALL | {"tests": [[[0, 0], 1], [[0, 0], 2]]}).reward == 0


@isolated
def test_a_program_sees_inputs_but_no_expected_value():
    # The secret stands in the tests only; a program that finds it anywhere says so by returning it.
    look = (
        "import gc, os, sys\ndef f(x):\n"
        "    seen = [repr(o) for o in gc.get_objects() if isinstance(o, (list, dict, tuple, str))]\n"
        "    for p in ('/proc/self/cmdline', '/proc/1/cmdline', '/proc/self/environ'):\n"
        "        try: seen.append(open(p).read())\n"
        "        except OSError: pass\n    key = '-'.join(['expected', 'value'])\n"
        "    return key if any(key in s for s in seen) else None"
    )
    assert grade(look, {"entry": "f", "tests": [[[1], "expected-value"]]}).reward == 0
    assert (
        grade(look, {"entry": "f", "tests": [[["expected-value"], "expected-value"]]}).reward == 1
    )  # it can find an input


@isolated
def test_lines_a_program_forges_are_values_like_others():
    forge = (
        "import os\nfor fd in range(3, 64):\n    try: os.write(fd, b'={}\\n')\n"
        "    except OSError: pass\ndef f(a, b): return None"
    )
    assert grade(forge.format("true"), CALL).reward == 0


@isolated
def test_fraction_pays_the_share_of_tests_also_after_a_call_that_ends_the_process():
    source = "import os\ndef f(a):\n    if a == 1: os._exit(0)\n    if a == 2: raise KeyError\n    return a"
    example = {"entry": "f", "tests": [[[n], n] for n in range(4)], "score": "fraction"}
    # Calls 1 and 2 give no value, 0 and 3 do.
    assert grade(source, example).reward == 0.5
    assert grade(source, example | {"score": "all"}).reward == 0
    stdin = {"tests": [["1", "1"], ["2", "2"], ["x", "x"]], "score": "fraction"}
    assert grade("print(int(input()))", stdin).reward == pytest.approx(2 / 3)


@isolated
def test_fraction_goes_on_after_a_call_that_hangs():
    source = "import time\ndef f(a):\n    if a == 0: time.sleep(600)\n    return a"
    example = {
        "entry": "f",
        "tests": [[[n], n] for n in range(4)],
        "score": "fraction",
        "limits": {"time_s": 2, "wall_s": 2},
    }
    verdict = grade(source, example)
    assert (verdict.reward, verdict.stage) == (0.75, "test 0: wall")


@isolated
def test_too_slow_is_worth_nothing_and_still_counts_as_judged():
    for program, example in (("while True: pass", ADD), ("def f(a, b):\n    while True: pass", CALL)):
        verdict = grade(program, example | {"limits": {"time_s": 1, "wall_s": 60}})
        assert (verdict.reward, verdict.verdict, verdict.stage) == (0, "budget", "test 0: time")


@isolated
def test_a_tolerance_is_for_floats_alone():
    loose = {"tests": [["", "0.333333\n7"]], "float_tolerance": 1e-5}
    assert grade("print(1/3); print(7)", loose).reward == 1
    assert grade("print(1/3); print(7.0000001)", loose).reward == 0
    assert grade("print(1/3); print(7)", {"tests": loose["tests"]}).reward == 0
    call = {"entry": "f", "tests": [[[], [0.3, 7]]], "float_tolerance": 1e-9}
    assert grade("def f(): return [0.1 + 0.2, 7]", call).reward == 1
    assert grade("def f(): return [0.1 + 0.2, 7.0]", call).reward == 0
    assert grade("def f(): return [float('nan'), 7]", call).reward == 0


@pytest.mark.parametrize(
    ("example", "named"),
    [
        ({}, "tests"),
        ({"tests": []}, "tests"),
        ({"tests": [["", ""]], "mode": "shell"}, "mode"),
        ({"tests": [[[1], 2]], "mode": "function"}, "entry"),
        ({"tests": [[1, 2]], "entry": "f"}, "tests[0][0]"),
        ({"tests": [["a", 1]]}, "tests[0]"),
        ({"tests": [["a"]]}, "tests[0]"),
        ({"tests": [["", ""]], "limits": {"cpu": 1}}, "limits"),
        ({"tests": [["", ""]], "score": "most"}, "score"),
        ({"tests": [[[1], float("nan")]], "entry": "f"}, "tests[0]"),
    ],
)
def test_a_task_that_cannot_be_graded_gets_no_reward_and_names_its_key(example, named):
    verdict = grade("print(1)", example)
    assert (verdict.reward, verdict.verdict) == (None, "gold_unusable")
    assert named in verdict.stage


FENCE = "```"
TEXTS = [
    ("<think>x</think> <answer>print(1)</answer>", "print(1)"),
    (f"{FENCE}python\na\n{FENCE}\nthen\n{FENCE}python\nb\n{FENCE}", "b"),
    (f"{FENCE}python\na\n{FENCE}\nprints\n{FENCE}\n3\n{FENCE}", "a"),
    (f"{FENCE}python\na\n{FENCE}\nprints\n{FENCE}text\n3\n{FENCE}", "a"),
    (f"{FENCE}\na\nb\n{FENCE}", "a\nb"),
    (f"<think>{FENCE}python\nno\n{FENCE}</think> so", None),
    (f"<think>t</think><answer>Here:\n{FENCE}py\nc\n{FENCE}\n</answer>", "c"),
    (f"{FENCE}python\na\n{FENCE}\nbetter:\n{FENCE}python\nb = (", None),
    (f"{FENCE}cpp\nint main;\n{FENCE}", None),
    (f"{FENCE}python\n\n{FENCE}", None),
    ("no code at all", None),
    ("", None),
    ("`" * 100_000, None),
]


@pytest.mark.parametrize(("text", "program"), TEXTS, ids=range(len(TEXTS)))
def test_the_last_python_block_of_the_answer_is_the_program(text, program):
    assert extract(text) == program


@isolated
def test_a_text_is_judged_by_its_program_and_a_text_without_one_is_worth_nothing():
    assert verify(f"<think>add</think>\n{FENCE}python\ndef f(a, b): return a + b\n{FENCE}", CALL).reward == 1
    assert verify("I cannot.", CALL)[:2] == (0, "no_answer")


@isolated
def test_control_characters_of_a_program_reach_no_log():
    stage = grade("class E(Exception): pass\nE.__name__ = 'x\\x1b[2J\\n'\ndef f(a, b): raise E", CALL).stage
    assert stage.isprintable()
