"""Benchmark C1: tokens per second of r1jax' sampler, tunix' sampler and transformers' generate, on the same weights.

There are 8 prompts of 48 tokens, with 16 completions of 80 tokens each, in float32. No completion stops early. CPU
seconds are measured on one thread, and wall time on two threads. On two threads r1jax uses a mesh of two CPU devices.
r1jax also returns log-probabilities; the peers do not.
"""

from __future__ import annotations

import contextlib
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from experiments.bench.measure import Options, line
from experiments.bench.worker import Side, take_turns

SIZES = {
    "full": dict(prompts=8, group=16, prompt=48, tokens=80),
    "toy": dict(prompts=2, group=2, prompt=8, tokens=6),
}


def write(directory: str, size: str) -> dict[str, int]:
    """Writes a model and prompts into a directory, from which r1jax and its peers read them.

    Returns the entry of `SIZES` for `size` ("full" or "toy"): the numbers of prompts, completions and tokens.
    """
    import numpy as np

    from experiments.bench.shapes import MODELS, random_params, random_prompts
    from r1jax.weights import export

    shape = SIZES[size]
    export(Path(directory), MODELS[size], random_params(MODELS[size]), np.float32)
    prompts = random_prompts(MODELS[size], shape["prompts"], shape["prompt"])
    Path(directory, "prompts.json").write_text(json.dumps(prompts))
    return shape


def ours(directory: str, group: int, tokens: int, ceiling: bool = False) -> tuple:
    """Prepares r1jax' sampler on all CPU devices that JAX shows. Returns (repeat, info).

    Each call of `repeat()` samples all completions and returns {"tokens": number of sampled tokens}. `info` is a
    dictionary for the report: "call" is the measured call as text, and "setup_s" the seconds of two warm-up calls.

    Args:
        directory: where `write` has put model and prompts.
        group: completions of each prompt.
        tokens: tokens of each completion.
        ceiling: whether to measure the hardware's limit too. `info` then has the key "limit", in tokens per second.
    """
    import jax
    import jax.numpy as jnp
    import numpy as np

    from r1jax import distributed
    from r1jax.planning import roofline
    from r1jax.sampling import sampler
    from r1jax.sampling.keys import row_keys
    from r1jax.sharding import make_mesh
    from r1jax.weights import from_hf

    if len(jax.devices()) > 1:
        jax.config.update("jax_cpu_enable_async_dispatch", False)  # as `distributed.share_cpu` sets it
    distributed.keep_compilations()
    mesh = make_mesh("auto")
    cfg, params = from_hf(Path(directory), mesh, jnp.float32)
    prompts = json.loads(Path(directory, "prompts.json").read_text())
    weights = sampler.sync(params, mesh)
    count = len(prompts) * group
    keys = row_keys(0, 0, np.repeat(range(len(prompts)), group), np.tile(range(group), len(prompts)))
    sampling = sampler.Sampling(tokens, stop_ids=(cfg.vocab_size,))

    def repeat() -> dict[str, Any]:
        rollout = sampler.sample(cfg, weights, prompts, keys, mesh, sampling)
        return {"tokens": int(rollout.lengths.sum())}

    start = time.perf_counter()
    repeat()
    repeat()
    call = f"sample(cfg, weights, prompts, keys, mesh, Sampling({tokens}, ..))  # {len(jax.devices())} devices"
    info = {"call": call, "setup_s": time.perf_counter() - start}
    if ceiling:
        core = roofline.measure_device(jax.devices(), clock=time.process_time)
        seconds = roofline.rollout_seconds(cfg, core, [len(p) for p in prompts], [tokens] * count, size=4, cache_size=4)
        info["limit"] = count * tokens / seconds
    return repeat, info


def measure(options: Options) -> dict[str, Any]:
    """Measures tokens per second of r1jax, tunix and transformers (benchmark C1). Returns the benchmark's JSON line."""
    found: dict[str, dict[str, list]] = {}
    info: dict[str, dict] = {}
    with tempfile.TemporaryDirectory() as directory:
        shape = write(directory, options.size)
        same = dict(directory=directory, group=shape["group"], tokens=shape["tokens"])
        for threads in (1, 2):
            with contextlib.ExitStack() as stack:

                def side(python: str, function: str, threads: int = threads, stack: Any = stack, **more: Any) -> Side:
                    return stack.enter_context(
                        Side(python, f"experiments.bench.{function}", threads=threads, **same, **more)
                    )

                sides = {
                    "r1jax": side(sys.executable, "decode:ours", devices=threads, ceiling=threads == 1),
                    "tunix greedy": side(options.tunix_python, "peers:tunix", sampled=False),
                    "tunix top-p": side(options.tunix_python, "peers:tunix", sampled=True),
                    "transformers static": side(options.transformers_python, "peers:transformers", cache="static"),
                    "transformers dynamic": side(options.transformers_python, "peers:transformers", cache="dynamic"),
                }
                found[f"{threads}"] = take_turns(sides, options.repeats)
                info |= {f"{name}, {threads} threads": each.info for name, each in sides.items()}
    return summary(found, info)


def rate(runs: list[dict], clock: str) -> float:
    """Returns the median tokens per second over the repeats `runs`. `clock` is "wall" or "cpu"."""
    return statistics.median(run["tokens"] / run[clock] for run in runs)


def best(rates: dict[str, float], peer: str) -> float | None:
    """Returns the rate of the peer's fastest setting; None if the peer is not installed.

    Args:
        rates: side -> tokens per second. A side is a package with its setting, such as "tunix greedy".
        peer: "tunix" or "transformers", the beginning of the side's name.
    """
    return max((value for name, value in rates.items() if name.startswith(peer)), default=None)


def summary(found: dict[str, dict[str, list]], info: dict[str, dict]) -> dict[str, Any]:
    """Returns the JSON line of benchmark C1, computed from the measured repeats.

    `ratio` holds r1jax's rate divided by the rate of each peer's fastest setting. The rates, in tokens per second, are
    compared twice: by CPU time on one thread, and by wall time with two threads. For the wall time, a peer may also use
    one thread if that is faster.

    Args:
        found: {number of threads: {side: reports of its repeats}}. The number of threads is "1" or "2". A side is a
            package with its setting, such as "tunix greedy". A report holds the keys "tokens", "wall" and "cpu".
        info: {key: dictionary}. A key names a side and a number of threads, such as "r1jax, 1 threads". The dictionary
            describes the side, with entries such as "call". See `ours` for the entries of r1jax.
    """
    cpu = {name: rate(runs, "cpu") for name, runs in found["1"].items()}
    wall = {name: rate(runs, "wall") for name, runs in found["2"].items()}
    # r1jax on two threads is compared with the peer's better result of one and two threads.
    alone = {name: rate(runs, "wall") for name, runs in found["1"].items()}
    ratios, goals = {}, {}
    for peer, least_wall in (("tunix", 4.0), ("transformers", 2.0)):
        one, two = best(cpu, peer), max(filter(None, (best(wall, peer), best(alone, peer))), default=None)
        ratios[peer] = {"cpu, one thread": one and cpu["r1jax"] / one, "wall, both cores": two and wall["r1jax"] / two}
        goals[f"one thread: >= 2.5 x {peer} in tokens a CPU second"] = one and ratios[peer]["cpu, one thread"] >= 2.5
        goals[f"both cores: >= {least_wall:.0f} x {peer} in wall time"] = (
            two and ratios[peer]["wall, both cores"] >= least_wall
        )
    ours = [run["tokens"] / run["cpu"] for run in found["1"]["r1jax"]]
    peers = {peer: best(cpu, peer) or "missing" for peer in ratios}
    limit = info["r1jax, 1 threads"]["limit"]
    return line(
        "decode",
        cpu["r1jax"],
        "tokens per CPU second, one thread",
        baseline=peers,
        ratio=ratios,
        limit=limit,
        fraction=cpu["r1jax"] / limit,
        spread=(max(ours) - min(ours)) / cpu["r1jax"],
        goals=goals,
        tokens_per_cpu_s=cpu,
        tokens_per_wall_s_two_threads=wall,
        tokens_per_wall_s_one_thread=alone,
        calls={name: each.get("call", each.get("missing")) for name, each in info.items()},
        setup_s={name: each["setup_s"] for name, each in info.items() if "setup_s" in each},
        versions={k: v for each in info.values() for k, v in each.get("versions", {}).items() if k != "jax"},
    )
