"""Samples completions of many questions wave by wave into a JSONL file; a killed run resumes from the file.

A *wave* is one call of the sampler: several questions with all their samples. The tokens of a completion do not
depend on its wave. So a resumed run, with any number of processes, writes the same file as an uninterrupted run.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import jax
from jax.sharding import Mesh

from r1jax import jsonl, storage
from r1jax.data import questions
from r1jax.distributed import gather_json, gather_numbers, is_main
from r1jax.model.feedforward import within
from r1jax.policy import Policy
from r1jax.prompts import fill
from r1jax.recipes import SamplingOptions, require
from r1jax.runs.manifests import claim
from r1jax.runs.progress import Progress
from r1jax.sampling import sampler
from r1jax.sampling.complete import Draws, Wave, complete
from r1jax.sampling.sampler import Sampling

WHOLE = "{question}"  # the template for prompts that are already complete


def examples_per_wave(count: int, sampling: SamplingOptions) -> int:
    """Returns the number of examples in a wave (one call of the sampler).

    With this number, `count` examples take as few waves as possible, of near-equal size. A wave has at most
    `sampling.wave_rows` rows for each process. An example takes `sampling.samples` rows.
    """
    most = max(1, sampling.wave_rows * jax.process_count() // sampling.samples)
    waves = -(-count // most)
    return -(-count // waves)


def check(sampling: SamplingOptions) -> None:
    """Raises ValueError if a sampling option is out of range."""
    rules = (
        (sampling.samples >= 1, f"--samples={sampling.samples} must be at least 1"),
        (sampling.temperature >= 0, f"--temperature={sampling.temperature} must be 0, which is greedy, or more"),
        (0 < sampling.top_p <= 1, f"--top-p={sampling.top_p} must lie in (0, 1]; 1 keeps every token"),
        (sampling.top_k >= 0, f"--top-k={sampling.top_k} must be 0 (keeps every token) or more"),
        (0 <= sampling.min_p <= 1, f"--min-p={sampling.min_p} must lie in [0, 1]; 0 keeps every token"),
        (sampling.max_tokens >= 1, f"--max-tokens={sampling.max_tokens} must be at least 1"),
        (sampling.wave_rows >= 1, f"--wave-rows={sampling.wave_rows} must be at least 1"),
    )
    require(rules)


class Output(NamedTuple):
    """The file that sampling writes, and how completions become lines of the file.

    Attributes:
        path: the file (.jsonl).
        lines: a function that maps a `Wave` (N completions of one sampler call) to N lines (dicts).
        settings: settings that determine the lines in addition to the arguments of `sample_in_waves`, such as the
            checkpoint's sha256. Sampling refuses a file that was made with other settings.
    """

    path: Path
    lines: Callable[[Wave], list[dict]]
    settings: Mapping


def to_sampling(options: SamplingOptions) -> Sampling:
    """Converts the command-line options to the sampler's `Sampling`."""
    o = options
    return Sampling(o.max_tokens, o.temperature, o.top_k, o.top_p, o.min_p)


def sample_in_waves(
    policy: Policy,
    params: dict,
    examples: Sequence[dict],
    mesh: Mesh,
    sampling: SamplingOptions,
    output: Output,
    *,
    seed: int,
    prompts: Sequence[str] | None = None,
) -> list[dict]:
    """Samples all examples and returns one line per completion, ordered by example, then sample.

    The lines of a wave are also written to `output.path` as soon as the wave is sampled. Examples whose lines are all
    in the file are not sampled again. The file may come from a run with another number of processes. Every process must
    call this function, and gets all lines. Process 0 writes the file.

    Args:
        examples: questions, as dicts with the keys id and problem, and any further keys that `output.lines` uses.
        seed: seed of the sampling noise, which also depends on the example's id and the sample's index.
        prompts: the full prompt of each example. By default it is the policy's template, filled with the example's
            problem.

    Raises:
        ValueError: there are no examples, a sampling option is out of range, or the file was made with other settings.
    """
    check(sampling)
    path = output.path
    if not examples:
        raise ValueError("no problem to sample: the file or mix of problems must hold at least one")
    prompts = prompts or [fill(policy.template, example["problem"]) for example in examples]
    policy = policy._replace(template=WHOLE)
    asked = [example | {"problem": prompt} for example, prompt in zip(examples, prompts, strict=True)]
    stated = {"sampling": dataclasses.asdict(sampling), "seed": seed, "prompts": questions.fingerprint(asked)}
    claim(path, stated | dict(output.settings))
    size, samples = examples_per_wave(len(examples), sampling), sampling.samples
    there = sum(1 for _ in jsonl.stream(path)) if is_main() and path.exists() else 0
    done = int(gather_numbers([there])[0, 0]) // samples
    if is_main():
        keep_lines(path, done * samples)
    if done < len(examples):
        weights = sampler.sync(params, mesh)
        waves, draws = -(-len(examples) // size), Draws(samples, seed, round_=0)
        with (
            jsonl.JsonLines(path) if is_main() else contextlib.nullcontext() as file,
            Progress(waves, done // size) as progress,
            within(policy.cfg, mesh),
        ):
            for first in range(done, len(examples), size):
                began = time.monotonic()
                drawn = asked[first : first + size]
                drawn = drawn + [asked[-1]] * (size - len(drawn))  # all waves have one shape
                rollout, texts = complete(policy, weights, drawn, draws, mesh, to_sampling(sampling))
                said = dict(zip(map(int, rollout.own), texts, strict=True))
                mine = [row for row in said if first + row // samples < len(examples)]
                wave = Wave(
                    [examples[first + row // samples] for row in mine],
                    [row % samples for row in mine],
                    [said[row] for row in mine],
                    rollout.lengths[mine],
                    rollout.stopped[mine],
                )
                rows = gather_json(list(zip(mine, output.lines(wave), strict=True)))
                if is_main():
                    for _, line in sorted((row for part in rows for row in part), key=lambda pair: pair[0]):
                        file.write(line)
                seconds = time.monotonic() - began
                progress.update(
                    min(waves, -(-(first + size) // size)),
                    {"length": float(rollout.lengths.mean()), "tokens/s": rollout.lengths.sum() / seconds},
                )
            if is_main():
                file.sync()
    return gather_json(jsonl.read(path) if is_main() else [])[0]


def keep_lines(path: Path, count: int) -> None:
    """Truncates a file after its first `count` lines. Does nothing if the file does not exist."""
    if storage.scheme_of(path):
        held = storage.spool(path)
        try:
            before = held.stat().st_size
            keep_lines(held, count)
            if held.stat().st_size != before:
                storage.put(held, path)
        finally:
            held.unlink()
    elif path.exists():
        with open(path, "rb") as file:
            size = sum(len(line) for _, line in zip(range(count), file, strict=False))
        os.truncate(path, size)
