"""C13: a whole GRPO iteration, rollout, verification and update, beside TRL's GRPOTrainer on torch.

32 prompts x 8 completions of 48 + 64 tokens, KL to a reference, AdamW, float32, the same weights. Both verify an answer
in every completion with r1jax's mathematics verifier. A completion that samples the stop token ends early, on both
sides alike; tokens counted are completion tokens.
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
    """A completion's last number in an answer's form, for the verifier."""
    return f"<answer>{text.split()[-1] if text.split() else 0}</answer>"


def evenness(text: str) -> float:
    """The share of even numbers: no two completions of a group earn the same."""
    numbers = [int(word) for word in text.split() if word.isdigit()]
    return sum(n % 2 == 0 for n in numbers) / max(1, len(numbers))


class Numbers:
    """A tokenizer whose texts are token numbers."""

    pad_id, eos_id, stop_ids = PAD, STOP, (STOP,)

    def __init__(self, vocab_size: int):
        self.vocab_size = vocab_size

    def encode(self, text: str, *, start: bool = True) -> list[int]:
        return [int(word) for word in text.split()]

    def decode(self, ids: Sequence[int]) -> str:
        return " ".join(str(int(i)) for i in ids if i != STOP)

    def save(self, directory: Path) -> None:
        """Nothing: there is nothing to know."""


def ours(directory: str, size: str) -> tuple:
    """A round of one optimizer step, as `train_rl` does it."""
    import dataclasses

    import jax
    import jax.numpy as jnp
    import numpy as np

    from experiments.r1_zero import NANO
    from r1jax import launch
    from r1jax.rewards import rule
    from r1jax.rewards.isolate import Pool
    from r1jax.rounds import minibatches, roll
    from r1jax.run import Policy
    from r1jax.sharding import make_mesh
    from r1jax.train_rl import learner
    from r1jax.update import start, update
    from r1jax.weights import from_hf

    if len(jax.devices()) > 1:
        jax.config.update("jax_cpu_enable_async_dispatch", False)
    launch.keep_compilations()
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
    ours = learner(recipe, cfg, mesh)
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
        round_ = roll(recipe, policy, state.params, examples, number, 0, mesh, pool, reward)
        rolled = time.perf_counter()
        for batch in minibatches(recipe, round_, ours, state.params, (ours, reference), mesh):
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
    call = f"roll, minibatches, update, as train_rl  # {len(jax.devices())} devices"
    return repeat, {"call": call, "setup_s": time.perf_counter() - begun}


def trl(directory: str, size: str) -> None:
    """TRL's trainer, which tells of each step itself: a callback waits before it and reports after it."""
    import os

    from tokenizers import Tokenizer, models, pre_tokenizers

    # Before TRL, which would look for its data sets' library on the network otherwise.
    os.environ["HF_DATASETS_OFFLINE"] = "1"
    from importlib.metadata import version

    import torch
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast, TrainerCallback
    from trl import GRPOConfig, GRPOTrainer

    from experiments.bench.worker import roam, tell, told
    from r1jax.rewards import math

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
        checked = [
            math.verify(answer(text), {"gold": gold}).reward or 0.0
            for text, gold in zip(completions, golds, strict=True)
        ]
        return [right + evenness(text) for right, text in zip(checked, completions, strict=True)]

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
        """Two steps to warm up, then one for each line from the parent."""

        steps, since = 0, (time.perf_counter(), time.process_time())

        def on_step_begin(self, *_: Any, **__: Any) -> None:
            if self.steps == 2:
                roam()
                tell({"call": call, "versions": versions, "setup_s": time.perf_counter() - self.since[0]})
            if self.steps >= 2 and not told():
                os._exit(0)  # there is no other way out of a step
            self.since = (time.perf_counter(), time.process_time()) if self.steps >= 2 else self.since
            counted[0] = 0

        def on_step_end(self, *_: Any, **__: Any) -> None:
            self.steps += 1
            if self.steps > 2:
                wall, cpu = self.since
                tell({"wall": time.perf_counter() - wall, "cpu": time.process_time() - cpu, "tokens": counted[0]})

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
    """The line of C13. Two threads on both sides; wall time, and CPU time beside it."""
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
