"""Completions of a policy, wave by wave into a file from which a killed run goes on.

A *wave* is one call of the sampler: several questions of each process with all their samples. Which questions share a
wave is a function of the settings alone, so a run that was killed ends with the file of one that was not.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh

from r1jax import lineage, log, sampler
from r1jax.checks import require
from r1jax.data import prompts as questions
from r1jax.launch import is_main
from r1jax.progress import Progress
from r1jax.prompts import fill
from r1jax.rounds import complete
from r1jax.run import Policy

WHOLE = "{question}"  # the template of prompts that are complete already


@dataclasses.dataclass(frozen=True)
class Sampling:
    """How completions are drawn."""

    samples: int = 4
    """Completions of each problem; to an evaluation 0 means the paper's number for each benchmark."""
    temperature: float = 1.0
    """0 is greedy."""
    top_p: float = 1.0
    """Only the likeliest tokens that hold this share; 1: all."""
    top_k: int = 0
    """Only so many tokens; 0: all."""
    min_p: float = 0.0
    """Only tokens at least this share as likely as the likeliest; 0: all."""
    max_tokens: int = 320
    """A completion is cut here."""
    wave_rows: int = 512
    """Completions that each process draws together; what they need of memory bounds it."""


class Wave(NamedTuple):
    """What one call of the sampler gave this process: N rows, question-major, with the example of each."""

    examples: list[dict]
    samples: list[int]
    texts: list[str]
    lengths: np.ndarray
    stopped: np.ndarray


class Plan(NamedTuple):
    """Which examples each process draws in each wave: `size` neighbours; past the last one it draws that in vain."""

    count: int
    processes: int
    waves: int
    size: int

    @classmethod
    def of(cls, count: int, processes: int, sampling: Sampling) -> Plan:
        each = -(-count // processes)
        waves = -(-each // max(1, sampling.wave_rows // sampling.samples))
        return cls(count, processes, waves, -(-each // waves))

    def members(self, wave: int, process: int) -> list[int]:
        start = (wave * self.processes + process) * self.size
        return [i for i in range(start, start + self.size) if i < self.count]


def check(sampling: Sampling) -> None:
    """Raises ValueError for numbers that cannot be sampled with."""
    rules = (
        (sampling.samples >= 1, f"--samples={sampling.samples} must be at least 1"),
        (sampling.temperature >= 0, f"--temperature={sampling.temperature} must be 0, which is greedy, or more"),
        (0 < sampling.top_p <= 1, f"--top-p={sampling.top_p} must lie in (0, 1]; 1 leaves every token"),
        (sampling.top_k >= 0, f"--top-k={sampling.top_k} must be 0, which leaves every token, or more"),
        (0 <= sampling.min_p <= 1, f"--min-p={sampling.min_p} must lie in [0, 1]; 0 leaves every token"),
        (sampling.max_tokens >= 1, f"--max-tokens={sampling.max_tokens} must be at least 1"),
        (sampling.wave_rows >= 1, f"--wave-rows={sampling.wave_rows} must be at least 1"),
    )
    require(rules)


def in_waves(
    policy: Policy,
    params: dict,
    examples: Sequence[dict],
    mesh: Mesh,
    sampling: Sampling,
    path: Path,
    lines: Callable[[Wave], list[dict]],
    *,
    seed: int,
    settings: Mapping,
    prompts: Sequence[str] | None = None,
) -> list[dict]:
    """What `lines` says about every completion, in the order of examples and samples; `path` holds it too.

    Each process writes the lines of its own waves as they come, several processes beside `path`; whole waves that are
    there are not drawn again.

    Args:
        lines: one line for each row of a wave.
        seed: of the noise, with the example's id and the sample's index.
        settings: what besides the arguments the lines depend on, such as the checkpoint's sha256.
        prompts: the whole prompt of each example; by default the policy's template with its problem put in.

    Raises:
        ValueError: nothing to sample, numbers that cannot be, or a `path` with lines of other settings.
    """  # fmt: skip
    check(sampling)
    if not examples:
        raise ValueError("there is no problem to sample: give at least one")
    prompts = prompts or [fill(policy.template, example["problem"]) for example in examples]
    policy = policy._replace(template=WHOLE)
    asked = [example | {"problem": prompt} for example, prompt in zip(examples, prompts, strict=True)]
    plan = Plan.of(len(examples), jax.process_count(), sampling)
    stated = {
        "sampling": dataclasses.asdict(sampling),
        "seed": seed,
        "processes": plan.processes,
        "prompts": questions.fingerprint(asked),
    }
    claim(path, stated | dict(settings))
    own, me = shard(path, plan), jax.process_index()
    done = sampler.agreed(whole_waves(own, plan, sampling.samples, me), min)
    keep_lines(own, sum(len(plan.members(w, me)) for w in range(done)) * sampling.samples)
    if done < plan.waves:
        weights = sampler.sync(params, mesh)
        # experts read the mesh where they are visited
        with (
            log.JsonLines(own) as file,
            Progress(plan.waves, done) as progress,
            jax.set_mesh(mesh) if policy.cfg.experts else contextlib.nullcontext(),
        ):
            for w in range(done, plan.waves):
                began, mine = time.monotonic(), plan.members(w, me)
                drawn = [asked[i] for i in mine] + [asked[-1]] * (plan.size - len(mine))
                rollout, texts = complete(
                    policy, weights, drawn, sampling.samples, mesh, seed=seed, round_=0,
                    temperature=sampling.temperature, max_tokens=sampling.max_tokens,
                    top_k=sampling.top_k, top_p=sampling.top_p, min_p=sampling.min_p,
                )  # fmt: skip
                n = len(mine) * sampling.samples
                rows = [examples[i] for i in mine for _ in range(sampling.samples)]
                numbers = list(range(sampling.samples)) * len(mine)
                for line in lines(Wave(rows, numbers, texts[:n], rollout.lengths[:n], rollout.stopped[:n])):
                    file.write(line)
                seconds = time.monotonic() - began
                progress.update(
                    w + 1, {"length": float(rollout.lengths.mean()), "tokens/s": rollout.lengths.sum() / seconds}
                )
            file.sync()
    return merged(path, plan, sampling.samples)


def noted(path: Path) -> Path:
    """Where it is noted what the lines of a file depend on."""
    return path.with_name(f"{path.stem}.settings.json")


def claim(path: Path, settings: Mapping) -> None:
    """Notes beside `path` what its lines depend on. Every process calls it.

    Raises:
        ValueError: the lines there depend on something else.
    """
    note = noted(path)
    if note.exists():
        if changed := lineage.differences(json.loads(note.read_text(encoding="utf-8")), settings):
            raise ValueError(
                f"{path} holds samples of other settings: {'; '.join(changed)}. "
                "Give the values they were drawn with, or name a new directory"
            )
    elif path.exists():
        raise ValueError(f"{path} is not a file of samples of ours ({note.name} is missing). Name a new directory")
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(f"settings of {path.name} read")
    if is_main() and not note.exists():
        lineage.write_atomically(note, json.dumps(dict(settings), indent=1, ensure_ascii=False, default=str) + "\n")


def shard(path: Path, plan: Plan, process: int | None = None) -> Path:
    """The file a process writes: `path` itself where it is alone."""
    process = jax.process_index() if process is None else process
    return path if plan.processes == 1 else path.with_name(f"{path.stem}-{process}-of-{plan.processes}.jsonl")


def whole_waves(path: Path, plan: Plan, samples: int, process: int) -> int:
    """The waves of which every line is there."""
    there = sum(1 for _ in log.stream(path)) if path.exists() else 0
    done, lines = 0, 0
    while done < plan.waves and (lines := lines + len(plan.members(done, process)) * samples) <= there:
        done += 1
    return done


def keep_lines(path: Path, count: int) -> None:
    """Cuts a file after its first `count` lines."""
    if path.exists():
        with open(path, "rb") as file:
            size = sum(len(line) for _, line in zip(range(count), file, strict=False))
        os.truncate(path, size)


def merged(path: Path, plan: Plan, samples: int) -> list[dict]:
    """The lines of all processes in the order of the examples. Of several processes the first writes them to `path`."""
    if plan.processes == 1:
        return log.read(path)
    multihost_utils.sync_global_devices(f"samples of {path.name} written")
    parts = [iter(log.read(shard(path, plan, p))) for p in range(plan.processes)]
    ordered = [
        next(parts[p])
        for w in range(plan.waves) for p in range(plan.processes) for _ in range(len(plan.members(w, p)) * samples)
    ]  # fmt: skip
    if is_main():
        lineage.write_atomically(path, "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in ordered))
    return ordered
