"""What a user can get wrong: each a clear error on standard error, a non-zero exit, and nothing lost."""

import contextlib
import json
import resource
import shutil

import pytest

from r1jax.runs import checkpoint
from support.walk import ended, files, outcome

GOOD = '{"id": "a", "problem": "Which is A? A 1", "gold": "A", "kind": "choice"}\n'


@pytest.fixture
def fresh(tmp_path):
    """A working directory that a refused command must not even make."""
    workdir = tmp_path / "run"
    yield workdir
    assert not workdir.exists()


@pytest.fixture
def used(walk, tmp_path):
    """A finished run's directory, which a refused command must leave as it is."""
    shutil.copytree(walk.finished(), tmp_path / "used")
    before = files(tmp_path / "used")
    yield tmp_path / "used"
    assert files(tmp_path / "used") == before


@pytest.mark.parametrize(
    "flags, words",
    [
        pytest.param({"mesh": "8y8"}, ["--mesh=8y8", "--mesh=AxB", "8x8"], id="mesh"),
        pytest.param({"mesh": "16x8"}, ["--mesh=16x8", "needs 128 devices", "--mesh=8x1"], id="devices"),
        pytest.param({"weights": "/nowhere/at/all"}, ["--weights=/nowhere/at/all", "there is nothing"], id="weights"),
        pytest.param({"weights": "", "model": "nan0"}, ["--model=nan0", "--weights"], id="model"),
        pytest.param(
            {"minibatches": 3}, ["--questions-per-round=2", "must be at least --minibatches=3"], id="minibatches"
        ),
        pytest.param({"group_size": 1}, ["--group-size=1", "at least 2"], id="group"),
        pytest.param({"steps": 0}, ["--steps=0", "at least 1"], id="steps"),
        pytest.param({"temperature": 0.0}, ["--temperature=0.0", "above 0"], id="temperature"),
        pytest.param({"old_logp": "me"}, ["--old-logp=me", "trainer", "sampler"], id="old logp"),
        pytest.param({"loss": "trpo"}, ["--loss=trpo", "grpo, dr_grpo, dapo, sequence"], id="loss"),
        pytest.param({"clip_eps_high": -1.0}, ["--clip-eps-high=-1.0", "--clip-eps"], id="clip eps high"),
        pytest.param({"tis_cap": 2.0, "old_logp": "sampler"}, ["--tis-cap=2.0", "--old-logp=trainer"], id="tis cap"),
        pytest.param({"row_length": 180}, ["--row-length=180", "--max-tokens=24", "at least"], id="row length"),
        pytest.param({"template": "nope"}, ["--template=nope", "r1_zero"], id="template"),
        pytest.param({"prompts": "nope.jsonl"}, ["--prompts=nope.jsonl"], id="prompts"),
        pytest.param({"eval_prompts": "nope.jsonl"}, ["--eval-prompts=nope.jsonl"], id="eval prompts"),
        pytest.param({"eval_problems": 0}, ["--eval-problems=0", "at least 1"], id="eval problems"),
        pytest.param({"processes": 2}, ["--coordinator", "--process-id"], id="processes"),
    ],
)
def test_a_flag_that_cannot_be_used_is_named_with_its_value_and_the_way_out(walk, fresh, capsys, flags, words):
    said = walk.refused(capsys, fresh, **flags)
    assert "error: " in said
    assert [word for word in words if word not in said] == [], said


def test_an_unknown_flag_is_refused_with_the_one_that_was_meant(walk, fresh, capsys):
    said = walk.refused(capsys, fresh, "--learning-rat=1e-3")
    assert "learning-rat" in said and "--learning-rate" in said


def test_8x8_on_one_device_says_what_to_type_and_exits_1(walk, fresh):
    status, _, err = ended(walk.spawn(fresh, devices=1, mesh="8x8"))
    assert status == 1
    assert err.strip().splitlines()[-1] == (
        "error: --mesh=8x8 needs 64 devices; this process sees 1 (cpu). On one device use --mesh=1x1, "
        "or on CPU set XLA_FLAGS=--xla_force_host_platform_device_count=64"
    )
    assert "Traceback" not in err


def test_a_template_without_a_place_for_the_question_is_refused(walk, fresh, tmp_path, capsys):
    (tmp_path / "template.txt").write_text("User: {problem} Assistant:")
    said = walk.refused(capsys, fresh, template=tmp_path / "template.txt")
    assert f"--template={tmp_path / 'template.txt'}" in said and "{question}" in said


@pytest.mark.parametrize("flag", ["prompts", "eval_prompts"])
@pytest.mark.parametrize(
    "row, words",
    [
        ('{"id": "b", "problem": "x", "gold": "A"}', ["has no kind"]),
        ('{"id": "b", "problem": "x", "gold": 7, "kind": "choice"}', ["gold=7", "one option letter"]),
        ('{"id": "b", "problem": "x", "gold": "A", "kind": "choise"}', ["kind='choise'", "choice"]),
        ('{"id": "a", "problem": "x", "gold": "A", "kind": "choice"}', ["repeats the id of line 1"]),
        ('{"id": "b", "problem": "x", ', ["not JSON"]),
    ],
)
def test_a_bad_row_is_named_by_file_and_line(walk, fresh, tmp_path, capsys, flag, row, words):
    path = tmp_path / "rows.jsonl"
    path.write_text(GOOD + row + "\n")
    said = walk.refused(capsys, fresh, **{flag: path})
    assert [word for word in [f"{path}:2", *words] if word not in said] == [], said


def test_a_file_without_rows_is_refused(walk, fresh, tmp_path, capsys):
    (tmp_path / "rows.jsonl").write_text("\n")
    assert "rows.jsonl" in walk.refused(capsys, fresh, prompts=tmp_path / "rows.jsonl")


def test_a_used_directory_needs_resume(walk, used, capsys):
    said = walk.refused(capsys, used)
    assert f"--workdir={used}" in said and "--resume=True" in said


def test_a_run_of_another_recipe_is_not_continued(walk, used, capsys):
    said = walk.refused(capsys, used, resume=True, group_size=8)
    assert "another recipe" in said and "group_size was 4 and is now 8" in said


def test_a_directory_that_holds_something_else_is_left_alone(walk, tmp_path, capsys):
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter1.tex").write_text("It was a dark and stormy night")
    said = walk.refused(capsys, tmp_path / "thesis", resume=True)
    assert "holds no run of r1jax" in said
    assert [path.name for path in (tmp_path / "thesis").iterdir()] == ["chapter1.tex"]


def test_other_questions_under_the_same_name_are_not_continued_with(walk, tmp_path, capsys):
    path = tmp_path / "rows.jsonl"
    path.write_text(GOOD)
    workdir = walk.here(tmp_path / "run", steps=2, prompts=path, eval_prompts=path)
    before = files(workdir)
    path.write_text(GOOD.replace("A 1", "A 2"))
    said = walk.refused(capsys, workdir, resume=True, steps=4, prompts=path, eval_prompts=path)
    assert f"--prompts={path}" in said and files(workdir) == before


def damage(step, how: str) -> None:
    """Flips a byte in the middle of a checkpoint's largest file, or cuts the file there."""
    path = max((p for p in step.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)
    content = bytearray(path.read_bytes())
    middle = len(content) // 2
    content[middle] ^= 0xFF
    path.write_bytes(content[:middle] if how == "truncated" else content)


@pytest.mark.parametrize("how", ["corrupt", "truncated"])
def test_a_damaged_checkpoint_is_refused_by_name_and_the_one_before_serves(walk, tmp_path, capsys, how):
    workdir = tmp_path / "run"
    shutil.copytree(walk.finished(), workdir)
    damage(workdir / "checkpoints" / "6", how)
    before = files(workdir)
    said = walk.refused(capsys, workdir, resume=True, steps=8)
    assert (
        str(workdir / "checkpoints" / "6") in said
        and "damaged or truncated" in said
        and "move the corrupt one away" in said
    )
    assert files(workdir) == before

    said = walk.refused(capsys, tmp_path / "child", weights=workdir)
    assert "--weights" in said and "damaged or truncated" in said
    assert not (tmp_path / "child").exists() and files(workdir) == before

    (workdir / "checkpoints" / "6").rename(tmp_path / "away")  # the way out that the message names
    walk.here(workdir, resume=True)
    assert outcome(workdir) == outcome(walk.finished())


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "tokenizer.model"])
@pytest.mark.parametrize("how", ["truncated", "missing"])
def test_a_damaged_base_is_refused_by_name(walk, fresh, tmp_path, capsys, name, how):
    base = tmp_path / "base"
    shutil.copytree(walk.base, base)
    content = (base / name).read_bytes()
    (base / name).unlink()
    if how == "truncated":
        (base / name).write_bytes(content[: len(content) // 2])
    assert f"--weights={base}" in walk.refused(capsys, fresh, weights=base)


@contextlib.contextmanager
def files_at_most(size: int):
    """No file of this process grows beyond `size` bytes: the nearest thing to a full disk that needs no other disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_full_disk_stops_the_run_and_loses_no_checkpoint(walk, tmp_path, capsys):
    workdir = walk.here(tmp_path / "run", steps=4)
    before = {name: sha for name, sha in files(workdir / "checkpoints").items() if name.startswith("4/")}
    largest = max(p.stat().st_size for p in (workdir / "checkpoints" / "4").rglob("*") if p.is_file())
    report = (workdir / "report.html").stat().st_size
    with files_at_most(min(largest, report) // 2):
        said = walk.refused(capsys, workdir, resume=True)
    assert "full" in said and "--resume=True" in said
    assert files(workdir / "checkpoints" / "4").items() == {(name[2:], sha) for name, sha in before.items()}
    assert checkpoint.latest(workdir / "checkpoints") == 4

    walk.here(workdir, resume=True)
    found, whole = outcome(workdir), outcome(walk.finished())
    found["eval"] = [line for line in found["eval"] if line["step"] != 4]  # the shorter run's end
    assert found == whole


def test_a_torn_manifest_is_an_error_that_says_which_file(walk, tmp_path, capsys):
    workdir = tmp_path / "run"
    shutil.copytree(walk.finished(), workdir)
    (workdir / "manifest.json").write_text(json.dumps({"stage": "r1_zero"})[:-4])
    before = files(workdir)
    assert str(workdir / "manifest.json") in walk.refused(capsys, workdir, resume=True)
    assert files(workdir) == before
