"""The GPU script at toy sizes: each part gives its lines, and what is done is not done again."""

import json
import subprocess
import sys
from importlib.util import find_spec

import pytest

from experiments.bench.gpu import measure
from experiments.bench.gpu_common import Command


@pytest.fixture(scope="module")
def command(tmp_path_factory) -> Command:
    return Command(out=str(tmp_path_factory.mktemp("gpu") / "lines.jsonl"), toy=True, repeats=1, torch_python="")


pytestmark = [pytest.mark.slow, pytest.mark.weekly]  # some five minutes of one core, nearly all of it compilation


@pytest.fixture(scope="module")
def lines(command) -> dict[tuple[str, str], dict]:
    return {(line["id"], line["name"]): line for line in measure(command)}


def test_every_part_measures_without_a_failure(command, lines):
    with open(command.out, encoding="utf-8") as file:
        written = [json.loads(text) for text in file]
    assert [line for line in written if "error" in line] == []
    assert {part for part, _ in lines} == {"G0", "G1", "G2", "G3", "G4", "G5"}
    assert all(line["value"] is None or line["value"] >= 0 for line in lines.values())


def test_forced_rows_stop_where_their_keys_say(lines):
    """The mean of 4 lengths between 1 and 20, and a longest of 20 or near: keys of just these lengths may be
    lacking."""
    wave = lines["G3", "wave pallas"]
    assert abs(wave["mean_length"] - 8) <= 1 and 18 <= wave["longest"] <= 20


def test_sampler_and_trainer_agree(lines):
    """On a CPU both are float32, so they differ by rounding alone, each through its own kernel."""
    gap = lines["G5", "gap pallas"]
    assert gap["max"] < 2e-5 and gap["beside_float32"]["max"] < 2e-5
    assert gap["entropy_per_token"] > 1  # of log 64 = 4.2: the model was not certain of anything


def test_baselines_by_torch_give_a_rate_where_it_is_installed_and_else_name_what_is_missing():
    from experiments.bench.gpu_peers import torch_line
    from experiments.bench.shapes import TOY

    command = Command(toy=True, repeats=1, torch_python=sys.executable)
    lacking = [name for name in ("torch", "transformers") if find_spec(name) is None]
    for kind, sizes in (("generate", dict(batch=2, prompt=8, tokens=4)), ("train", dict(rows=2, length=16))):
        line = torch_line(command, kind, TOY, **sizes)
        assert line["unit"] == "tokens/s"
        if lacking:
            assert line["value"] is None and lacking[0] in line["missing"]
        else:
            assert line["value"] > 0 and line["versions"].keys() == {"torch", "transformers"} and "missing" not in line


def test_what_is_done_is_not_measured_again_and_a_line_cut_off_is(command, lines):
    with open(command.out, encoding="utf-8") as file:
        whole = file.read().splitlines()
    with open(command.out, "w", encoding="utf-8") as file:
        file.write("\n".join(text for text in whole if '"copy"' not in text) + '\n{"id": "G0", "name": "co')
    again = measure(command)
    with open(command.out, encoding="utf-8") as file:
        assert len(file.read().splitlines()) == len(whole) + 1  # the broken line stays, one is added
    assert {(line["id"], line["name"]) for line in again} == set(lines)


def test_lines_of_a_toy_are_not_mixed_with_others(command, lines):
    with pytest.raises(ValueError, match="toy"):
        measure(Command(out=command.out, toy=False))


def test_the_command_prints_json_and_stops_at_its_budget(tmp_path):
    flags = ["--toy", "True", "--parts", "G0", "--repeats", "1", "--seconds", "0", "--out", str(tmp_path / "x.jsonl")]
    done = subprocess.run(
        [sys.executable, "-m", "experiments.bench.gpu", *flags], capture_output=True, text=True, check=True
    )
    assert "are over before" in done.stdout
