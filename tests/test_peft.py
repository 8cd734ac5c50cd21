"""LoRA adapters as PEFT directories: peft computes what we do, both ways, in float64."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from r1jax import weights
from r1jax.model import lora, transformer
from r1jax.model.attention import attend_full, causal
from r1jax.recipes import RunOptions
from r1jax.runs.policies import load_policy
from r1jax.sharding import make_mesh
from r1jax.weights import peft as adapters
from support import families
from support.byte_pairs import write_tokenizer

torch = families.torch
peft = pytest.importorskip("peft", reason="parity with peft wants peft: pip install peft")
FAMILIES = ("llama", "gemma3", "deepseek v3")


@pytest.fixture(scope="module", params=FAMILIES)
def base(request, tmp_path_factory):
    """(family, directory of a random tiny model)."""
    directory = tmp_path_factory.mktemp("base")
    made = families.model(request.param)
    made.save_pretrained(directory)
    return request.param, directory


def theirs(directory):
    """The transformers model of a directory, in float64."""
    return families.transformers.AutoModelForCausalLM.from_pretrained(
        directory, dtype=torch.float64, attn_implementation="eager", experts_implementation="eager"
    ).eval()


def adapted(cfg, params, targets):
    """Our parameters with random adapters beside every matrix whose path matches `targets`."""
    whole = lora.attach(params, 3, 6.0, targets, make_mesh("1x1"), jax.random.key(0))
    rng = np.random.default_rng(0)
    return jax.tree_util.tree_map_with_path(
        lambda path, x: np.float32(0.1 * rng.standard_normal(x.shape)) if "lora_b" in str(path[-1]) else np.asarray(x),
        whole,
    )


def fold(params):
    """W + A B, in NumPy and float64."""
    if isinstance(params, list):
        return [fold(x) for x in params]
    if not isinstance(params, dict):
        return np.float64(params)
    kept = {name: fold(x) for name, x in params.items() if not name.startswith("lora_")}
    if "lora_a" in params:
        change = [
            np.tensordot(np.float64(a), np.float64(b), 1)
            for a, b in zip(params["lora_a"], params["lora_b"], strict=True)
        ]
        kept["kernel"] += np.stack(change)
    return kept


def test_peft_reads_our_adapters(base, tmp_path):
    _, directory = base
    cfg, params = weights.from_hf(directory, make_mesh("1x1"))
    if cfg.experts:
        with pytest.raises(ValueError, match=r"PEFT has no name .* a model with experts"):
            adapters.export_adapter(tmp_path / "none", cfg, adapted(cfg, params, lora.TARGETS), str(directory))
    params = adapted(cfg, params, "attention/.*kernel" if cfg.experts else lora.TARGETS)
    adapters.export_adapter(tmp_path / "adapter", cfg, params, str(directory))
    model = peft.PeftModel.from_pretrained(theirs(directory), tmp_path / "adapter").double().eval()
    merged = theirs(directory)
    merged.load_state_dict(
        {k: torch.from_numpy(x) for k, x in weights.to_hf(cfg, fold(params), np.float64).items()}, strict=False
    )
    want, got, before = (families.logits(x) for x in (merged, model, theirs(directory)))
    assert abs(got - want).max() <= 1e-11 * abs(want).max() and abs(want - before).max() > 0.05 * abs(want).max()


def random_adapter(directory, folder, **settings):
    """Saves a random adapter of peft's own making. Returns the adapted model, in float64."""
    cfg = weights.read_config(directory)
    names = {leaf.name.theirs.removesuffix(".weight").rpartition(".")[2] for leaf in adapters.adaptable(cfg)}
    names -= {"gate_proj", "up_proj", "down_proj"} if cfg.experts else {"up_proj"}
    asked = peft.LoraConfig(r=4, target_modules=sorted(names), **{"lora_alpha": 8} | settings)
    model = peft.get_peft_model(theirs(directory), asked).eval()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, x in model.named_parameters():
            if "lora_" in name:  # numbers of float32, so that nothing is lost on disk
                x.copy_(0.2 * torch.randn(x.shape, generator=generator, dtype=torch.float32))
    model.save_pretrained(folder)
    return model


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"use_rslora": True, "layers_to_transform": [1]},
        {"alpha_pattern": {"layers.1.self_attn.o_proj": 16, "o_proj": 2}, "rank_pattern": {"layers.0.*o_proj": 2}},
    ],
    ids=["plain", "rslora in one layer", "patterns"],
)
def test_we_read_pefts_adapters(base, settings, tmp_path):
    family, directory = base
    write_tokenizer(tmp_path)
    model = random_adapter(directory, tmp_path, **settings)
    if family != "deepseek v3":  # its transformers module holds several matrices of experts in one tensor
        held = dict(model.base_model.model.named_modules())
        pairs = adapters.read_pairs(tmp_path, adapters.read_adapter_config(tmp_path), "--weights")
        for name, (a, b) in pairs.items():
            delta = held[name].get_delta_weight("default").detach().numpy()
            assert abs(np.float64(b) @ np.float64(a) - delta).max() <= 1e-14 * abs(delta).max()
        assert len(pairs) > 3
    cfg, params = weights.from_hf(directory, make_mesh("1x1"))
    params = adapters.add_adapter(tmp_path, adapters.read_adapter_config(tmp_path), cfg, params, make_mesh("1x1"))
    tokens = jnp.asarray(families.TOKENS)
    positions = jnp.broadcast_to(jnp.arange(tokens.shape[1]), tokens.shape)
    hidden = transformer.forward(cfg, params, tokens, positions, attend_full(causal(tokens.shape[1])))[0]
    got, want = np.asarray(transformer.logits(cfg, params, hidden)), families.logits(model)
    assert abs(got - want).max() <= 1e-5 * abs(want).max()
    assert abs(want - families.logits(theirs(directory))).max() > 0.05 * abs(want).max()


def test_the_flag_takes_a_directory_of_peft(tmp_path):
    directory, folder = tmp_path / "base", tmp_path / "adapter"
    made = families.transformers.LlamaForCausalLM(
        families.transformers.LlamaConfig(**families.SIZES | {"vocab_size": 400})
    )
    families.randomise(made).save_pretrained(directory)
    write_tokenizer(directory)
    random_adapter(directory, folder)
    one = make_mesh("1x1")
    policy, params, parent = load_policy(RunOptions(weights=str(folder)), one)
    _, before, began = load_policy(RunOptions(weights=str(directory)), one)
    assert parent["path"] == str(folder) and parent["sha256"] != began["sha256"] and policy.cfg.vocab_size == 400
    assert jax.tree.structure(params) == jax.tree.structure(before)
    config = json.loads((folder / "adapter_config.json").read_text())

    def refused(message, **changed):
        (folder / "adapter_config.json").write_text(json.dumps(config | changed))
        with pytest.raises(ValueError, match=f"--weights={folder}: {message}"):
            load_policy(RunOptions(weights=str(folder)), one)

    refused("adapter_config.json has use_dora=True; only False can be read. Merge", use_dora=True)
    refused("adapter_config.json has bias='all'", bias="all")
    refused("adapter_config.json names no base", base_model_name_or_path=None)
    refused(
        "the base of the adapter cannot be used .*nowhere.*Make /nowhere available", base_model_name_or_path="/nowhere"
    )
    smaller = tmp_path / "smaller"
    sizes = families.SIZES | {"vocab_size": 400, "intermediate_size": 32}
    families.transformers.LlamaForCausalLM(families.transformers.LlamaConfig(**sizes)).save_pretrained(smaller)
    write_tokenizer(smaller)
    refused(
        "the adapter of model.layers.0.mlp.gate_proj has shape .40, 24., but the base model's matrix has .32, 24.",
        base_model_name_or_path=str(smaller),
    )
