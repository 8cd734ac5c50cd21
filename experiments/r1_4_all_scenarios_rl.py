"""R1, stage 4: reinforcement learning for all scenarios, with rule rewards and two reward models.

Source:  DeepSeek-AI 2025, section 2.3.4; Nature 2025, Methods, eq. 8-10
Run:     python -m experiments.r1_4_all_scenarios_rl --weights=RUN_OF_STAGE_3 --helpful=DIR --safety=DIR
Departs: 1. the weights of rule, language and preference rewards are not published; each weight is 1
         2. format is rewarded on reasoning prompts too, as in stage 2; equation 10 rewards it on general prompts only
         3. prompts can change only between rounds of 16 steps, so the last 404 steps, not 400, use all scenarios
         4. the share of general prompts in the last steps is not published; it is 0.7 on nano
         5. the scales of the rewards are not published; the help of --preference-weight states ours
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

from jax.sharding import Mesh

from experiments.r1_2_reasoning_rl import NANO as REASONING_NANO
from experiments.r1_2_reasoning_rl import PAPER as REASONING_PAPER
from experiments.stage import RLCommand, plan_rl
from r1jax import cli, distributed, train_rl
from r1jax.recipes import RLRecipe, RunOptions
from r1jax.reward_models.load import load_reward_model
from r1jax.reward_models.model import RewardModel
from r1jax.rl.all_scenarios_reward import make_all_scenarios_reward
from r1jax.runs import checkpoint
from r1jax.runs.policies import size_of
from r1jax.sharding import make_meshes

PAPER = dataclasses.replace(
    REASONING_PAPER,  # "retains most of the parameters from the first stage"
    temperature=0.7,  # "a reduced temperature of 0.7"
    steps=1_700,  # "a total of 1,700 training steps"
    late_from=1_296,
    # "general instruction data and preference-based rewards ... exclusively during the final 400 steps"
)
NANO = dataclasses.replace(
    REASONING_NANO,
    temperature=0.7,
    steps=24,
    late_from=18,
    learning_rate=1e-4,
    eval_every=12,
    save_every=6,
)
RECIPES = {"nano": NANO, "paper": PAPER}
OPTIONS = RunOptions(template="r1", prompts="nano:reasoning", late_prompts="nano:scenarios", eval_prompts="nano:all")


@dataclasses.dataclass(frozen=True)
class Command(RLCommand):
    """Trains R1's last stage: reinforcement learning for all scenarios."""

    helpful: str = ""
    """Directory of the helpfulness reward model."""
    safety: str = ""
    """Directory of the safety reward model."""
    preference_weight: float = 1.0
    """Weight of the reward models. Helpfulness rewards have mean 0 and standard deviation 1 on held-out replies; the
    safety reward is a probability."""


COMMANDS = cli.commands_by_recipe(Command, RECIPES, options=OPTIONS)


def load_models(
    options: RunOptions, helpful: str, safety: str, rollout_mesh: str = ""
) -> tuple[dict[str, RewardModel], dict, Mesh]:
    """Loads the two reward models. Returns (models, sources, mesh).

    `models` and `sources` are dicts with the keys "helpful" and "safety". `models` holds the two reward models.
    `sources` is for the manifest, and holds for each reward model a list with its {path, sha256}.

    Args:
        options: the options of the run, which give the mesh.
        helpful, safety: directories of the two reward models.
        rollout_mesh: the value of --rollout-mesh, whose devices the reward models leave free.

    Raises:
        ValueError: a directory is not given, or holds no reward model of its kind.
    """
    directories = {"helpful": helpful, "safety": safety}
    for kind, directory in directories.items():
        if not directory:
            raise ValueError(
                f"--{kind}=DIR is missing: name the directory of a {kind} reward model. "
                f"Train one with python -m experiments.train_reward_model --kind={kind}"
            )
    size = size_of(options)
    distributed.share_cpu(options.mesh, size)
    distributed.start(options.coordinator, options.processes, options.process_id)
    mesh, _ = make_meshes(options.mesh, rollout_mesh, size=size)
    loaded = {kind: load_reward_model(directory, kind, mesh) for kind, directory in directories.items()}
    sources = {
        kind: [{"path": directory, "sha256": checkpoint.sha256(directory)}] for kind, directory in directories.items()
    }
    return loaded, sources, mesh


def train(recipe: RLRecipe, options: RunOptions, helpful: str, safety: str, preference_weight: float = 1.0) -> Path:
    """Trains stage 4 and returns its working directory.

    Args:
        helpful, safety: directories of the two reward models.
        preference_weight: weight of the reward models' rewards in the total reward.

    Raises:
        ValueError: a flag, file, checkpoint or reward model cannot be used.
    """
    scorers, sources, mesh = load_models(options, helpful, safety, recipe.rollout_mesh)
    return train_rl.train(
        recipe,
        options,
        "r1_4_all_scenarios_rl",
        lambda policy: make_all_scenarios_reward(
            train_rl.weights_of(recipe),
            policy.style,
            scorers,
            mesh,
            preference_weight=preference_weight,
            begins=recipe.late_from,
        ),
        {"sources": sources, "preference_weight": preference_weight},
    )


def main() -> None:
    cli.main(
        COMMANDS,
        lambda c: train(c.numbers, c.options, c.helpful, c.safety, c.preference_weight),
        __doc__,
        lambda c: plan_rl(c, c.numbers, "R1, stage 4", reward_models=2),
    )


if __name__ == "__main__":
    main()
