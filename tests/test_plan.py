"""The dry run: what it counts, against arrays that were really placed, and against worked examples."""

import dataclasses
import importlib
import json

import jax
import numpy as np
import pytest

from experiments import dpo
from experiments.dpo import PAPER as DPO
from experiments.r1_3_rejection_sft import PAPER as STAGE_3
from experiments.r1_zero import PAPER, STAGE
from experiments.train_reward_model import PAPER as REWARD
from r1jax import cli
from r1jax.model import transformer
from r1jax.model.presets import PRESETS
from r1jax.planning.memory import Shape, count_placed, pass_bytes
from r1jax.planning.rl import dry_run, plan, text
from r1jax.planning.roofline import DEVICES, share_of_memory
from r1jax.planning.supervised import preference, reward, tune
from r1jax.recipes import PlanOptions, RunOptions, TunePlanOptions
from r1jax.reward_models.data import READ
from r1jax.sampling.sampler import sync
from r1jax.sharding import AXES, place


def test_the_numbers_of_one_device_are_those_that_lie_on_it(cfg, params, eight):
    abstract = jax.sharding.AbstractMesh((1, 4, 2, 1), AXES)
    held = sum(x.addressable_shards[0].data.size for x in jax.tree.leaves(place(params, eight)))
    assert count_placed(transformer.shapes(cfg), abstract) == held
    copy = sum(x.addressable_shards[0].data.size for x in jax.tree.leaves(sync(params, eight)))
    assert count_placed(transformer.shapes(cfg), abstract, ("tensor", "expert")) == copy


def test_a_plan_agrees_with_the_worked_example():
    """Qwen2.5-1.5B on one H200, float32 training: 4 + 8 + 4 + 4 bytes a parameter, 2 for the sampler's copy."""
    recipe = dataclasses.replace(
        PAPER, questions_per_round=16, minibatches=1, max_tokens=4096, row_length=4608, batch_rows=4
    )
    found = plan(PRESETS["qwen2.5-1.5b"], recipe, "1x1", PlanOptions(mean_tokens=1024))
    n = 1_543_714_304
    assert found.parameters == found.trained == n
    assert sum(found.held.values()) == 16 * n
    assert found.update["gradients, float32"] == 4 * n
    assert found.rollout["sampler's copy, bfloat16"] == 2 * n
    # 28 layers x 2 x 2 heads x 128 x 2 bytes = 28 KiB a token; 256 rows of 1,024 (and 8 %), 16 prompts of 256.
    assert found.rollout["keys and values, bfloat16"] == pytest.approx(28 * 1024 * (256 * 1024 * 1.08 + 16 * 256))
    # 6 N flops a token, a third more for full remat, and attention: 262,144 tokens at 790 TFLOP/s take 4.1 s and some.
    assert found.seconds["update"] == pytest.approx(8 * 1.544e9 * 262_144 / 7.9e14, rel=0.12)
    assert found.peak < DEVICES["h200"].memory
    judged = plan(PRESETS["qwen2.5-1.5b"], recipe, "1x1", PlanOptions(mean_tokens=1024), reward_models=2)
    assert sum(judged.held.values()) == (16 + 2 * 4) * n


def test_ppo_holds_a_value_network_with_its_moments_and_passes_over_it_too():
    cfg, n, d, v = PRESETS["qwen2.5-1.5b"], 1_543_714_304, 1536, 151_936
    recipe = dataclasses.replace(PAPER, minibatches=1, kl_coef=0.0)
    grpo, ppo = (plan(cfg, dataclasses.replace(recipe, loss=loss), "1x1", PlanOptions()) for loss in ("grpo", "ppo"))
    body = n + d  # the unembedding is the embedding, and the head has a number for each of the width
    assert ppo.held["value network, float32"] == 4 * body and ppo.held["its moments, float32"] == 8 * body
    assert ppo.peak - grpo.peak == 12 * body and ppo.update == grpo.update
    # The value network lacks the logits alone: a forward pass and an update, 4 passes with full remat, without them.
    tokens, seconds = ppo.rows * ppo.mean_tokens, grpo.seconds["update"] / 4
    less = 2 * d * v * tokens / DEVICES["h200"].flops
    assert ppo.seconds["scoring"] == pytest.approx(seconds - less)
    assert ppo.seconds["update"] == pytest.approx(8 * seconds - 4 * less)
    assert ppo.seconds["sampling"] == grpo.seconds["sampling"]


def test_adapters_leave_no_moments_for_the_frozen():
    recipe = dataclasses.replace(
        PAPER, lora_rank=16, questions_per_round=32, minibatches=2, max_tokens=4096, row_length=4608, batch_rows=2
    )
    found = plan(PRESETS["qwen2.5-7b"], recipe, "1x1", PlanOptions())
    # q: 3584 + 3584, k and v: 3584 + 512 each, o: 3584 + 3584, gate, up and down: 3584 + 18944 each; 16 numbers each.
    assert found.trained == 28 * 16 * (2 * 7168 + 2 * 4096 + 3 * 22_528)
    assert found.held["frozen parameters, bfloat16"] == 2 * found.parameters
    assert found.peak < DEVICES["h200"].memory
    whole = plan(PRESETS["qwen2.5-7b"], dataclasses.replace(recipe, lora_rank=0), "1x1", PlanOptions())
    assert whole.peak > DEVICES["h200"].memory
    assert "does not fit h200: take more devices" in text(whole, "")


def test_a_latent_cache_is_not_cut_by_tensor_and_experts_are_cut_by_theirs():
    one, four = (plan(PRESETS["deepseek-v3"], PAPER, f"tensor:{n},expert:8", PlanOptions()) for n in (1, 4))
    assert one.rollout["keys and values, bfloat16"] == four.rollout["keys and values, bfloat16"]
    # (512 + 64) numbers x 61 layers x 2 bytes; rows lie over the eight shards of experts.
    assert one.rollout["keys and values, bfloat16"] == pytest.approx(70_272 * (8192 * 4096 * 1.08 + 512 * 256) / 8)
    cfg = PRESETS["deepseek-v3"]
    kernels = transformer.shapes(cfg)["layers"][1]["mlp"]["experts"]
    whole = sum(x.size for x in jax.tree.leaves(kernels))
    assert (
        count_placed({"layers": [{"mlp": {"experts": kernels}}]}, jax.sharding.AbstractMesh((1, 1, 1, 8), AXES))
        == whole // 8
    )


@pytest.mark.parametrize("spec", ["1x1", "8x8", "data:2,fsdp:4,tensor:1,expert:16"])
@pytest.mark.parametrize("model", ["qwen2.5-1.5b", "qwen3-30b-a3b", "deepseek-v3", "llama-3.1-405b"])
def test_every_plan_adds_up(model, spec):
    found = plan(PRESETS[model], PAPER, spec, PlanOptions())
    parts = [*found.held.values(), *found.rollout.values(), *found.update.values(), *found.seconds.values()]
    assert all(np.isfinite(parts)) and min(parts) >= 0
    # Cutting 64 ways leaves a device at least a 64th of what is trained.
    assert found.held["trained parameters, float32"] >= 4 * found.trained / found.mesh.size


def test_the_command_plans_without_weights_or_devices(capsys, monkeypatch):
    from experiments import r1_zero

    flags = ["--model=qwen2.5-1.5b", "--weights=nowhere", "--recipe=paper", "--mesh=8x8", "--dry-run"]
    monkeypatch.setattr("sys.argv", ["r1_zero", *flags])
    r1_zero.main()
    said = capsys.readouterr().out
    assert "1,543,714,304" in said and "= 64 x h200" in said and "seconds of a step, at the limit" in said


def test_the_shipped_base_and_a_directory_have_plans_too(tmp_path):
    command = cli.parse(STAGE.commands(), ["--dry-run"])
    assert "nano" in dry_run(RunOptions(model="nano"), command.numbers, command.plan, "")
    with pytest.raises(ValueError, match="cannot be read"):
        dry_run(RunOptions(model="nano", weights=str(tmp_path)), command.numbers, command.plan, "")
    with pytest.raises(ValueError, match="--device=abacus"):
        plan(PRESETS["qwen3-8b"], command.numbers, "1x1", PlanOptions(device="abacus"))


def test_a_teacher_that_is_asked_first_lies_beside_the_parameters_alone():
    student, recipe, options = PRESETS["qwen2.5-1.5b"], STAGE_3, TunePlanOptions()
    alone = tune(student, recipe, "1x1", options)
    small, large = (tune(student, recipe, "1x1", options, PRESETS[name]) for name in ("qwen2.5-7b", "deepseek-v3"))
    assert small.peak == alone.peak and small.teaching == 2 * 7_615_616_512
    assert large.peak == large.held["parameters, float32"] + large.teaching > alone.peak


def test_a_run_and_its_checkpoints_have_the_plan_of_its_shapes(tmp_path, cfg):
    command = cli.parse(STAGE.commands(), ["--dry-run"])
    (tmp_path / "model.json").write_text(json.dumps(cfg.as_dict()))
    (tmp_path / "checkpoints" / "3").mkdir(parents=True)
    figures = text(plan(cfg, command.numbers, "auto", command.plan), "").split("\n", 1)[1]
    for given in (tmp_path, tmp_path / "checkpoints", tmp_path / "checkpoints" / "3"):
        assert figures in dry_run(RunOptions(model="nano", weights=str(given)), command.numbers, command.plan, "")
    taught = dry_run(RunOptions(model="nano-small"), command.numbers, command.plan, "", teacher=str(tmp_path))
    assert "teacher, bfloat16" in taught
    (tmp_path / "model.json").write_text("{")
    with pytest.raises(ValueError, match=r"--weights=.* lacks a readable"):
        dry_run(RunOptions(model="nano", weights=str(tmp_path)), command.numbers, command.plan, "")
    with pytest.raises(ValueError, match=r"--teacher=.* lacks a readable"):
        dry_run(RunOptions(model="nano-small"), command.numbers, command.plan, "", teacher=str(tmp_path))
    with pytest.raises(ValueError, match=r"--teacher=.*nowhere: config.json cannot be read"):
        dry_run(RunOptions(model="nano-small"), command.numbers, command.plan, "", teacher="nowhere")


def test_fine_tuning_has_a_plan_that_agrees_with_the_worked_example():
    """Stage 3 on Qwen2.5-1.5B: 4 bytes a parameter, 8 of moments, 4 of gradients; 800,000 records of 4,096 tokens."""
    found = tune(PRESETS["qwen2.5-1.5b"], STAGE_3, "8x8", TunePlanOptions())
    n, whole = 1_543_714_304, tune(PRESETS["qwen2.5-1.5b"], STAGE_3, "1x1", TunePlanOptions())
    assert whole.held["parameters, float32"] == whole.update["gradients, float32"] == 4 * n
    assert whole.held["optimizer's moments, float32"] == pytest.approx(8 * n, rel=1e-6)  # and a count
    assert found.held["parameters, float32"] >= 4 * n / 64
    assert found.step_tokens == 128 * 32_768
    assert found.steps == round(2 * 800_000 * 4096 / (128 * 32_768))  # two epochs
    # 8 N flops a token with full remat; and attention: 4 x 28 layers x 12 heads x 128 for each of 4,096 tokens before.
    flops = 8 * n + 4 * (4 * 28 * 12 * 128) * 4096
    assert found.seconds == pytest.approx(flops * found.step_tokens / 64 / DEVICES["h200"].flops, rel=0.02)


def test_a_reward_model_has_a_plan_without_logits():
    helpful, safety = (reward(PRESETS["qwen2.5-1.5b"], REWARD, kind, "1x1", PlanOptions()) for kind in READ)
    assert "logits" not in helpful.update
    # 66,000 pairs by 256, once: 257.8 steps; two texts of an eighth of 8,192 tokens each
    assert helpful.steps == 258 and helpful.step_tokens == 2 * safety.step_tokens == 2 * 256 * 1024
    # the body of 1.31 B parameters without the unembedding: 6 N flops a token, 8 with full remat
    assert helpful.seconds > 8 * 1.3e9 * helpful.step_tokens / DEVICES["h200"].flops


@pytest.mark.parametrize(
    "name, flags",
    [
        ("r1_1_cold_start", []),
        ("r1_3_rejection_sft", []),
        ("distill", []),
        ("distill", ["--teacher=qwen2.5-7b"]),
        ("distill", ["--by=rl"]),
        ("distill", ["--by=on_policy", "--teacher=qwen2.5-7b"]),
        ("train_reward_model", ["--kind=safety"]),
        ("dpo", []),
        ("dpo", ["--loss=kto", "--lora-rank=16"]),
        ("r1_2_reasoning_rl", []),
        ("r1_4_all_scenarios_rl", []),
    ],
)
def test_every_stage_plans_without_weights_or_devices(name, flags, capsys, monkeypatch):
    recipe = "qwen-1.5b" if name == "distill" else "paper"
    arguments = ["--model=qwen2.5-1.5b", "--weights=nowhere", f"--recipe={recipe}", "--mesh=8x8", "--dry-run"]
    monkeypatch.setattr("sys.argv", [name, *arguments, *flags])
    importlib.import_module(f"experiments.{name}").main()
    said = capsys.readouterr().out
    assert f"recipe {recipe}: qwen2.5-1.5b" in said and "= 64 x h200" in said
    assert "seconds of a step, at the limit" in said
    assert ("reward models, bfloat16" in said) == name.startswith("r1_4")
    by_rl = "_rl" in name or bool({"--by=rl", "--by=on_policy"} & set(flags))
    assert ("completions of" in said) == by_rl  # that updates would follow
    taught, referenced = "--teacher=qwen2.5-7b" in flags, by_rl or "--loss=kto" in flags
    assert ("teacher, bfloat16" in said) == taught and ("reference, float32" in said) == (referenced and not taught)
    assert ("frozen parameters, bfloat16" in said) == ("--lora-rank=16" in flags)


def test_preferences_have_a_plan_that_agrees_with_the_worked_example():
    """DPO on Qwen2.5-1.5B: 4 bytes a parameter, 8 of moments, 4 of gradients; 66,000 pairs by 64, once."""
    cfg, n = PRESETS["qwen2.5-1.5b"], 1_543_714_304
    once, each, kto, orpo = (
        preference(cfg, dataclasses.replace(DPO, loss=loss, reference=when), "1x1", PlanOptions())
        for loss, when in (("dpo", "once"), ("dpo", "each"), ("kto", "once"), ("orpo", "once"))
    )
    assert once.steps == 1032 and once.step_tokens == 64 * 1024
    assert sum(once.held.values()) == pytest.approx(12 * n, rel=1e-6)  # and a count
    assert each.held["reference, float32"] == kto.held["reference, float32"] == 4 * n
    assert each.peak == once.peak + 4 * n and orpo.peak == once.peak
    # An update is 4 forward passes with full remat; the reference one more, which several epochs share.
    assert once.seconds == each.seconds == pytest.approx(5 / 4 * orpo.seconds)
    twice = preference(cfg, dataclasses.replace(DPO, epochs=2), "1x1", PlanOptions())
    assert twice.seconds == pytest.approx(4.5 / 4 * orpo.seconds) and twice.steps == 2 * once.steps
    assert orpo.seconds > 8 * 1.5e9 * once.step_tokens / DEVICES["h200"].flops
    adapters = preference(cfg, dataclasses.replace(DPO, lora_rank=16), "1x1", PlanOptions())
    assert adapters.held["frozen parameters, bfloat16"] == 2 * n and adapters.peak < once.peak


@pytest.mark.parametrize(
    "flag, words",
    [
        ("--beta=0", "--beta=0.0 must be above 0"),
        ("--prompts=nano:chain", "--prompts=nano:chain is for reinforcement learning"),
        ("--device=abacus", "--device=abacus is unknown"),
        ("--batch-rows=3", "--batch-rows=3 must be a multiple of the 64 row shards"),
    ],
)
def test_a_dry_run_of_dpo_checks_what_the_run_would_check(flag, words, monkeypatch):
    monkeypatch.setattr("sys.argv", ["dpo", "--mesh=64x1", "--batch-rows=64", "--dry-run", flag])
    with pytest.raises(SystemExit, match=words):
        dpo.main()


def test_a_pass_holds_what_it_gathers_and_adapters_have_no_gradients_of_kernels():
    """Qwen2.5-1.5B on fsdp:8: a layer of 46.8 M, an unembedding of 1536 x 151,936, chunks of 1,024 logits."""
    cfg = PRESETS["qwen2.5-1.5b"]
    mesh = jax.sharding.AbstractMesh((1, 8, 1, 1), AXES)
    scored = pass_bytes(cfg, mesh, Shape(8, 1024, 896))
    assert scored["unembedding, gathered"] == 2 * 1536 * 151_936
    assert scored["logits, float32"] == 4 * 896 * 151_936
    trained = pass_bytes(cfg, mesh, Shape(8, 1024, 1024, "full"))
    assert trained["its gradient, float32"] == 4 * 1536 * 151_936
    assert trained["activations kept"] == 28 * 1024 * (1536 + 1536) * 2
    frozen = pass_bytes(cfg, mesh, Shape(8, 1024, 1024, "full", frozen=True))
    assert sum(frozen.values()) < sum(trained.values())
    long = Shape(8, 32_768, 32_768, "full", scores=False)
    layer = pass_bytes(cfg, mesh, long)["weights of a layer, gathered"]
    assert layer == pytest.approx(2 * 46.8e6, rel=0.01)
    assert sum(pass_bytes(cfg, mesh, long._replace(scores=True)).values()) > sum(pass_bytes(cfg, mesh, long).values())


def test_a_gpu_keeps_a_part_of_its_memory_for_itself(monkeypatch):
    monkeypatch.delenv("XLA_PYTHON_CLIENT_MEM_FRACTION", raising=False)
    assert share_of_memory("h100") == 0.92 and share_of_memory("v5p") == 1
    recipe = dataclasses.replace(PAPER, questions_per_round=16, minibatches=1, max_tokens=4096, row_length=4608)
    found = plan(PRESETS["qwen2.5-1.5b"], recipe, "1x1", PlanOptions(mean_tokens=1024))
    assert "130 of 141 GB" in text(found, "") and "  fits" in text(found, "")
    monkeypatch.setenv("XLA_PYTHON_CLIENT_MEM_FRACTION", "0.2")
    assert "28 of 141 GB" in text(found, "") and "does not fit h200" in text(found, "")
