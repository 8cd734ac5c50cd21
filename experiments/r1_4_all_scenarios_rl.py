"""R1, stage 4: reinforcement learning for all scenarios, with rule rewards and two reward models.

Source:  DeepSeek-AI 2025, section 2.3.4; Nature 2025, Methods, eq. 8-10
Run:     python -m experiments.r1_4_all_scenarios_rl --weights=RUN_OF_STAGE_3 --helpful=DIR --safety=DIR
Departs: 1. the weights of rule, language and preference rewards are not published: 1 each
         2. format is rewarded on reasoning prompts too, as in stage 2; equation 10 has it for general prompts
         3. questions change between rounds, which have 16 steps: the last 404 steps, not 400, are of all scenarios
         4. the share of general prompts among the late ones is not published: 0.7 on nano
         5. scales of the rewards are not published: see --preference-weight
"""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from experiments.r1_2_reasoning_rl import NANO as REASONING_NANO
from experiments.r1_2_reasoning_rl import PAPER as REASONING_PAPER
from r1jax.command import by_recipe
from r1jax.plan import PlanOptions, dry_run
from r1jax.recipe import RLRecipe
from r1jax.run import RunOptions, explained

if TYPE_CHECKING:
    from jax.sharding import Mesh

    from r1jax.reward_model import RewardModel

PAPER = dataclasses.replace(
    REASONING_PAPER,  # "retains most of the parameters from the first stage"
    temperature=0.7,  # "a reduced temperature of 0.7"
    steps=1_700,  # "a total of 1,700 training steps"
    late_from=1_296,
    # "general instruction data and preference-based rewards ... exclusively during the final 400 steps"
)
NANO = dataclasses.replace(
    REASONING_NANO, temperature=0.7, steps=24, late_from=18, learning_rate=1e-4, eval_every=12, save_every=6,
)  # fmt: skip
RECIPES = {"nano": NANO, "paper": PAPER}
OPTIONS = RunOptions(template="r1", prompts="nano:reasoning", late_prompts="nano:scenarios", eval_prompts="nano:all")
PLAN = PlanOptions()


@dataclasses.dataclass(frozen=True)
class Command:
    """Reinforcement learning for all scenarios."""

    numbers: Annotated[RLRecipe, tyro.conf.arg(name="")]
    options: Annotated[RunOptions, tyro.conf.arg(name="")] = OPTIONS
    plan: Annotated[PlanOptions, tyro.conf.arg(name="")] = PLAN
    helpful: str = ""
    """Directory of the helpfulness reward model."""
    safety: str = ""
    """Directory of the safety reward model."""
    preference_weight: float = 1.0
    """Weight of the reward models: helpful rewards have mean 0 and deviation 1 on held-out replies, safety is a
    probability."""
    recipe: str = "nano"
    """Whose numbers are the defaults: nano or paper."""


def models(options: RunOptions, helpful: str, safety: str) -> tuple[list[RewardModel], dict, Mesh]:
    """The two reward models on the run's mesh, the sources {path, sha256} for its manifest, and the mesh.

    Raises:
        ValueError: a directory is missing or holds no reward model of its kind.
    """
    from r1jax import checkpoint, launch
    from r1jax.sharding import make_mesh
    from r1jax.train_reward_model import load

    directories = {"helpful": helpful, "safety": safety}
    for kind, directory in directories.items():
        if not directory:
            raise ValueError(
                f"--{kind}=DIR is missing: train one with python -m experiments.train_reward_model --kind={kind}"
            )
    launch.share_cpu(options.mesh)
    launch.start(options.coordinator, options.processes, options.process_id)
    mesh = make_mesh(options.mesh)
    loaded = [load(directory, kind, mesh) for kind, directory in directories.items()]
    sources = {
        kind: [{"path": directory, "sha256": checkpoint.sha256(directory)}] for kind, directory in directories.items()
    }
    return loaded, sources, mesh


def train(recipe: RLRecipe, options: RunOptions, helpful: str, safety: str, preference_weight: float = 1.0) -> Path:
    from r1jax import train_rl
    from r1jax.preference import all_scenarios

    scorers, sources, mesh = models(options, helpful, safety)
    return train_rl.train(
        recipe, options, "r1_4_all_scenarios_rl",
        lambda recipe, policy: all_scenarios(recipe, policy, *scorers, preference_weight, mesh),
        {"sources": sources, "preference_weight": preference_weight},
    )  # fmt: skip


def main() -> None:
    try:
        command = by_recipe(Command, RECIPES, __doc__, sys.argv[1:])
        if command.plan.dry_run:
            o, heading = command.options, f"R1, stage 4, recipe {command.recipe}"
            print(dry_run(o.model, o.weights, command.numbers, o.mesh, command.plan, heading, reward_models=2))
            return
        train(command.numbers, command.options, command.helpful, command.safety, command.preference_weight)
    except (ValueError, OSError, FloatingPointError) as error:
        sys.exit(explained(error))


if __name__ == "__main__":
    main()
