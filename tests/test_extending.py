"""The pages of docs/extending, run as printed: their files are written, their lines go into a copy of the project, and
their commands run with smaller numbers.

What stands behind a fence names the file that a block is, or goes into. Commands are in `sh` blocks. Other `text`
blocks show what is printed, with … for anything. That of a refusal says behind its fence what was changed or asked.
"""

import dataclasses
import importlib.util
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import jax
import numpy as np
import pytest

from experiments import r1_zero
from r1jax import cli, jsonl, losses
from r1jax.runs import manifests
from support.two_processes import CLUSTER_VARIABLES
from support.walk import FLAGS, ROOT, files, lines

PAGES = ROOT / "docs/extending"
BLOCK = re.compile(r"^```(\w+)(?: ([^\n]+))?\n(.*?)^```$", re.MULTILINE | re.DOTALL)
# The lines that the blocks of a page go in front of, where the file is there already.
PLACES = {
    "r1jax/losses/table.py": ("\n# The names that --loss takes.\n", "}\n\n\ndef row_weights"),
    "r1jax/rewards/kinds.py": ('    "math": Kind(\n',),
    "experiments/r1_stages.py": ("    distill,\n    r1_1_cold_start,\n", '    Stage("R1-Zero",'),
}


def blocks(page: str, language: str) -> list[tuple[str, str]]:
    """(what stands behind the fence, the lines) of a page's blocks in a language."""
    found = BLOCK.findall((PAGES / f"{page}.md").read_text(encoding="utf-8"))
    return [(label, body) for kind, label, body in found if kind == language]


def commands(page: str) -> list[list[str]]:
    """The commands of a page: module and arguments."""
    shell = "".join(body for _, body in blocks(page, "sh")).replace("\\\n", " ")
    split = [shlex.split(line) for line in shell.splitlines()]
    assert split and all(words[:2] == ["python", "-m"] for words in split)
    return [words[2:] for words in split]


def made(page: str, home: Path) -> Path:
    """A copy of the project with what the page says to write; the bases that ship stay behind."""
    for name in ("r1jax", "experiments"):
        shutil.copytree(ROOT / name, home / name, ignore=shutil.ignore_patterns("*.safetensors", "__pycache__"))
    places = {path: list(anchors) for path, anchors in PLACES.items()}
    for path, body in blocks(page, "python") + blocks(page, "json") + blocks(page, "text"):
        path = path.removeprefix("into ")
        if path in places:
            source, anchor = (home / path).read_text(), places[path].pop(0)
            assert source.count(anchor) == 1, f"{path} has no single {anchor!r}"
            (home / path).write_text(source.replace(anchor, body + anchor))
        elif path.endswith((".py", ".jsonl")):
            assert not (home / path).exists()
            (home / path).write_text(body)
    assert not any(left for path, left in places.items() if len(left) < len(PLACES[path]))
    return home


def loaded(path: Path, name: str, monkeypatch) -> ModuleType:
    """The module of a file, under a name of its own."""
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, name, module)  # dataclasses look their own module up
    spec.loader.exec_module(module)
    return module


def smaller(arguments: list[str], walk, **changed: object) -> list[str]:
    """The arguments of a command, with the base and the sizes of tests for what they leave open."""
    fields = {name: value for name, value in FLAGS.items() if f"--{name.replace('_', '-')}=" not in " ".join(arguments)}
    fields |= {"weights": walk.base, "eval_problems": FLAGS["eval_problems"]} | changed
    return [*arguments, *(f"--{name.replace('_', '-')}={value}" for name, value in fields.items())]


def here(monkeypatch, module: ModuleType, arguments: list[str]) -> None:
    """Runs a command in this process."""
    with monkeypatch.context() as patch:
        patch.setattr(sys, "argv", [module.__name__, *arguments])
        module.main()


def refused(monkeypatch, module: ModuleType, arguments: list[str]) -> str:
    """What a command ends with."""
    with pytest.raises(SystemExit) as left:
        here(monkeypatch, module, arguments)
    return str(left.value.code)


def apart(home: Path, module: str, *arguments: str) -> str:
    """What a command prints in a process of its own, in a copy of the project."""
    env = {name: value for name, value in os.environ.items() if not name.startswith(CLUSTER_VARIABLES)}
    env |= {"PYTHONPATH": str(home), "JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": "8"}
    env |= {name: os.environ[name] for name in os.environ if name.startswith(("JAX_COMPILATION_", "JAX_PERSISTENT_"))}
    done = subprocess.run([sys.executable, "-m", module, *arguments], cwd=home, env=env, capture_output=True, text=True)
    return done.stdout + done.stderr


def check_shown(page: str, printed: str, label: str = "") -> None:
    """The `text` blocks of a page with this label: each line was printed."""
    shown = "".join(body for behind, body in blocks(page, "text") if behind == label)
    assert shown
    printed = re.sub(" +", " ", printed)
    for line in shown.splitlines():
        pattern = r".*".join(re.escape(re.sub(" +", " ", part)) for part in line.split("…"))
        assert re.search(pattern, printed), f"{page}.md shows {line!r}, which was not printed:\n{printed}"


@pytest.mark.parametrize("page", sorted(path.stem for path in PAGES.glob("*.md")))
def test_a_page_is_short(page):
    text = (PAGES / f"{page}.md").read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 70
    assert "What is refused" in text and re.search(r" took .*\d.* on two CPU cores", text)


# A loss.
LOW, HIGH = 0.2, 0.28


def published(logp, old, rewards, mask):
    """Gao et al. 2025, token by token, negated."""
    advantages = (rewards - rewards.mean()) / rewards.std()
    total = 0.0
    for i, t in zip(*np.nonzero(mask), strict=True):
        heat = 1.0 if advantages[i] > 0 else 1.05
        gate = 4 / heat / (1 + np.exp(-heat * (np.exp(logp[i, t] - old[i, t]) - 1)))
        total += gate * advantages[i] / mask[i].sum() / len(mask)
    return -total


def test_the_loss_of_the_page_and_its_gradient_are_the_published_formula(tmp_path, monkeypatch):
    edited = loaded(made("loss", tmp_path) / "r1jax/losses/table.py", "edited_table", monkeypatch)
    sapo = edited.objective_of("sapo")
    rng = np.random.default_rng(0)
    logp, old = -2.0 + 0.4 * rng.standard_normal((2, 6, 9))
    rewards = rng.choice([0.0, 1.0, 2.0], 6)
    lengths = np.asarray([1, 4, 9, 2, 7, 5])
    mask = np.arange(9) < lengths[:, None]
    ratio = np.exp(logp - old)[mask]
    assert (ratio < 1 - LOW).any() and (ratio > 1 + HIGH).any()

    sizes = dict(rows=6, tokens=int(mask.sum()), max_tokens=12)
    weight = edited.row_weights("sapo", lengths.astype(float), lengths > 0, **sizes)[:, None] * mask
    advantages = sapo.advantages(rewards[None], np.ones((1, 6), bool), lengths[None])[0]
    fixed = [np.float32(x) for x in (old, old, np.broadcast_to(advantages[:, None], mask.shape), weight)]

    def loss(x):
        how = dict(clip_eps=LOW, clip_eps_high=HIGH, kl_coef=0.0, surrogate=sapo.surrogate)
        return losses.policy_loss(x, *fixed, **how)

    (value, figures), slope = jax.value_and_grad(loss, has_aux=True)(np.float32(logp))
    np.testing.assert_allclose(value, published(logp, old, rewards, mask), rtol=1e-5)
    outside = ((np.exp(logp - old) < 1 - LOW) | (np.exp(logp - old) > 1 + HIGH)) * weight
    np.testing.assert_allclose(figures["clip_fraction"], outside.sum(), rtol=1e-5)
    for i, t in np.ndindex(mask.shape):  # central differences of the formula
        step = np.zeros_like(logp)
        step[i, t] = 1e-5
        up, down = (published(logp + s * step, old, rewards, mask) for s in (1, -1))
        np.testing.assert_allclose(slope[i, t], (up - down) / 2e-5, rtol=1e-4, atol=1e-6)


@pytest.mark.slow
def test_the_loss_of_the_page_trains_by_its_flag(walk, tmp_path, monkeypatch, capsys):
    ((module, *arguments),) = commands("loss")
    assert module == "experiments.r1_zero"
    learnt = dict(prompts="nano:compare", eval_prompts="nano:compare")  # what the small base is sometimes right about
    arguments = smaller(arguments, walk, workdir=tmp_path / "run", questions_per_round=4, **learnt)
    assert "--loss=sapo must be one of grpo" in refused(monkeypatch, r1_zero, arguments)
    entry = loaded(made("loss", tmp_path) / "r1jax/losses/table.py", "edited_table", monkeypatch).LOSSES["sapo"]
    monkeypatch.setitem(losses.LOSSES, "sapo", losses.Objective(*entry))
    here(monkeypatch, r1_zero, arguments)
    check_shown("loss", "".join(capsys.readouterr()))
    trained = lines(tmp_path / "run", "metrics")
    assert [line["step"] for line in trained] == [1, 2]
    assert all(np.isfinite(line["loss"]) for line in trained)
    assert any(line["grad_norm"] > 0 for line in trained)  # a step whose rewards are all equal has none
    said = refused(monkeypatch, r1_zero, ["--loss=spao"])
    check_shown("loss", said, "--loss=spao")
    changed = [flag.replace("sapo", "dapo") for flag in arguments]
    assert 'loss was "sapo" and is now "dapo"' in refused(monkeypatch, r1_zero, [*changed, "--resume=True"])


# A kind of question.
USES = """
import json
import sys
from r1jax.evaluation.benchmark import announced_job
from r1jax.evaluation.prompts import instructed
from r1jax.data.readers import rows
from r1jax.rewards import rule
from r1jax.rewards.isolate import Pool
from r1jax.rewards.kinds import KINDS
from r1jax.data.selfcheck import find_unusable
found = list(rows(sys.argv[1]))
text = "<think> hm </think> <answer> abba </answer>"
with Pool(1) as pool:
    verdicts = rule.verify(pool, [text] * len(found), found) + pool.run([announced_job(text, found[0])])
print(json.dumps([
    [verdict.reward for verdict in verdicts],
    [row["id"] for row, _ in find_unusable(found)],
    KINDS["palindrome"].domain,
    instructed(found[0]),
]))
"""


def test_the_kind_of_the_page_is_one_file_and_one_line(tmp_path):
    """Nothing but the file and the line is new, and everything that asks for a kind works."""
    home = made("verifier", tmp_path)
    asked = [
        {"id": "a", "problem": "Four letters?", "gold": 4, "kind": "palindrome"},
        {"id": "b", "problem": "Three letters?", "gold": 3, "kind": "palindrome", "solution": "abc"},
    ]
    (home / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in asked))
    done = subprocess.run(
        [sys.executable, "-c", USES, "rows.jsonl"],
        cwd=home,
        env={"PYTHONPATH": str(home)},
        capture_output=True,
        text=True,
    )
    rewards, bad, domain, question = json.loads(done.stdout)
    assert rewards == [1.0, 0.0, 1.0] and bad == ["b"]
    assert (domain, question) == ("logic", "Four letters?")

    grade, check, _ = commands("verifier")
    graded = apart(home, *grade)
    assert [json.loads(line)["reward"] for line in graded.splitlines()] == [1.0, 0.0]
    checked = apart(home, *check)
    check_shown("verifier", graded + checked + "step 2: held-out accuracy 0")  # the last line is training's, see below

    asked = (home / "asked.jsonl").read_text()
    (home / "asked.jsonl").write_text(asked.replace('"gold": 4', '"gold": "4"'))
    check_shown("verifier", apart(home, *check), '"gold": "4"')
    (home / "asked.jsonl").write_text(asked.replace('"palindrome"', '"palindrom"'))
    assert "asked.jsonl:1 (id 'a') has kind='palindrom'; use one of" in apart(home, *check)


@pytest.mark.slow
def test_the_kind_of_the_page_is_trained_on(walk, tmp_path):
    home = made("verifier", tmp_path)
    (module, *arguments) = commands("verifier")[-1]
    trained = apart(home, module, *smaller(arguments, walk, workdir="run"))
    assert re.search("step 2: held-out accuracy", trained), trained
    assert [line["step"] for line in lines(home / "run", "metrics")] == [1, 2]
    assert manifests.read(home / "run").data["counts"]["rows"] == 1


# A reward.
def test_the_reward_of_the_page_trains_is_evaluated_resumed_and_refused_when_it_has_changed(
    walk, tmp_path, monkeypatch, capsys
):
    for name, body in blocks("reward", "python") + blocks("reward", "json"):
        (tmp_path / name).write_text(body)
    monkeypatch.chdir(tmp_path)
    train, go_on = (smaller(arguments, walk) for _, *arguments in commands("reward"))
    here(monkeypatch, r1_zero, train)
    check_shown("reward", "".join(capsys.readouterr()))
    run = tmp_path / "runs/mine"
    assert [line["step"] for line in lines(run, "metrics")] == [1, 2]
    here(monkeypatch, r1_zero, go_on)
    trained, evaluated = lines(run, "metrics"), lines(run, "eval")
    assert [line["step"] for line in trained] == [1, 2, 3] and [line["step"] for line in evaluated] == [0, 2, 3]
    for line in trained + evaluated:
        mean = 0.5 * line["reward/brief"] + line["reward/word"]
        assert line["reward/mean"] == pytest.approx(mean) and "reward/accuracy" not in line
    for line in jsonl.read(run / "samples.jsonl"):
        assert line["reward"]["brief"] == max(0.0, 1 - len(line["completion"]) / 400)

    before = files(run)
    file = tmp_path / "mine.py"
    source = file.read_text()
    file.write_text(source.replace("400", "500"))
    check_shown("reward", refused(monkeypatch, r1_zero, go_on), "400 -> 500")
    file.write_text(source)
    heavier = [word.replace("brief=0.5", "brief=2") for word in go_on]
    assert "name a new directory" in refused(monkeypatch, r1_zero, heavier)
    absent = [word.replace("brief", "short") for word in go_on]
    check_shown("reward", refused(monkeypatch, r1_zero, absent), "brief -> short")
    assert files(run) == before


# A stage.
@pytest.fixture
def staged(tmp_path, monkeypatch):
    """The copy of the project with the stage of the page, and the stage's module, which this process can import."""
    home = made("stage", tmp_path)
    module = loaded(home / "experiments/dapo.py", "experiments.dapo", monkeypatch)
    monkeypatch.setattr("experiments.dapo", module, raising=False)
    return home, module


def test_the_stage_of_the_page_is_a_command(staged, walk, tmp_path, monkeypatch, capsys):
    _, module = staged
    (_, *arguments), _ = commands("stage")
    here(monkeypatch, module, smaller(arguments, walk, workdir=tmp_path / "run", minibatches=2))
    check_shown("stage", "".join(capsys.readouterr()))
    there = manifests.read(tmp_path / "run")
    assert (there.stage, there.status) == ("dapo", "complete")
    assert (there.recipe["loss"], there.recipe["clip_eps_high"], there.recipe["kl_coef"]) == ("dapo", 0.28, 0.0)
    (line,) = lines(tmp_path / "run", "metrics")
    assert -1 <= line["reward/overlong"] <= 0
    check_shown("stage", refused(monkeypatch, module, ["--recipe=paper"]), "--recipe=paper")


def test_the_stage_of_the_page_has_a_row(staged, monkeypatch):
    """The flags of the whole are those of the page; training it is `dapo.train`."""
    home, module = staged
    table = loaded(home / "experiments/r1_stages.py", "edited_stages", monkeypatch)
    _, (_, *arguments) = commands("stage")
    command = cli.parse(table.Command, arguments)
    assert command.numbers.dapo == dataclasses.replace(module.NANO, steps=1)
    assert command.until == table.STAGES[0].folder == table.NAMES["DAPO"]


@pytest.mark.slow
def test_the_stage_of_the_page_runs_with_the_others(staged, walk):
    home, _ = staged
    _, (name, *arguments) = commands("stage")
    small = {f"dapo.{flag}": value for flag, value in FLAGS.items() if flag not in ("steps", "mesh")}
    small |= {"weights": walk.base, "student_weights": walk.base, "mesh": "1x1", "problems": 2}
    small |= {"evaluation.max_tokens": 24}
    arguments += [f"--{flag.replace('_', '-')}={value}" for flag, value in small.items()]
    printed = apart(home, name, *arguments)
    assert "the page is runs/r1/report.html" in printed, printed
    assert manifests.read(home / "runs/r1/0_dapo").status == "complete"
    assert (home / "runs/r1/evaluation/0_dapo").is_dir()
    assert "0_dapo: complete, skipped" in apart(home, name, *arguments)
