"""The conversion command, and a Hugging Face directory as the weights of a run."""

import json

import numpy as np
import pytest
from safetensors.numpy import load_file

from experiments import convert
from r1jax.model import presets
from r1jax.recipes import RunOptions
from r1jax.runs.policies import load_policy
from r1jax.sharding import make_mesh
from support import families
from support.byte_pairs import write_tokenizer
from support.walk import lines


@pytest.fixture(scope="module")
def hub(tmp_path_factory):
    """A directory as the hub has them: weights in shards, config, tokenizer, generation config."""
    directory = tmp_path_factory.mktemp("hub")
    model = families.model("qwen2")
    model.resize_token_embeddings(340)
    families.randomise(model)
    model.save_pretrained(directory, max_shard_size="30KB")
    write_tokenizer(directory, generation={"eos_token_id": [3, 4]}, chat_template="{{ messages[0].content }}")
    return directory


def command(monkeypatch, capsys, *flags):
    monkeypatch.setattr("sys.argv", ["convert", *flags])
    convert.main()
    return capsys.readouterr().out


def test_a_directory_becomes_a_checkpoint_and_a_directory_again(hub, tmp_path, monkeypatch, capsys):
    run, back = tmp_path / "run", tmp_path / "back"
    said = command(monkeypatch, capsys, f"--source={hub}", f"--target={run}", "--to=r1jax", "--mesh=1x1", "--parity")
    assert "qwen2" in said and "bit for bit" in said
    said = command(
        monkeypatch, capsys, f"--source={run}", f"--target={back}", "--dtype=float32", "--mesh=4x2", "--parity"
    )
    assert "logits differ from transformers by" in said
    held = {k: v for file in hub.glob("*.safetensors") for k, v in load_file(file).items()}
    for name, tensor in load_file(back / "model.safetensors").items():
        np.testing.assert_array_equal(tensor, held[name], err_msg=name)
    for name in ("tokenizer.json", "tokenizer_config.json", "generation_config.json"):
        assert (back / name).read_bytes() == (hub / name).read_bytes()


def test_a_dry_run_says_what_would_be_written_and_writes_nothing(hub, tmp_path, monkeypatch, capsys):
    target = tmp_path / "out"
    said = command(monkeypatch, capsys, f"--source={hub}", f"--target={target}", "--shard-gb=0.00001", "--dry-run")
    # 340 x 24 embeddings, shared; two layers; a norm. In bfloat16, in files of 10 kB.
    count = sum(p.numel() for p in families.transformers.AutoModelForCausalLM.from_pretrained(hub).parameters())
    assert f"{count:,} parameters" in said and f"about {-(-2 * count // 10_000)} files" in said
    assert not target.exists()


def test_a_used_target_and_a_missing_source_are_errors_of_the_user(hub, tmp_path, monkeypatch, capsys):
    (tmp_path / "file").write_text("mine")
    for flags, message in (
        ((f"--source={hub}", f"--target={tmp_path}"), "--target"),
        ((f"--source={tmp_path / 'nowhere'}", f"--target={tmp_path / 'new'}"), "--source"),
    ):
        with pytest.raises(SystemExit, match=message):
            command(monkeypatch, capsys, *flags)
    assert (tmp_path / "file").read_text() == "mine"


def test_a_tokenizer_too_big_for_its_model_is_refused(hub, tmp_path):
    for file in hub.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    config = json.loads((hub / "config.json").read_text()) | {"vocab_size": 300}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=rf"--weights={tmp_path}: the tokenizer has \d+ tokens, but the model has 300"):
        load_policy(RunOptions(weights=str(tmp_path)), make_mesh("1x1"))


def first_shard(directory):
    return sorted(directory.glob("*.safetensors"))[0]


@pytest.mark.parametrize(
    "damage, said",
    [
        (lambda at: (at / "config.json").unlink(), "no complete checkpoint"),
        (lambda at: (at / "config.json").write_text("{"), "config.json cannot be read"),
        (lambda at: (at / "config.json").write_text('{"architectures": ["NewForCausalLM"]}'), "NewForCausalLM"),
        (lambda at: (at / "tokenizer.json").unlink(), "tokenizer"),
        (lambda at: (at / "model.safetensors.index.json").write_text("{"), "index.json cannot be read"),
        (lambda at: first_shard(at).unlink(), "is missing"),
        (lambda at: first_shard(at).write_bytes(first_shard(at).read_bytes()[:-1]), "is it cut short?"),
    ],
)
def test_what_is_wrong_with_weights_is_said_of_the_flag_that_named_them(damage, said, hub, tmp_path):
    for file in hub.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    damage(tmp_path)
    for flag in ("--weights", "--teacher"):
        with pytest.raises(ValueError) as error:
            load_policy(RunOptions(weights=str(tmp_path)), make_mesh("1x1"), flag=flag)
        assert str(error.value).startswith(f"{flag}={tmp_path}") and said in str(error.value)
        assert ("--weights" in str(error.value)) == (flag == "--weights")


def test_a_named_model_needs_weights_of_its_shapes(hub, walk):
    one = make_mesh("1x1")
    with pytest.raises(ValueError, match="--model=qwen3-8b needs --weights=DIR"):
        load_policy(RunOptions(model="qwen3-8b"), one)
    with pytest.raises(ValueError, match="other shapes than --model=qwen3-8b"):
        load_policy(RunOptions(model="qwen3-8b", weights=str(hub)), one)
    with pytest.raises(ValueError, match=f"--weights={walk.base} has other shapes than --model=qwen3-8b"):
        load_policy(RunOptions(model="qwen3-8b", weights=str(walk.base)), one)
    other, *_ = load_policy(RunOptions(model="qwen3-8b", weights=str(walk.base)), one, flag="--zero")
    assert other.cfg != presets.PRESETS["qwen3-8b"]  # a directory of another flag may have any shape


@pytest.mark.slow
def test_a_run_on_a_directory_of_the_hub_is_exported_with_its_tokenizer(hub, walk, tmp_path, monkeypatch, capsys):
    workdir = walk.here(tmp_path / "run", weights=hub, steps=2, eval_every=0, row_length=1024, kl_coef=0.1)
    metrics = lines(workdir, "metrics")
    assert len(metrics) == 2 and max(line["sampler_gap/max"] for line in metrics) <= 2e-5
    said = command(monkeypatch, capsys, f"--source={workdir}", f"--target={tmp_path / 'served'}", "--parity")
    assert "bit for bit" in said
    model = families.transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "served")
    assert str(model.dtype) == "torch.bfloat16"
    tokenizer = families.transformers.AutoTokenizer.from_pretrained(tmp_path / "served")
    assert tokenizer.apply_chat_template([{"role": "user", "content": "hi"}], tokenize=False) == "hi"
