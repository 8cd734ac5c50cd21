"""Adapters: they begin as nothing, are all that is trained, and end up inside the kernels."""

import dataclasses
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from experiments import convert, evaluate, generate, r1_zero
from r1jax.model import lora, transformer
from r1jax.model.lora import merge
from r1jax.recipes import RunOptions
from r1jax.runs import checkpoint, manifests
from r1jax.runs.policies import load_policy
from r1jax.sampling.sampler import sync
from r1jax.sharding import make_mesh, shard_rows
from r1jax.training.logprobs import Network
from r1jax.training.objectives import cross_entropy
from r1jax.training.packing import TokenBatch, pack, spread
from r1jax.training.step import Learner, score, start, update
from support.tiny import HEAT, dense_logp, draw, in_rows, keys, prompts
from support.walk import lines


@pytest.fixture(scope="module")
def adapted(params, one):
    """The tiny model with adapters that do something."""
    whole = lora.attach(params, 3, 6.0, lora.TARGETS, one, jax.random.key(0))
    rng = np.random.default_rng(0)

    def lively(path, x):
        return (
            jnp.asarray(0.2 * rng.standard_normal(x.shape), jnp.float32)
            if "lora_b" in jax.tree_util.keystr(path)
            else x
        )

    return jax.tree_util.tree_map_with_path(lively, whole)


@pytest.fixture(scope="module")
def learner(cfg):
    return Learner(Network(cfg), optax.adam(1e-2), cross_entropy)


@pytest.fixture(scope="module")
def batch(one):
    tokens = np.random.default_rng(2).integers(3, 250, (4, 30)).astype(np.int32)
    rows, places = pack(tokens[:, :1].tolist(), [(i, row[1:]) for i, row in enumerate(tokens)], 32)
    return shard_rows(TokenBatch(rows, spread([np.full(29, 1 / 116, np.float32)] * 4, places, rows.tokens.shape)), one)


def test_a_fresh_adapter_changes_nothing(learner, params, batch, one):
    fresh = lora.attach(params, 4, 8.0, lora.TARGETS, one, jax.random.key(0))
    # The sum with a product of zeros is compiled differently: the last bits may change.
    np.testing.assert_allclose(
        score(learner.network, fresh, batch.rows)[0], score(learner.network, params, batch.rows)[0], atol=2e-5
    )


def test_every_matrix_of_a_layer_has_an_adapter_of_the_asked_rank(adapted):
    q, o = adapted["layers"][0]["attention"]["q"], adapted["layers"][0]["attention"]["o"]
    # L = 2, D = 32, four heads of 8; o sums over two axes.
    assert (q["lora_a"].shape, q["lora_b"].shape) == ((2, 32, 3), (2, 3, 4, 8))
    assert (o["lora_a"].shape, o["lora_b"].shape) == ((2, 4, 8, 3), (2, 3, 32))
    trained, frozen = lora.partition(adapted)
    assert len(jax.tree.leaves(trained)) == 2 * 7
    assert len(jax.tree.leaves(frozen)) + 14 == len(jax.tree.leaves(adapted))


def test_a_folded_adapter_gives_the_same_numbers(learner, adapted, params, batch):
    apart, folded = (score(learner.network, p, batch.rows)[0] for p in (adapted, lora.fold_adapters(adapted)))
    assert jax.tree.structure(lora.fold_adapters(adapted)) == jax.tree.structure(params)
    assert abs(apart - score(learner.network, params, batch.rows)[0]).max() > 0.1
    np.testing.assert_allclose(folded, apart, atol=5e-5)


def test_only_adapters_move_and_only_they_have_moments(learner, adapted, batch, one):
    trained, frozen = lora.partition(adapted)
    state = start(learner, jax.tree.map(jnp.copy, trained), one)
    assert len(jax.tree.leaves(state.opt_state[0].mu)) == 14
    state, _ = update(learner, state, [batch], frozen)
    for (path, after), before in zip(
        jax.tree_util.tree_leaves_with_path(merge(state.params, frozen)), jax.tree.leaves(adapted), strict=True
    ):
        assert np.array_equal(after, before) == ("lora" not in jax.tree_util.keystr(path)), path


def test_targets_choose_the_matrices(params, one):
    only_q = lora.attach(params, 2, 2.0, r"attention/q/kernel", one, jax.random.key(0))
    assert len(jax.tree.leaves(lora.partition(only_q)[0])) == 2
    with pytest.raises(ValueError, match="--lora-targets=nothing"):
        lora.attach(params, 2, 2.0, "nothing", one, jax.random.key(0))


def test_a_multi_token_prediction_layer_stays_frozen(cfg):
    shapes = transformer.shapes(dataclasses.replace(cfg, mtp_layers=1))
    trained, frozen = lora.partition(shapes)
    assert trained["mtp"]["project"]["kernel"] is None
    assert jax.tree.structure(frozen["mtp"]) == jax.tree.structure(shapes["mtp"])
    assert jax.tree.leaves(frozen | {"mtp": None}) == []


def test_the_sampler_reads_the_adapters_too(cfg, adapted, params, one):
    asked, row_keys = prompts(2), keys(2, (0, 1))
    through, folded, bare = (
        draw(cfg, sync(p, one), one, asked, row_keys, max_tokens=12)
        for p in (adapted, lora.fold_adapters(adapted), params)
    )
    np.testing.assert_array_equal(through.tokens, folded.tokens)
    assert not np.array_equal(through.tokens, bare.tokens)


@pytest.mark.parametrize("size, folded_loses", [(1e-3, 0.5), (3e-4, 0.8)])
def test_small_adapters_beside_bfloat16_kernels_are_not_lost_in_decoding(cfg, adapted, one, size, folded_loses):
    """The change A·B as the sampler holds it, against float64: beside the kernel, and folded into it."""
    kernel = adapted["layers"][0]["mlp"]["up"]["kernel"].astype(jnp.bfloat16)
    up = adapted["layers"][0]["mlp"]["up"] | {"kernel": kernel}
    base, a, b = (np.asarray(up[name].astype(jnp.float32), np.float64) for name in ("kernel", "lora_a", "lora_b"))
    scale = size * np.linalg.norm(base) / np.linalg.norm(a @ b)  # |A·B| is so much of |W|
    up |= {"lora_b": up["lora_b"] * np.float32(scale)}
    change = scale * a @ b

    def lost(held):
        parts = [np.asarray(held[name].astype(jnp.float32), np.float64) for name in held]
        found = parts[0] + (parts[1] @ parts[2] if len(parts) > 1 else 0) - base[0]
        return np.linalg.norm(found - change[0]) / np.linalg.norm(change[0])

    params = adapted | {"layers": [adapted["layers"][0] | {"mlp": adapted["layers"][0]["mlp"] | {"up": up}}]}
    held = sync(params, one, jnp.bfloat16).layers[0]["mlp"]["up"]
    assert list(held) == ["kernel", "lora_a", "lora_b"] and {x.dtype for x in held.values()} == {jnp.dtype("bfloat16")}
    assert lost(held) < 0.01
    assert lost({"kernel": lora.fold_adapters(params)["layers"][0]["mlp"]["up"]["kernel"][0]}) > folded_loses


def test_the_sampler_in_bfloat16_has_the_log_probabilities_of_the_adapters(cfg, adapted, params, one):
    """Adapters that move tokens by nats, next to the rounding of bfloat16."""
    cold = jax.tree.map(lambda x: x.astype(jnp.bfloat16), params)
    warm = jax.tree_util.tree_map_with_path(
        lambda path, x: x if "lora" in jax.tree_util.keystr(path) else x.astype(jnp.bfloat16), adapted
    )
    got = draw(cfg, sync(warm, one, jnp.bfloat16), one, prompts(2), keys(2, (0, 1)), max_tokens=12, dtype=jnp.bfloat16)
    with_adapters, without = (
        dense_logp(cfg, jax.tree.map(lambda x: x.astype(jnp.float32), p), in_rows(prompts(2), got, 80), HEAT)
        for p in (lora.fold_adapters(adapted), cold)
    )
    far, near = [], []
    for i, length in enumerate(got.lengths):
        at = i, len(prompts(2)[i // 2]) - 1 + np.arange(length), got.tokens[i, :length]
        near.append(np.abs(got.logp[i, :length] - with_adapters[at]).mean())
        far.append(np.abs(got.logp[i, :length] - without[at]).mean())
    assert np.mean(near) < 0.1 < 0.3 < np.mean(far)


def test_a_run_with_adapters_is_another_runs_weights(walk, tmp_path):
    workdir = walk.here(tmp_path / "run", lora_rank=2, steps=4, eval_every=0, learning_rate=1e-2)
    metrics = lines(workdir, "metrics")
    assert max(line["sampler_gap/max"] for line in metrics) <= 2e-5
    one = make_mesh("1x1")
    policy, after, _ = load_policy(RunOptions(weights=str(workdir)), one)
    _, before, _ = load_policy(RunOptions(weights=str(walk.base)), one)
    assert jax.tree.structure(after) == jax.tree.structure(before)
    np.testing.assert_array_equal(after["embed"]["embedding"], before["embed"]["embedding"])
    assert not np.array_equal(after["layers"][0]["mlp"]["up"]["kernel"], before["layers"][0]["mlp"]["up"]["kernel"])
    assert policy.cfg.vocab_size == before["embed"]["embedding"].shape[0]


def test_adapters_are_refused_once_their_parent_has_trained_on(walk, tmp_path, monkeypatch):
    flags = dict(eval_every=0, learning_rate=1e-2)
    parent = walk.here(tmp_path / "parent", steps=2, **flags)
    monkeypatch.chdir(tmp_path)
    child = walk.here(tmp_path / "child", lora_rank=2, steps=2, weights="parent", **flags)  # a relative path
    monkeypatch.chdir("/")
    one = make_mesh("1x1")
    told = manifests.read(child).parent
    assert told == {"path": str(parent), "sha256": checkpoint.sha256(parent), "step": 2}
    _, before, said = load_policy(RunOptions(weights=str(child)), one)
    assert said["sha256"] == checkpoint.sha256(child)

    walk.here(parent, steps=4, resume=True, **flags)
    now = checkpoint.sha256(parent)
    words = rf"other weights \({told['sha256'][:12]}, step 2\) than those now at {parent} \({now[:12]}, step 4\)"
    commands = {
        r1_zero: dict(weights=child, workdir=tmp_path / "next", steps=1),
        convert: dict(source=child, target=tmp_path / "hf"),
        generate: dict(weights=child, workdir=tmp_path / "records"),
        evaluate: dict(weights=child, workdir=tmp_path / "evaluated", benchmarks="nano:chain"),
    }
    for module, given in commands.items():
        arguments = [f"--{name}={value}" for name, value in given.items()]
        monkeypatch.setattr("sys.argv", [module.__name__, *arguments])
        with pytest.raises(SystemExit, match=words):
            module.main()
    with pytest.raises(SystemExit, match="began with"):
        walk.here(child, resume=True, lora_rank=2, steps=4, weights=parent, **flags)

    shutil.rmtree(parent / "checkpoints" / "4")  # the way out that the message names
    _, after, again = load_policy(RunOptions(weights=str(child)), one)
    assert again == said
    jax.tree.map(np.testing.assert_array_equal, after, before)


def test_equal_adapters_on_other_parents_have_another_hash(walk, tmp_path):
    runs = [
        walk.here(tmp_path / name, lora_rank=2, steps=1, eval_every=0, learning_rate=0.0, weights=weights)
        for name, weights in (("a", walk.base), ("b", walk.finished()))
    ]
    assert len({checkpoint.sha256(run) for run in runs}) == 2


def test_the_adapter_of_a_run_is_exported_and_read_back(walk, tmp_path, monkeypatch, capsys):
    pytest.importorskip("safetensors", reason="the export wants the extra 'hf'")
    workdir = walk.here(tmp_path / "run", lora_rank=2, steps=2, eval_every=0, learning_rate=1e-2)
    monkeypatch.setattr("sys.argv", ["convert", f"--source={workdir}", f"--target={tmp_path / 'out'}"])
    convert.main()
    adapter = tmp_path / "out" / "adapter"
    assert f"{adapter}: its LoRA adapter, as a PEFT directory" in capsys.readouterr().out
    one = make_mesh("1x1")
    (_, merged, _), (_, read, parent) = (load_policy(RunOptions(weights=str(x)), one) for x in (workdir, adapter))
    assert parent["path"] == str(adapter)
    for ours, theirs in zip(jax.tree.leaves(merged), jax.tree.leaves(read), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-6)

    monkeypatch.setattr("sys.argv", ["convert", f"--source={adapter}", f"--target={tmp_path / 'again'}", "--dry-run"])
    convert.main()
    assert f"and the adapter {adapter} of rank 2" in capsys.readouterr().out
