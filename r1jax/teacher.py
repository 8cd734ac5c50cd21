"""What a teacher expects at every token of some records: its likeliest tokens there, kept in TensorStore.

A student learns them beside the record's own token. What the teacher gives its other tokens is shared out among the
kept ones.

Source: Hinton et al. 2015 (arXiv 1503.02531); the paper distils by records alone
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
import tensorstore
from jax.experimental import multihost_utils
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int

from r1jax import log
from r1jax.checkpoint import behind
from r1jax.data import prompts as questions
from r1jax.launch import is_main
from r1jax.logprobs import hidden_before, likeliest_tokens
from r1jax.model.attend_choice import attention_backend
from r1jax.model.config import ModelConfig
from r1jax.model.transformer import unembedding
from r1jax.progress import Progress
from r1jax.rollout import PackedRows, gather, pack
from r1jax.run import Policy, RunOptions, load_policy
from r1jax.sft import document
from r1jax.sharding import compute_dtype, row_shards, rows_in_turn, shard_rows
from r1jax.waves import claim

TOGETHER = 256  # records whose packed rows are looked at between two notes of how far it is


@dataclasses.dataclass(frozen=True)
class Teaching:
    """Distillation from a teacher's probabilities."""

    teacher: str = ""
    """A run with the student's tokenizer, whose likeliest tokens are learned, too; empty: the records alone."""
    top: int = 16
    """How many of them are kept of each token."""
    teacher_share: float = 0.5
    """Their share in the loss; the rest is the record's own token's."""


NOBODY = Teaching()


class Likeliest(NamedTuple):
    """A teacher's likeliest tokens, T tokens of responses in the order of the records.

    Attributes:
        ids, logp: [T, K], in TensorStore.
        first: where the tokens of a record begin, by (problem, response).
        share: of them in the loss.
    """

    ids: tensorstore.TensorStore
    logp: tensorstore.TensorStore
    first: dict[tuple[str, str], int]
    share: float

    def targets(
        self, tokens: Int[np.ndarray, "R S"], place: Int[np.ndarray, "R S"], counted: Float[np.ndarray, "R S"]
    ) -> tuple[Int[np.ndarray, "R S K+1"], Float[np.ndarray, "R S K+1"]]:
        """The tokens that stand in the place of each, its own first, and the share of each.

        Args:
            place: of each token here, where `counted` is not 0.
        """
        at, inverse = np.unique(place, return_inverse=True)
        ids, logp = (store[at].read().result()[inverse.reshape(place.shape)] for store in (self.ids, self.logp))
        likely = np.exp(logp.astype(np.float64))
        likely *= self.share / likely.sum(axis=-1, keepdims=True)
        shares = np.concatenate([np.full((*place.shape, 1), 1.0 - self.share), likely], axis=-1)
        shares *= (counted != 0)[..., None]
        return np.concatenate([tokens[..., None], ids], axis=-1).astype(np.int32), shares.astype(np.float32)


def check(teaching: Teaching, vocab_size: int) -> None:
    """Raises ValueError for numbers that cannot be taught with."""
    if not 1 <= teaching.top <= vocab_size:
        raise ValueError(f"--top={teaching.top} must lie between 1 and the student's {vocab_size} tokens")
    if not 0 < teaching.teacher_share <= 1:
        raise ValueError(f"--teacher-share={teaching.teacher_share} must lie in (0, 1]; leave --teacher out for 0")


def of(
    teaching: Teaching, student: Policy, records: Sequence[Mapping], row_length: int, options: RunOptions, mesh: Mesh,
    folder: Path,
) -> Likeliest:
    """The teacher's likeliest tokens for each response token of the records; what is in `folder` is not asked again.

    Raises:
        ValueError: numbers that cannot be; a teacher that is not there, or reads a record as other tokens; a folder of
            something else.
    """  # fmt: skip
    check(teaching, student.cfg.vocab_size)
    whose = dataclasses.replace(options, weights=teaching.teacher, model="nano")  # of any shape
    with behind("--teacher"):
        teacher, params, source = load_policy(whose, mesh, frozen=True)
    read = [document(record, student, row_length) for record in records]
    documents, asked = [tokens for tokens, _ in read], [weights.index(1.0) for _, weights in read]
    for record, tokens in zip(records, documents, strict=True):
        if document(record, teacher._replace(template=student.template), row_length)[0] != tokens:
            raise ValueError(
                f"--teacher={teaching.teacher} reads record {record['id']} as other tokens than the student: "
                "its tokenizer must be the student's. Leave --teacher out to learn from the records alone"
            )
    sizes = [len(tokens) - n for tokens, n in zip(documents, asked, strict=True)]
    first = np.concatenate([[0], np.cumsum(sizes)]).astype(int)
    settings = {"teacher": source["sha256"], "top": teaching.top, "records": questions.fingerprint(documents)}
    path = folder / "done.jsonl"
    folder.mkdir(parents=True, exist_ok=True)
    claim(path, settings)
    stores = [opened(folder / name, dtype, (int(first[-1]), teaching.top)) for name, dtype in KEPT.items()]
    done = sum(line["records"] for line in log.stream(path)) if path.exists() else 0
    with Progress(len(records), done) as progress:
        progress.say(f"{folder}: what {teaching.teacher} expects at {first[-1]} tokens of {len(records)} records")
        for start in range(done, len(records), TOGETHER):
            some = range(start, min(start + TOGETHER, len(records)))
            pieces = [(documents[i], asked[i]) for i in some]
            found = expected(teaching.top, teacher, params, student, pieces, row_length, mesh)
            if is_main():
                for store, values in zip(stores, found, strict=True):
                    store[first[start] : first[some[-1] + 1]].write(values).result()
                with log.JsonLines(path) as file:
                    file.write({"records": len(some)})
                    file.sync()
            progress.update(some[-1] + 1, {})
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(f"{folder} written")
    places = {(r["problem"], r["response"]): int(at) for r, at in zip(records, first[:-1], strict=True)}
    return Likeliest(*stores, places, teaching.teacher_share)


KEPT = {"ids": "int32", "logp": "float32"}


def opened(path: Path, dtype: str, shape: tuple[int, int]) -> tensorstore.TensorStore:
    """An array on disk, made if it is not there."""
    spec = {"driver": "zarr3", "kvstore": {"driver": "file", "path": str(path.resolve())}}
    return tensorstore.open(
        spec, dtype=dtype, shape=shape, create=True, open=True,
        chunk_layout=tensorstore.ChunkLayout(chunk_shape=(4096, shape[1])),
    ).result()  # fmt: skip


def expected(
    top: int, teacher: Policy, params: dict, student: Policy, documents: Sequence[tuple[list[int], int]],
    row_length: int, mesh: Mesh,
) -> tuple[np.ndarray, np.ndarray]:
    """(ids, logp), both [T, K], for the T response tokens of documents (tokens, how many of them were asked).
    """  # fmt: skip
    answers = [np.asarray(tokens[n:], np.int32) for tokens, n in documents]
    rows, places = pack([tokens[:n] for tokens, n in documents], list(enumerate(answers)), row_length)
    each = -(-8 // row_shards(mesh)) * row_shards(mesh)  # rows of one forward pass, so that one program does
    total = -(-len(rows.tokens) // each) * each
    rows = jax.tree.map(lambda x: np.pad(x, [(0, total - len(x)), (0, 0)]), rows)
    mine, me = each // jax.process_count(), jax.process_index()
    found = []
    for at in range(0, total, each):
        local = jax.tree.map(lambda x, at=at: x[at + me * mine : at + (me + 1) * mine], rows)
        passed = seen(
            teacher.cfg, params, shard_rows(local, mesh), top, min(teacher.cfg.vocab_size, student.cfg.vocab_size),
            np.dtype(compute_dtype(mesh)), rows_in_turn(mesh), attention_backend(mesh, teacher.cfg), mesh,
        )  # fmt: skip
        found.append(multihost_utils.process_allgather(passed, tiled=True) if jax.process_count() > 1 else passed)
    logp, ids = (np.concatenate([np.asarray(x) for x in parts]) for parts in zip(*found, strict=True))
    sizes = [len(answer) for answer in answers]
    return np.concatenate(gather(ids, places, sizes)), np.concatenate(gather(logp, places, sizes))


@functools.partial(jax.jit, static_argnums=(0, 3, 4, 5, 6, 7, 8))
def seen(
    cfg: ModelConfig, params: dict, rows: PackedRows, top: int, vocab: int, dtype: np.dtype, shards: int | None,
    attention: str, mesh: Mesh,
) -> tuple[Float[Array, "R S K"], Int[Array, "R S K"]]:
    """log π and ids of the likeliest tokens in the place of each token of packed rows; ids are below `vocab`.
    """  # fmt: skip
    hidden, _ = hidden_before(
        cfg, params, rows, dtype=dtype, remat="none", row_shards=shards, attention=attention, mesh=mesh
    )
    found = likeliest_tokens(hidden, unembedding(params)[:, :vocab], top, cap=cfg.logit_cap)
    return tuple(x.reshape(*rows.tokens.shape, top) for x in found)
