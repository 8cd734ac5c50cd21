"""Cuts chains of thought into steps, judges steps by nano's generator, and scores them with a process reward model.

A *process reward model* (PRM) gives each step of a chain of thought the probability that the step is right. It is a
pointwise reward model (`r1jax.reward_models`, kind "safety") that was trained on beginnings of completions: a beginning
ends with a step, and its label says whether this step is right.

nano's generator knows the right label. It thereby removes two of the three difficulties that the paper names: a step of
nano is well defined, and judging it needs neither people nor a model.
"""

from __future__ import annotations

import functools
import random
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jaxtyping import Array, Bool, Float, Int

from r1jax.evaluation.nano_samples import STEP, right_steps
from r1jax.model import transformer
from r1jax.model.attention import attend_full, causal
from r1jax.model.config import ModelConfig
from r1jax.nano.solutions import GUESS, SO, TRY, work
from r1jax.nano.tasks import attempts
from r1jax.reward_models.calibration import sigmoid
from r1jax.reward_models.load import load_reward_model
from r1jax.reward_models.model import TOGETHER, RewardModel, bucket, safety_input
from r1jax.rewards.format import ANSWER, THINK, THINK_END
from r1jax.sharding import ROWS, fetch, make_mesh, row_shards, rows_in_turn, shard_rows
from r1jax.tokenizers.protocol import Tokenizer

# Commas and line ends separate steps. A piece without a digit or an option's letter, such as "wait", is no step.
PIECE = re.compile(r"[^,\n]*[0-9A-D][^,\n]*")
THOUGHT_ENDS = re.compile(f"{THINK_END}|{ANSWER}|$")
CLAIM = re.compile(rf"(?:{'|'.join([*GUESS.values(), *SO.values()])}) (\w+)")  # "i guess 12", "so 17"
TRIES = re.compile("|".join(TRY.values()))


def cut_steps(completion: str) -> list[tuple[str, str]]:
    """Returns (the completion up to the step's end, the step) for each step of the chain of thought.

    A completion that does not open a chain of thought has no steps.
    """
    text = completion.strip()
    begins = text.find(THINK) + len(THINK)
    if begins < len(THINK):
        return []
    pieces = PIECE.finditer(text, begins, THOUGHT_ENDS.search(text, begins).start())
    return [(text[: piece.start() + len(piece[0].rstrip())], piece[0].strip()) for piece in pieces]


def judge_steps(row: Mapping, steps: Sequence[str]) -> list[bool]:
    """Returns whether each step of a chain of thought is right.

    In a countdown problem, a step that contains "try" or 试 begins a try with all numbers of the problem. Each
    calculation replaces the two numbers that it uses by its result. A step is right if its calculation is correct and
    uses only numbers that are left in this try, and if the target can still be reached.

    In other problems, a step must meet two conditions. First, it contains a line of the generator's solution, or it
    names an answer and has no "=". Second, every answer that it names is the right answer.

    Args:
        row: the problem of `r1jax.nano.tasks`, not of the tasks "program" and "general".
        steps: the steps in their order, from `cut_steps`.
    """
    if row["kind"] == "countdown":
        return judge_tries(row["gold"], steps)
    lines, _, right = work(row, random.Random(0))
    found = []
    for step in steps:
        claims = CLAIM.findall(step)
        calculated = any(re.search(rf"(?<!\w){re.escape(line)}(?!\w)", step) for line in lines)
        found.append((calculated or (bool(claims) and "=" not in step)) and all(claim == right for claim in claims))
    return found


def judge_tries(gold: Mapping, steps: Sequence[str]) -> list[bool]:
    """Returns whether each step of a chain of thought about a countdown problem is right: see `judge_steps`.

    Args:
        gold: the problem's gold, {numbers, target}.
    """
    left: list[int] = []
    found = []
    for step in steps:
        if TRIES.search(step):
            left = list(gold["numbers"])
        calculation = STEP.search(step)
        used = [int(calculation[1]), int(calculation[3])] if calculation else []
        if not used or Counter(used) - Counter(left):  # no calculation, or a number that is not left
            left = []
            found.append(False)
            continue
        left = [*(Counter(left) - Counter(used)).elements(), int(calculation[4])]
        found.append(all(right_steps(step)) and reaches(tuple(sorted(left)), gold["target"]))
    return found


@functools.cache
def reaches(numbers: tuple[int, ...], target: int) -> bool:
    """Returns whether + - * can combine the numbers, each used once, to the target, with all results in 1..99."""
    return numbers == (target,) if len(numbers) == 1 else any(way.value == target for way in attempts(numbers))


@functools.partial(jax.jit, static_argnames=("cfg", "shards", "where"))
def score_marks(
    cfg: ModelConfig,
    params: dict,
    tokens: Int[Array, "R S"],
    mark: Bool[Array, "R S"],
    shards: int | None,
    where: NamedSharding,
) -> Float[Array, "R S"]:
    """Returns the uncalibrated rewards at all slots of R rows, float32.

    A mark is an end-of-text token after a step. Later tokens do not attend to the mark, and the next token has the same
    position as the mark. So all other tokens are computed as if there were no marks, and the reward at a mark is the
    reward of a text that ends there.

    Args:
        mark: which slots hold marks.
        shards, where: as in `r1jax.reward_models.model.rewarded`.
    """
    slots = tokens.shape[1]
    positions = jnp.cumsum(~mark, axis=1) - 1 + mark
    mask = causal(slots) & (~mark[:, None, :] | jnp.eye(slots, dtype=bool)[None])
    attend = attend_full(mask, row_shards=shards)
    hidden, _, _ = transformer.forward(cfg, params, tokens, positions, attend, how=transformer.Pass(mesh=where.mesh))
    return jax.lax.with_sharding_constraint(transformer.rewards(params, hidden), where)


def mark_steps(tokenizer: Tokenizer, question: str, completion: str) -> tuple[list[int], list[int]]:
    """Returns (token ids of a completion up to its last step, with a mark after each step; the slots of the marks)."""
    tokens, marks, read = [], [], ""
    for beginning, _ in cut_steps(completion):
        text = safety_input(question, beginning)
        tokens += tokenizer.encode(text.removeprefix(read), start=not read)
        marks.append(len(tokens))
        tokens.append(tokenizer.eos_id)
        read = text
    return tokens, marks


def score_steps(
    model: RewardModel, questions: Sequence[str], completions: Sequence[str], mesh: Mesh
) -> list[np.ndarray]:
    """Returns the probability that a step is right, for each step of n completions: n arrays, each [steps] float64.

    The model reads each completion once, however many steps the completion has.

    Raises:
        ValueError: there are several processes, which would mix up their completions.
    """
    if jax.process_count() > 1:
        raise ValueError("score_steps works in one process only. Start the run without --processes")
    rows = [mark_steps(model.tokenizer, *both) for both in zip(questions, completions, strict=True)]
    order = sorted((i for i, (_, marks) in enumerate(rows) if marks), key=lambda i: -len(rows[i][0]))
    together = -(-TOGETHER // row_shards(mesh)) * row_shards(mesh)
    found = [np.zeros(0) for _ in completions]
    for first in range(0, len(order), together):
        some = order[first : first + together]
        tokens = np.zeros((together, bucket(len(rows[some[0]][0]))), np.int32)
        mark = np.zeros(tokens.shape, bool)
        for row, i in enumerate(some):
            tokens[row, : len(rows[i][0])] = rows[i][0]
            mark[row, rows[i][1]] = True
        placed = shard_rows((tokens, mark), mesh)
        values = fetch(score_marks(model.cfg, model.params, *placed, rows_in_turn(mesh), NamedSharding(mesh, ROWS)))
        for row, i in enumerate(some):
            found[i] = sigmoid(model.scale * np.asarray(values[row], np.float64)[rows[i][1]] + model.offset)
    return found


# A completion's reward from its steps' probabilities. The sum is the return of RL; the minimum is the score by which
# Math-Shepherd ranks (arXiv 2312.08935). A completion without steps gets 0.
FORMS: Mapping[str, Callable[[np.ndarray], float]] = {
    "sum": lambda steps: float(steps.sum()),
    "min": lambda steps: float(steps.min()) if len(steps) else 0.0,
}


def make_reward(directory: str, form: str) -> Callable[[list[str], list[dict]], list[float]]:
    """Returns a reward `(texts, examples) -> [reward]` for --reward. It loads the PRM at the first call.

    Args:
        directory: the working directory of the PRM's training.
        form: a key of `FORMS`.
    """

    @functools.cache
    def load() -> tuple[RewardModel, Mesh]:
        mesh = make_mesh("auto")
        return load_reward_model(directory, "safety", mesh), mesh

    def process(texts: list[str], examples: list[dict]) -> list[float]:
        model, mesh = load()
        scored = score_steps(model, [example["problem"] for example in examples], texts, mesh)
        return [FORMS[form](steps) for steps in scored]

    return process


def steps(texts: list[str], examples: list[dict]) -> list[float]:
    """Returns the number of steps of each completion, to be logged by --reward FILE.py:steps=0."""
    return [float(len(cut_steps(text))) for text in texts]
