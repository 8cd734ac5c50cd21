"""GRPO against PPO: the plan's memory beside real arrays, the runs that claims share, and the verdict."""

import dataclasses
import json
from pathlib import Path

import jax
import pytest

from experiments.claims import grpo_vs_ppo, objectives
from experiments.claims.protocol import Bench
from experiments.r1_zero import NANO
from r1jax.model.presets import PRESETS
from r1jax.rl.critic import make_critic
from r1jax.runs.manifests import Manifest, write
from r1jax.train_rl import make_learner
from r1jax.training.step import start

ROOT = Path(__file__).resolve().parent.parent


def a_run(place, cfg, loss="grpo", accuracy=0.8, seconds=6.0):
    """The files of a finished run of eight steps, in rounds of two. The first half of the steps compiles."""
    place.mkdir(parents=True, exist_ok=True)
    write(place, Manifest("r1_zero", dataclasses.asdict(dataclasses.replace(NANO, loss=loss, minibatches=2)), 0, {}))
    (place / "model.json").write_text(json.dumps(cfg.as_dict()))
    lines = {"eval": [{"step": 0, "accuracy": 0.3}, {"step": 8, "accuracy": accuracy}], "metrics": []}
    for step in range(1, 9):
        time = {"perf/step_s": 50.0 if step <= 4 else seconds + step % 2, "perf/rollout_s": 4.0}
        lines["metrics"].append({"step": step, "entropy": 0.3} | time)
    for name, some in lines.items():
        (place / f"{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in some))
    (place / "cost.json").write_text(json.dumps({"seconds": 60.0, "memory GB": 1.0}))
    return place


def size(tree):
    return sum(x.nbytes for x in jax.tree.leaves(tree) if x.ndim)  # without the counters


def test_the_plan_counts_the_parameters_and_moments_that_the_trainer_holds(tmp_path, cfg, params, one):
    found = {loss: grpo_vs_ppo.plan_update(a_run(tmp_path / loss, cfg, loss)) for loss in ("grpo", "ppo")}
    recipe = dataclasses.replace(NANO, loss="ppo")
    state = start(make_learner(recipe, cfg, one), params, one)
    valued = make_critic(recipe, cfg, one).start(params, one)
    for loss in found:
        assert found[loss]["trained parameters, float32"] == size(state.params)
        assert found[loss]["Adam's moments, float32"] == size(state.opt_state)
    assert found["ppo"]["value network, float32"] == size(valued.params)
    assert found["ppo"]["its moments, float32"] == size(valued.opt_state)
    more = found["ppo"][grpo_vs_ppo.UPDATE] - found["grpo"][grpo_vs_ppo.UPDATE]
    assert more == size(valued.params) + size(valued.opt_state)


def test_seconds_are_of_the_last_half_and_sampling_is_divided_among_the_steps_of_a_round(tmp_path, cfg):
    found = grpo_vs_ppo.read_seconds(a_run(tmp_path / "run", cfg))
    assert found == {"seconds a step": pytest.approx(6.5), "of which sampling": pytest.approx(2.0)}


@pytest.mark.parametrize(
    ("accuracy", "seconds", "verdict"),
    [(0.0, 0.0, "holds"), (0.1, -1.0, "holds"), (-0.1, 0.0, "does not hold"), (0.0, 1.0, "does not hold")],
    ids=["equal", "better", "worse", "slower"],
)
def test_grpo_may_be_neither_worse_nor_slower(tmp_path, monkeypatch, cfg, accuracy, seconds, verdict):
    asked = []

    def run_one(command, loss, seed):
        asked.append((loss, seed, command.workdir, command.steps, command.flags))
        ours = loss == "grpo"
        return a_run(
            tmp_path / f"{loss}{seed}",
            cfg,
            loss,
            0.8 + seed / 100 + accuracy * ours,
            6.0 + seed + seconds * ours,
        )

    monkeypatch.setattr(objectives, "run_one", run_one)
    bench = Bench(str(tmp_path), steps=8, problems=16)
    found = grpo_vs_ppo.find(bench)
    assert found.verdict == verdict
    cells = {row[0]: row[1:] for row in found.table}
    assert cells["accuracy"][2:] == [f"{accuracy:+.3f} ± 0.000", " ".join([f"{accuracy:+.3f}"] * 3)]
    assert cells["seconds a step"][2].startswith(f"{seconds:+.3f} ±")
    assert cells["plan, MB: value network, float32"][0] == "0.0"
    ours = [call for call in asked if call[0] == "grpo"]
    asked.clear()
    objectives.find(bench)
    assert [call for call in asked if call[0] == "grpo"] == ours  # the same command, so the run is shared


def test_the_value_network_of_a_known_model_costs_twelve_bytes_a_parameter(tmp_path):
    cfg = dataclasses.replace(PRESETS["qwen2.5-1.5b"])
    grpo, ppo = (grpo_vs_ppo.plan_update(a_run(tmp_path / loss, cfg, loss)) for loss in grpo_vs_ppo.LOSSES)
    assert ppo["value network, float32"] + ppo["its moments, float32"] == pytest.approx(12 * 1.54e9, rel=0.01)
    assert set(ppo) - set(grpo) == {"value network, float32", "its moments, float32"}


@pytest.mark.weekly
@pytest.mark.slow
@pytest.mark.timeout(3000)  # some two CPU minutes, in two processes
def test_the_claim_runs_from_end_to_end_at_toy_size(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    flags = ("--questions-per-round=2", "--group-size=4", "--max-tokens=32", "--row-length=256", "--batch-rows=2")
    found = grpo_vs_ppo.find(Bench(str(tmp_path), seeds=(0,), steps=4, problems=8, flags=flags))
    assert found.verdict == "cannot be shown here"  # one seed
    cells = {row[0]: row[1:] for row in found.table}
    assert float(cells["seconds a step"][0]) > float(cells["of which sampling"][0]) > 0
    ours, theirs = (float(cell) for cell in cells[f"plan, MB: {grpo_vs_ppo.UPDATE}"][:2])
    assert theirs - ours == pytest.approx(12 * 1.77, abs=0.3)  # nano has 1.77 M parameters
