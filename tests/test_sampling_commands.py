"""`experiments.evaluate` and `experiments.generate` on tiny models, from the command line to the files."""

import json
import os
import random
import shutil
import subprocess
import sys
from pathlib import Path
from unittest import mock

import pytest
import tokenizers
from tokenizers import decoders, models, pre_tokenizers, trainers

from experiments import evaluate, generate
from r1jax import cli
from r1jax.jsonl import read
from support import families
from support.families import transformers
from support.two_processes import CLUSTER_VARIABLES
from support.walk import ROOT, count, ended, wait_until

CASES = Path(__file__).resolve().parent / "cases" / "benchmarks"
PROGRAM = {
    "id": "double",
    "problem": "Write f(x), twice x.",
    "gold": {"entry": "f", "tests": [[[2], 4]]},
    "kind": "code",
}
CHOICE = {"id": "big", "question": "Which is largest?", "choices": ["3", "9", "5", "1"], "answer": "B"}
# The keys of the AIME and AMC files and of OlympiadBench's text-only mathematics; the problems are our own.
COMPETITIONS = [
    {
        "id": "aime-0",
        "problem": "Find the least $n > 100$ that $7$ divides.",
        "answer": "105",
        "url": "https://example.org",
    },
    {
        "id": "olympiad-0",
        "problem": "How long is the hypotenuse over $3$ and $4$ cm?",
        "answer": ["$5$"],
        "answer_type": "Numerical",
        "unit": "cm",
        "error": None,
        "multiple": False,
    },
]
CHAT = "{{ bos_token }}<user>{{ messages[0].content }}<assistant>"


@pytest.fixture(scope="module")
def qwen(tmp_path_factory):
    """A random Qwen2 with a byte-level tokenizer, as transformers writes it."""
    home = tmp_path_factory.mktemp("qwen")
    inner = tokenizers.Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    letters = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=300, special_tokens=["<pad>", "<eos>"], initial_alphabet=letters, show_progress=False
    )
    inner.train_from_iterator(["<think> so </think> the answer is \\boxed{7}"], trainer)
    inner.save(str(home / "tokenizer.json"))
    said = {"eos_token": "<eos>", "pad_token": "<pad>", "chat_template": CHAT}
    (home / "tokenizer_config.json").write_text(json.dumps(said))
    cfg = transformers.Qwen2Config(**families.SIZES | {"vocab_size": 320, "tie_word_embeddings": True})
    families.randomise(transformers.Qwen2ForCausalLM(cfg).float()).save_pretrained(home)
    return home


def run(module, **flags):
    """The command in this process. SystemExit where it ends with an error."""
    arguments = [f"--{name.replace('_', '-')}={value}" for name, value in flags.items()]
    with mock.patch.object(sys, "argv", [module.__name__, *arguments]):
        module.main()


def spawn(module, **flags) -> subprocess.Popen:
    """The command in a process of its own."""
    env = {k: v for k, v in os.environ.items() if not k.startswith(CLUSTER_VARIABLES)} | {
        "JAX_PLATFORMS": "cpu",
        "JAX_NUM_CPU_DEVICES": "8",
        "PYTHONPATH": str(ROOT),
    }
    command = [sys.executable, "-m", module, *(f"--{name.replace('_', '-')}={value}" for name, value in flags.items())]
    return subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def refused(module, **flags):
    with pytest.raises(SystemExit) as left:
        run(module, **flags)
    return str(left.value.code)


@pytest.fixture(scope="module")
def files(qwen, tmp_path_factory):
    """The flags of a small evaluation on files of every kind, and what it has written."""
    home = tmp_path_factory.mktemp("evaluated")
    (home / "others.jsonl").write_text(json.dumps(PROGRAM) + "\n" + json.dumps(CHOICE) + "\n")
    (home / "competitions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in COMPETITIONS))
    paths = [CASES / "gsm8k_sample.jsonl", CASES / "math500_sample.jsonl"]
    paths += [home / "others.jsonl", home / "competitions.jsonl"]
    flags = dict(
        weights=qwen,
        benchmarks=",".join(map(str, paths)),
        problems=2,
        samples=2,
        max_tokens=4,
        wave_rows=4,
        mesh="1x1",
        template="chat",
    )
    run(evaluate, **flags, workdir=home / "whole")
    return flags, home / "whole"


def test_a_file_of_every_kind_is_evaluated_from_the_command_line(files):
    _, home = files
    results = json.loads((home / "results.json").read_text())
    assert {name: (found["n"], found["samples"]) for name, found in results["benchmarks"].items()} == {
        "gsm8k_sample": (2, 2),
        "math500_sample": (2, 2),
        "others": (2, 2),
        "competitions": (2, 2),
    }
    by_task = results["benchmarks"]["others"]["by_task"]
    assert {name: found["n"] for name, found in by_task.items()} == {
        "choice": 1,
        "code": 1,
    }
    math = results["benchmarks"]["math500_sample"]
    assert {"pass@1", "pass@2", "cons@2", "format", "length", "truncated", "no_answer"} <= set(math)
    assert all(
        0 <= math[name]["low"] <= math[name]["mean"] <= math[name]["high"] <= 1
        for name in ("pass@1", "format", "truncated")
    )
    assert results["sampling"] == {
        "samples": 2,
        "temperature": 0.6,
        "top_p": 0.95,
        "top_k": 0,
        "min_p": 0.0,
        "max_tokens": 4,
    }
    lines = read(home / "gsm8k_sample.jsonl")
    assert [(line["id"], line["sample"]) for line in lines] == [(f"gsm8k-test-{i}", k) for i in (1, 3) for k in (0, 1)]
    assert [line["gold"] for line in read(home / "competitions.jsonl")] == ["105", "105", "$5$", "$5$"]
    manifest = json.loads((home / "manifest.json").read_text())
    assert manifest["status"] == "complete" and len(manifest["parent"]["sha256"]) == 64


def test_the_figures_are_those_of_the_lines_by_hand(files, tmp_path):
    """Two problems of two samples each: one right of two, whose answers differ, and none right."""
    flags, whole = files
    shutil.copytree(whole, tmp_path / "again")
    path = tmp_path / "again" / "gsm8k_sample.jsonl"
    said = [("correct", "7"), ("wrong", "8"), ("wrong", "1"), ("no_answer", None)]
    lines = [
        line | {"verdict": verdict, "answer": answer, "right": verdict == "correct"}
        for line, (verdict, answer) in zip(read(path), said, strict=True)
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    (tmp_path / "again" / "results.json").unlink()
    run(evaluate, **flags, workdir=tmp_path / "again")  # nothing is drawn: every line is there
    found = json.loads((tmp_path / "again" / "results.json").read_text())["benchmarks"]["gsm8k_sample"]
    # pass@1: (1/2 + 0)/2; pass@2: (1 + 0)/2; cons@2: a tie of 7 and 8 is worth 1/2, and 1 is wrong: (1/2 + 0)/2
    assert [found[name]["mean"] for name in ("pass@1", "pass@2", "cons@2", "no_answer")] == [0.25, 0.5, 0.25, 0.25]


def test_an_evaluation_killed_anywhere_ends_with_the_same_results(files, tmp_path):
    flags, whole = files
    shutil.copytree(whole, tmp_path / "again")
    rng = random.Random(0)
    cut = tmp_path / "again" / "math500_sample.jsonl"
    cut.write_bytes(cut.read_bytes()[: rng.randrange(cut.stat().st_size)])
    for path in (tmp_path / "again").glob("others*"):  # not begun
        path.unlink()
    (tmp_path / "again" / "results.json").unlink()
    run(evaluate, **flags, workdir=tmp_path / "again")
    for path in whole.iterdir():
        if path.name != "manifest.json":
            assert (tmp_path / "again" / path.name).read_bytes() == path.read_bytes(), path.name


@pytest.mark.parametrize(
    "changed, words",
    [
        ({"max_tokens": 5}, "holds a run of another recipe: sampling.max_tokens was 4 and is now 5"),
        ({"seed": 1}, "seed was 0 and is now 1"),
    ],
)
def test_other_settings_in_a_used_directory_are_refused(files, changed, words):
    flags, whole = files
    assert words in refused(evaluate, **flags | changed, workdir=whole)


def test_a_refused_evaluation_leaves_what_is_there_and_one_of_moved_weights_goes_on(files, qwen, tmp_path):
    flags, whole = files
    shutil.copytree(whole, tmp_path / "again")
    shutil.copytree(qwen, tmp_path / "moved")

    def there():
        return {path.name: path.read_bytes() for path in (tmp_path / "again").iterdir()}

    before = there()
    other = families.randomise(transformers.Qwen2ForCausalLM.from_pretrained(qwen).float(), seed=1)
    other.save_pretrained(tmp_path / "other")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(qwen / name, tmp_path / "other")
    said = refused(evaluate, **flags | {"weights": tmp_path / "other"}, workdir=tmp_path / "again")
    assert "Restore the old weights, or name a new directory" in said and there() == before
    run(evaluate, **flags | {"weights": tmp_path / "moved"}, workdir=tmp_path / "again")
    found, expected = (json.loads(home["results.json"])["benchmarks"] for home in (there(), before))
    assert found == expected


@pytest.mark.parametrize(
    "changed, words",
    [
        ({"benchmarks": "nowhere.jsonl"}, "--benchmarks=nowhere.jsonl cannot be read"),
        ({"benchmarks": "nano:maths"}, "names no mix of the nano generator"),
        ({"benchmarks": ","}, "must name at least one benchmark"),
        ({"weights": "nowhere"}, "--weights=nowhere"),
        ({"temperature": -1}, "--temperature=-1.0 must be 0"),
        ({"samples": -1}, "--samples=-1 must be at least 1"),
        ({"recipe": "mine"}, "--recipe=mine is unknown: use nano or paper"),
        ({"template": "nowhere"}, "--template=nowhere is neither a file nor one of"),
    ],
)
def test_a_flag_that_cannot_be_used_is_named(files, tmp_path, changed, words):
    flags, _ = files
    assert words in refused(evaluate, **flags | changed, workdir=tmp_path / "new")


def test_the_papers_numbers_are_defaults_of_the_recipe_paper():
    command = cli.parse(evaluate.COMMANDS, ["--recipe=paper", "--max-tokens=100"])
    numbers = command.sampling
    assert (numbers.samples, numbers.temperature, numbers.top_p, numbers.max_tokens) == (0, 0.6, 0.95, 100)
    assert evaluate.PAPER.max_tokens == 32_768


def test_the_nano_world_is_evaluated_with_its_own_truth(walk, tmp_path, capsys):
    run(
        evaluate,
        weights=walk.base,
        benchmarks="nano:compare,nano:general",
        problems=4,
        samples=2,
        max_tokens=24,
        wave_rows=8,
        template="r1_zero",
        mesh="1x1",
        workdir=tmp_path / "new",
    )
    found = json.loads((tmp_path / "new" / "results.json").read_text())["benchmarks"]
    assert found["nano_compare"]["n"] == 4 and {"pass@1", "cons@2", "language"} <= set(found["nano_compare"])
    assert {"helpful", "harmless", "padding"} <= set(found["nano_general"]) and "pass@1" not in found["nano_general"]
    assert "nano_compare" in capsys.readouterr().out


def test_records_carry_what_a_review_needs_and_the_filters_their_reasons(walk, tmp_path):
    flags = dict(
        weights=walk.base,
        prompts="nano:compare",
        count=4,
        samples=4,
        max_tokens=24,
        wave_rows=8,
        template="r1_zero",
        mesh="1x1",
        workdir=tmp_path / "new",
    )
    run(generate, **flags)
    records = read(tmp_path / "new" / "records.jsonl")
    assert len(records) == 16 and len({record["id"] for record in records}) == 16
    assert {
        "domain",
        "task",
        "language",
        "problem",
        "response",
        "raw",
        "route",
        "source",
        "rewritten_by",
        "tokens",
    } <= set(records[0])
    assert all(record["keep"] == (not record["reason"]) for record in records)
    assert all(record["right"] and not record["truncated"] for record in records if record["keep"])
    assert all(len(record["source"]["sha256"]) == 64 for record in records)
    there = (tmp_path / "new" / "samples.jsonl").read_bytes()
    pytest.importorskip("pyarrow")
    run(
        generate, **flags, to="parquet", right=False, finished=False, least_language=0
    )  # filters alone: nothing is drawn again
    import pyarrow.parquet

    rows = pyarrow.parquet.read_table(tmp_path / "new" / "records.parquet").to_pylist()
    assert [row["raw"] for row in rows] == [record["raw"] for record in records]
    assert {row["reason"] for row in rows} <= {"", "repetition", "duplicate"}
    assert (tmp_path / "new" / "samples.jsonl").read_bytes() == there


def test_records_that_people_edited_stay_as_they_are(walk, tmp_path, capsys):
    flags = dict(
        weights=walk.base,
        prompts="nano:compare",
        count=2,
        samples=2,
        max_tokens=24,
        wave_rows=8,
        template="r1_zero",
        mesh="1x1",
        workdir=tmp_path / "new",
    )
    run(generate, **flags)
    path = tmp_path / "new" / "records.jsonl"
    edited = path.read_text().replace('"reason": "', '"reason": "a person says: ')
    path.write_text(edited)
    run(generate, **flags)
    assert path.read_text() == edited and "edited since" in capsys.readouterr().out
    assert "with different flags wrote it. This command would overwrite the edits" in refused(
        generate, **flags | {"right": False}
    )
    assert path.read_text() == edited
    path.unlink()
    run(generate, **flags)
    assert "a person says" not in path.read_text()


def test_records_whose_sampling_was_killed_are_those_of_one_that_was_not(qwen, tmp_path):
    pytest.importorskip("pyarrow")
    flags = dict(
        weights=qwen,
        prompts="nano:compare",
        count=16,
        samples=2,
        max_tokens=4,
        wave_rows=4,
        template="chat",
        mesh="1x1",
        right=False,
        finished=False,
        least_language=0,
    )
    process = spawn("experiments.generate", **flags, workdir=tmp_path / "killed")
    wait_until(lambda: count(tmp_path / "killed", "samples") > 0, process)
    process.kill()
    ended(process)
    assert count(tmp_path / "killed", "samples") < 32, "it was killed too late to show anything"
    for form in ("jsonl", "parquet"):
        run(generate, **flags, to=form, workdir=tmp_path / "whole")
        shutil.copytree(tmp_path / "killed", tmp_path / form)
        run(generate, **flags, to=form, workdir=tmp_path / form)
        for name in (f"records.{form}", "samples.jsonl"):
            assert (tmp_path / form / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
        manifest = json.loads((tmp_path / form / "manifest.json").read_text())
        assert manifest["status"] == "complete" and sum(manifest["results"]["final"].values()) == 32
