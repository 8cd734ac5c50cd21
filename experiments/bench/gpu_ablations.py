"""Measures part G2 of the GPU measurements: a decoding step with one design choice changed at a time."""

from __future__ import annotations

import functools
from typing import Any
from unittest import mock

import jax
import jax.numpy as jnp

from experiments.bench.gpu_common import Command, Plan, best
from experiments.bench.gpu_decode import backends, model, noise, placed, random_weights, size, step_line
from r1jax.model import config
from r1jax.model.config import ModelConfig
from r1jax.sampling import programs, sampler
from r1jax.sampling.drawing import draw
from r1jax.sampling.programs import Decoding, Rows, Weights


def ablations(command: Command, lines: list[dict[str, Any]]) -> Plan:
    """Yields (name, call) for each measurement of part G2. `call()` measures, and returns the results as a dictionary.

    Each measurement changes one design choice of a decoding step. Its result "ratio" is the time of r1jax's design
    divided by the time of the alternative. Below 1, r1jax's design is faster.

    Args:
        lines: the results so far. They include the hardware limits that part G0 measured (`gpu_decode.ceilings`).
    """
    s, cfg = size(command), model(command)
    context, attention = s["contexts"][0], backends(cfg)[-1]
    baseline = functools.cache(lambda: step_line(command, lines, context, attention, context))

    def against(call: Any) -> dict[str, Any]:
        ours, other = baseline(), step_line(command, lines, context, attention, context, call)
        return {
            "value": other["step_s"],
            "unit": "s",
            "ours": ours["step_s"],
            "ratio": ours["step_s"] / other["step_s"],
        }

    static = ("cfg", "how")

    def undonated() -> dict[str, Any]:
        return against(jax.jit(programs.decode.__wrapped__, static_argnames=static))

    def one_by_one() -> dict[str, Any]:
        baseline()
        with mock.patch.object(config, "UNROLLED", cfg.layers):
            sampler.sync.clear_cache()
            random_weights.cache_clear()
            found = against(programs.decode)
        sampler.sync.clear_cache()
        random_weights.cache_clear()
        return found

    def until_done() -> dict[str, Any]:
        def loop(
            cfg: ModelConfig, weights: Weights, segments: list, rows: Rows, temperature: Any, how: Decoding
        ) -> Any:
            end = rows.clock + how.steps

            def more(rows: Rows) -> jax.Array:
                return (rows.clock < end) & ~rows.done.all()

            one = functools.partial(
                programs.decode.__wrapped__, cfg, weights, segments, temperature=temperature, how=how._replace(steps=1)
            )
            return jax.lax.while_loop(more, lambda rows: one(rows=rows)[0], rows), None

        return against(jax.jit(loop, static_argnames=static, donate_argnames=("rows",)))

    def command_buffers(kinds: str) -> dict[str, Any]:
        options = {"xla_gpu_enable_command_buffer": kinds}
        return against(
            jax.jit(
                programs.decode.__wrapped__, static_argnames=static, donate_argnames=("rows",), compiler_options=options
            )
        )

    def drawing() -> dict[str, Any]:
        logits = noise(0, s["batch"], cfg.vocab_size, dtype=jnp.float32)
        keys = jax.random.split(jax.random.key(0), s["batch"])
        ours = jax.jit(lambda x: draw(x, keys, jnp.int32(1), jnp.float32(1.0), greedy=False))

        def categorical(x: jax.Array) -> tuple[jax.Array, jax.Array]:
            token = jax.random.categorical(jax.random.key(0), x)
            return token, jnp.take_along_axis(jax.nn.log_softmax(x), token[:, None], axis=-1)[:, 0]

        mine, theirs = (best(lambda f=f: f(logits), command.repeats)[0] for f in (ours, jax.jit(categorical)))
        return {"value": theirs, "unit": "s", "ours": mine, "ratio": mine / theirs}

    def layout(write: str, k_read: str, stacked: bool = False) -> dict[str, Any]:
        mine = cache_seconds(command, "bkes", "bkse", False)
        other = cache_seconds(command, write, k_read, stacked)
        return {"value": other, "unit": "s", "ours": mine, "ratio": mine / other}

    yield "not donated", undonated
    yield "layers one by one", one_by_one
    yield "while not all done", until_done
    if jax.default_backend() == "gpu":
        yield "without command buffers", lambda: command_buffers("")
        yield "all command buffers", lambda: command_buffers("FUSION,CUBLAS,CUBLASLT,CUDNN,CUSTOM_CALL")
    yield "categorical", drawing
    yield "keys not transposed", lambda: layout("bkse", "bkse")
    yield "sequence first", lambda: layout("bske", "bske")
    yield "one stacked cache", lambda: layout("bkes", "bkse", True)


def cache_seconds(command: Command, k_axes: str, v_axes: str, stacked: bool) -> float:
    """Returns the seconds that the attention of all layers takes in one decoding step.

    In each layer one slot of the cache is written, then all slots are read.

    Args:
        k_axes, v_axes: order of the axes in the caches of keys and of values, such as "bkes": b is the rows, k the
            heads, s the slots and e the head width.
        stacked: whether the caches of all layers form one stacked array.
    """
    s, cfg = size(command), model(command)
    extent = {"b": s["batch"], "k": cfg.kv_heads, "s": s["contexts"][0], "e": cfg.head_width}
    layers = cfg.layers
    one = {axes: noise(0, *(extent[a] for a in axes)) for axes in (k_axes, v_axes)}
    caches = [(one[k_axes] + i, one[v_axes] + i) for i in range(layers)]
    if stacked:
        caches = tuple(jnp.stack(x) for x in zip(*caches, strict=True))
    q = noise(1, s["batch"], cfg.kv_heads, cfg.heads // cfg.kv_heads, cfg.head_width)

    def put(cache: jax.Array, axes: str, slot: jax.Array) -> jax.Array:
        new = jnp.ones([1 if a == "s" else extent[a] for a in axes], cache.dtype)
        return jax.lax.dynamic_update_slice_in_dim(cache, new, slot, axes.index("s"))

    def read(q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
        weights = jax.nn.softmax(jnp.einsum(f"bkme,{k_axes}->bkms", q, k, preferred_element_type=jnp.float32), axis=-1)
        return jnp.einsum(f"bkms,{v_axes}->bkme", weights.astype(v.dtype), v)

    def layer(q: jax.Array, k: jax.Array, v: jax.Array, slot: jax.Array) -> tuple[jax.Array, tuple]:
        k, v = put(k, k_axes, slot), put(v, v_axes, slot)
        return read(q, k, v), (k, v)

    def step(carry: tuple, slot: jax.Array) -> tuple[tuple, None]:
        q, caches = carry
        if stacked:
            q, caches = jax.lax.scan(lambda q, kv: layer(q, *kv, slot), q, caches)
        else:
            kept = []
            for k, v in caches:
                q, pair = layer(q, k, v, slot)
                kept.append(pair)
            caches = kept
        return (q, caches), None

    run = jax.jit(lambda q, caches: jax.lax.scan(step, (q, caches), jnp.arange(s["steps"]))[0], donate_argnums=1)
    q, caches = jax.device_put((q, caches), jax.devices()[0])
    state, where = [caches], placed(caches)

    def chunk() -> jax.Array:
        out, after = run(q, state[0])
        state[0] = jax.device_put(after, where)
        return out

    return best(chunk, command.repeats)[0] / s["steps"]
