"""Every published form, from its file to a step of RL or of fine-tuning, and the prompt that the model reads first."""

import json
import math
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

from experiments import r1_zero, sft
from r1jax import jsonl
from r1jax.model import transformer
from r1jax.model.config import ModelConfig
from r1jax.tokenizers.load import load_tokenizer
from r1jax.weights.write import export
from support.byte_pairs import write_tokenizer
from support.marks import WEEKLY

CASES = Path(__file__).parents[1] / "cases/forms"
CHATML = (
    "{%- for m in messages %}{{- '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n' }}{%- endif %}"
)
PROMPT = " tokens:\n<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n"  # of a problem, on screen
ROOT = "What is $\\sqrt{49}$?"
EGGS = "Tom has 4 boxes of 6 eggs. How many eggs?"
ASKED = {  # file -> the problem of its last row, with which seed 0 begins
    "gsm8k": EGGS,
    "math500": ROOT,
    "math": ROOT,
    "deepscaler": ROOT,
    "openr1_math": ROOT,
    "aime_2024": "How many?",
    "big_math": ROOT,
    "olympiadbench": ROOT,
    "verl_gsm8k": f'{EGGS} Let\'s think step by step and output the final answer after "####".',
    "dapo_math_17k": "Solve the following math problem step by step. The last line of your response should be of the "
    "form Answer: $Answer (without quotes) where $Answer is the answer to the problem.\n\n"
    f'{EGGS}\n\nRemember to put your answer on its own line after "Answer:".',
    "skywork_or1": ROOT,
    "eurus_2": "Print the line backwards.",
    "simplerl_zoo": ROOT,
    "trl_accuracy": ROOT,
    "trl_prompt_text": EGGS,
    "tulu_rlvr_gsm": f"Question: {EGGS}\nAnswer:",
    "orz_math_57k": ROOT,
    "tinyzero_countdown": "Using the numbers [95, 11, 56], create an equation that equals 28. You can use basic "
    "arithmetic operations (+, -, *, /) and each number can only be used once.",
    "humaneval": 'Complete this function.\n\ndef is_even(n):\n    """Is n even?"""',
    "mbpp": "Write a function to reverse a string.\nYour code should pass these tests:\nassert h('ab') == 'ba'",
    "mmlu_pro": "What is 3 squared?\n\nA) 6\nB) 12\nC) 27\nD) 9",
    "mmlu": "Which is a planet?\n\nA) Sirius\nB) Io\nC) Vega\nD) Mars",
    "gpqa": "Which has spin 0?\n\nA) gluon\nB) photon\nC) Higgs boson\nD) electron",
    "ifeval": "Answer in lower case: what is rain?",
}
REFUSED = "tulu_rlvr_ifeval"  # its constraints have no verifier
SUM = "What is 2+3?"
SAID = {path.stem: SUM for path in (CASES / "talks").iterdir()} | {"alpaca": f"{SUM}\n\nUse digits."}

SHARED = dict(template="chat", mesh="1x1", steps=1, batch_rows=2, row_length=192, save_every=9, eval_problems=1)
RL = SHARED | dict(questions_per_round=2, group_size=2, minibatches=1, max_tokens=16, entropy_coef=0.01, kl_coef=0)
SFT = SHARED | dict(micro_rows=2, row_length=64, max_tokens=16, held_out_problems=0, learning_rate=1e-3)


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A random model of one layer with a chat template. Its tokens are whole words, so that prompts of all forms are
    short and share their compiled programs.
    """
    home = tmp_path_factory.mktemp("base")
    write_tokenizer(home, generation={"eos_token_id": [3]}, chat_template=CHATML, text=[*ASKED.values()], size=900)
    sizes = dict(width=16, layers=1, heads=2, kv_heads=1, head_width=8, mlp_width=32)
    cfg = ModelConfig(vocab_size=902, **sizes)
    export(home, cfg, transformer.init(cfg, jax.random.key(0)), jnp.float32, tokenizer=load_tokenizer(home))
    return home


def sparse(names):
    """Every fourth name; the others belong to the weekly set."""
    return [pytest.param(n, marks=WEEKLY if i % 4 else ()) for i, n in enumerate(names)]


def run(monkeypatch, experiment, **flags):
    monkeypatch.setattr("sys.argv", ["run", *(f"--{k.replace('_', '-')}={v}" for k, v in flags.items())])
    experiment.main()
    return flags["workdir"]


@pytest.mark.slow
@pytest.mark.parametrize("name", sparse(ASKED))
def test_a_form_goes_through_a_step_of_rl(name, base, tmp_path, monkeypatch, capfd):
    file = CASES / f"questions/{name}.jsonl"
    workdir = run(monkeypatch, r1_zero, **RL, weights=base, prompts=file, eval_prompts=file, workdir=tmp_path / "run")
    said = "".join(capfd.readouterr())
    assert f"--prompts={file}: 3 rows, taken as " in said
    assert PROMPT.format(ASKED[name]) in said
    (step,) = jsonl.read(workdir / "metrics.jsonl")
    assert math.isfinite(step["loss"]) and step["grad_norm"] > 0
    samples = jsonl.read(workdir / "samples.jsonl")
    assert len(samples) == 4 and all(sample["verdict"] for sample in samples)


@pytest.mark.slow
def test_a_form_without_a_verifier_says_what_to_do_and_trains_under_a_reward_of_ones_own(
    base, tmp_path, monkeypatch, capfd
):
    file = CASES / f"questions/{REFUSED}.jsonl"
    flags = RL | dict(weights=base, prompts=file, eval_prompts=file, workdir=tmp_path / "run")
    with pytest.raises(SystemExit, match=r"general.*--reward=FILE.py:FUNCTION"):
        run(monkeypatch, r1_zero, **flags)
    (tmp_path / "short.py").write_text("def short(texts, examples):\n    return [-len(text) / 99 for text in texts]\n")
    workdir = run(monkeypatch, r1_zero, **flags, reward=f"{tmp_path}/short.py:short")
    assert PROMPT.format("Describe rain without commas.") in "".join(capfd.readouterr())
    assert jsonl.read(workdir / "metrics.jsonl")[0]["grad_norm"] > 0


@pytest.mark.slow
@pytest.mark.parametrize("name", sparse(SAID))
def test_a_form_goes_through_a_step_of_fine_tuning(name, base, tmp_path, monkeypatch, capfd):
    file = CASES / f"talks/{name}.jsonl"
    workdir = run(monkeypatch, sft, **SFT, weights=base, data=file, workdir=tmp_path / "run")
    said = "".join(capfd.readouterr())
    assert f"--data={file}: 3 conversations, taken as " in said
    assert PROMPT.format(SAID[name]) in said
    (step,) = jsonl.read(workdir / "metrics.jsonl")
    assert math.isfinite(step["loss"]) and step["grad_norm"] > 0


def test_every_case_is_trained_on():
    assert {path.stem for path in (CASES / "questions").iterdir()} == {*ASKED, REFUSED}
    assert len(ASKED) + 1 == 25 and all(json.loads(line) for path in CASES.rglob("*.jsonl") for line in path.open())
