"""Samples SFT records from any checkpoint and judges their answers; `filters` then decides which of them are kept."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from jax.sharding import Mesh

from r1jax.nano import general
from r1jax.policy import Policy
from r1jax.recipes import PolicyOptions, RunOptions, SamplingOptions
from r1jax.rewards import rule
from r1jax.rewards.format import reply_of
from r1jax.rewards.isolate import Pool
from r1jax.rewards.kinds import GENERAL, KINDS
from r1jax.rewards.verdict import Verdict
from r1jax.runs.policies import load_policy
from r1jax.sampling.complete import Wave
from r1jax.sft_data.batch_sampling import Output, sample_in_waves


class Author(NamedTuple):
    """The policy to sample, its parameters and its origin, as `load` returns them.

    Attributes:
        source: the path and sha256 of the checkpoint, under the keys "path" and "sha256".
    """

    policy: Policy
    params: dict
    source: Mapping[str, str]


def load(options: PolicyOptions, mesh: Mesh) -> Author:
    """Loads a policy for sampling only.

    Args:
        options: the flags that name the weights, the template and the answer format.
    Raises:
        ValueError: the checkpoint cannot be read, or the template cannot be used.
    """
    names = (field.name for field in dataclasses.fields(PolicyOptions))
    return Author(*load_policy(RunOptions(**{name: getattr(options, name) for name in names}), mesh, frozen=True))


def judge_completions(
    pool: Pool, texts: Sequence[str], examples: Sequence[Mapping], style: str
) -> list[Verdict | None]:
    """Judges each completion, and returns one verdict per completion.

    A completion is judged by the verifier of its example's kind (such as "math"), against the gold answer. Replies to
    general prompts (kind "general": writing, facts, small talk) have no verifier. If the prompt is from `nano.general`,
    which knows the right answer, that module judges the reply; otherwise the verdict is None.

    Args:
        examples: the example of each completion.
        style: the answer format in which the verifier looks for the answer, a key of `format.STYLES`.
    """
    found = []
    for text, example, verdict in zip(texts, examples, rule.verify(pool, texts, examples, style), strict=True):
        if example["kind"] != GENERAL:
            found.append(verdict)
        elif example.get("task") == "general":
            right = general.right(example, reply_of(text)) and general.harmless(example, text)
            found.append(Verdict(float(right), "correct" if right else "wrong", "generator"))
        else:
            found.append(None)
    return found


class Route(NamedTuple):
    """One way of making records, such as sampling with few-shot prompts.

    Attributes:
        name: the route's name, stored in each record, such as "few_shot".
        path: the file (.jsonl) of the route's records.
        seed: seed of the sampling noise.
        style: the answer format in which the verifier looks for the answer, a key of `format.STYLES`; None means the
            format that the policy's template asks for.
    """

    name: str
    path: Path
    seed: int
    style: str | None = None


def generate(
    author: Author,
    examples: Sequence[dict],
    mesh: Mesh,
    pool: Pool,
    sampling: SamplingOptions,
    route: Route,
    prompts: Sequence[str] | None = None,
) -> list[dict]:
    """Samples each example `sampling.samples` times and returns one SFT record per completion, ordered by example.

    A record has the keys id, example (the question's id), sample (the completion's index), domain, kind, task, set,
    language, problem, gold, raw (the sampled text), response (equal to raw), route, source, rewritten_by (None), keep
    (True), reason (empty), tokens (their number), truncated, verdict, right (None without a verdict) and answer (in
    normal form). The records are also written to `route.path`. A killed run resumes from that file, as in
    `sample_in_waves`. Every process returns all records.

    Args:
        examples: questions with their gold answers.
        pool: runs the verifiers.
        prompts: the full prompt of each example, such as one with worked examples. By default it is the policy's
            template, filled with the example's problem.
    Raises:
        ValueError: there are no examples, a sampling option is out of range, or the file was made with other settings.
    """
    policy, params, source = author
    style = route.style or policy.style

    def lines(wave: Wave) -> list[dict]:
        verdicts = judge_completions(pool, wave.texts, wave.examples, style)
        return [
            {
                "id": f"{route.name}/{example['id']}/{sample}",
                "example": example["id"],
                "sample": sample,
                "domain": KINDS[example["kind"]].domain,
                "kind": example["kind"],
                "task": example.get("task", example["kind"]),
                "set": example.get("set"),
                "language": example.get("language"),
                "problem": example["problem"],
                "gold": example["gold"],
                "response": text,
                "raw": text,
                "route": route.name,
                "source": dict(source),
                "rewritten_by": None,
                "keep": True,
                "reason": "",
                "tokens": int(length),
                "truncated": not stopped,
                "verdict": verdict and verdict.verdict,
                "right": None if verdict is None or verdict.reward is None else verdict.reward == 1.0,
                "answer": verdict and verdict.canonical,
            }
            for example, sample, text, length, stopped, verdict in zip(*wave, verdicts, strict=True)
        ]

    settings = {"route": route.name, "source": source["sha256"], "style": style}
    output = Output(route.path, lines, settings)
    return sample_in_waves(policy, params, examples, mesh, sampling, output, seed=route.seed, prompts=prompts)
