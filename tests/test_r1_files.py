"""Every file of R1 on a random Qwen2 that transformers wrote: two steps each, by command, on eight devices."""

import json
import shutil
import sys
from pathlib import Path
from unittest import mock

import pytest
import tokenizers
from tokenizers import decoders, models, pre_tokenizers, trainers

from experiments import (
    distill,
    r1_1_cold_start,
    r1_2_reasoning_rl,
    r1_3_rejection_sft,
    r1_4_all_scenarios_rl,
    r1_zero,
    train_reward_model,
)
from r1jax import jsonl
from r1jax.nano import corpus
from r1jax.runs import checkpoint, manifests
from r1jax.sft_data import records
from support import families
from support.families import transformers

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]
ROW = 256
RL = dict(
    steps=2,
    questions_per_round=4,
    group_size=4,
    max_tokens=8,
    eval_problems=4,
    row_length=ROW,
    batch_rows=4,
    save_every=2,
    eval_every=0,
    log_samples=1,
    warmup_steps=0,
    temperature=1.0,
    learning_rate=1e-3,
    language_weight=1.0,  # the one reward that random text can earn
)
SFT = dict(
    epochs=0.0,
    steps=2,
    warmup_steps=0,
    row_length=ROW,
    batch_rows=4,
    held_out_problems=0,
    max_tokens=8,
    eval_problems=4,
    log_samples=1,
    save_every=2,
)
REWARD = dict(
    epochs=1, items=8, held_out_items=4, batch_items=4, batch_rows=8, max_tokens=ROW, save_every=1, warmup_steps=0
)
NANO = dict(prompts="nano:compare", eval_prompts="nano:compare")


@pytest.fixture(scope="module")
def qwen(tmp_path_factory):
    """The directory: config.json, model.safetensors, and a byte-level tokenizer.json of the nano corpus."""
    home = tmp_path_factory.mktemp("qwen")
    inner = tokenizers.Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=900,
        special_tokens=["<pad>", "<eos>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    inner.train_from_iterator((corpus.document(1, i) for i in range(300)), trainer)
    inner.save(str(home / "tokenizer.json"))
    (home / "tokenizer_config.json").write_text(json.dumps({"eos_token": "<eos>", "pad_token": "<pad>"}))
    sizes = dict(vocab_size=904, max_position_embeddings=1024, hidden_size=32, intermediate_size=32)
    cfg = transformers.Qwen2Config(**families.SIZES | sizes, tie_word_embeddings=True)
    families.randomise(transformers.Qwen2ForCausalLM(cfg).float()).save_pretrained(home)
    return home


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return tmp_path_factory.mktemp("files")


def run(module, workdir: Path, weights: Path, **flags: object) -> manifests.Manifest:
    """The command in this process; the manifest that it leaves. SystemExit where it ends with an error."""
    fields = flags | {"workdir": workdir, "weights": weights, "mesh": "4x2"}
    arguments = [f"--{name.replace('_', '-')}={value}" for name, value in fields.items()]
    with mock.patch.object(sys, "argv", [module.__name__, *arguments]):
        module.main()
    return manifests.read(workdir)


def reviewed(path: Path) -> int:
    """What a person makes of records that a random model wrote: keeps some, with answers of their own."""
    found = records.read(path)
    for record in found:
        record["keep"] = record["kind"] == "choice"
        record["response"] = f" <think> i see </think> The answer is \\boxed{{{record['gold']}}}."
    records.write(path, found)
    return len(records.select_kept(found))


@pytest.fixture(scope="module")
def zero(qwen, home):
    return run(r1_zero, home / "zero", qwen, **RL, **NANO), home / "zero"


@pytest.fixture(scope="module")
def cold(qwen, zero, home):
    """Stage 1: nothing that a random model writes is right, so a person writes the answers."""
    flags = SFT | NANO | dict(zero=zero[1], questions=4, samples=2, sample_tokens=8)
    assert run(r1_1_cold_start, home / "cold", qwen, **flags, review=True) is None
    kept = reviewed(home / "cold_data/cold_start.jsonl")
    made = run(r1_1_cold_start, home / "cold", qwen, **flags)
    assert kept and made.data["counts"]["kept"] == kept
    return made, home / "cold"


@pytest.fixture(scope="module")
def reasoning(cold, home):
    return run(r1_2_reasoning_rl, home / "reasoning", cold[1], **RL, **NANO), home / "reasoning"


@pytest.fixture(scope="module")
def rejection(qwen, reasoning, home):
    flags = (
        SFT
        | NANO
        | dict(
            reasoner=reasoning[1],
            questions=4,
            samples=2,
            general_questions=4,
            general_samples=1,
            sample_tokens=8,
        )
    )
    assert run(r1_3_rejection_sft, home / "rejection", qwen, **flags, review=True) is None
    assert reviewed(home / "rejection_data/rejection.jsonl")
    return run(r1_3_rejection_sft, home / "rejection", qwen, **flags), home / "rejection"


@pytest.fixture(scope="module")
def rewards(rejection, home):
    return {
        kind: (run(train_reward_model, home / kind, rejection[1], kind=kind, **REWARD), home / kind)
        for kind in ("helpful", "safety")
    }


@pytest.fixture(scope="module")
def last(rejection, rewards, home):
    given = {kind: path for kind, (_, path) in rewards.items()}
    flags = RL | dict(prompts="nano:compare", late_prompts="nano:general", eval_prompts="nano:general", late_from=1)
    return run(r1_4_all_scenarios_rl, home / "last", rejection[1], **flags, **given), home / "last"


@pytest.fixture(scope="module")
def student(qwen, rejection, home):
    file = home / "rejection_data/rejection.jsonl"
    return run(distill, home / "student", qwen, **SFT, **NANO, records=file), home / "student"


STAGES = ("zero", "cold", "reasoning", "rejection", "last", "student")


@pytest.mark.parametrize("name", STAGES)
def test_a_stage_takes_its_two_steps(name, request):
    made, workdir = request.getfixturevalue(name)
    assert made.status == "complete" and made.recipe["mesh"] == "4x2"
    assert [line["step"] for line in jsonl.read(workdir / "metrics.jsonl")] == [1, 2]
    assert checkpoint.latest(workdir / "checkpoints") == 2 and (workdir / "report.html").exists()
    assert made.parent["sha256"] != checkpoint.sha256(workdir)


@pytest.mark.parametrize("kind", ["helpful", "safety"])
def test_a_reward_model_takes_its_two_steps(kind, rewards):
    made, workdir = rewards[kind]
    assert made.status == "complete" and checkpoint.latest(workdir / "checkpoints") == 2
    assert 0 <= made.results["final"]["accuracy"] <= 1


def test_the_lineage_is_the_papers(qwen, zero, cold, reasoning, rejection, rewards, last, student):
    """The base is the parent of R1-Zero, of the cold start, and again of stage 3; R1 goes on from that."""
    base = zero[0].parent
    assert base["path"] == str(qwen) and len(base["sha256"]) == 64
    assert cold[0].parent == rejection[0].parent == student[0].parent == base
    of = {
        name: {"path": str(made), "sha256": checkpoint.sha256(made)}
        for name, (_, made) in {
            "zero": zero,
            "cold": cold,
            "reasoning": reasoning,
            "rejection": rejection,
            **rewards,
        }.items()
    }
    for name, run in {"cold": reasoning, "rejection": last}.items():
        assert run[0].parent == of[name] | {"step": checkpoint.latest(Path(of[name]["path"]) / "checkpoints")}
    assert rewards["helpful"][0].parent == rewards["safety"][0].parent == last[0].parent
    assert cold[0].data["sources"]["r1_zero"] == [of["zero"]]
    assert rejection[0].data["sources"]["rejection"] == student[0].data["sources"]["rejection"] == [of["reasoning"]]
    assert last[0].data["sources"] == {"helpful": [of["helpful"]], "safety": [of["safety"]]}


def test_the_last_stage_goes_on_with_its_own_reward_models_alone(rejection, rewards, last, home):
    """Begun with one helpful model, it is not continued with another."""
    again = dict(prompts="nano:compare", late_prompts="nano:general", eval_prompts="nano:general", late_from=1)
    other = shutil.copytree(rewards["helpful"][1], home / "other")
    shutil.rmtree(other / "checkpoints/2")  # an earlier step is in the last one's place
    flags = RL | again | dict(helpful=other, safety=rewards["safety"][1], resume=True, steps=4)
    with pytest.raises(SystemExit, match=r"began with rewards from .*Use what it began with"):
        run(r1_4_all_scenarios_rl, last[1], rejection[1], **flags)
    flags |= dict(helpful=rewards["helpful"][1], preference_weight=2)
    with pytest.raises(SystemExit, match=r"began with --preference-weight=1.0, not 2.0"):
        run(r1_4_all_scenarios_rl, last[1], rejection[1], **flags)
