"""Reads preferences, and turns each into a packed row that holds a prompt and two completions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jax.sharding import Mesh

from r1jax.model.packed_rows import PackedRows
from r1jax.nano import preferences
from r1jax.policy import Policy
from r1jax.preferences.objectives import PairBatch
from r1jax.prompts import fill
from r1jax.reward_models.model import bucket
from r1jax.reward_models.preference_files import read_lines, read_object, replies, split_by_problem
from r1jax.rewards.format import THINK
from r1jax.sharding import shard_rows
from r1jax.training.packing import put

FORMS = {
    False: "{problem, chosen, rejected}; each completion is a text, or messages that end with the assistant's reply",
    True: "{problem, response, desirable}; response is a text, or messages that end with the assistant's reply",
}


class Item(NamedTuple):
    """A tokenized prompt with its completions: chosen and rejected, or one completion with a label.

    Attributes:
        prompt: token ids.
        completions: token ids of one or two completions, each with the stop token.
        label: 1.0 for desirable, 0.0 for undesirable; 1.0 for pairs.
    """

    prompt: list[int]
    completions: tuple[np.ndarray, ...]
    label: float


def read_items(data: str, labelled: bool, seed: int, counts: tuple[int, int]) -> tuple[list[dict], list[dict]]:
    """Returns (training items, held-out items).

    An item is {problem, chosen, rejected}, or {problem, response, desirable} if `labelled` is True.

    Args:
        data: a jsonl file; "" generates pairs, which a simulated annotator judges (`nano.preferences`).
        labelled: whether items are labelled completions. If True, each pair is split into two labelled items.
        seed: seed of the generated pairs, or of the choice of a file's held-out items.
        counts: (number of training pairs, number of held-out pairs) to generate. For a file, the first number
            is ignored, and the second limits the number of held-out items.

    Raises:
        ValueError: the file cannot be read, or a line is no item; the message names the line.
    """
    if data:
        return split_by_problem(read(data, labelled), counts[1], seed)
    found = []
    for split, count in zip(("train", "held out"), counts, strict=True):
        pairs = preferences.pairs(seed, count, split)
        items = [
            {"problem": p["problem"]} | dict(zip(("chosen", "rejected"), replies(p, "helpful"), strict=True))
            for p in pairs
        ]
        found.append([part for item in items for part in split_pair(item)] if labelled else items)
    return found[0], found[1]


def read(path: str, labelled: bool) -> list[dict]:
    """Returns the items of a file. If `labelled` is True, the file may also hold pairs, and each pair becomes two
    items.

    Raises:
        ValueError: see `read_items`.
    """
    lines = read_lines(path, "--data", FORMS[labelled])
    items = [item for where, line in lines for item in parse(line, labelled, where)]
    if len(items) < 2:
        raise ValueError(f"--data={path} holds {len(items)} items: give at least 2, one to train on and one to measure")
    return items


def parse(line: str, labelled: bool, where: str) -> list[dict]:
    """Returns the items that a line holds: one, or two if a pair is to become two labelled items.

    Args:
        labelled: whether items are labelled completions. If True, a line that holds a pair gives two items.
        where: the flag, file and line number, for errors.

    Raises:
        ValueError: the line is no item.
    """
    row = read_object(line, where, f". A line is {FORMS[labelled]}")
    single = labelled and "response" in row
    names = ("response",) if single else ("chosen", "rejected")
    problem, item = row.get("problem", row.get("prompt")), {}
    for name in names:
        asked, item[name] = read_reply(row.get(name), problem, f"{where}: {name}")
        if item.setdefault("problem", asked) != asked:
            raise ValueError(f"{where}: chosen and rejected answer different messages. They must share the prompt")
    if single:
        if row.get("desirable") not in (True, False):
            raise ValueError(f"{where}: desirable is {row.get('desirable')!r}; it must be true or false")
        return [item | {"desirable": bool(row["desirable"])}]
    if item["chosen"] == item["rejected"]:
        raise ValueError(f"{where}: chosen and rejected are the same text, which teaches nothing; remove the line")
    return split_pair(item) if labelled else [item]


def read_reply(value: Any, problem: Any, where: str) -> tuple[str, str]:
    """Returns (problem, reply) of a completion that is given as a text or as messages.

    Args:
        value: the completion, as a text, or as messages that end with the assistant's reply.
        problem: the row's problem, a text or messages; None if the completion's messages hold it.
        where: where the completion stands, for errors.

    Raises:
        ValueError: there is no completion, or the prompt is not one message of the user.
    """
    before: list[Any] = [] if problem is None else problem if isinstance(problem, list) else [user(problem)]
    if isinstance(value, list) and value and is_message(value[-1], "assistant"):
        said, own = value[-1]["content"], value[:-1]
        if own and before and own != before:
            raise ValueError(f"{where} and the row's problem hold different prompts. Give the prompt in one place only")
        before = own or before
    elif isinstance(value, str):
        said = value
    else:
        raise ValueError(f"{where} is {value!r:.60}; give a text, or messages that end with the assistant's reply")
    if len(before) != 1 or not is_message(before[0], "user"):
        raise ValueError(
            f"{where} follows {len(before)} messages. A completion must follow exactly one message of the user. "
            "--template turns this message into the prompt. Give all that comes before the completion as one text, in "
            "`problem`"
        )
    return before[0]["content"], said


def user(content: Any) -> dict:
    """Returns {"role": "user", "content": content}."""
    return {"role": "user", "content": content}


def is_message(value: Any, role: str) -> bool:
    """Returns whether a value is a message that has this role and a text as content."""
    return isinstance(value, dict) and value.get("role") == role and isinstance(value.get("content"), str)


def split_pair(pair: Mapping) -> list[dict]:
    """Returns a pair as two labelled items: the chosen completion is desirable, the rejected one is not."""
    return [
        {"problem": pair["problem"], "response": pair[name], "desirable": name == "chosen"}
        for name in ("chosen", "rejected")
    ]


def encode(items: Sequence[Mapping], policy: Policy, longest: int) -> list[Item]:
    """Returns the items as tokens. Drops items whose prompt and completions together exceed `longest` tokens.

    Raises:
        ValueError: no item is short enough.
    """
    found = [encode_item(item, policy) for item in items]
    kept = [item for item in found if len(item.prompt) + sum(map(len, item.completions)) <= longest]
    if not kept:
        raise ValueError(
            f"--max-tokens={longest} is less than every item needs, so none is left to train on: raise --max-tokens"
        )
    return kept


def encode_item(item: Mapping, policy: Policy) -> Item:
    """Returns an item as tokens. If the template ends in <think>, completions lose a <think> at their start."""
    asked = fill(policy.template, item["problem"])
    texts = [item["response"]] if "response" in item else [item["chosen"], item["rejected"]]
    if asked.rstrip().endswith(THINK):
        texts = [text.lstrip().removeprefix(THINK) for text in texts]
    ends = policy.tokenizer.eos_id
    completions = tuple(np.asarray([*policy.tokenizer.encode(text, start=False), ends]) for text in texts)
    return Item(policy.tokenizer.encode(asked), completions, float(item.get("desirable", True)))


def micro_batches(
    items: Sequence[Item], chosen: Sequence[int], rows: int, mesh: Mesh, reference: np.ndarray | None = None
) -> list[PairBatch]:
    """Returns the micro-batches of one step, on the mesh. Items of similar length share a micro-batch.

    An item takes one row. The weights of all rows of the step add up to 1.

    A labelled item has one completion. The second completion in its row belongs to the step's next item, and does
    not answer the row's prompt. KTO computes z, an estimate of the KL divergence from the reference policy, from these
    mismatched completions.

    Args:
        items: all N items of the data.
        chosen: indices, in `items`, of the step's items.
        rows: P, number of rows of a micro-batch.
        reference: [N, 2] Σ log π_ref of both completions of every item. None if the loss has no reference policy, or if
            these sums are added later.
    """
    partner = dict(zip(chosen, [*chosen[1:], chosen[0]], strict=True))

    def two(i: int) -> tuple[np.ndarray, np.ndarray]:
        mine = items[i].completions
        return mine if len(mine) == 2 else (mine[0], items[partner[i]].completions[0])

    def slots(i: int) -> int:
        return len(items[i].prompt) + sum(map(len, two(i)))

    order, batches = sorted(chosen, key=slots), []
    for first in range(0, len(order), rows):
        mine = order[first : first + rows]
        length = bucket(max(map(slots, mine)))
        packed = PackedRows(*(np.zeros((rows, length), np.int32) for _ in range(5)))
        label, weight = (np.zeros(rows, np.float32) for _ in range(2))
        label[: len(mine)], weight[: len(mine)] = [items[i].label for i in mine], 1 / len(order)
        for row, i in enumerate(mine):
            lay(packed, row, items[i].prompt, two(i))
        known = None if reference is None else np.zeros((rows, 2), np.float32)
        if known is not None:
            known[: len(mine)] = reference[mine]
        batches.append(shard_rows(PairBatch(packed, weight, label, known), mesh))
    return batches


def lay(packed: PackedRows, row: int, prompt: list[int], two: tuple[np.ndarray, np.ndarray]) -> None:
    """Writes a prompt and the two completions `two`, given as token ids, into the row of `packed` with index `row`.

    In that row, `PackedRows.segment` is 0 for the prompt, 1 for the first completion and 2 for the second.
    """
    size = len(prompt)
    put(packed, row, 0, prompt, 0, 1, 0, 0)
    put(packed, row, size, two[0], size, 1, 1, size - 1)
    put(packed, row, size + len(two[0]), two[1], size, 1, 2, size - 1)
