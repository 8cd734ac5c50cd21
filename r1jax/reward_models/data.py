"""Turns judged replies into the texts and micro-batches that a reward model is trained on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from jax.sharding import Mesh

from r1jax.data.questions import fingerprint
from r1jax.jsonl import stream
from r1jax.nano import preferences
from r1jax.reward_models.model import Judged, bucket, helpful_input, padded, safety_input, tokenized
from r1jax.reward_models.preference_files import read, replies, split_by_problem
from r1jax.runs.files import hash_files
from r1jax.sharding import shard_rows
from r1jax.tokenizers.protocol import Tokenizer

WAY_OUT = "Give the samples.jsonl of experiments.generate --prompts=nano:general"
READ = {"helpful": helpful_input, "safety": safety_input}


def judgements(kind: str, seed: int, counts: tuple[int, int], data: str, sampled: str) -> tuple[list[dict], list[dict]]:
    """Returns (training items, held-out items), read from a file or judged by a simulated annotator.

    An item is a pair of replies (chosen, rejected), or a response labelled as safe or unsafe. The simulated annotator
    (`nano.preferences`) judges generated replies, which imitate replies of people. If `sampled` is given, the annotator
    also judges replies that a model sampled.

    Args:
        kind: "helpful" (pairs) or "safety" (labels).
        seed: seed of the generated items. If `data` is given, the seed chooses which items of the file are held out.
        counts: (number of training items, number of held-out items). If `sampled` is given, each number may double,
            because items of sampled replies are added. If `data` is given, only the second number is used, and all
            other items of the file are trained on.
        data: a file of judgements. If empty, the simulated annotator makes the judgements.
        sampled: a samples.jsonl of experiments.generate, whose replies the annotator judges in addition. If empty, the
            annotator judges generated replies only.

    Raises:
        ValueError: both `data` and `sampled` are given, or a file cannot be read or holds no usable item.
    """
    if data and sampled:
        raise ValueError(
            f"--sampled={sampled} names replies for the nano annotator to judge, but --data={data} holds judgements "
            "already: give only one of the two"
        )
    if data:
        return split_by_problem(read(data, kind), counts[1], seed)
    made, judged = (
        (preferences.pairs, preferences.pairs_of) if kind == "helpful" else (preferences.labels, preferences.labels_of)
    )
    try:
        records = [record for record in stream(sampled) if of_nano(record)] if sampled else []
    except OSError as error:
        raise ValueError(f"--sampled={sampled} cannot be read ({error.strerror}). {WAY_OUT}") from error
    if sampled and not records:
        raise ValueError(f"--sampled={sampled} holds no reply to nano's general prompts. {WAY_OUT}")
    splits = zip(("train", "held out"), counts, strict=True)
    return tuple(made(seed, count, split) + judged(records, seed, count, split) for split, count in splits)


def of_nano(record: Mapping) -> bool:
    """Returns whether a record's prompt is one of the general prompts that `nano.general` generates.

    The right replies to these prompts are known. A record is a sampled reply with its prompt.
    """
    return record.get("task") == "general" and isinstance(record.get("gold"), Mapping)


def texts_of(item: Mapping, kind: str) -> list[str]:
    """Returns the reward model's inputs for an item: [chosen, rejected] for a pair, [text] for a safety label.

    Args:
        item: a pair or a label, as `judgements` returns it.
        kind: "helpful" or "safety".
    """
    return [READ[kind](item["problem"], completion) for completion in replies(item, kind)]


def micro_batches(
    tokens: Sequence[list[list[int]]], labels: Sequence[float], chosen: Sequence[int], batch_rows: int, mesh: Mesh
) -> list[Judged]:
    """Returns one step's items as micro-batches on the mesh, grouped by similar length.

    The loss weights of the step's items sum to one.

    Args:
        tokens: for each item of the data, the token ids of its texts. An item has one text, or a pair (chosen,
            rejected).
        labels: for each item of the data, 1 (safe) or 0; not used for pairs.
        chosen: indices of the step's items.
        batch_rows: R, rows of a micro-batch.
    """
    order = sorted(chosen, key=lambda i: max(map(len, tokens[i])))
    each = batch_rows // len(tokens[order[0]])
    batches = []
    for first in range(0, len(order), each):
        mine = order[first : first + each]
        rows = [text for i in mine for text in tokens[i]]
        label, weight = np.zeros(batch_rows, np.float32), np.zeros(batch_rows, np.float32)
        label[: len(rows)] = [labels[i] for i in mine for _ in tokens[i]]
        weight[: len(rows)] = 1.0 / len(order)
        batch = Judged(padded(rows, batch_rows, bucket(max(map(len, rows)))), label, weight)
        batches.append(shard_rows(batch, mesh))
    return batches


def choose_items(count: int, step: int, size: int, seed: int) -> list[int]:
    """Returns the indices of the items of a step. Each epoch visits all items once, in a new random order.

    The last step of an epoch may hold fewer than `size` items.

    Args:
        count: number of items.
        step: the step, counted from 0 over all epochs.
        size: items per step.
    """
    epoch, step = divmod(step, -(-count // size))
    return np.random.default_rng([seed, epoch]).permutation(count)[step * size : (step + 1) * size].tolist()


def select_fitting(
    items: Sequence[dict], kind: str, tokenizer: Tokenizer, longest: int
) -> tuple[list[list[list[int]]], list[float]]:
    """Returns (tokens, labels) of the items whose texts all have at most `longest` tokens; other items are dropped.

    `tokens` holds, for each item, the token ids of its texts. `labels` holds 1.0 for a safe response, 0.0 for an unsafe
    response, and 1.0 for a pair.

    Args:
        kind: "helpful" or "safety".

    Raises:
        ValueError: no item is short enough.
    """
    found = [
        ([tokenized(tokenizer, text) for text in texts_of(item, kind)], float(item.get("safe", 1))) for item in items
    ]
    found = [(tokens, label) for tokens, label in found if max(map(len, tokens)) <= longest]
    if not found:
        raise ValueError(
            f"--max-tokens={longest} is less than every item needs, so no item is left to train on: raise --max-tokens"
        )
    return [tokens for tokens, _ in found], [label for _, label in found]


def describe_items(items: Sequence[dict], held_out: Sequence[dict], used: int, paths: Sequence[str]) -> dict:
    """Returns the entry of a run's manifest that describes the run's judged items.

    The keys are "sha256" (of all items), "counts" ({"items": `used`, "too_long", "held_out"}) and "files" ([{"path",
    "sha256"}]).

    Args:
        items: the items to train on, including items that are too long for training.
        held_out: the items held out for measuring.
        used: number of `items` that are short enough for training.
        paths: files that the items were read from.
    """
    counts = {"items": used, "too_long": len(items) - used, "held_out": len(held_out)}
    return {"sha256": fingerprint([*items, *held_out]), "counts": counts, "files": hash_files(*paths)}
