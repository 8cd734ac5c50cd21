"""Trains a policy on preferences by DPO, IPO, KTO, ORPO or SimPO, from given pairs or, in rounds, from its own samples.

Source:  Rafailov et al. 2023 (DPO); Azar et al. 2023 (IPO); Ethayarajh et al. 2024 (KTO); Hong et al. 2024 (ORPO);
         Meng et al. 2024 (SimPO); Yuan et al. 2024 (rounds on pairs of the policy's own samples). R1 has no stage of
         preference learning; such a stage is an alternative to R1's last RL stage
Run:     python -m experiments.dpo --weights=RUN_OF_STAGE_3          (nano's annotator, a program, judges pairs)
         ... --data=pairs.jsonl      rows {problem, chosen, rejected}, texts or messages
         ... --loss=kto --data=labels.jsonl      rows {problem, response, desirable}, or pairs
         ... --dry-run               prints what the run needs; reads no files
         ... --lora-rank=16          trains adapters; the reference is then the model without them
         ... --rounds=3 --prompts=nano:reasoning         three times: samples, ranks by the verifier, learns
         ... --rounds=3 --prompts=mine.jsonl --reward=mine.py:judge        ranks by a judge or a reward of your own
         ... --rounds=3 --prompts=nano:general --reward-model=RUN          ranks by a reward model
Writes:  the working directory of a run. With --rounds it holds round-1/pairs, round-1/dpo, round-2/pairs and so on.
         Each of these is the working directory of a run. The same command continues after an interruption
Departs: 1. the hyperparameters of --recipe=nano are ours. --recipe=paper has the DPO paper's β of 0.1 and learning rate
            of 1e-6, but AdamW instead of RMSprop
         2. KTO's z (the reference point) is estimated from a micro-batch; the paper uses a batch
         3. IPO takes means over tokens, as its authors recommended later; the paper's formula has sums
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

from experiments.stage import TrainCommand
from r1jax import cli, storage
from r1jax.planning.processes import place_processes
from r1jax.planning.rl import mesh_of
from r1jax.planning.supervised import dry_preference
from r1jax.preferences.own_pairs import Collecting, check_collecting, collect_pairs
from r1jax.preferences.recipe import PreferenceRecipe, check
from r1jax.preferences.train import train
from r1jax.recipes import RunOptions, SamplingOptions, require
from r1jax.runs import manifests

PAPER = PreferenceRecipe(
    loss="dpo",
    beta=0.1,  # "β = 0.1"
    epochs=1,
    batch_items=64,  # "batch size of 64"
    learning_rate=1e-6,  # "the RMSprop optimizer with a learning rate of 1e-6"
    final_learning_rate=0.0,
    warmup_steps=150,  # "linearly warmup the learning rate from 0 to 1e-6 over 150 steps"
    schedule="constant",
    grad_clip=1.0,  # not published
    max_tokens=8192,
    batch_rows=64,
    remat="full",
    items=66_000,
    held_out_items=2_000,
    save_every=50,
)
NANO = dataclasses.replace(
    PAPER,
    learning_rate=1e-4,
    warmup_steps=5,
    max_tokens=1024,
    batch_rows=16,
    remat="none",
    items=4_000,
    held_out_items=512,
    save_every=25,
)
RECIPES = {"nano": NANO, "paper": PAPER}
OPTIONS = RunOptions(template="r1")
UNUSED = ("prompts", "late_prompts", "eval_prompts", "reward", "decontaminate")
IN_ROUNDS = ("prompts", "reward")  # of these, what --rounds uses
SAMPLING = SamplingOptions()
HOME = "runs/dpo_rounds"


@dataclasses.dataclass(frozen=True)
class Command(TrainCommand[PreferenceRecipe]):
    """Trains a policy on preferences: pairs of a better and a worse reply, or labelled replies."""

    data: str = ""
    """jsonl file of pairs {problem, chosen, rejected}. With --loss=kto, a row may also be {problem, response,
    desirable}. Default: nano's annotator judges generated replies."""
    rounds: int = 0
    """Number of rounds of iterative learning. A round samples the policy on --prompts, pairs the best completion of
    each question with the worst, and learns from the pairs. The reference is the policy at the beginning of the round.
    0: no rounds; learn once from --data."""
    questions: int = 256
    """Number of questions in each round of --rounds."""
    sampling: SamplingOptions = SAMPLING
    """How --rounds samples the policy. --sampling.samples is the number of completions of each question."""
    reward_model: str = ""
    """Run directory of a helpfulness reward model. This model ranks the completions of --rounds. Default: the rewards
    of --reward rank the completions. Without --reward, the verifier ranks them."""


COMMANDS = cli.commands_by_recipe(Command, RECIPES, options=OPTIONS)


def check_flags(command: Command) -> None:
    """Raises ValueError if a flag is given that the command does not use, or if the flags do not fit --rounds."""
    options, rounds = command.options, command.rounds
    for name in UNUSED:
        given = getattr(options, name)
        if given != getattr(OPTIONS, name) and not (rounds and name in IN_ROUNDS):
            shown = given if isinstance(given, str) else " ".join(given)
            way_out = "give --rounds, which uses it, or leave it out" if name in IN_ROUNDS else "Leave the flag out"
            raise ValueError(
                f"--{name.replace('_', '-')}={shown} is for reinforcement learning and is not used here. "
                f"{way_out[0].upper()}{way_out[1:]}"
            )
    require(
        (
            (rounds >= 0, f"--rounds={rounds} must be 0 or more; 0 learns from the pairs of --data"),
            (not (rounds and command.data), f"--rounds={rounds} makes its own pairs: leave --data={command.data} out"),
            (
                rounds or not command.reward_model,
                f"--reward-model={command.reward_model} ranks the completions of --rounds: give --rounds",
            ),
        )
    )
    if rounds:
        check_collecting(collecting_of(command, 0), options)


def collecting_of(command: Command, number: int) -> Collecting:
    """Returns the settings by which round `number` collects its pairs. The first round has number 0."""
    return Collecting(number, command.questions, command.sampling, command.reward_model)


def plan(command: Command) -> str:
    """Returns the text that --dry-run prints. Checks every flag that the run would check."""
    check_flags(command)
    o, heading = command.options, f"Learning from preferences, {command.numbers.loss}, recipe {command.recipe}"
    check(command.numbers, mesh_of(o.mesh))
    if o.processes is not None:
        place_processes(o.mesh, o.processes)
    numbers = dataclasses.replace(command.numbers, items=command.questions) if command.rounds else command.numbers
    text = dry_preference(o.model, o.weights, numbers, o.mesh, command.plan, heading)
    if not command.rounds:
        return text
    return f"{text}\nthe plan is of one round of {command.rounds}, without its sampling"


def run(command: Command) -> Path:
    """Trains the policy. Returns the working directory of the run; with --rounds, of the last round's run.

    Raises:
        ValueError: a flag, file or checkpoint cannot be used.
    """
    check_flags(command)
    if command.rounds:
        return run_rounds(command)
    return train(command.numbers, command.options, command.data)


def run_rounds(command: Command) -> Path:
    """Samples, ranks and learns in each of --rounds rounds. Returns the working directory of the last round's run.

    Parts of a round that are already complete are checked against the flags, and are not repeated.

    Raises:
        ValueError: a flag, file or checkpoint cannot be used, or a round finds too few pairs.
    """
    check(command.numbers, mesh_of(command.options.mesh))  # before a round is sampled
    home, options = storage.path_of(command.options.workdir or HOME, "--workdir"), command.options
    for number in range(command.rounds):
        folder = home / f"round-{number + 1}"
        collected = dataclasses.replace(options, workdir=str(folder / "pairs"))
        pairs = collect_pairs(collected, collecting_of(command, number))
        begun = manifests.read(folder / "dpo") is not None
        learnt = dataclasses.replace(
            options, workdir=str(folder / "dpo"), prompts=OPTIONS.prompts, reward=OPTIONS.reward, resume=begun
        )
        options = dataclasses.replace(options, weights=str(train(command.numbers, learnt, str(pairs))))
    return Path(options.weights)


def main() -> None:
    cli.main(COMMANDS, run, __doc__, plan, resumes=True)


if __name__ == "__main__":
    main()
