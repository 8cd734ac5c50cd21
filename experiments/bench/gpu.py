"""G0-G5 on one GPU: `python -m experiments.bench.gpu`, a JSON line for each measurement, kept as it comes.

Run    python -m experiments.bench.gpu --parts G0 G1 G2        each part within ten minutes of one H200
       python -m experiments.bench.gpu --toy=True              seconds on a CPU; says nothing about speed
Again  the same command: what `--out` holds without an error is not measured again. Past `--seconds` nothing new begins.

Qwen2.5-1.5B's shape, random weights, synthetic tokens, bfloat16. Limits are `r1jax.limits` with the ceilings that G0
measured in the same file, so G0 comes first. Programs are kept between runs, and their seconds of compilation are told
apart.

G0  bandwidth, and products as decoding has them
G1  one decoding step by context, XLA beside the kernel
G2  one decision of the decoder changed at a time
G3  a rollout of 1,024 rows with a long tail, beside a static one
G4  an update of packed rows, beside padded ones and beside torch
G5  the sampler's log-probabilities, beside the trainer's
"""

from __future__ import annotations

import dataclasses
import json
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import tyro

Measurement = Callable[[], dict[str, Any]]
Plan = Iterator[tuple[str, Measurement]]


@dataclasses.dataclass(frozen=True)
class Command:
    parts: tuple[str, ...] = ("G0", "G1", "G2", "G3", "G4", "G5")
    """In this order."""
    out: str = "gpu.jsonl"
    """Lines are added here."""
    toy: bool = False
    """A toy model and toy sizes, for any machine."""
    seconds: float = 540.0
    """No measurement begins after so many."""
    repeats: int = 5
    """Of each call; the best counts."""
    torch_python: str = "python"
    """An interpreter with torch and transformers, for the baselines of G1 and G4; "" leaves them out."""


def best(call: Callable[[], Any], repeats: int) -> tuple[float, float]:
    """Least seconds of a call, and seconds of the first, compilation included."""
    import jax

    def spent() -> float:
        start = time.perf_counter()
        jax.block_until_ready(call())
        return time.perf_counter() - start

    first = spent()
    return min(spent() for _ in range(repeats)), first


def plan(part: str, command: Command, lines: list[dict[str, Any]]) -> Plan:
    """The measurements of a part by name."""
    from experiments.bench import gpu_ablations, gpu_decode, gpu_rounds

    sources = {
        "G0": gpu_decode.ceilings, "G1": gpu_decode.steps, "G2": gpu_ablations.ablations,
        "G3": gpu_rounds.rollouts, "G4": gpu_rounds.updates, "G5": gpu_rounds.agreement,
    }  # fmt: skip
    if part not in sources:
        raise ValueError(f"--parts={part} is none of {', '.join(sources)}")
    return sources[part](command, lines)


def read(path: Path) -> list[dict[str, Any]]:
    """The lines of earlier runs that hold a measurement; one cut off by a kill is dropped."""
    found = []
    for text in path.read_text(encoding="utf-8").splitlines() if path.exists() else ():
        try:
            line = json.loads(text)
        except json.JSONDecodeError:
            continue
        found += [line] if "error" not in line else []
    return found


def measure(command: Command) -> list[dict[str, Any]]:
    """Runs what `--out` lacks. Returns all lines without errors.

    Raises:
        ValueError: an unknown part, or lines of a toy beside lines of the full size.
    """
    import jax

    from experiments.bench.measure import rounded
    from r1jax import launch

    if not command.toy:
        launch.keep_compilations()
    path, began = Path(command.out), time.monotonic()
    lines = read(path)
    if any(line["toy"] != command.toy for line in lines):
        raise ValueError(f"--out={path} holds lines with toy={not command.toy}: name another file")
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
                    line |= rounded(call())
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
    # JAX must leave room for torch, which runs beside it for the baselines.
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    measure(tyro.cli(tyro.conf.FlagConversionOff[Command], description=__doc__))


if __name__ == "__main__":
    main()
