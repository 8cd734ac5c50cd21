"""Makes preference pairs from a policy's own completions: for each question, those with the highest and lowest reward.

Source: Yuan et al. 2024, "Self-Rewarding Language Models" (arXiv 2401.10020), section 2.2. The paper pairs the
completions with the highest and the lowest reward of a prompt, and drops the pair if the two rewards are equal.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jax.sharding import Mesh

from r1jax.data import questions
from r1jax.data.readers import read_columns
from r1jax.distributed import is_main, wait_for_all
from r1jax.evaluation.statistics import mean
from r1jax.recipes import RunOptions, SamplingOptions, require
from r1jax.reward_models.load import load_reward_model
from r1jax.reward_models.model import helpful_input
from r1jax.reward_models.model import score as score_texts
from r1jax.rewards import custom
from r1jax.rewards.isolate import Pool
from r1jax.runs import checkpoint
from r1jax.runs.files import hash_files, write_lines
from r1jax.runs.run import Run
from r1jax.sampling.complete import Wave
from r1jax.sft_data.batch_sampling import Output, check, sample_in_waves
from r1jax.sft_data.generate import load

Score = Callable[[Sequence[str], Sequence[Mapping]], list[float | None]]
VERIFIER = ("accuracy",)  # the reward if none is given


class Collecting(NamedTuple):
    """Settings for collecting the pairs of one round of iterative preference learning.

    Attributes:
        number: number of the round, from 0.
        questions: how many questions the round asks.
        sampling: settings of sampling, which must ask for at least two completions of each question.
        reward_model: the directory of a helpful reward model that ranks completions; "" ranks them by --reward.
    """

    number: int
    questions: int
    sampling: SamplingOptions
    reward_model: str = ""


def check_collecting(collecting: Collecting, options: RunOptions) -> None:
    """Raises ValueError if a flag has a value that cannot be used, or a function of --reward cannot be loaded."""
    c = collecting
    require(
        (
            (c.questions >= 2, f"--questions={c.questions} must be at least 2: one is held out"),
            (
                c.sampling.samples >= 2,
                f"--sampling.samples={c.sampling.samples} leaves nothing to compare: use at least 2",
            ),
            (
                c.sampling.temperature > 0,
                f"--sampling.temperature={c.sampling.temperature} must be above 0: greedy "
                "completions of a question are all the same",
            ),
            (
                not (c.reward_model and options.reward),
                f"--reward-model={c.reward_model} and --reward={' '.join(options.reward)} both rank the completions: "
                "give only one",
            ),
        )
    )
    check(c.sampling)
    custom.read(options.reward)


def collect_pairs(options: RunOptions, collecting: Collecting) -> Path:
    """Gives questions of --prompts to the policy (--weights), ranks its completions, and writes pairs.

    Writes samples.jsonl, a line for each completion, and pairs.jsonl into the working directory. The same call
    continues a collection that was stopped, and leaves a complete collection unchanged.

    Args:
        options: flags of the run. Let n be `collecting.questions`. Round r asks the questions of --prompts with the
            indices r·n to (r+1)·n − 1.
        collecting: the settings of the round.

    Returns:
        The path of pairs.jsonl, whose lines are {problem, chosen, rejected, reward}.

    Raises:
        ValueError: a flag, file or checkpoint cannot be used, or there are fewer than two questions whose completions
            differ in reward.
    """
    c = collecting
    kept = ("prompts", "reward", "seed", "template", "system_prompt", "answers", "think", "column", "weights", "mesh")
    fields = (
        {name: getattr(options, name) for name in kept} | c._asdict() | {"sampling": dataclasses.asdict(c.sampling)}
    )
    with Run("dpo_pairs", options, fields, resume=True) as run:
        path = run.workdir / "pairs.jsonl"
        terms = custom.read(options.reward or VERIFIER)
        how = dict(free=bool(options.reward or c.reward_model), columns=read_columns(options.column))
        take, data = questions.stream(options.prompts, options.seed, **how)
        asked = {row["id"]: row for row in (take(c.number * c.questions + i) for i in range(c.questions))}
        author = load(options, run.mesh)
        run.claim_parent(dict(author.source))
        if c.reward_model:
            judge = {"path": c.reward_model, "sha256": checkpoint.sha256(c.reward_model, "--reward-model")}
            data |= {"sources": {"reward model": judge}}
        run.claim(data | custom.describe_terms([] if c.reward_model else terms), "questions")
        if run.before is not None and run.before.status == "complete":
            return path
        run.write_manifest()
        score = make_score(c.reward_model, terms, author.policy.style, run.mesh, run.enter(Pool()))
        output = Output(run.workdir / "samples.jsonl", lambda wave: lines_of(wave, score), {"round": c.number})
        examples = list(asked.values())
        records = sample_in_waves(
            author.policy, author.params, examples, run.mesh, c.sampling, output, seed=options.seed + c.number
        )
        pairs = choose_pairs(records)
        earned = [record["reward"] for record in records if record["reward"] is not None]
        if len({pair["problem"] for pair in pairs}) < 2:
            raise ValueError(
                f"round {c.number + 1}: of {len(examples)} questions, {len(pairs)} have completions that differ in "
                "reward, and at least 2 such questions are needed: raise --questions or --sampling.samples, or see "
                f"samples.jsonl in {run.workdir}"
            )
        if is_main():
            write_lines(path, pairs)
            found = {"reward": mean(np.asarray(earned)), "pairs": len(pairs), "questions": len(examples)}
            run.complete({"base": None, "final": found, "records": hash_files(path)})
            print(f"{path}: {len(pairs)} pairs of {len(examples)} questions, mean reward {found['reward']:.3f}")
        wait_for_all("pairs written")
    return path


def make_score(reward_model: str, terms: Sequence[custom.Term], style: str, mesh: Mesh, pool: Pool) -> Score:
    """Returns a function `(texts, examples) -> rewards`, with a reward for each completion in `texts`.

    With `terms`, a reward is None if judging the completion failed, for example because a verifier ran out of time.
    Every process must call `make_score`.

    Args:
        reward_model: the directory of a helpful reward model; "" uses `terms` instead.
        terms: the weighted rewards of --reward.
        style: the expected form of a completion; see `Policy.style`.
    """
    if reward_model:
        model = load_reward_model(reward_model, "helpful", mesh, "--reward-model")
        return lambda texts, examples: score_texts(
            model, [helpful_input(e["problem"], text) for text, e in zip(texts, examples, strict=True)], mesh
        ).tolist()
    reward = custom.make_reward(terms, style)

    def score(texts: Sequence[str], examples: Sequence[Mapping]) -> list[float | None]:
        found = reward(pool, texts, examples, 0)
        return [
            float(total) if valid and math.isfinite(total) else None
            for total, valid in zip(found.total, found.valid, strict=True)
        ]

    return score


def lines_of(wave: Wave, score: Score) -> list[dict]:
    """Returns the lines of samples.jsonl for a wave of completions."""
    return [
        {
            "example": example["id"],
            "sample": int(sample),
            "problem": example["problem"],
            "response": text,
            "tokens": int(length),
            "truncated": not stopped,
            "reward": reward,
        }
        for example, sample, text, length, stopped, reward in zip(*wave, score(wave.texts, wave.examples), strict=True)
    ]


def choose_pairs(records: Sequence[Mapping]) -> list[dict]:
    """Returns the pair {problem, chosen, rejected, reward} of each question whose completions differ in reward.

    `chosen` has the highest reward of the question, and `rejected` the lowest. `reward` is the list of these two
    rewards. Among completions of equal reward, the first is taken. Completions without a reward are left out.
    Completions that were cut off are left out too. Training appends a stop token to every completion, and the policy
    did not end these completions with a stop token.

    Args:
        records: lines of samples.jsonl.
    """
    groups: dict[str, list[Mapping]] = {}
    for record in records:
        if record["reward"] is not None and not record["truncated"]:
            groups.setdefault(record["example"], []).append(record)
    pairs = []
    for group in groups.values():
        best, worst = (which(group, key=lambda record: record["reward"]) for which in (max, min))
        if best["reward"] > worst["reward"] and best["response"] != worst["response"]:
            pairs.append(
                {"problem": best["problem"], "chosen": best["response"], "rejected": worst["response"]}
                | {"reward": [best["reward"], worst["reward"]]}
            )
    return pairs
