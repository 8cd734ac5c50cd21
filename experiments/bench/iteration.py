"""Benchmark C13: speed of a GRPO iteration (rollout, verification, update), compared with TRL's GRPOTrainer on torch.

An iteration has 32 prompts of 48 tokens, with 8 completions of at most 64 tokens each. Both sides use the same float32
weights, AdamW, and a KL term to a reference policy. Both sides verify the answer in every completion with r1jax's
mathematics verifier. A completion that samples the stop token ends early. Only completion tokens are counted.
"""

from __future__ import annotations

import contextlib
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from experiments.bench.measure import Options, line
from experiments.bench.worker import Side, take_turns

SIZES = {
    "full": dict(prompts=32, group=8, prompt=48, tokens=64, micro=64, rows=8),
    "toy": dict(prompts=2, group=4, prompt=8, tokens=8, micro=4, rows=2),
}
PAD, STOP = 0, 1


def answer(text: str) -> str:
    """Returns <answer>N</answer> for the verifier, where N is a completion's last number, 0 if there is none."""
    return f"<answer>{text.split()[-1] if text.split() else 0}</answer>"


def evenness(text: str) -> float:
    """Returns the share of even numbers among the numbers in the text.

    The reward contains this share, so that the rewards of a group differ from each other.
    """
    numbers = [int(word) for word in text.split() if word.isdigit()]
    return sum(n % 2 == 0 for n in numbers) / max(1, len(numbers))


def reward_completions(texts: Sequence[str], golds: Sequence[str]) -> list[float]:
    """Returns the reward of each completion: its share of even numbers, plus 1 if its last number is the right answer.

    Args:
        texts: the completions.
        golds: the right answer of each completion.
    """
    from r1jax.rewards import math

    return [
        math.verify(answer(text), {"gold": gold}).reward + evenness(text)
        for text, gold in zip(texts, golds, strict=True)
    ]


class Numbers:
    """A tokenizer whose texts are token ids separated by spaces."""

    pad_id, eos_id, stop_ids = PAD, STOP, (STOP,)

    def __init__(self, vocab_size: int):
        self.vocab_size = vocab_size

    def encode(self, text: str, *, start: bool = True) -> list[int]:
        return [int(word) for word in text.split()]

    def decode(self, ids: Sequence[int]) -> str:
        return " ".join(str(int(i)) for i in ids if i != STOP)

    def save(self, directory: Path) -> None:
        """Writes nothing: the tokenizer has no files."""


def ours(directory: str, size: str) -> tuple:
    """Prepares a GRPO iteration of r1jax: a rollout, its verification and one optimizer step, as in `train_rl`.

    Returns (repeat, info). Each call of `repeat()` runs one iteration and returns a dict: the number of completion
    tokens, the seconds of the rollout with its verification, and the seconds of the update. `info` is a dictionary for
    the report: "call" names what is measured, and "setup_s" holds the seconds of two warm-up iterations.

    Args:
        directory: a Hugging Face directory with prompts.json.
        size: "full" or "toy".
    """
    import dataclasses

    import jax
    import jax.numpy as jnp
    import numpy as np

    from experiments.r1_zero import NANO
    from r1jax import distributed
    from r1jax.losses import LOSSES
    from r1jax.policy import Policy
    from r1jax.rewards import rule
    from r1jax.rewards.isolate import Pool
    from r1jax.rl.advantages import compute_advantages
    from r1jax.rl.minibatches import add_old_logprobs, add_ref_logprobs, pack_minibatches
    from r1jax.rl.rounds import Setting, WholeRounds
    from r1jax.sharding import make_mesh
    from r1jax.train_rl import draws_of, layout_of, make_learner
    from r1jax.training.step import score, start, update
    from r1jax.weights import from_hf

    if len(jax.devices()) > 1:
        jax.config.update("jax_cpu_enable_async_dispatch", False)
    distributed.keep_compilations()
    shape, mesh = SIZES[size], make_mesh("auto")
    cfg, params = from_hf(Path(directory), mesh, jnp.float32)
    policy = Policy(cfg, Numbers(cfg.vocab_size), "{question}")
    prompts = json.loads(Path(directory, "prompts.json").read_text())
    examples = [
        {"id": str(i), "problem": " ".join(map(str, p)), "gold": str(p[-1]), "kind": "math"}
        for i, p in enumerate(prompts)
    ]
    recipe = dataclasses.replace(
        NANO,
        questions_per_round=len(prompts),
        group_size=shape["group"],
        max_tokens=shape["tokens"],
        learning_rate=1e-6,
        row_length=shape["prompt"] + shape["group"] * shape["tokens"],
        batch_rows=shape["rows"],
        warmup_steps=0,
    )
    pool = Pool()
    ours, layout, objective = make_learner(recipe, cfg, mesh), layout_of(recipe, mesh), LOSSES[recipe.loss]
    sample = WholeRounds(
        Setting(policy, mesh, pool, lambda index, step: examples[index % len(examples)], draws_of(recipe, 0))
    )
    reference = jax.tree.map(jnp.copy, params)
    held = [start(ours, params, mesh), 0]

    def reward(pool: Pool, texts: Sequence[str], examples: Sequence[dict], step: int) -> rule.Scores:
        jobs = [("math", answer(text), {"gold": e["gold"]}) for text, e in zip(texts, examples, strict=True)]
        verdicts = pool.run(jobs)
        total = np.array([v.reward + evenness(text) for v, text in zip(verdicts, texts, strict=True)])
        return rule.Scores(total, np.ones(len(texts), bool), {"accuracy": total}, verdicts)

    def repeat() -> dict[str, Any]:
        state, number = held
        began = time.perf_counter()
        round_ = sample(state.params, number)
        scores = reward(round_.verdicts, round_.texts, round_.repeated, number)
        advantages = compute_advantages(scores, round_.rollout, objective)
        round_ = round_._replace(scores=scores, advantages=advantages)
        rolled = time.perf_counter()
        batches = pack_minibatches(round_, 1, objective, layout, recipe.max_tokens)
        batches = add_old_logprobs(ours.network, state.params, batches)
        for batch in add_ref_logprobs(lambda rows: score(ours.network, reference, rows)[0], batches):
            state, figures = update(ours, state, batch)
        jax.block_until_ready((state, figures))
        held[:] = state, number + 1
        return {
            "tokens": int(round_.rollout.lengths.sum()),
            "rollout_s": rolled - began,
            "update_s": time.perf_counter() - rolled,
        }

    begun = time.perf_counter()
    repeat()
    repeat()
    call = f"the loop of train_rl  # {len(jax.devices())} devices"
    return repeat, {"call": call, "setup_s": time.perf_counter() - begun}


def trl(directory: str, size: str) -> None:
    """Runs steps of TRL's GRPOTrainer: two to warm up, then one for each request of the parent process.

    A callback waits for the request before a step, and reports the times after the step.

    Args:
        directory: a Hugging Face directory with prompts.json.
        size: "full" or "toy".
    """
    import os

    from tokenizers import Tokenizer, models, pre_tokenizers

    # Before the import of TRL: `datasets` would use the network otherwise.
    os.environ["HF_DATASETS_OFFLINE"] = "1"
    from importlib.metadata import version

    import torch
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast, TrainerCallback
    from trl import GRPOConfig, GRPOTrainer

    from experiments.bench.worker import roam, send_line, wait_for_parent

    shape = SIZES[size]
    torch.manual_seed(0)
    network = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32, attn_implementation="sdpa")
    vocab = {str(i): i for i in range(network.config.vocab_size)}
    words = Tokenizer(models.WordLevel(vocab, unk_token="2"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=words, eos_token=str(STOP), pad_token=str(PAD), padding_side="left"
    )
    prompts = json.loads(Path(directory, "prompts.json").read_text())
    texts = [" ".join(map(str, prompt)) for prompt in prompts]
    counted = [0]

    def reward(prompts: list[str], completions: list[str], completion_ids: list[list[int]], **_: Any) -> list[float]:
        counted[0] += sum(map(len, completion_ids))
        golds = [prompt.split()[-1] for prompt in prompts]
        return reward_completions(completions, golds)

    rows = len(prompts) * shape["group"]
    options = dict(
        per_device_train_batch_size=shape["micro"],
        gradient_accumulation_steps=rows // shape["micro"],
        num_generations=shape["group"],
        max_completion_length=shape["tokens"],
        beta=0.001,
        epsilon=0.2,
        temperature=1.0,
        top_p=1.0,
        top_k=0,
        learning_rate=1e-6,
        loss_type="grpo",
        gradient_checkpointing=False,
        cache_implementation="static",
        bf16=False,
        use_cpu=True,
        shuffle_dataset=False,
        optim="adamw_torch",
    )
    quiet = dict(
        output_dir=directory + "/trl",
        report_to=[],
        logging_steps=10**6,
        save_strategy="no",
        max_steps=10**6,
        disable_tqdm=True,
    )

    class Turns(TrainerCallback):
        """Callback of TRL's trainer: lets it take two steps to warm up, then one step per line from the parent."""

        steps, since = 0, (time.perf_counter(), time.process_time())

        def on_step_begin(self, *_: Any, **__: Any) -> None:
            if self.steps == 2:
                roam()
                send_line({"call": call, "versions": versions, "setup_s": time.perf_counter() - self.since[0]})
            if self.steps >= 2 and not wait_for_parent():
                os._exit(0)  # there is no other way out of a step
            self.since = (time.perf_counter(), time.process_time()) if self.steps >= 2 else self.since
            counted[0] = 0

        def on_step_end(self, *_: Any, **__: Any) -> None:
            self.steps += 1
            if self.steps > 2:
                wall, cpu = self.since
                send_line({"wall": time.perf_counter() - wall, "cpu": time.process_time() - cpu, "tokens": counted[0]})

    shown = ", ".join(f"{name}={value!r}" for name, value in options.items())
    call = f"GRPOTrainer(model, reward, GRPOConfig({shown}), ..).train()  # {torch.get_num_threads()} threads"
    versions = {name: version(name) for name in ("trl", "transformers", "torch")}
    trainer = GRPOTrainer(
        network,
        reward,
        GRPOConfig(**options, **quiet),
        Dataset.from_dict({"prompt": texts}),
        processing_class=tokenizer,
        callbacks=[Turns()],
    )
    trainer.train()


def measure(options: Options) -> dict[str, Any]:
    """Measures the speed of a GRPO iteration in r1jax and in TRL (benchmark C13). Returns the benchmark's JSON line.

    `value` is r1jax's completion tokens per second of wall time, with two threads. `ratio` has two entries: "wall" for
    tokens per second of wall time, and "cpu" for tokens per second of CPU time. An entry is r1jax's rate divided by
    TRL's. TRL runs with one and with two threads, and its better rate counts.
    """
    import numpy as np

    from experiments.bench.shapes import MODELS, random_params, random_prompts
    from r1jax.weights import export

    shape, cfg = SIZES[options.size], MODELS[options.size]
    with tempfile.TemporaryDirectory() as directory, contextlib.ExitStack() as stack:
        export(Path(directory), cfg, random_params(cfg), np.float32)
        prompts = random_prompts(cfg, shape["prompts"], shape["prompt"])
        Path(directory, "prompts.json").write_text(json.dumps(prompts))
        both = dict(directory=directory, size=options.size)
        sides = {
            "r1jax": stack.enter_context(
                Side(sys.executable, "experiments.bench.iteration:ours", threads=2, devices=2, **both)
            ),
            "trl, 2 threads": stack.enter_context(
                Side(options.trl_python, "experiments.bench.iteration:trl", threads=2, **both)
            ),
            "trl, 1 thread": stack.enter_context(
                Side(options.trl_python, "experiments.bench.iteration:trl", threads=1, **both)
            ),
        }
        found = take_turns(sides, options.repeats)
        info = {name: side.info for name, side in sides.items()}

    def rates(clock: str) -> dict[str, float]:
        return {name: statistics.median(run["tokens"] / run[clock] for run in runs) for name, runs in found.items()}

    wall, cpu = rates("wall"), rates("cpu")
    peer = {
        clock: max((v for k, v in each.items() if k != "r1jax"), default=None)
        for clock, each in (("wall", wall), ("cpu", cpu))
    }
    ratio = {"wall": peer["wall"] and wall["r1jax"] / peer["wall"], "cpu": peer["cpu"] and cpu["r1jax"] / peer["cpu"]}
    runs = [run["tokens"] / run["wall"] for run in found["r1jax"]]
    parts = {part: statistics.median(run[part] for run in found["r1jax"]) for part in ("rollout_s", "update_s")}
    return line(
        "iteration",
        wall["r1jax"],
        "completion tokens per second of wall time, both cores",
        baseline=peer["wall"] or "missing",
        ratio=ratio,
        spread=(max(runs) - min(runs)) / wall["r1jax"],
        tokens_per_wall_s=wall,
        tokens_per_cpu_s=cpu,
        r1jax_parts=parts,
        calls={name: each.get("call", each.get("missing")) for name, each in info.items()},
        versions={k: v for each in info.values() for k, v in each.get("versions", {}).items()},
        goals={">= 3 x TRL": peer["wall"] and ratio["wall"] >= 3},
    )
