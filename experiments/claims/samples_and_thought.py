"""Claim: R1-Zero's accuracy rises with more samples of a question, and with more thinking in one sample.

Run:     python -m experiments.claims.samples_and_thought
Method:  samples: 64 completions of each held-out problem give pass@k and cons@k. pass@k is the chance that at least one
         of k completions is right. cons@k is the chance that the most frequent answer of k completions is right,
         averaged over disjoint sets of k completions.
         Thinking: the chain of thought of one completion of each problem gets a budget of tokens. If the policy ends
         the chain earlier, "wait" is appended and the policy goes on, up to twice. A longer chain is cut off at the
         budget. Then `</think> <answer>` is appended, and the policy writes the answer
Expect:  cons@k lies above pass@1, and the accuracy at the largest budget lies above the accuracy at the smallest, both
         by more than the half-width of the 95 % interval over seeds
Cost:    a run of R1-Zero and 8,192 samples, about 15 minutes a seed on 2 cores (estimated)
Source:  DeepSeek-AI 2025, Table 2 (cons@64); Muennighoff et al. 2025 (arXiv 2501.19393), budget forcing
"""

from __future__ import annotations

import dataclasses
import itertools
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from experiments.claims.protocol import Bench, Finding, decide, estimate, main
from experiments.claims.runs import evaluate, train_zero
from experiments.claims.sharpens_base import pass_curve, read_right
from r1jax import distributed, jsonl
from r1jax.evaluation.statistics import cons_at_k
from r1jax.nano import tasks
from r1jax.prompts import fill
from r1jax.recipes import RunOptions
from r1jax.report.claim_pictures import Curves
from r1jax.rewards import rule
from r1jax.rewards.format import ANSWER, THINK_END
from r1jax.rewards.isolate import Pool
from r1jax.rewards.kinds import KINDS
from r1jax.runs.policies import load_policy
from r1jax.sampling import sampler
from r1jax.sampling.keys import row_keys
from r1jax.sharding import make_mesh

WAIT = "\nwait,"  # what a chain of thought that ends early goes on with
TIMES = 2  # how often at most
ANSWER_TOKENS = 32
ENDS = re.compile(f"{THINK_END}|{ANSWER}")  # what ends a chain of thought
# Places of questions, beginnings of their completions, most tokens to add -> what the policy adds to each.
Write = Callable[[list[int], list[str], int], list[str]]
LIMIT = (
    "Nano's problems need at most some hundred tokens, and its policy learnt no longer chains, so that more thinking "
    "stops helping early; the paper's gains come from tens of thousands of tokens."
)


@dataclasses.dataclass(frozen=True)
class Command(Bench):
    """Measures how accuracy depends on the number of samples and on the budget of thinking."""

    samples: int = 64
    """Completions of each problem for pass@k and cons@k."""
    asked: int = 128
    """Number of held-out problems that are answered --samples times."""
    budgets: tuple[int, ...] = (16, 32, 64, 128, 256)
    """Budgets of thinking to compare, in tokens."""
    thought_about: int = 256
    """Number of held-out problems that are answered at each budget."""


def cons_curve(lines: Sequence[Mapping], samples: int) -> dict[int, float]:
    """Returns {k: cons@k} for k = 1, 2, 4, .. samples, averaged over problems and over disjoint sets of k samples.

    Args:
        lines: the samples, grouped by problem, as experiments.evaluate writes them.
        samples: number of samples of each problem.
    """
    lines = [line for line in lines if KINDS[line["kind"]].votes]
    found = {}
    for k in (1 << i for i in range(samples.bit_length())):
        values = [
            cons_at_k(
                [line["answer"] for line in lines[i : i + k]], [float(line["right"]) for line in lines[i : i + k]]
            )
            for start in range(0, len(lines), samples)
            for i in range(start, start + samples // k * k, k)
        ]
        found[k] = float(np.mean(values)) if values else float("nan")
    return found


def force(
    write: Write, encode: Callable[[str], list[int]], decode: Callable[[list[int]], str], rows: int, budget: int
) -> list[str]:
    """Returns a completion of each of `rows` questions, with a chain of thought of `budget` tokens.

    If the policy ends the chain early, it has to go on, up to twice. If it ends the chain a third time, the chain stays
    shorter than `budget`.

    Args:
        write: called with (indices of questions, beginnings of their completions, most tokens to add). Returns the text
            that the policy adds to each beginning.
        encode, decode: the tokenizer's functions from text to token ids, and back.
        rows: number of questions.
        budget: tokens of thinking.
    """
    thoughts = [""] * rows
    for _ in range(TIMES + 1):
        left = [budget - len(encode(thought)) for thought in thoughts]
        going = [i for i in range(rows) if left[i] > 0]
        if not going:
            break
        added = write(going, [thoughts[i] for i in going], max(left))
        for i, text in zip(going, added, strict=True):
            whole = thoughts[i] + decode(encode(ENDS.split(text)[0])[: left[i]])
            thoughts[i] = whole if len(encode(whole)) >= budget else whole.rstrip() + WAIT
    heads = [f"{thought.removesuffix(WAIT).rstrip()} {THINK_END} {ANSWER}" for thought in thoughts]
    return [head + text for head, text in zip(heads, write(list(range(rows)), heads, ANSWER_TOKENS), strict=True)]


def think(weights: Path, seed: int, budgets: Sequence[int], count: int) -> dict[int, float]:
    """Returns {budget: accuracy} of a policy at temperature 1, on held-out problems.

    The problems are those of the mix "zero", which the package `r1jax.nano` generates.

    Args:
        weights: the run or checkpoint of the policy.
        seed: seed of the sampling noise.
        budgets: budgets of thinking to compare, in tokens.
        count: number of problems.
    """
    distributed.share_cpu("auto")
    distributed.start()
    mesh = make_mesh("auto")
    policy, params, _ = load_policy(RunOptions(weights=str(weights)), mesh)
    synced, tokenizer = sampler.sync(params, mesh), policy.tokenizer
    examples = tasks.held_out(count)
    asked = [tokenizer.encode(fill(policy.template, example["problem"])) for example in examples]
    calls = itertools.count()  # each call has noise of its own

    def write(rows: list[int], beginnings: list[str], most: int) -> list[str]:
        prompts = [asked[row] + tokenizer.encode(text) for row, text in zip(rows, beginnings, strict=True)]
        sampling = sampler.Sampling(most, stop_ids=tokenizer.stop_ids, pad_id=tokenizer.pad_id)
        rollout = sampler.sample(
            policy.cfg, synced, prompts, row_keys(seed, next(calls), rows, [0] * len(rows)), mesh, sampling
        )
        return [tokenizer.decode(row[:n]) for row, n in zip(rollout.tokens, rollout.lengths, strict=True)]

    found = {}
    with Pool() as pool:
        for budget in budgets:
            texts = force(write, tokenizer.encode, tokenizer.decode, len(examples), budget)
            verdicts = rule.verify(pool, texts, examples, policy.style)
            found[budget] = float(np.mean([verdict.reward == 1.0 for verdict in verdicts]))
    return found


def find(command: Command) -> Finding:
    """Trains R1-Zero with each seed. Measures its accuracy by number of samples and by budget of thinking."""
    zeros = [train_zero(command, seed) for seed in command.seeds]
    asked = dict(samples=command.samples, problems=command.asked)
    places = [evaluate(command, zero, "--benchmarks=nano:zero", **asked) for zero in zeros]
    right = [read_right(place, "nano_zero", command.samples) for place in places]
    votes = [cons_curve(jsonl.read(place / "nano_zero.jsonl"), command.samples) for place in places]
    thought = [
        think(zero, seed, command.budgets, command.thought_about)
        for seed, zero in zip(command.seeds, zeros, strict=True)
    ]
    passed = [dict(pass_curve([run])) for run in right]
    rows = [["", *(f"seed {seed}" for seed in command.seeds), "mean"]]
    for name, curves in (("pass@{}", passed), ("cons@{}", votes), ("{} tokens of thinking", thought)):
        for k in curves[0]:
            values = [curve[k] for curve in curves]
            rows.append([name.format(k), *(f"{value:.3f}" for value in values), estimate(values).text()])
    most, (least, longest) = max(votes[0]), (min(command.budgets), max(command.budgets))
    voting = estimate([vote[most] - vote[1] for vote in votes])
    thinking = estimate([curve[longest] - curve[least] for curve in thought])
    means = [[k, float(np.mean([vote[k] for vote in votes]))] for k in votes[0]]
    return Finding(
        decide(voting.low > 0, thinking.low > 0, seeds=len(command.seeds)),
        f"The most frequent of {most} answers is right more often than one answer by {voting.text(3, '+')}; "
        f"{longest} tokens of thinking give {thinking.text(3, '+')} over {least}.",
        LIMIT,
        rows,
        [
            Curves(
                "Accuracy by samples", "share", {"pass@k": pass_curve(right), "cons@k": means}, "sample", share=True
            ),
            Curves(
                "Accuracy by thinking",
                "share right",
                {
                    f"seed {seed}": [[budget, value] for budget, value in curve.items()]
                    for seed, curve in zip(command.seeds, thought, strict=True)
                },
                "token",
                share=True,
            ),
        ],
    )


if __name__ == "__main__":
    main(Command, find, __doc__)
