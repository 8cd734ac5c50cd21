"""Measures a rollout's time (part G3 of `gpu`), an update's time (G4), and how far the sampler's log-probabilities are
from the trainer's (G5).
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments.bench import batches
from experiments.bench.gpu_common import Command, Plan, best
from experiments.bench.gpu_decode import advance, at, backends, ceiling, model, number, random_weights
from experiments.bench.gpu_peers import torch_line
from experiments.bench.shapes import long_tailed, random_prompts
from r1jax.model import transformer
from r1jax.model.config import ModelConfig
from r1jax.planning import roofline
from r1jax.sampling import sampler
from r1jax.sampling.keys import row_keys
from r1jax.sampling.programs import Weights
from r1jax.sampling.sampler import Sampling
from r1jax.sharding import make_mesh, place
from r1jax.training.logprobs import PLAIN, Network, Reading, packed_logprobs
from r1jax.training.objectives import grpo_objective
from r1jax.training.packing import Minibatch, pack
from r1jax.training.step import Learner, start, update

FULL = dict(
    prompts=64,
    group=16,
    prompt=256,
    mean=1100,
    most=4096,
    candidates=32_768,
    part=8,
    steps=64,
    row=4096,
    rows=4,
    micro=4,
    rows_padded=8,
    agree=(16, 16, 1024),
    exact=8,
)
SMALL = dict(
    prompts=2,
    group=2,
    prompt=8,
    mean=8,
    most=20,
    candidates=512,
    part=2,
    steps=4,
    row=64,
    rows=2,
    micro=2,
    rows_padded=2,
    agree=(2, 2, 10),
    exact=2,
)


def size(command: Command) -> dict[str, Any]:
    return SMALL if command.toy else FULL


def make_forced(
    cfg: ModelConfig, lengths: np.ndarray, s: dict[str, Any]
) -> tuple[Weights, tuple[int, ...], np.ndarray]:
    """Returns (weights, stop tokens, random keys) with which N completions end near the given lengths.

    The model computes at full cost but gives all tokens equal probability. So the random key of a completion alone
    decides where the completion ends. This function makes `s["candidates"]` keys. It gives each completion one of the
    keys that are still free, with which the completion ends near the wanted length. Benchmarks C3 and C12 use another
    function, `wave.forcing_keys`, whose keys end completions exactly at the wanted lengths.

    Args:
        lengths: [N] wanted lengths of N completions. The returned keys are [N, 2].
        s: the benchmark's sizes, `FULL` or `SMALL`.
    """
    whole = dataclasses.replace(cfg, tie_embeddings=False)
    weights = random_weights(whole)
    weights = weights._replace(
        params=weights.params | {"unembed": {"kernel": 1e-6 * weights.params["unembed"]["kernel"]}}
    )
    stops = max(1, round(cfg.vocab_size / s["mean"]))
    keys = row_keys(0, 0, np.zeros(s["candidates"], np.int64), np.arange(s["candidates"]))

    @jax.jit
    def end(key: jax.Array) -> jax.Array:
        u = jax.vmap(lambda t: jax.random.uniform(jax.random.fold_in(key, t)))(jnp.arange(s["most"]))
        hit = u > 1 - stops / cfg.vocab_size
        return jnp.where(hit.any(), jnp.argmax(hit) + 1, s["most"])

    ends = np.asarray(jax.lax.map(end, jax.random.wrap_key_data(jnp.asarray(keys)), batch_size=256))
    order = np.argsort(ends, kind="stable")
    chosen, taken = [], set()
    for n in lengths:
        i = int(np.searchsorted(ends[order], n))
        while i >= len(order) or (i in taken and i > 0):
            i -= 1
        taken.add(i)
        chosen.append(order[i])
    return weights, tuple(range(cfg.vocab_size - stops, cfg.vocab_size)), keys[chosen]


def rollouts(command: Command, lines: list[dict[str, Any]]) -> Plan:
    """Yields (name, call) of each measurement of part G3: a rollout by `sample`, and a static batch.

    The static batch runs the same decoding program on all rows. Its cache has full length from the start, and finished
    rows are not dropped.

    Args:
        lines: the results so far, among them the hardware limits that part G0 measured (`gpu_decode.ceilings`).
    """
    s, cfg = size(command), model(command)
    whole = dataclasses.replace(cfg, tie_embeddings=False)
    prompts = random_prompts(cfg, s["prompts"], s["prompt"])
    count, mesh = s["prompts"] * s["group"], make_mesh("1x1")

    def wave(attention: str) -> dict[str, Any]:
        weights, stop_ids, keys = make_forced(cfg, long_tailed(count, s["mean"], s["most"]), s)
        found = []

        def call() -> None:
            found.append(
                sampler.sample(
                    whole,
                    weights,
                    prompts,
                    keys,
                    mesh,
                    Sampling(s["most"], stop_ids=stop_ids, attention=attention, dtype=number()),
                ).lengths
            )

        seconds, first = best(call, 1 if command.toy else 2)
        lengths = found[-1]
        fraction = roofline.decode_fraction(whole, ceiling(lines), [s["prompt"]] * s["prompts"], lengths, seconds)
        return {
            "value": float(lengths.sum()) / seconds,
            "unit": "tokens/s",
            "seconds": seconds,
            "fraction": fraction,
            "compile_s": first - seconds,
            "mean_length": float(lengths.mean()),
            "longest": int(lengths.max()),
            "attention": attention,
        }

    def static() -> dict[str, Any]:
        """Times one chunk of steps on 1/`part` of the rows and scales the time up to the whole rollout.

        Scaling is exact, since every step costs the same if the cache has its full length.
        """
        few = count // s["part"]
        weights = random_weights(whole)
        segments, rows = at(whole, few, min(s["group"], few), s["prompt"], 0, s["most"])
        state = [rows]

        def call() -> jax.Array:
            state[0] = advance(whole, weights, segments, state[0], s["steps"], "xla")
            return state[0].token

        seconds, first = best(call, 2)
        total = seconds * s["part"] * s["most"] / s["steps"]
        tokens = float(long_tailed(count, s["mean"], s["most"]).sum())
        return {
            "value": tokens / total,
            "unit": "tokens/s",
            "seconds": total,
            "scaled_from_s": seconds,
            "compile_s": first - seconds,
        }

    for attention in backends(cfg):
        yield f"wave {attention}", functools.partial(wave, attention)
    yield "static", static


def updates(command: Command, lines: list[dict[str, Any]]) -> Plan:
    """Yields (name, call) of each measurement of part G4: an update on packed rows, and one on padded rows.

    With --torch-python, also yields an update by torch.

    Args:
        lines: the results so far, among them the hardware limits that part G0 measured (`gpu_decode.ceilings`).
    """
    s, cfg = size(command), model(command)

    def step(attention: str, padded: bool) -> dict[str, Any]:
        wanted = s["rows"] * s["micro"]
        lengths = long_tailed(4 * wanted, min(s["mean"], s["row"] // 4), min(s["most"], s["row"] - s["prompt"]))
        prompts = random_prompts(cfg, len(lengths), s["prompt"])
        done = batches.completions(cfg, lengths, 4)
        if padded:  # a few rows suffice: all padded rows cost the same
            done = done[: s["rows_padded"]]
        batch = batches.minibatch(prompts, done, s["row"], padded=padded)
        parts = cut(batch, s["rows_padded"] if padded else s["rows"])
        mesh = make_mesh("1x1")
        network = Network(cfg, dtype=number(), remat="full", attention=attention, mesh=mesh)
        learner = Learner(network, optax.adamw(1e-6), grpo_objective(0.2, 0.0))
        params = place(jax.jit(functools.partial(transformer.init, cfg))(jax.random.key(0)), mesh)
        state = [start(learner, params, mesh)]
        del params

        def call() -> Any:
            state[0], metrics = update(learner, state[0], parts)
            return metrics

        seconds, first = best(call, command.repeats)
        state.clear()
        tokens = sum(len(tokens) for _, tokens in done)
        shared = [s["prompt"]] * (len(done) if padded else len({prompt for prompt, _ in done}))
        grouped = [len(tokens) for _, tokens in done]
        return {
            "value": tokens / seconds,
            "unit": "completion tokens/s",
            "seconds": seconds,
            "compile_s": first - seconds,
            "slots_per_s": len(parts) * parts[0].weight.size / seconds,
            "tokens": tokens,
            "attention": attention,
            "mfu": roofline.mfu(cfg, ceiling(lines), shared, grouped, seconds),
        }

    for attention in backends(cfg):
        yield f"packed {attention}", functools.partial(step, attention, False)
    yield "padded", functools.partial(step, backends(cfg)[-1], True)
    if command.torch_python:
        yield "torch", lambda: torch_line(command, "train", cfg, rows=s["rows"] * s["micro"], length=s["row"])


def cut(batch: Minibatch, rows: int) -> list[Minibatch]:
    """Splits a batch into micro-batches of `rows` rows. The last micro-batch is filled up with empty rows."""
    count = batch.weight.shape[0]
    more = -count % rows
    wide = jax.tree.map(lambda x: jnp.pad(x, ((0, more), (0, 0))), batch)
    return [jax.tree.map(lambda x, i=i: x[i : i + rows], wide) for i in range(0, count + more, rows)]


def agreement(command: Command, lines: list[dict[str, Any]]) -> Plan:
    """Yields (name, call) of each measurement of part G5: how far sampler and trainer differ in log-probabilities.

    Both compute the log-probabilities of the same tokens in bfloat16. For a few rows, the trainer computes them in
    float32 too.

    Args:
        lines: not used.
    """
    s, cfg = size(command), model(command)
    count, group, most = s["agree"]

    def gaps(attention: str) -> dict[str, Any]:
        params = jax.jit(functools.partial(transformer.init, cfg))(jax.random.key(0))
        # A flat distribution would hide differences. With tied embeddings and this scale, the input token's own logit
        # is about log V, which gives it half the mass.
        params["embed"]["embedding"] = params["embed"]["embedding"] * (np.log(cfg.vocab_size) / (0.02 * cfg.width))
        mesh = make_mesh("1x1")
        keys = row_keys(0, 0, np.repeat(np.arange(count), group), np.tile(np.arange(group), count))
        rollout = sampler.sample(
            cfg,
            sampler.sync(params, mesh, number()),
            random_prompts(cfg, count, s["prompt"]),
            keys,
            mesh,
            Sampling(most, stop_ids=(cfg.vocab_size,), attention=attention, dtype=number()),
        )
        score = jax.jit(functools.partial(packed_logprobs, cfg), static_argnames="reading")
        found: dict[str, list[np.ndarray]] = {"trainer": [], "sampler": [], "exact": [], "sampler where exact": []}
        ours = Reading(number(), attention=attention)
        for i, tokens in enumerate(rollout.tokens):  # row by row, to bound the memory of the logits
            rows, (place,) = pack([rollout.prompts[i // group]], [(0, tokens)], s["prompt"] + most)
            here = slice(place.start, place.start + len(tokens))
            found["trainer"].append(np.asarray(score(params, rows, reading=ours)[0])[0, here])
            found["sampler"].append(rollout.logp[i])
            if i < s["exact"]:
                found["exact"].append(np.asarray(score(params, rows, reading=PLAIN)[0])[0, here])
                found["sampler where exact"].append(rollout.logp[i])
        gap = np.concatenate(found["trainer"]) - np.concatenate(found["sampler"])
        exact = np.concatenate(found["exact"]) - np.concatenate(found["sampler where exact"])
        return {
            "value": float(np.abs(gap).mean()),
            "unit": "nats",
            "max": float(np.abs(gap).max()),
            "k3": float((np.expm1(gap) - gap).mean()),
            "beside_float32": {"mean": float(np.abs(exact).mean()), "max": float(np.abs(exact).max())},
            "entropy_per_token": float(-np.concatenate(found["sampler"]).mean()),
            "tokens": len(gap),
            "attention": attention,
        }

    for attention in backends(cfg):
        yield f"gap {attention}", functools.partial(gaps, attention)
