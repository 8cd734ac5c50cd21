"""G3-G5: a rollout, an update, and whether their log-probabilities agree."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments.bench import batches
from experiments.bench.gpu import Command, Plan, best
from experiments.bench.gpu_decode import advance, at, backends, ceiling, model, number, random_weights
from experiments.bench.gpu_peers import torch_line
from experiments.bench.shapes import long_tailed, random_prompts
from r1jax import limits, sampler
from r1jax.logprobs import packed_logprobs
from r1jax.model import transformer
from r1jax.model.config import ModelConfig
from r1jax.rollout import Minibatch, pack
from r1jax.sharding import make_mesh, place
from r1jax.update import Learner, grpo_objective, start, update

FULL = dict(
    prompts=64, group=16, prompt=256, mean=1100, most=4096, candidates=32_768, part=8, steps=64,
    row=4096, rows=4, micro=4, rows_padded=8, agree=(16, 16, 1024), exact=8,
)  # fmt: skip
SMALL = dict(
    prompts=2, group=2, prompt=8, mean=8, most=20, candidates=512, part=2, steps=4,
    row=64, rows=2, micro=2, rows_padded=2, agree=(2, 2, 10), exact=2,
)  # fmt: skip


def size(command: Command) -> dict[str, Any]:
    return SMALL if command.toy else FULL


def forced(
    cfg: ModelConfig, lengths: np.ndarray, s: dict[str, Any]
) -> tuple[sampler.Weights, tuple[int, ...], np.ndarray]:
    """A model that finds all tokens equally likely at full cost, its stop tokens, and row keys that stop it about where
    told.

    As in C3, but the keys nearest to each length are taken: thousands of lengths have no key of their own.
    """
    whole = dataclasses.replace(cfg, tie_embeddings=False)
    weights = random_weights(whole)
    weights = weights._replace(
        params=weights.params | {"unembed": {"kernel": 1e-6 * weights.params["unembed"]["kernel"]}}
    )
    stops = max(1, round(cfg.vocab_size / s["mean"]))
    keys = sampler.row_keys(0, 0, np.zeros(s["candidates"], np.int64), np.arange(s["candidates"]))

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
    """G3: `sample` as it is, and the same programs on a full window without compaction or growth."""
    s, cfg = size(command), model(command)
    whole = dataclasses.replace(cfg, tie_embeddings=False)
    prompts = random_prompts(cfg, s["prompts"], s["prompt"])
    count, mesh = s["prompts"] * s["group"], make_mesh("1x1")

    def wave(attention: str) -> dict[str, Any]:
        weights, stop_ids, keys = forced(cfg, long_tailed(count, s["mean"], s["most"]), s)
        found = []

        def call() -> None:
            found.append(
                sampler.sample(
                    whole, weights, prompts, keys, mesh, max_tokens=s["most"], temperature=1.0, stop_ids=stop_ids,
                    pad_id=0,
                    dtype=number(), attention=attention,
                ).lengths
            )  # fmt: skip

        seconds, first = best(call, 1 if command.toy else 2)
        lengths = found[-1]
        fraction = limits.decode_fraction(whole, ceiling(lines), [s["prompt"]] * s["prompts"], lengths, seconds)
        return {
            "value": float(lengths.sum()) / seconds, "unit": "tokens/s", "seconds": seconds, "fraction": fraction,
            "compile_s": first - seconds,
            "mean_length": float(lengths.mean()), "longest": int(lengths.max()), "attention": attention,
        }  # fmt: skip

    def static() -> dict[str, Any]:
        """One `part`-th of the rows for two chunks; every step of a full window costs the same."""
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
    """G4: `micro` micro-batches of packed rows; the same completions padded; torch on as many tokens of plain rows."""
    s, cfg = size(command), model(command)

    def step(attention: str, padded: bool) -> dict[str, Any]:
        wanted = s["rows"] * s["micro"]
        lengths = long_tailed(4 * wanted, min(s["mean"], s["row"] // 4), min(s["most"], s["row"] - s["prompt"]))
        prompts = random_prompts(cfg, len(lengths), s["prompt"])
        done = batches.completions(cfg, lengths, 4)
        if padded:  # a few rows are enough: padded rows all cost the same
            done = done[: s["rows_padded"]]
        batch = batches.minibatch(prompts, done, s["row"], padded=padded)
        parts = cut(batch, s["rows_padded"] if padded else s["rows"])
        learner = Learner(
            cfg,
            optax.adamw(1e-6),
            grpo_objective(0.2, 0.0),
            1.0,
            number(),
            remat="full",
            attention=attention,
            mesh=make_mesh("1x1"),
        )
        params = place(jax.jit(functools.partial(transformer.init, cfg))(jax.random.key(0)), learner.mesh)
        state = [start(learner, params, learner.mesh)]
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
            "value": tokens / seconds, "unit": "completion tokens/s", "seconds": seconds, "compile_s": first - seconds,
            "slots_per_s": len(parts) * parts[0].weight.size / seconds, "tokens": tokens, "attention": attention,
            "mfu": limits.mfu(cfg, ceiling(lines), shared, grouped, seconds),
        }  # fmt: skip

    for attention in backends(cfg):
        yield f"packed {attention}", functools.partial(step, attention, False)
    yield "padded", functools.partial(step, backends(cfg)[-1], True)
    if command.torch_python:
        yield "torch", lambda: torch_line(command, "train", cfg, rows=s["rows"] * s["micro"], length=s["row"])


def cut(batch: Minibatch, rows: int) -> list[Minibatch]:
    """Micro-batches of `rows` rows, the last one filled with rows of nothing."""
    count = batch.weight.shape[0]
    more = -count % rows
    wide = jax.tree.map(lambda x: jnp.pad(x, ((0, more), (0, 0))), batch)
    return [jax.tree.map(lambda x, i=i: x[i : i + rows], wide) for i in range(0, count + more, rows)]


def agreement(command: Command, lines: list[dict[str, Any]]) -> Plan:
    """G5: bfloat16 log-probabilities of the sampler beside those of the trainer, and beside a float32 forward pass of a
    few rows."""
    s, cfg = size(command), model(command)
    count, group, most = s["agree"]

    def gaps(attention: str) -> dict[str, Any]:
        params = jax.jit(functools.partial(transformer.init, cfg))(jax.random.key(0))
        # On a flat distribution nothing shows. Tied to its embedding, a token finds itself with a logit of about log V:
        # half the mass.
        params["embed"]["embedding"] = params["embed"]["embedding"] * (np.log(cfg.vocab_size) / (0.02 * cfg.width))
        mesh = make_mesh("1x1")
        keys = sampler.row_keys(0, 0, np.repeat(np.arange(count), group), np.tile(np.arange(group), count))
        rollout = sampler.sample(
            cfg, sampler.sync(params, mesh, number()), random_prompts(cfg, count, s["prompt"]), keys, mesh,
            max_tokens=most,
            temperature=1.0, stop_ids=(cfg.vocab_size,), pad_id=0, dtype=number(), attention=attention,
        )  # fmt: skip
        score = jax.jit(functools.partial(packed_logprobs, cfg), static_argnames=("dtype", "attention"))
        found: dict[str, list[np.ndarray]] = {"trainer": [], "sampler": [], "exact": [], "sampler where exact": []}
        for i, tokens in enumerate(rollout.tokens):  # row by row: any batch of rows costs the memory of its logits only
            rows, (place,) = pack([rollout.prompts[i // group]], [(0, tokens)], s["prompt"] + most)
            here = slice(place.start, place.start + len(tokens))
            found["trainer"].append(np.asarray(score(params, rows, dtype=number(), attention=attention)[0])[0, here])
            found["sampler"].append(rollout.logp[i])
            if i < s["exact"]:
                found["exact"].append(np.asarray(score(params, rows, dtype=jnp.float32, attention="xla")[0])[0, here])
                found["sampler where exact"].append(rollout.logp[i])
        gap = np.concatenate(found["trainer"]) - np.concatenate(found["sampler"])
        exact = np.concatenate(found["exact"]) - np.concatenate(found["sampler where exact"])
        return {
            "value": float(np.abs(gap).mean()), "unit": "nats", "max": float(np.abs(gap).max()),
            "k3": float((np.expm1(gap) - gap).mean()),
            "beside_float32": {"mean": float(np.abs(exact).mean()), "max": float(np.abs(exact).max())},
            "entropy_per_token": float(-np.concatenate(found["sampler"]).mean()), "tokens": len(gap),
            "attention": attention,
        }  # fmt: skip

    for attention in backends(cfg):
        yield f"gap {attention}", functools.partial(gaps, attention)
