"""The file grader and the self-test of a data set: `python -m r1jax.rewards`."""

import json
import os
import subprocess
import sys
import time

import pytest

from r1jax.data.selfcheck import find_unusable, solve
from r1jax.rewards import code, sandbox
from r1jax.rewards.__main__ import main

isolated = pytest.mark.skipif(sandbox.probe().letter > code.MINIMUM, reason=f"no sandbox here: {sandbox.probe()}")


def written(path, *rows):
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows), "utf-8")
    return path


def graded(capsys, kind, path):
    assert main([kind, str(path)]) == 0
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


ROWS = {
    "countdown": [
        ({"numbers": [1, 2], "target": 3, "pred": "1+2"}, 1),
        ({"numbers": [1, 2], "target": 3, "pred": "3"}, 0),
    ],
    "choice": [({"gold": "B", "pred": "(B)"}, 1), ({"gold": "B", "pred": "A or B"}, 0)],
    "format": [
        ({"completion": "<think>a</think><answer>b</answer>"}, 1),
        ({"completion": "a</think><answer>b</answer>", "prefilled_think": True}, 1),
        ({"completion": "<think>a</think>b", "style": "r1"}, 1),
        ({"completion": "<think></think>b", "style": "r1", "think": "none"}, 1),
        ({"completion": "b", "style": "r1_zero"}, 0),
    ],
    "language": [({"cot": "我们 add", "target": "zh"}, 2 / 3), ({"cot": "", "target": "en"}, 0)],
}


@pytest.mark.parametrize("kind", ROWS)
def test_each_kind_gives_one_verdict_a_line_in_order(tmp_path, capsys, kind):
    rows = [row | {"id": i} for i, (row, _) in enumerate(ROWS[kind])]
    lines = graded(capsys, kind, written(tmp_path / "a.jsonl", *rows))
    assert [line["id"] for line in lines] == list(range(len(rows)))
    assert [line["reward"] for line in lines] == pytest.approx([reward for _, reward in ROWS[kind]])
    assert all(isinstance(line["verdict"], str) and line["ms"] >= 0 for line in lines)


def test_math_is_graded_as_one_batch_and_extract_shows_what_it_found(tmp_path, capsys):
    rows = [
        {"gold": "1/2", "pred": r"so \boxed{0.5}"},
        {"gold": ["3", "4"], "pred": "4"},
        {"gold": "5", "pred": "6"},
    ]
    assert [line["reward"] for line in graded(capsys, "math", written(tmp_path / "a.jsonl", *rows))] == [1, 1, 0]
    rows = [
        {"text": r"so \boxed{7}"},
        {"text": "#### 8", "rule": "hash"},
        {"text": "none", "rule": "boxed"},
    ]
    lines = graded(capsys, "extract", written(tmp_path / "b.jsonl", *rows))
    assert [line["extracted"] for line in lines] == ["7", "8", None]
    assert all({"reward", "verdict", "ms"} <= set(line) for line in lines)


@isolated
def test_programs_are_graded_at_the_same_time_and_come_out_in_order(tmp_path, capsys):
    # Every other program sleeps, so a later one is often done before an earlier one; every third is wrong.
    rows = [
        {
            "id": i,
            "program": f"import time; time.sleep({0.3 * (i % 2)}); print({i} + ({i} % 3 == 0))",
            "mode": "stdin",
            "tests": [["", str(i)]],
            "limits": {"wall_s": 60},
        }
        for i in range(12)
    ]
    begun = time.perf_counter()
    lines = graded(capsys, "code", written(tmp_path / "a.jsonl", *rows))
    elapsed = time.perf_counter() - begun
    assert [line["id"] for line in lines] == list(range(12))
    assert [line["reward"] for line in lines] == [float(i % 3 > 0) for i in range(12)]
    # waiting for a turn does not count: the times of one worker cannot add up to more than what passed
    assert sum(line["ms"] for line in lines) <= 1e3 * elapsed * len(os.sched_getaffinity(0))


def test_a_null_text_is_a_model_that_wrote_nothing_and_blank_lines_are_left_out(tmp_path, capsys):
    path = written(tmp_path / "a.jsonl", {"gold": "B", "pred": None}, "", {"gold": "B", "pred": "B"})
    assert [line["verdict"] for line in graded(capsys, "choice", path)] == ["no_answer", "correct"]


BAD = {
    "no JSON": ("choice", "{'gold': 'B'}", "a.jsonl:2 is not JSON"),
    "no object": ("choice", "[1]", "a.jsonl:2 is a JSON list"),
    "missing text": (
        "choice",
        {"gold": "B"},
        "a.jsonl:2 has no 'pred'; a choice row needs pred, gold",
    ),
    "missing gold": ("math", {"pred": "B"}, "has no 'gold'"),
    "text of another type": ("choice", {"gold": "B", "pred": 3}, "has pred=3; it must be a string"),
    "empty golds": (
        "math",
        {"gold": [], "pred": "3"},
        "has gold=[]; it must be a string, a number or a list of strings",
    ),
    "numbers": (
        "countdown",
        {"numbers": "1 2", "target": 3, "pred": ""},
        "it must be a list of finite numbers",
    ),
    "target": (
        "countdown",
        {"numbers": [1], "target": True, "pred": ""},
        "has target=True; it must be a finite number",
    ),
    "style": (
        "format",
        {"completion": "", "style": "r2"},
        "has style='r2'; it must be one of r1_zero, r1",
    ),
    "flag": ("format", {"completion": "", "prefilled_think": "yes"}, "it must be true or false"),
    "rule": (
        "extract",
        {"text": "", "rule": "best"},
        "it must be one of auto, boxed, answer_tag, hash",
    ),
    "tests": ("code", {"program": "", "tests": [1]}, "it must be a list of [input, output] pairs"),
    "mode": (
        "code",
        {"program": "", "tests": [], "mode": "shell"},
        "it must be one of stdin, function",
    ),
    "axioms": (
        "proof",
        {"proof": "", "backend": "coq", "goal": "", "allowed_axioms": "all"},
        "it must be a list of strings",
    ),
}
GOOD = {
    "choice": {"gold": "B", "pred": "B"},
    "math": {"gold": "1", "pred": "1"},
    "format": {"completion": ""},
    "countdown": {"numbers": [1], "target": 1, "pred": "1"},
    "extract": {"text": ""},
    "code": {"program": "", "tests": []},
    "proof": {"backend": "coq", "goal": "True", "proof": ""},
}


@pytest.mark.parametrize("kind, row, message", BAD.values(), ids=BAD)
def test_a_bad_row_ends_the_run_before_anything_is_graded(tmp_path, capsys, kind, row, message):
    assert main([kind, str(written(tmp_path / "a.jsonl", GOOD[kind], row))]) == 2
    output = capsys.readouterr()
    assert output.out == "" and "a.jsonl:2" in output.err and message in output.err


def test_a_file_that_is_not_there_and_an_unknown_kind_are_errors(tmp_path, capsys):
    assert main(["choice", str(tmp_path / "nowhere.jsonl")]) == 2
    assert "nowhere.jsonl" in capsys.readouterr().err
    with pytest.raises(SystemExit, match="2"):
        main(["poetry", "a.jsonl"])
    assert "countdown" in capsys.readouterr().err


def test_the_command_runs_as_a_module_and_needs_no_jax(tmp_path):
    path = written(tmp_path / "a.jsonl", {"numbers": [1, 2], "target": 3, "pred": "1+2"})
    code = (
        "import runpy, sys; sys.argv = ['r1jax.rewards', 'countdown', sys.argv[1]]\n"
        "try: runpy.run_module('r1jax.rewards', run_name='__main__')\n"
        "except SystemExit as end: assert end.code == 0\n"
        "assert not {'jax', 'numpy', 'sympy'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout)["reward"] == 1.0


def row(kind, gold, **more):
    return {"id": f"{kind} {gold}", "problem": "?", "kind": kind, "gold": gold} | more


def test_the_self_test_finds_the_rows_that_no_text_can_win():
    good = [
        row("choice", "B"),
        row("countdown", {"numbers": [3, 3, 8, 8], "target": 24}),
        row("general", None),
    ]
    bad = [
        row("countdown", {"numbers": [1, 1], "target": 5}),
        row("countdown", {"numbers": [1, 1, 1, 1, 1], "target": "five"}),
        row("choice", "BC"),
    ]
    found = find_unusable([*good, *bad])
    assert [r for r, _ in found] == bad
    assert "no expression over the numbers reaches the target" in found[0][1]


def test_the_self_test_of_math_golds_wants_gold_to_be_gold_and_mutants_to_fail():
    found = find_unusable(
        [
            row("math", "1/2"),
            row("math", ["3", "x+1"]),
            row("math", r"\frac{1}{"),
            row("choice", "A"),
        ]
    )
    assert [r["gold"] for r, _ in found] == [r"\frac{1}{"]


def test_check_prints_the_unusable_rows_and_fails(tmp_path, capsys):
    rows = [
        row("countdown", {"numbers": [2, 3], "target": 6}),
        row("countdown", {"numbers": [2, 3], "target": 7}),
    ]
    assert main(["check", str(written(tmp_path / "good.jsonl", rows[0]))]) == 0
    assert capsys.readouterr().out == ""
    assert main(["check", str(written(tmp_path / "bad.jsonl", *rows))]) == 1
    output = capsys.readouterr()
    (line,) = map(json.loads, output.out.splitlines())
    assert line["id"] == rows[1]["id"] and "no expression" in line["reason"]
    assert "countdown: 2 rows, 1 unusable" in output.err
    assert main(["check", str(written(tmp_path / "broken.jsonl", {"id": "a"}))]) == 2
    assert "broken.jsonl:1" in capsys.readouterr().err


@pytest.mark.parametrize("numbers, target", [([3, 3, 8, 8], 24), ([1, 5, 5, 5], 24), ([2, 3], -1), ([7], 7)])
def test_a_solution_is_found_where_there_is_one(numbers, target):
    from fractions import Fraction

    from r1jax.rewards.countdown import verify

    solution = solve([Fraction(n) for n in numbers], Fraction(target))
    assert verify(solution, {"numbers": numbers, "target": target}).reward == 1.0


def test_no_solution_is_found_where_there_is_none():
    assert solve([1, 1, 1], 100) is None
