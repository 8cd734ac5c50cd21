"""The commands of docs/published-recipes.md: they plan, and have the published numbers, written here again."""

import re
import shlex
from pathlib import Path

import pytest

from experiments import r1_zero
from r1jax import cli

PAGE = Path(__file__).parents[1] / "docs/published-recipes.md"
PUBLISHED = {
    "Dr. GRPO": dict(
        loss="dr_grpo",
        kl_coef=0.0,
        clip_eps=0.2,
        learning_rate=1e-6,
        weight_decay=0.0,
        adam_b2=0.95,
        grad_clip=1.0,
        warmup_steps=0,
        questions_per_round=128,
        group_size=8,
        minibatches=128 * 8 // 128,
        max_tokens=3000,
        steps=12_000 * 20 // 128 * 8,
        eval_every=16 * 8,
        temperature=1.0,
    ),
    "SimpleRL-Zoo": dict(
        kl="k3",
        kl_coef=1e-4,
        entropy_coef=1e-3,
        clip_eps=0.2,
        clip_eps_high=0.0,
        learning_rate=5e-7,
        weight_decay=0.01,
        adam_b2=0.999,
        questions_per_round=1024,
        group_size=8,
        minibatches=1024 // 256,
        max_tokens=8192,
        row_length=8192 + 1024,
        steps=100 * 4,
        eval_every=5 * 4,
        save_every=5 * 4,
    ),
    "DAPO": dict(
        loss="dapo",
        kl_coef=0.0,
        clip_eps=0.2,
        clip_eps_high=0.28,
        learning_rate=1e-6,
        warmup_steps=10,
        weight_decay=0.1,
        accuracy_weight=2.0,
        format_weight=0.0,
        overlong_weight=1.0,
        overlong_cache=4096,
        max_tokens=20 * 1024,
        row_length=22 * 1024,
        questions_per_round=512,
        refill=10 * 1536 // 512,
        group_size=16,
        minibatches=512 // 32,
        eval_every=5 * 16,
    ),
}


def command(title):
    """The flags of the command below a heading of the page."""
    section = PAGE.read_text(encoding="utf-8").split(f"\n## {title}\n")[1].split("\n## ")[0]
    (shown,) = re.findall(r"^```sh\n(.*?)^```$", section, re.DOTALL | re.MULTILINE)
    python, dash, module, *flags = shlex.split(shown.replace("\\\n", " "))
    assert (python, dash, module) == ("python", "-m", "experiments.r1_zero")
    return flags


@pytest.mark.parametrize("title", PUBLISHED)
def test_a_published_recipe_has_its_numbers_and_a_plan_that_fits(title, monkeypatch, capsys):
    recipe = cli.parse(r1_zero.STAGE.commands(), command(title)).numbers
    assert {name: getattr(recipe, name) for name in PUBLISHED[title]} == PUBLISHED[title]
    monkeypatch.setattr("sys.argv", ["r1_zero", *command(title), "--dry-run"])
    r1_zero.main()
    assert re.search(r"^  peak .* GB  fits$", capsys.readouterr().out, re.MULTILINE)


def test_the_flags_that_shrink_a_run_are_flags_of_it():
    text = PAGE.read_text(encoding="utf-8").replace("\\\n", " ")
    tiny = re.findall(r"^python -m experiments.r1_zero (.*)$", text, re.MULTILINE)[-1]
    recipe = cli.parse(r1_zero.STAGE.commands(), [*command("Dr. GRPO"), *shlex.split(tiny)]).numbers
    assert (recipe.steps, recipe.max_tokens, recipe.loss) == (2, 32, "dr_grpo")
