"""What a machine without an accelerator computes for nano, and for models that are larger than nano."""

import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax

from r1jax.model import presets
from r1jax.model.kernels.backends import attention_backend
from r1jax.recipes import RunOptions
from r1jax.runs.policies import size_of
from r1jax.sharding import make_mesh
from r1jax.training.logprobs import CHUNK, Network, chunk_of, token_logprobs
from r1jax.training.objectives import cross_entropy
from r1jax.training.step import Learner, Sums, apply, places, start
from r1jax.weights import bundled, read_config
from support.walk import lines

DEVICES = """
import sys
import jax
from r1jax.distributed import share_cpu
share_cpu("auto", int(sys.argv[1]))
print(jax.device_count())
"""


def test_float64_is_for_models_that_it_costs_little():
    one, nano, large = make_mesh("1x1"), read_config(bundled.directory("nano")), presets.PRESETS["qwen3-0.6b"]
    chosen = [
        attention_backend(one, cfg, compared=True, exact=exact)
        for cfg, exact in ((nano, None), (nano, False), (large, None), (large, True))
    ]
    assert chosen == ["exact", "xla", "xla", "exact"]
    assert attention_backend(one, nano, compared=False, exact=True) == "xla"  # nothing is compared


def test_a_large_model_lies_on_the_machine_once():
    assert make_mesh("auto", size=2_000_000).shape["data"] == jax.device_count() > 1
    assert make_mesh("auto", size=100_000_000).shape["fsdp"] == jax.device_count()
    if (os.cpu_count() or 1) > 1:
        settings = os.environ | {"PYTHONPATH": str(Path(__file__).resolve().parents[1]), "XLA_FLAGS": ""}
        for size, devices in ((2_000_000, "2"), (100_000_000, "1")):
            command = [sys.executable, "-c", DEVICES, str(size)]
            assert subprocess.run(command, env=settings, capture_output=True, text=True).stdout.strip() == devices


def test_the_size_is_read_from_a_config_alone(walk, tmp_path):
    nano = read_config(bundled.directory("nano"))
    assert size_of(RunOptions()) == nano.matmul_params > 1e6
    assert size_of(RunOptions(weights=str(bundled.directory("nano-small")))) < nano.matmul_params
    assert 0 < size_of(RunOptions(weights=str(walk.base))) < nano.matmul_params
    assert size_of(RunOptions(weights=str(tmp_path))) == 0


def test_fewer_logits_exist_at_once_for_a_large_vocabulary():
    assert [chunk_of(size) for size in (500, 16_384, 49_152, 151_936)] == [CHUNK, CHUNK, 256, 128]
    rng = np.random.default_rng(0)
    hidden, matrix = (jnp.asarray(rng.standard_normal(shape), jnp.float32) for shape in ((700, 8), (8, 49_152)))
    targets = rng.integers(0, 49_152, 700)
    logits = np.asarray(hidden, np.float64) @ np.asarray(matrix, np.float64)
    want = logits[np.arange(700), targets] - np.log(np.exp(logits).sum(1))
    np.testing.assert_allclose(token_logprobs(hidden, matrix, jnp.asarray(targets))[0], want, atol=2e-5)


def test_an_update_takes_the_place_of_the_state(cfg, params, one):
    learner = Learner(Network(cfg), optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(1e-3)), cross_entropy)
    state = start(learner, jax.tree.map(jnp.copy, params), one)
    sums = Sums(jax.tree.map(jnp.ones_like, params), {"loss": jnp.float32(1)})
    held = apply.lower(learner, state, sums, places(state)).compile().memory_analysis()
    whole = sum(x.nbytes for x in jax.tree.leaves(params))
    assert held.alias_size_in_bytes >= 3 * whole and held.temp_size_in_bytes < 2 * whole


def test_a_run_in_float32(walk, tmp_path, capsys):
    workdir = walk.here(tmp_path / "run", steps=2, eval_every=0, exact=False)
    assert "attention xla: float64 would be slower for a model of this size, --exact=True" in "".join(
        capsys.readouterr()
    )
    assert 0 < max(line["sampler_gap/max"] for line in lines(workdir, "metrics")) <= 1e-3


def test_nano_stays_exact(walk, tmp_path, capsys):
    workdir = walk.here(tmp_path / "run", steps=1, eval_every=0)
    assert "attention exact" in "".join(capsys.readouterr())
    assert max(line["sampler_gap/max"] for line in lines(workdir, "metrics")) <= 2e-5
