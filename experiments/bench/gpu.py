"""Measures r1jax on one GPU in six parts, G0 to G5. Appends a JSON line to `--out` as soon as a measurement ends.

Run    python -m experiments.bench.gpu --parts G0 G1 G2        each part takes at most ten minutes on one H200
       python -m experiments.bench.gpu --toy=True              seconds on a CPU; says nothing about speed
Again  the same command runs only measurements that `--out` lacks or that failed. After `--seconds`
       seconds it begins no further measurement.

The model has the shapes of Qwen2.5-1.5B, random weights and bfloat16; tokens are synthetic. `r1jax.planning.roofline`
computes the hardware's limits from the bandwidth and FLOP/s that G0 wrote to the same `--out`, so G0 must run first.
Compiled programs are kept on disk between runs. Compilation time is reported separately.

G0  memory bandwidth, and matrix products with the shapes that decoding uses
G1  one decoding step by context length; XLA's attention compared with the attention kernel chosen for the machine
G2  ablations of decoding: one design choice changed at a time
G3  a rollout of 1,024 rows with long-tailed lengths, compared with a static batch
G4  an update on packed rows, compared with padded rows and with torch
G5  the sampler's log-probabilities, compared with the trainer's
"""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import tyro

from experiments.bench.gpu_common import Command, Plan


def plan(part: str, command: Command, lines: list[dict[str, Any]]) -> Plan:
    """Yields (name, call) of each measurement of a part. A call runs the measurement and returns its result.

    Args:
        part: "G0" to "G5".
        lines: the results so far. The parts after G0 use the hardware limits that G0 measured.
    Raises:
        ValueError: the part is unknown.
    """
    from experiments.bench import gpu_ablations, gpu_decode, gpu_rounds

    sources = {
        "G0": gpu_decode.ceilings,
        "G1": gpu_decode.steps,
        "G2": gpu_ablations.ablations,
        "G3": gpu_rounds.rollouts,
        "G4": gpu_rounds.updates,
        "G5": gpu_rounds.agreement,
    }
    if part not in sources:
        raise ValueError(f"--parts={part} is unknown: choose from {', '.join(sources)}")
    return sources[part](command, lines)


def read(path: Path) -> list[dict[str, Any]]:
    """Returns the results of earlier runs in a .jsonl file. Leaves out failed results, and an incomplete last line."""
    found = []
    for text in path.read_text(encoding="utf-8").splitlines() if path.exists() else ():
        try:
            line = json.loads(text)
        except json.JSONDecodeError:
            continue
        found += [line] if "error" not in line else []
    return found


def measure(command: Command) -> list[dict[str, Any]]:
    """Runs the measurements that `--out` lacks. Returns all results that did not fail, old and new.

    Raises:
        ValueError: a part is unknown, or `--out` holds results of full size while the command asks for toy size, or
            the reverse.
    """
    import jax

    from experiments.bench.measure import round_floats
    from r1jax import distributed

    if not command.toy:
        distributed.keep_compilations()
    path, began = Path(command.out), time.monotonic()
    lines = read(path)
    if any(line["toy"] != command.toy for line in lines):
        raise ValueError(
            f"--out={path} holds results of --toy={not command.toy}, but this command has --toy={command.toy}: "
            "name another file with --out"
        )
    device = jax.devices()[0].device_kind
    with path.open("a", encoding="utf-8") as out:
        if path.stat().st_size and not path.read_bytes().endswith(b"\n"):
            out.write("\n")
        for part in command.parts:
            for name, call in plan(part, command, lines):
                if any((line["id"], line["name"]) == (part, name) for line in lines):
                    continue
                if time.monotonic() - began > command.seconds:
                    print(
                        f"--seconds={command.seconds:g} are over before {part} {name}: run the same command again",
                        flush=True,
                    )
                    return lines
                start = time.monotonic()
                line = {"id": part, "name": name, "toy": command.toy, "device": device, "jax": jax.__version__}
                try:
                    line |= round_floats(call())
                    lines.append(line)
                except (
                    Exception
                ) as error:  # one measurement that fails (memory, a missing peer) must not cost the others
                    line |= {"error": f"{type(error).__name__}: {error}"[:2000]}
                text = json.dumps(line | {"took_s": round(time.monotonic() - start, 2)})
                out.write(text + "\n")
                out.flush()
                os.fsync(out.fileno())
                print(text, flush=True)
    return lines


def main() -> None:
    # JAX must leave room for torch, which runs at the same time for the baselines.
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    measure(tyro.cli(tyro.conf.FlagConversionOff[Command], description=__doc__))


if __name__ == "__main__":
    main()
