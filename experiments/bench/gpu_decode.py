"""Measures the device's memory bandwidth and FLOP/s (part G0 of `gpu`), and the time of one decoding step (G1)."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.bench.gpu_common import Command, Plan, best
from experiments.bench.gpu_peers import torch_line
from experiments.bench.shapes import TOY
from r1jax.model import presets, transformer
from r1jax.model.cache import Segment
from r1jax.model.config import ModelConfig
from r1jax.model.kernels.backends import attention_backend, own_reader
from r1jax.planning import roofline
from r1jax.sampling import programs, sampler
from r1jax.sampling.keys import row_keys
from r1jax.sampling.programs import Decoding, Rows, Weights
from r1jax.sharding import compute_dtype, make_mesh

FULL = dict(
    gigabytes=8,
    square=8192,
    rows=(64, 128, 256, 512, 1024),
    batch=256,
    group=16,
    prompt=64,
    contexts=(512, 1024, 2048, 4096),
    steps=64,
)
SMALL = dict(gigabytes=0.001, square=64, rows=(8, 16), batch=4, group=2, prompt=16, contexts=(128,), steps=2)


def model(command: Command) -> ModelConfig:
    return TOY if command.toy else presets.PRESETS["qwen2.5-1.5b"]


def size(command: Command) -> dict[str, Any]:
    return SMALL if command.toy else FULL


def number() -> Any:
    """Returns the dtype of the computation: float32 on CPUs, where XLA lacks some bfloat16 products; else bfloat16."""
    return compute_dtype(make_mesh("1x1"))


@functools.cache
def random_weights(cfg: ModelConfig) -> Weights:
    """Returns random weights, made on the device."""
    params = jax.jit(functools.partial(transformer.init, cfg))(jax.random.key(0))
    return sampler.sync(params, make_mesh("1x1"))


def backends(cfg: ModelConfig) -> tuple[str, ...]:
    """Returns the names of the attention backends to measure.

    On an accelerator these are "xla" and the machine's own kernel, if it has one. On a CPU the only name is "pallas":
    the GPU's kernel, which the CPU interprets. "xla" is left out there to save compilation time.
    """
    if jax.default_backend() == "cpu":
        return ("pallas",)
    return tuple(dict.fromkeys(("xla", attention_backend(make_mesh("1x1"), cfg))))


def noise(seed: int, *shape: int, dtype: Any = None) -> jax.Array:
    """Returns random numbers of the given shape, as the input of a measurement.

    Zeros would not do, because with zeros a GPU draws less power and runs faster.
    """
    dtype = number() if dtype is None else dtype
    return jax.jit(lambda key: jax.random.normal(key, shape, dtype))(jax.random.key(seed))


def ceilings(command: Command, lines: list[dict[str, Any]]) -> Plan:
    """Yields (name, call) for each measurement of part G0, the limits of the device. `call()` runs the measurement.

    The limits are the bytes/s of a copy and the FLOP/s of a large matrix product. The FLOP/s of two matrix products of
    a decoding step are measured too: one of the MLP, and the one of the output head. Each has several numbers of rows.

    Args:
        lines: the results so far; not used here.
    """
    s, cfg = size(command), model(command)

    def copy() -> dict[str, Any]:
        x = noise(0, int(s["gigabytes"] * 1e9) // 4, dtype=jnp.float32)
        seconds, first = best(lambda: jax.jit(lambda x: -x)(x), command.repeats)
        return {"value": 2 * x.nbytes / seconds, "unit": "bytes/s", "compile_s": first - seconds}

    def product(m: int, k: int, n: int) -> dict[str, Any]:
        a, b = noise(0, m, k), noise(1, k, n)
        multiply = jax.jit(lambda a, b: a @ b)
        seconds, first = best(lambda: multiply(a, b), command.repeats)
        return {"value": 2 * m * k * n / seconds, "unit": "FLOP/s", "rows": m, "compile_s": first - seconds}

    yield "copy", copy
    yield "square", functools.partial(product, *[s["square"]] * 3)
    for rows in s["rows"]:
        yield f"mlp x{rows}", functools.partial(product, rows, cfg.width, cfg.mlp_width)
        yield f"head x{rows}", functools.partial(product, rows, cfg.width, cfg.vocab_size)


def ceiling(lines: list[dict[str, Any]]) -> roofline.Device:
    """Returns the device's limits that G0 measured: its memory bandwidth and its FLOP/s.

    Raises:
        ValueError: `lines` lack these limits.
    """
    found = {line["name"]: line for line in lines if line["id"] == "G0"}
    if not {"copy", "square"} <= found.keys():
        raise ValueError(
            "--out does not hold this device's bandwidth and FLOP/s, which all other parts need: run --parts G0 first"
        )
    return roofline.Device(0.0, found["copy"]["value"], found["square"]["value"])


def at(
    cfg: ModelConfig, batch: int, group: int, prompt: int, clock: int, room: int
) -> tuple[list[list[Segment]], Rows]:
    """Returns (segments, rows): the decoder's state in the middle of a rollout, with random keys and values.

    `segments` is a list with one entry, for the cached prompts. This entry is a list with a `Segment` for each layer or
    stack of layers: the keys and values of all prompts.

    Args:
        batch: number of rows (completions).
        group: completions of each prompt.
        prompt: length of each prompt.
        clock: number of tokens that each row has sampled so far.
        room: token slots of each row's cache.
    """
    prompts = batch // group
    k, e = cfg.kv_heads, cfg.head_width
    depths = [transformer.depth(layers) for layers in random_weights(cfg).layers]
    stacks = [(n,) if n else () for n in depths]
    segments = [
        Segment(
            noise(i, *stack, prompts, k, e, prompt),
            noise(-i, *stack, prompts, k, prompt, e),
            jnp.full((*stack, prompts), prompt, jnp.int32),
        )
        for i, stack in enumerate(stacks)
    ]
    cache = [
        (noise(i, *stack, batch, k, e, room), noise(-i, *stack, batch, k, room, e)) for i, stack in enumerate(stacks)
    ]
    keys = jax.random.wrap_key_data(jnp.asarray(row_keys(0, 0, np.zeros(batch, np.int64), np.arange(batch))))
    rows = Rows(
        jnp.int32(clock),
        jnp.ones(batch, jnp.int32),
        jnp.zeros(batch, bool),
        jnp.full(batch, prompt, jnp.int32),
        keys,
        cache,
    )
    # Committed to the device, like the results that are fed back: `jit` would compile twice otherwise.
    return jax.device_put(([segments], rows), jax.devices()[0])


def advance(
    cfg: ModelConfig,
    weights: Weights,
    segments: list,
    rows: Rows,
    steps: int,
    attention: str,
    call: Any = programs.decode,
) -> Rows:
    """Decodes `steps` tokens of every row. Returns the rows.

    The returned rows keep the clock (number of sampled tokens) that the argument had. So every call does the same work.
    The argument `rows` is donated and must not be used again.

    Args:
        attention: name of the attention backend.
        call: the compiled decoding program.
    """
    clock, where = rows.clock + 0, placed(rows)
    read_own = own_reader(attention, make_mesh("1x1"))
    how = Decoding(steps, greedy=False, stop_ids=(-1,), pad_id=0, dtype=number(), read_own=read_own)
    after, _ = call(cfg, weights, segments, rows, jnp.float32(1.0), how)
    return jax.device_put(after._replace(clock=clock), where)


def placed(tree: Any) -> Any:
    """Returns the sharding of each array in `tree`, as a tree of the same structure.

    The result of one decoding call is the argument of the next call. jit describes the same placement in one way for
    a result and in another way for an argument, and would therefore compile again. So `advance` gives the result the
    shardings of the argument.
    """
    return jax.tree.map(lambda x: x.sharding, tree)


def step_line(
    command: Command, lines: list, context: int, attention: str, room: int, call: Any = programs.decode
) -> dict[str, Any]:
    """Times one chunk of decoding steps. The context has `context` tokens at the end of the chunk.

    Returns a dict. It holds tokens/s ("value"), the measured seconds of a step ("step_s"), the least seconds that the
    hardware allows for a step ("limit_s"), and other figures.

    Args:
        lines: the results so far, among them the hardware limits that part G0 measured (`gpu_decode.ceilings`).
        attention: name of the attention backend.
        room: token slots of each row's cache.
        call: the compiled decoding program.
    """
    s, cfg = size(command), model(command)
    clock = context - s["prompt"] - s["steps"]
    segments, rows = at(cfg, s["batch"], s["group"], s["prompt"], clock, room)
    state = [rows]

    def chunk() -> jax.Array:
        state[0] = advance(cfg, random_weights(cfg), segments, state[0], s["steps"], attention, call)
        return state[0].token

    seconds, first = best(chunk, command.repeats)
    device = ceiling(lines)
    slots = s["batch"] * (clock + s["steps"] / 2) + s["batch"] // s["group"] * s["prompt"]
    limit = float(roofline.decode_seconds(cfg, device, s["batch"], slots))
    step = seconds / s["steps"]
    return {
        "value": s["batch"] / step,
        "unit": "tokens/s",
        "step_s": step,
        "limit_s": limit,
        "fraction": limit / step,
        "compile_s": first - seconds,
        "attention": attention,
        "context": context,
        "room": room,
    }


def steps(command: Command, lines: list[dict[str, Any]]) -> Plan:
    """Yields (name, call) for each measurement of part G1. `call()` runs the measurement.

    Part G1 measures the time of one decoding step at several context lengths.

    A step is measured with a full cache and with a half empty cache. Both cases occur in a rollout, because the sampler
    doubles a full cache.

    Args:
        lines: the results so far, among them the hardware limits that part G0 measured (`gpu_decode.ceilings`).
    """
    for context in size(command)["contexts"]:
        for attention in dict.fromkeys(("xla", *backends(model(command)))):
            for room in (context, 2 * context):
                if room == context or (context == size(command)["contexts"][-1] and not command.toy):
                    name = f"step {context} {attention}{' half empty' if room > context else ''}"
                    yield name, functools.partial(step_line, command, lines, context, attention, room)
    s = size(command)
    if command.torch_python:
        yield (
            "transformers",
            lambda: torch_line(
                command,
                "generate",
                model(command),
                batch=s["batch"],
                prompt=s["prompt"],
                tokens=s["contexts"][0] - s["prompt"],
            ),
        )
