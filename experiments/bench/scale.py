"""Prints the FLOPs, bytes sent and bytes of memory of one device in a run's compiled programs, next to ideal values.

Run    python -m experiments.bench.scale --model=qwen2.5-1.5b --mesh=fsdp:8
       python -m experiments.bench.scale --model=deepseek-v3 --layers=4 --mesh=fsdp:4,expert:8 --json

Programs are compiled for fake CPU devices and read as text (`hlo`). No weights are made and nothing runs, so any model
fits any laptop. The ideal FLOPs and bytes sent assume that the work is divided evenly among the devices
(`scale_ideal`). The memory is compared with the memory that `--dry-run` of a run predicts (`r1jax.planning.memory`).

The programs differ from an accelerator's programs in three ways. First, everything is float32, because CPUs have no
products in bfloat16. On an accelerator, activations and gathered weights have half the bytes. Second, attention is
XLA's einsum instead of a kernel. The einsum computes the same products, but also stores the scores. Third, the experts'
ragged products are replaced by an einsum in which all experts get equally many tokens. The compilers for GPUs and TPUs
also rewrite all-reduces in two ways. The counts assume both rewrites (`hlo.reduced`).
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
from typing import Any

import tyro


@dataclasses.dataclass(frozen=True)
class Options:
    """Flags of the command: the model, the mesh, and the sizes of the programs."""

    model: str = "qwen2.5-1.5b"
    """A known model: a key of `r1jax.model.presets.PRESETS`."""
    mesh: str = "fsdp:8"
    """A mesh, in the form that --mesh of a run takes."""
    layers: int = 2
    """Number of layers to compile, counted from the first layer; 0 compiles all layers."""
    scale_up: bool = False
    """Also compile one layer more, and extrapolate from the difference to all layers of the model."""
    programs: tuple[str, ...] = ("score", "update", "prefill", "decode", "sync")
    """Which programs to compile."""
    rows: int = 1
    """Number of rows on each row shard. The row shards are the parts into which the mesh splits the rows. In training
    programs, a row is a packed row of a micro-batch. In the sampler's programs, a row is a completion with a prompt of
    its own."""
    row_length: int = 1024
    """S, the number of token slots of a packed row. The sampler's prompts have S tokens each, and their completions
    have room for S more."""
    unembedded: float = 0.875
    """Share of the slots of a packed row that belong to completions. Logits are computed in these slots only."""
    remat: str = "full"
    """What the backward pass recomputes: none (nothing), dots (all but attention and products with weights) or full
    (all but attention)."""
    json: bool = False
    """Print a JSON object for each program instead of a table."""


def devices_of(mesh: str) -> int:
    """Returns the number of devices of a mesh. Does not import JAX: the number must be set before JAX is imported.

    A size that is not a number counts as 1; `make_mesh` raises the error later.
    """
    sizes = [part.rpartition(":")[2] for part in mesh.split(",")] if ":" in mesh else mesh.split("x")
    return math.prod(int(size) if size.isdecimal() else 1 for size in sizes)


def measure(options: Options, layers: int) -> dict[str, dict[str, Any]]:
    """Returns {program: its figures} for a model with only the first `layers` layers.

    The figures are a dict with the FLOPs of one device, the bytes it sends and the bytes it holds, each beside the
    ideal or predicted value. The dict also holds the bytes sent by each kind of collective, and the number of loops of
    unknown length.
    """
    from experiments.bench import hlo
    from experiments.bench.scale_ideal import Case
    from experiments.bench.scale_programs import PROGRAMS, build
    from r1jax.model.presets import PRESETS
    from r1jax.sharding import make_mesh, row_shards

    if options.model not in PRESETS:
        raise ValueError(f"--model={options.model} is unknown: use one of {', '.join(PRESETS)}")
    if unknown := sorted(set(options.programs) - set(PROGRAMS)):
        raise ValueError(f"--programs={' '.join(unknown)} is unknown: use some of {', '.join(PROGRAMS)}")
    cfg = dataclasses.replace(PRESETS[options.model], layers=layers, mtp_layers=0)
    if cfg.windows:
        cfg = dataclasses.replace(cfg, windows=cfg.windows[:layers])
    mesh = make_mesh(options.mesh)
    unembedded = round(options.row_length * options.unembedded)
    case = Case(cfg, mesh, options.rows * row_shards(mesh), options.row_length, unembedded, options.remat)
    found = {}
    for name in options.programs:
        subject = build(name, case)
        costs = hlo.count(subject.compiled.as_text(), mesh.size)
        held = subject.compiled.memory_analysis()
        found[name] = {
            "flops": costs.flops,
            "flops_ideal": subject.flops,
            "sent_bytes": sum(costs.sent.values()),
            "sent_bytes_ideal": subject.sent,
            "held_bytes": held.argument_size_in_bytes
            + held.output_size_in_bytes
            + held.temp_size_in_bytes
            - held.alias_size_in_bytes,
            "plan_bytes": subject.plan,
            "sent_by_kind": costs.sent,
            "loops_counted_once": costs.unknown,
        }
    return found


def grow(few: dict[str, Any], more: dict[str, Any], layers: int) -> dict[str, Any]:
    """Extrapolates the figures of a program (see `measure`) to `layers` more layers.

    Args:
        few: the figures of the program.
        more: the figures of the same program with one layer more. The difference is what a layer costs.
    """
    return {
        key: grow(value, more[key], layers)
        if isinstance(value, dict)
        else value
        if key == "loops_counted_once"
        else value + layers * (more[key] - value)
        for key, value in few.items()
    }


def figures(options: Options) -> dict[str, dict[str, Any]]:
    """Returns {program: its figures}, as `measure` does. --scale-up extrapolates them to all layers of the model."""
    from r1jax.model.presets import PRESETS

    whole = PRESETS[options.model].layers if options.model in PRESETS else 0
    layers = options.layers or whole
    found = measure(options, layers)
    if options.scale_up and layers < whole:
        more = measure(options, layers + 1)
        found = {name: grow(few, more[name], whole - layers) for name, few in found.items()}
    return found


def table(found: dict[str, dict[str, Any]]) -> str:
    """Returns the figures as a Markdown table with a row for each program."""
    head = ["", "GFLOP", "ideal", "ratio", "GB sent", "ideal", "ratio", "GB held", "plan", "ratio", "GB sent by kind"]
    rows = [head, ["---"] * len(head)]
    for name, each in found.items():
        cells = [name]
        for got, want in (("flops", "flops_ideal"), ("sent_bytes", "sent_bytes_ideal"), ("held_bytes", "plan_bytes")):
            cells += [f"{each[got] / 1e9:.3g}", f"{each[want] / 1e9:.3g}"]
            cells.append(f"{each[got] / each[want]:.2f}" if each[want] else "")
        kinds = sorted(each["sent_by_kind"].items(), key=lambda pair: -pair[1])
        cells.append(", ".join(f"{kind} {size / 1e9:.3g}" for kind, size in kinds if size > 5e5))
        if each["loops_counted_once"]:
            cells[0] += f" ({each['loops_counted_once']} loops of unknown length counted once)"
        rows.append(cells)
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def main() -> None:
    options = tyro.cli(Options, prog="python -m experiments.bench.scale")
    os.environ["JAX_PLATFORMS"] = "cpu"
    os.environ["JAX_NUM_CPU_DEVICES"] = str(devices_of(options.mesh))
    found = figures(options)
    if options.json:
        for name, each in found.items():
            same = {key: getattr(options, key) for key in ("model", "mesh", "layers", "scale_up")}
            print(json.dumps({"program": name} | same | each))
        return
    cut = f"first {options.layers} layers" if options.layers and not options.scale_up else "all layers"
    print(f"{options.model}, {cut}, --mesh={options.mesh}: one device, float32")
    print("Attention is an einsum in place of its kernel; experts' ragged products are einsums for an even load.\n")
    print(table(found))


if __name__ == "__main__":
    main()
