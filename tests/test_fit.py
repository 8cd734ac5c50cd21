"""`--dry-run --fit`: the settings that it prints fit, larger ones do not; where nothing fits, it says by how much."""

import dataclasses
import re

import pytest

from experiments import r1_zero, sft, train_reward_model
from r1jax.model.presets import PRESETS
from r1jax.planning.fit import Choices, fit_rl, fit_tuning, halvings, search, wave_sizes
from r1jax.planning.lengths import describe_lengths
from r1jax.planning.rl import plan
from r1jax.planning.roofline import share_of_memory, usable_memory
from r1jax.planning.supervised import tune
from r1jax.recipes import PlanOptions, RunOptions, TunePlanOptions

SETTING = re.compile(r"  (--.*\S) +([0-9.]+) GB")
LONG = dataclasses.replace(
    r1_zero.SMALL, questions_per_round=64, group_size=16, max_tokens=4096, row_length=4608, batch_rows=4
)


def settings(said):
    """The flags and the gigabytes of each line of settings."""
    found = [SETTING.fullmatch(line) for line in said.splitlines()]
    return [
        ({k: int(v) for k, v in re.findall(r"--([\w-]+)=(\d+)", match[1])}, float(match[2])) for match in found if match
    ]


def run(monkeypatch, experiment, *flags):
    monkeypatch.setattr("sys.argv", ["run", *flags])
    experiment.main()


def test_a_search_takes_the_largest_of_what_a_budget_holds():
    """By hand: 10 bytes a rank-0 setting, 2 with adapters; a row costs 3, a wave of all 64 rows 9, of n rows n / 8."""

    def peak(flags, mesh):
        return (2 if flags["lora_rank"] else 10) + max(3 * flags["rows"], (flags["wave"] or 72) / 8)

    choices = Choices([0, 8], {"rows": [4, 2, 1]}, {"wave": [0, 32, 16, 8]})
    found = [(setting.flags, setting.peak) for setting in search(choices, peak, "1x1", 18)]
    assert found == [
        ({"lora_rank": 0, "rows": 2, "wave": 32}, 16),
        ({"lora_rank": 0, "rows": 1, "wave": 32}, 14),
        ({"lora_rank": 8, "rows": 4, "wave": 0}, 14),
        ({"lora_rank": 8, "rows": 2, "wave": 0}, 11),  # one row would save nothing beside the wave
    ]
    assert search(choices, peak, "1x1", 3) == []
    assert halvings(64, 16) == [64, 32, 16] and halvings(100, 16) == [112, 64, 32, 16] and halvings(5, 8) == [8]


def test_a_search_for_rl_finds_what_plans_say_fits():
    """Qwen2.5-1.5B has 16 bytes a parameter, 24.7 GB: too many for an L4, not for an H100."""
    options = PlanOptions(device="h100", mean_tokens=2048)
    cfg, usable = PRESETS["qwen2.5-1.5b"], usable_memory("h100")
    found = settings(fit_rl(RunOptions(model="qwen2.5-1.5b", mesh="1x1"), LONG, options, "RL"))
    flags, needed = found[0]
    assert "lora-rank" not in flags and found[-1][0]["lora-rank"] == 32 and needed < usable / 1e9

    def peak(**changed):
        return plan(cfg, dataclasses.replace(LONG, **changed), "1x1", options).peak

    chosen = {"batch_rows": flags["batch-rows"], "wave_rows": flags["wave-rows"]}
    assert needed == pytest.approx(peak(**chosen) / 1e9, abs=0.006)
    assert peak(**chosen) < usable < peak(**chosen | {"wave_rows": 2 * chosen["wave_rows"]})
    assert peak(**chosen) < usable < peak(**chosen | {"wave_rows": 0})  # all of a round
    assert [size for _, size in found if size < usable / 1e9] == [size for _, size in found]
    said = fit_rl(RunOptions(model="qwen2.5-1.5b", mesh="1x1"), LONG, PlanOptions(device="l4"), "RL")
    assert "all parameters\n  do not fit: they need at least" in said and settings(said)[0][0]["lora-rank"] == 32


def test_a_wave_needs_no_more_than_the_round_and_less_if_it_is_small():
    cfg, options = PRESETS["qwen3-0.6b"], PlanOptions()
    sizes = [
        plan(cfg, dataclasses.replace(LONG, wave_rows=rows), "1x1", options).rollout["keys and values, bfloat16"]
        for rows in (0, 1024, 512, 256, 128)
    ]
    assert sizes[0] == sizes[1] >= sizes[2] > sizes[3] == 2 * sizes[4]
    assert sizes[4] == pytest.approx(28 * 2 * 2 * 8 * 128 * (128 * 2 * 512 * 1.08 + 8 * 256))  # 112 KiB a token


def test_each_process_samples_a_wave_of_its_own():
    cfg, options = PRESETS["qwen3-0.6b"], PlanOptions()

    def cached(rows, processes):
        recipe = dataclasses.replace(LONG, wave_rows=rows)
        return plan(cfg, recipe, "4x1", options, processes=processes).rollout["keys and values, bfloat16"]

    assert cached(64, 4) == cached(256, 1) == 4 * cached(64, 1) and cached(64, 16) == cached(0, 1)
    assert wave_sizes(LONG, 1) == [0, 512, 256, 128, 64, 32, 16] and wave_sizes(LONG, 4) == [0, 128, 64, 32, 16, 8, 4]
    carried = dataclasses.replace(LONG, carry_over=48, wave_rows=100)  # 64 rows at least, by four processes
    assert wave_sizes(carried, 1) == [112, 64] and wave_sizes(carried, 4) == [100, 52, 28, 16]
    runs = [RunOptions(model="qwen2.5-1.5b", mesh="4x1", processes=n) for n in (1, 4)]
    wide, options = dataclasses.replace(LONG, questions_per_round=256), PlanOptions(device="h100", mean_tokens=2048)
    one, four = (settings(fit_rl(run, wide, options, "")) for run in runs)
    assert one[0][0]["wave-rows"] == 4 * four[0][0]["wave-rows"] and one[0][1] == four[0][1]


def test_a_plan_says_for_three_mean_lengths_what_fits():
    run, options = RunOptions(model="qwen2.5-1.5b", mesh="1x1"), PlanOptions(device="h100")
    lines = describe_lengths(run, LONG, options).splitlines()[1:]
    found = [re.fullmatch(r"  ([\d,]+) tokens +([\d.]+) GB  (.*)", line).groups() for line in lines]
    assert [mean for mean, _, _ in found] == ["512", "1,024", "4,096"]
    cfg, usable = PRESETS["qwen2.5-1.5b"], usable_memory("h100")

    def peak(mean, wave):
        known = dataclasses.replace(options, mean_tokens=mean)
        return plan(cfg, dataclasses.replace(LONG, wave_rows=wave), "1x1", known).peak

    assert [float(size) for _, size, _ in found] == [round(peak(n, 0) / 1e9, 2) for n in (512, 1024, 4096)]
    assert [said for _, _, said in found[:2]] == ["fits", "fits"] and peak(1024, 0) < usable < peak(4096, 0)
    wave = int(found[2][2].removeprefix("does not fit; fits with --wave-rows="))
    assert peak(4096, wave) < usable < peak(4096, 2 * wave)
    small = describe_lengths(run, LONG, PlanOptions(device="t4")).splitlines()[1:]
    assert all(line.endswith("does not fit, nor in waves") for line in small)


def test_a_search_for_fine_tuning_divides_the_rows_of_a_step():
    options = TunePlanOptions(device="t4")
    found = settings(fit_tuning("qwen3-0.6b", "", sft.FULL, "1x1", options, "SFT"))
    rows = [flags["micro-rows"] for flags, _ in found if "lora-rank" not in flags]
    assert rows and all(8 % n == 0 for n in rows) and rows == sorted(rows, reverse=True)
    cfg, usable = PRESETS["qwen3-0.6b"], usable_memory("t4")
    for n in (8, 4, 2, 1):
        fits = tune(cfg, dataclasses.replace(sft.FULL, micro_rows=n), "1x1", options).peak < usable
        assert fits == (n in rows)
    assert found[-1][0]["lora-rank"] == 32 and found[-1][1] < found[0][1]


def test_adapters_of_fine_tuning_have_the_memory_of_the_frozen_in_bfloat16():
    recipe = dataclasses.replace(sft.FULL, lora_rank=16)
    found = tune(PRESETS["qwen2.5-7b"], recipe, "1x1", TunePlanOptions())
    trained = 28 * 16 * (2 * 7168 + 2 * 4096 + 3 * 22_528)  # as in tests/test_plan.py
    assert found.held["parameters, float32"] == 4 * trained
    assert found.held["optimizer's moments, float32"] == pytest.approx(8 * trained, rel=1e-5)
    assert found.held["frozen parameters, bfloat16"] == 2 * 7_615_616_512
    assert found.update["gradients, float32"] == 4 * trained


def test_where_nothing_fits_the_error_says_by_how_much_and_the_way_out():
    with pytest.raises(ValueError) as error:
        fit_rl(RunOptions(model="qwen2.5-7b", mesh="1x1"), r1_zero.SMALL, PlanOptions(device="t4"), "RL")
    said = str(error.value)
    needed, usable, over = map(
        float, re.search(r"needs ([\d.]+) GB, and ([\d.]+) GB .*: ([\d.]+) GB too", said).groups()
    )
    assert usable == pytest.approx(16 * share_of_memory("t4"), abs=0.06) and over == pytest.approx(
        needed - usable, abs=0.11
    )
    assert "The smallest, --lora-rank=32 --batch-rows=1 --wave-rows=8," in said
    mesh = re.search(r"Take --mesh=(\S+), a smaller model", said)[1]
    assert settings(fit_rl(RunOptions(model="qwen2.5-7b", mesh=mesh), r1_zero.SMALL, PlanOptions(device="t4"), "RL"))


def test_the_commands_print_the_settings_and_refuse_the_flag_where_it_does_nothing(monkeypatch, capsys):
    flags = ("--model=qwen3-0.6b", "--dry-run", "--fit", "--device=v5e")
    run(monkeypatch, r1_zero, *flags, "--recipe=small")
    said = capsys.readouterr().out
    assert said.startswith("R1-Zero, recipe small: qwen3-0.6b\non 1 x v5e, 16.0 of 16 GB each\n") and settings(said)
    run(monkeypatch, sft, *flags, "--lora-rank=8")
    assert {flags["lora-rank"] for flags, _ in settings(capsys.readouterr().out)} == {8}
    with pytest.raises(SystemExit, match="give --dry-run, too"):
        run(monkeypatch, r1_zero, "--fit")
    with pytest.raises(SystemExit, match="--fit is for reinforcement learning and fine-tuning"):
        run(monkeypatch, train_reward_model, *flags)
