"""Every benchmark runs at a toy size and says what it must; facts it finds on the way hold. No time is asserted."""

import importlib.util
import json
import subprocess
import sys

import numpy as np
import pytest

from experiments.bench import __main__ as command
from experiments.bench.copies import copies
from experiments.bench.decode import summary
from experiments.bench.iteration import reward_completions
from experiments.bench.measure import Options, Spent, line, middle, round_floats, spread, time_in_turn
from experiments.bench.shapes import long_tailed
from experiments.bench.worker import Side, take_turns
from support.marks import WEEKLY

FIELDS = {
    "name",
    "value",
    "unit",
    "baseline",
    "ratio",
    "limit",
    "fraction",
    "spread",
    "goals",
    "load",
    "cores",
    "versions",
}
TOY = Options(size="toy", repeats=1)
HERE = [name for name in command.NAMES if name not in command.SIDES]
# What a benchmark finds besides times: it holds at every size, on every machine.
FACTS = {
    "tail": ["all sides sample the forced lengths"],
    "sharing": ["tokens equal"],
    "exactness": ["the same tokens everywhere", "log-probabilities within 2e-5"],
    "packing": ["loss and gradients equal to 1e-5"],
    "copies": ["decode reuses what it is given", "apply reuses what it is given"],
}
# What each peer that goals name needs to run.
PEERS = {"tunix": ("tunix",), "transformers": ("transformers", "torch"), "TRL": ("trl",)}


def check(found: dict, name: str) -> None:
    """Every goal is decided, but for those against a peer that this interpreter lacks."""
    assert found.keys() >= FIELDS
    assert found["name"] == name and found["value"] > 0
    lacking = [peer for peer, needed in PEERS.items() if not all(map(importlib.util.find_spec, needed))]
    undecided = {goal for goal in found["goals"] if any(peer in goal for peer in lacking)}
    assert {goal for goal, met in found["goals"].items() if met is None} == undecided and found["goals"]
    assert all(isinstance(met, bool) for goal, met in found["goals"].items() if goal not in undecided)
    assert {"python", "jax", "r1jax"} <= found["versions"].keys()
    assert json.loads(json.dumps(found)) == found
    assert command.table([found | {"id": "C0"}]).count("\n") == 2


@pytest.mark.slow
@pytest.mark.parametrize("name", HERE)
def test_a_benchmark_runs_at_a_toy_size_and_its_facts_hold(name):
    found = importlib.import_module(f"experiments.bench.{name}").measure(TOY)
    check(found, name)
    assert [found["goals"][fact] for fact in FACTS.get(name, [])] == [True] * len(FACTS.get(name, []))


@pytest.mark.slow
@pytest.mark.parametrize("name", [pytest.param("decode", marks=WEEKLY), *sorted(command.SIDES - {"decode"})])
def test_a_benchmark_of_several_processes_runs_at_a_toy_size(name):
    """Peers run where this interpreter has them, and are missing where not."""
    found = importlib.import_module(f"experiments.bench.{name}").measure(TOY)
    check(found, name)
    if name == "compiles":
        assert found["programs"]["prefill"] == found["programs"]["first"] == 1


@pytest.mark.slow
def test_the_command_prints_one_line_of_json():
    done = subprocess.run(
        [sys.executable, "-m", "experiments.bench", "drawing", "--size=toy", "--repeats=1"],
        capture_output=True,
        text=True,
        check=True,
    )
    check({k: v for k, v in json.loads(done.stdout).items() if k != "id"}, "drawing")


def test_the_peer_s_reward_of_an_iteration_is_1_for_a_right_answer_and_its_share_of_even_numbers():
    assert reward_completions(["2 4 7", "2 4 8", ""], ["7", "7", "7"]) == pytest.approx([1 + 2 / 3, 1.0, 0.0])


def test_a_name_that_is_none_is_told_the_others():
    done = subprocess.run([sys.executable, "-m", "experiments.bench", "abacus"], capture_output=True, text=True)
    assert done.returncode == 1 and "'abacus' is unknown: name one of decode" in done.stderr and not done.stdout


def test_a_peer_that_is_not_installed_is_missing_and_leaves_its_goals_open():
    with Side(sys.executable, "no_such_package:sampler") as side:
        assert side.missing and "no_such_package" in side.info["missing"]
        assert take_turns({"peer": side}, 2) == {}
    runs = {"r1jax": [{"tokens": 10, "wall": 1.0, "cpu": 2.0}]}
    found = summary(
        {"1": runs, "2": runs}, {"r1jax, 1 threads": {"limit": 10.0}, "tunix greedy, 1 threads": {"missing": "no"}}
    )
    # 10 tokens in 2 CPU seconds are half of 10 a second.
    assert found["value"] == 5.0 and found["fraction"] == 0.5
    assert found["baseline"] == {"tunix": "missing", "transformers": "missing"}
    assert set(found["goals"].values()) == {None}
    assert "missing" in command.table([found | {"id": "C1"}])


def test_a_peer_is_compared_at_the_faster_of_its_settings():
    def runs(wall: float, cpu: float) -> list[dict]:
        return [{"tokens": 120, "wall": wall, "cpu": cpu}]

    one = {"r1jax": runs(9.0, 1.0), "tunix greedy": runs(9.0, 3.0), "tunix top-p": runs(9.0, 4.0)}
    two = {"r1jax": runs(1.0, 9.0), "tunix greedy": runs(8.0, 9.0), "tunix top-p": runs(6.0, 9.0)}
    found = summary({"1": one, "2": two}, {"r1jax, 1 threads": {"limit": 240.0}})
    assert found["ratio"]["tunix"] == {"cpu, one thread": 3.0, "wall, both cores": 6.0}


def test_a_side_that_breaks_is_an_error_with_its_words_not_missing():
    with pytest.raises(RuntimeError, match="has no attribute 'nothing'"):
        Side(sys.executable, "json:nothing")


def test_sides_take_turns_after_two_calls_that_are_dropped():
    called = []
    spent = time_in_turn({"a": lambda: called.append("a"), "b": lambda: called.append("b")}, 3)
    assert "".join(called) == "abab" + "ababab"
    assert [len(each) for each in spent.values()] == [3, 3]


def test_the_median_stands_with_the_range_of_the_repeats():
    spent = [Spent(1.0, 2.0), Spent(9.0, 4.0), Spent(2.0, 3.0)]
    assert middle(spent) == 3.0 and middle(spent, "wall") == 2.0
    assert spread(spent) == pytest.approx(2 / 3) and spread(spent, "wall") == 4.0


def test_floats_are_cut_to_four_digits_and_nothing_else_is_touched():
    assert round_floats({"a": 1.23456, "b": [np.pi], "c": 123456, "d": "x", "e": None}) == {
        "a": 1.235,
        "b": [3.142],
        "c": 123456,
        "d": "x",
        "e": None,
    }
    assert line("x", 1.0, "s", baseline="missing")["baseline"] == "missing"


@pytest.mark.parametrize("count, mean, most", [(64, 48, 192), (32, 44, 128), (8, 6, 24)])
def test_long_tailed_lengths_have_their_mean_and_their_maximum(count, mean, most):
    lengths = long_tailed(count, mean, most)
    assert len(lengths) == count and lengths.max() == most and lengths.min() >= 1
    # The longest is set last, which moves the mean by at most most / count.
    assert abs(lengths.mean() - mean) <= most / count
    assert np.median(lengths) < mean


def test_copies_are_read_off_loop_bodies_and_not_off_the_entry():
    text = """
body.1 (p: f32[4,8]) -> f32[4,8] {
  c = f32[4,8]{1,0} copy(p)
  d = s32[2]{0} copy(q)
  e = f32[64]{0} add(p, p)
}
ENTRY main (p: f32[4,8]) -> f32[4,8] {
  c = f32[1024,1024]{1,0} copy(p)
}"""
    # 4·8 floats are 128 bytes, two int32 are 8.
    assert copies(text) == [("f32[4,8]", 128), ("s32[2]", 8)]
