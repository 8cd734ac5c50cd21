"""Claim: at an equal budget of sampled tokens, guided tree search does not beat independent samples.

Run:     python -m experiments.claims.tree_search
Method:  R1-Zero answers further training questions 8 times each. A value model learns from these roll-outs
         (`rollout_values`). The value model reads a whole roll-out or a beginning of one, and predicts the probability
         that the roll-out is right.
         Search: Monte Carlo tree search (`tree`) over steps; a step ends with a comma or a line. PUCT chooses a node,
         and the node is extended by 4 sampled steps. The answer is that of the completion with the highest value.
         Independent samples: as many whole completions as the budget holds. They give two answers: that of the
         completion with the highest value by the same value model, and the most frequent answer.
         The budget counts sampled tokens only. Search also reads beginnings again and calls the value model more
         often, and neither is counted. One setting of the search was tuned: for PUCT's c, two values were tried on 24
         problems with the base model
Expect:  at no budget is search ahead of both answers of the independent samples by more than the half-width of the 95 %
         interval over seeds. The intervals show how large a lead of search is still possible
Cost:    a run of R1-Zero and 8,192 samples, both shared with the claim `samples_and_thought`, and 7 minutes a seed on
         2 cores (estimated) for 4,096 roll-outs, the value model and the search
Source:  DeepSeek-AI 2025 (arXiv 2501.12948), v1 section 4.2, v2 appendix G.2. The paper gives three reasons: the space
         of tokens is far larger than that of chess; a limit on the extensions of a node leads to local optima; a
         fine-grained value model, which guides every step, is hard to train
Departs: 1. the paper repeatedly trained policy and value model on what the search found, and the models did not
            improve. Here no model is trained on what the search finds
         2. the paper says that search with a pre-trained value model helps in inference, but does not compare equal
            budgets. This claim does, and so is stricter
         3. the paper's steps are tags that the prompt asks for. Here a step ends with a comma or a line
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from experiments.claims.protocol import Bench, Finding, decide, estimate, main
from experiments.claims.rollout_values import train_value
from experiments.claims.runs import evaluate, train_zero
from experiments.claims.steps import make_writer
from experiments.claims.tree import EXPLORE, Tree, search
from r1jax import distributed, jsonl
from r1jax.evaluation.statistics import cons_at_k
from r1jax.nano import tasks
from r1jax.recipes import RunOptions
from r1jax.report.claim_pictures import Curves
from r1jax.reward_models.calibration import sigmoid
from r1jax.reward_models.load import load_reward_model
from r1jax.reward_models.model import safety_input, score
from r1jax.rewards import rule
from r1jax.rewards.isolate import Pool
from r1jax.runs import manifests
from r1jax.runs.policies import load_policy
from r1jax.sharding import make_mesh

TOGETHER = 64  # questions that are searched at a time
LIMIT = (
    "Nano's chains have some ten steps and its value model is as large as its policy, so that neither a vast space nor "
    "the training on what search finds, at which the paper's attempt failed, is shown."
)


@dataclasses.dataclass(frozen=True)
class Command(Bench):
    """Compares guided tree search with independent samples at equal numbers of sampled tokens."""

    samples: int = 64
    """Number of completions per held-out problem. The first of these completions, as many as a budget holds, are the
    independent samples."""
    asked: int = 128
    """Number of held-out problems that are answered --samples times."""
    searched: int = 96
    """How many of these problems are searched. Both methods are compared on them."""
    budgets: tuple[int, ...] = (256, 512, 1024, 2048)
    """Budgets to compare: numbers of sampled tokens per problem."""
    children: int = 4
    """Steps that are sampled when a node is extended."""
    explore: float = EXPLORE
    """c of PUCT: the weight of the bonus for rarely visited nodes. 0 always follows the highest mean value."""
    questions: int = 512
    """Training questions that the value model learns from."""
    rollouts: int = 8
    """Roll-outs of each training question."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.searched > self.asked:
            raise ValueError(
                f"--searched={self.searched} must be at most --asked={self.asked}: "
                f"only {self.asked} problems have samples"
            )


class Answer(NamedTuple):
    """A completion that a method found.

    Attributes:
        spent: tokens that the method had sampled when it had this completion.
        value: the value model's probability that the completion is right.
        right: whether the completion is right.
        said: the answer in normal form; None without an answer.
    """

    spent: int
    value: float
    right: bool
    said: str | None


def pick_best(answers: Sequence[Answer]) -> float:
    """Returns 1.0 if the answer of the highest value is right, else 0.0; 0.0 without answers."""
    return float(max(answers, key=lambda answer: answer.value).right) if answers else 0.0


def pick_frequent(answers: Sequence[Answer]) -> float:
    """Returns 1.0 if the most frequent answer is right, else 0.0.

    If several answers tie, returns the mean of their scores. Returns 0.0 without answers.
    """
    return cons_at_k([answer.said for answer in answers], [float(answer.right) for answer in answers])


def pick_right(answers: Sequence[Answer]) -> float:
    """Returns 1.0 if any answer is right, else 0.0."""
    return float(any(answer.right for answer in answers))


METHODS: dict[str, tuple[str, Callable[[Sequence[Answer]], float]]] = {  # row -> who finds the answers, who picks one
    "search": ("search", pick_best),
    "samples, highest value": ("samples", pick_best),
    "samples, most frequent": ("samples", pick_frequent),
    "search, any right": ("search", pick_right),
    "samples, any right": ("samples", pick_right),
}


def share_right(problems: Sequence[Sequence[Answer]], budget: int, pick: Callable[[Sequence[Answer]], float]) -> float:
    """Returns the share of problems that are answered right within a budget of sampled tokens.

    Args:
        problems: for each problem, the answers that a method found.
        budget: sampled tokens per problem. Answers found later are ignored.
        pick: scores a problem by the answers found within the budget, such as `pick_best`.
    """
    return float(np.mean([pick([answer for answer in found if answer.spent <= budget]) for found in problems]))


def measure(command: Command, zero: Path, value: Path, samples: Path, seed: int) -> dict[str, list[list[Answer]]]:
    """Returns {"search": answers of each problem, "samples": answers of each problem}, each in the order found.

    Args:
        zero, value: directories of the policy and of its value model.
        samples: the nano_zero.jsonl of an evaluation of the policy on the same problems.
    """
    distributed.share_cpu("auto")
    distributed.start()
    mesh = make_mesh("auto")
    policy, params, _ = load_policy(RunOptions(weights=str(zero)), mesh)
    model, decode = load_reward_model(value, "safety", mesh), policy.tokenizer.decode
    examples, limit = tasks.held_out(command.searched), max(command.budgets)
    together = min(TOGETHER, len(examples))

    def appraise(rows: Sequence[int], texts: Sequence[str]) -> Sequence[float]:
        inputs = [safety_input(examples[row]["problem"], text) for row, text in zip(rows, texts, strict=True)]
        return sigmoid(score(model, inputs, mesh)).tolist()

    write = make_writer(policy, params, examples, mesh, seed, (together, command.children))
    trees = [Tree(command.explore) for _ in examples]
    search(trees, write, lambda rows, nodes: appraise(rows, list(map(decode, nodes))), limit, together)
    found = [(i, spent, decode(tokens), v) for i, one in enumerate(trees) for spent, tokens, v in one.found]
    drawn = [each for each in read_samples(samples, command.samples, examples) if each[1] <= limit]
    values = appraise([i for i, *_ in drawn], [text for *_, text in drawn])
    with Pool() as pool:
        return {
            "search": judge(pool, found, examples, policy.style),
            "samples": judge(pool, [(*d, v) for d, v in zip(drawn, values, strict=True)], examples, policy.style),
        }


def judge(
    pool: Pool, found: Sequence[tuple[int, int, str, float]], examples: Sequence[dict], style: str
) -> list[list[Answer]]:
    """Returns the answers of each problem.

    Args:
        found: for each completion, (index of the problem, tokens spent when the completion was found, completion, value
            of the completion).
        examples, style: the problems, and the form of their answers.
    """
    verdicts = rule.verify(pool, [text for _, _, text, _ in found], [examples[i] for i, *_ in found], style)
    answers: list[list[Answer]] = [[] for _ in examples]
    for (i, spent, _, value), verdict in zip(found, verdicts, strict=True):
        answers[i].append(Answer(spent, value, verdict.reward == 1.0, verdict.canonical))
    return answers


def read_samples(path: Path, samples: int, examples: Sequence[dict]) -> list[tuple[int, int, str]]:
    """Returns (index of the problem, tokens sampled for this problem so far, completion) of each independent sample.

    Raises:
        ValueError: the file holds samples of other problems.
    """
    lines, found = jsonl.read(path), []
    for i, example in enumerate(examples):
        mine = lines[i * samples : (i + 1) * samples]
        if [line["id"] for line in mine] != [example["id"]] * samples:
            raise ValueError(
                f"{path} does not hold {samples} samples of {example['id']}. "
                "Remove the directory of this file, and run the command again"
            )
        spent = itertools.accumulate(line["length"] for line in mine)
        found += [(i, tokens, line["completion"]) for tokens, line in zip(spent, mine, strict=True)]
    return found


def find(command: Command) -> Finding:
    """Trains R1-Zero and its value model with each seed, and compares search with independent samples."""
    zeros = [train_zero(command, seed) for seed in command.seeds]
    asked = dict(samples=command.samples, problems=command.asked)
    places = [evaluate(command, zero, "--benchmarks=nano:zero", **asked) / "nano_zero.jsonl" for zero in zeros]
    valued = [
        train_value(command, zero, seed, command.questions, command.rollouts)
        for zero, seed in zip(zeros, command.seeds, strict=True)
    ]
    answers = [measure(command, *each) for each in zip(zeros, valued, places, command.seeds, strict=True)]
    shares = {
        (name, budget): [share_right(one[who], budget, pick) for one in answers]
        for name, (who, pick) in METHODS.items()
        for budget in command.budgets
    }
    rows = [["right", *(f"seed {seed}" for seed in command.seeds), "mean"]]
    for (name, budget), values in shares.items():
        rows.append([f"{name}, {budget} tokens", *(f"{value:.3f}" for value in values), estimate(values).text()])
    skill = [manifests.read(place).results["final"]["auc"] for place in valued]
    rows.append(["area under the ROC curve of the value model", *("–" if s is None else f"{s:.3f}" for s in skill), ""])
    names = list(METHODS)[:3]
    leads = {  # budget -> by how much search is ahead of each answer of the independent samples
        b: [estimate(np.subtract(shares["search", b], shares[name, b]).tolist()) for name in names[1:]]
        for b in command.budgets
    }
    ahead = [budget for budget, both in leads.items() if all(lead.low > 0 for lead in both)]
    by_value, by_vote = leads[max(command.budgets)]
    return Finding(
        decide(not ahead, seeds=len(command.seeds)),
        f"At {max(command.budgets)} tokens search is ahead of the sample of the highest value by "
        f"{by_value.text(3, '+')}, and of the most frequent answer by {by_vote.text(3, '+')}; its lead over both "
        f"exceeds the interval at {' and '.join(map(str, ahead)) + ' tokens' if ahead else 'no budget'}.",
        LIMIT,
        rows,
        [
            Curves(
                title,
                unit,
                {name: [[b, float(np.mean(shares[name, b]))] for b in command.budgets] for name in some},
                "token",
                share=True,
            )
            for title, unit, some in (
                ("Accuracy by sampled tokens", "share right", names),
                ("A right answer among those found", "share", list(METHODS)[3:]),
            )
        ],
    )


if __name__ == "__main__":
    main(Command, find, __doc__)
