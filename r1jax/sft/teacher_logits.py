"""Computes soft targets for distillation, and stores them: a teacher's top-K tokens at each response token of records.

The student learns the teacher's K tokens together with the record's own token. The probabilities of the K tokens are
renormalised, since the rest of the teacher's distribution is not stored.

Source: Hinton et al. 2015 (arXiv 1503.02531). The R1 paper distils from records alone.
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
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int

from r1jax import jsonl
from r1jax.data import questions
from r1jax.distributed import is_main, wait_for_all
from r1jax.model.config import ModelConfig
from r1jax.model.kernels.backends import attention_backend
from r1jax.model.packed_rows import PackedRows
from r1jax.model.transformer import unembedding
from r1jax.policy import Policy
from r1jax.recipes import RunOptions
from r1jax.runs.manifests import claim
from r1jax.runs.policies import load_policy
from r1jax.runs.progress import Progress
from r1jax.sft.documents import document
from r1jax.sharding import compute_dtype, fetch, row_shards, rows_in_turn, shard_rows
from r1jax.training.logprobs import Reading, hidden_before, likeliest_tokens
from r1jax.training.packing import gather, pack

TOGETHER = 256  # records the teacher reads between two progress notes; a killed run resumes at the last one


@dataclasses.dataclass(frozen=True)
class Teaching:
    """Options of distillation from a teacher's token probabilities."""

    teacher: str = ""
    """Directory of a run whose token probabilities the student also learns; the run must have the student's tokenizer.
    Empty: no teacher."""
    top: int = 16
    """K, the teacher's likeliest tokens to keep at each position."""
    teacher_share: float = 0.5
    """Weight of the teacher's tokens in the loss, in (0, 1]; the rest of the weight is on the record's own token."""


NOBODY = Teaching()


class Likeliest(NamedTuple):
    """A teacher's K likeliest tokens at each of the T response tokens, in the order of the records.

    Attributes:
        ids, logp: [T, K] token ids and log-probabilities in nats, in TensorStore.
        first: maps a record's (problem, response) to the index in [0, T) of the record's first response token.
        share: weight of the teacher's tokens in the loss, in (0, 1].
    """

    ids: tensorstore.TensorStore
    logp: tensorstore.TensorStore
    first: dict[tuple[str, str], int]
    share: float

    def targets(
        self, tokens: Int[np.ndarray, "R S"], place: Int[np.ndarray, "R S"], counted: Float[np.ndarray, "R S"]
    ) -> tuple[Int[np.ndarray, "R S J"], Float[np.ndarray, "R S J"]]:
        """Returns the target tokens at each slot and the weights of these targets.

        Both are arrays [R, S, 1 + K] for R rows of S slots. The record's own token comes first, then the teacher's K
        tokens.

        Args:
            tokens: the record's own tokens.
            place: the index in [0, T) of each slot's token; ignored where `counted` is 0.
            counted: the loss weights; where a loss weight is 0, all target weights are 0.
        """
        at, inverse = np.unique(place, return_inverse=True)
        ids, logp = (store[at].read().result()[inverse.reshape(place.shape)] for store in (self.ids, self.logp))
        likely = np.exp(logp.astype(np.float64))
        likely *= self.share / likely.sum(axis=-1, keepdims=True)
        shares = np.concatenate([np.full((*place.shape, 1), 1.0 - self.share), likely], axis=-1)
        shares *= (counted != 0)[..., None]
        return np.concatenate([tokens[..., None], ids], axis=-1).astype(np.int32), shares.astype(np.float32)


def check(teaching: Teaching, vocab_size: int) -> None:
    """Raises ValueError if --top or --teacher-share is out of range."""
    if not 1 <= teaching.top <= vocab_size:
        raise ValueError(f"--top={teaching.top} must lie between 1 and the student's vocabulary size, {vocab_size}")
    if not 0 < teaching.teacher_share <= 1:
        raise ValueError(f"--teacher-share={teaching.teacher_share} must lie in (0, 1]; for 0, leave --teacher out")


def find_top_tokens(
    teaching: Teaching,
    student: Policy,
    records: Sequence[Mapping],
    row_length: int,
    options: RunOptions,
    mesh: Mesh,
    folder: Path,
) -> Likeliest:
    """Returns the teacher's likeliest tokens at each response token of the records, and stores them in `folder`.

    Records whose tokens `folder` already holds are not computed again.

    Args:
        student: the policy to be trained; its template and tokenizer make the documents.
        records: mappings with keys id, problem and response.
        row_length: S, slots of a packed row.
        options: the options of the student's run; the teacher is loaded with them.
        folder: the folder in which the arrays are stored.

    Raises:
        ValueError: an option is out of range, the teacher is missing, the teacher and the student split a record
            into different tokens, or `folder` was made with other settings.
    """
    check(teaching, student.cfg.vocab_size)
    whose = dataclasses.replace(options, weights=teaching.teacher)
    teacher, params, source = load_policy(whose, mesh, frozen=True, flag="--teacher")
    read = [document(record, student, row_length) for record in records]
    documents, asked = [tokens for tokens, _ in read], [weights.index(1.0) for _, weights in read]
    for record, tokens in zip(records, documents, strict=True):
        if document(record, teacher._replace(template=student.template), row_length)[0] != tokens:
            raise ValueError(
                f"--teacher={teaching.teacher} and the student split record {record['id']} into different tokens: "
                "the teacher must have the student's tokenizer. Leave --teacher out to learn from the records alone"
            )
    sizes = [len(tokens) - n for tokens, n in zip(documents, asked, strict=True)]
    first = np.concatenate([[0], np.cumsum(sizes)]).astype(int)
    settings = {"teacher": source["sha256"], "top": teaching.top, "records": questions.fingerprint(documents)}
    path = folder / "done.jsonl"
    folder.mkdir(parents=True, exist_ok=True)
    claim(path, settings)
    stores = [open_store(folder / name, dtype, (int(first[-1]), teaching.top)) for name, dtype in KEPT.items()]
    done = sum(line["records"] for line in jsonl.stream(path)) if path.exists() else 0
    with Progress(len(records), done) as progress:
        progress.say(f"{folder}: top tokens of {teaching.teacher} at {first[-1]} tokens of {len(records)} records")
        for start in range(done, len(records), TOGETHER):
            some = range(start, min(start + TOGETHER, len(records)))
            pieces = [(documents[i], asked[i]) for i in some]
            found = compute_top_tokens(teaching.top, teacher, params, student, pieces, row_length, mesh)
            if is_main():
                for store, values in zip(stores, found, strict=True):
                    store[first[start] : first[some[-1] + 1]].write(values).result()
                with jsonl.JsonLines(path) as file:
                    file.write({"records": len(some)})
                    file.sync()
            progress.update(some[-1] + 1, {})
    wait_for_all(f"{folder} written")
    places = {(r["problem"], r["response"]): int(at) for r, at in zip(records, first[:-1], strict=True)}
    return Likeliest(*stores, places, teaching.teacher_share)


KEPT = {"ids": "int32", "logp": "float32"}


def open_store(path: Path, dtype: str, shape: tuple[int, int]) -> tensorstore.TensorStore:
    """Opens the zarr array at `path`, or creates an array there if none exists."""
    spec = {"driver": "zarr3", "kvstore": {"driver": "file", "path": str(path.resolve())}}
    return tensorstore.open(
        spec,
        dtype=dtype,
        shape=shape,
        create=True,
        open=True,
        chunk_layout=tensorstore.ChunkLayout(chunk_shape=(4096, shape[1])),
    ).result()


def compute_top_tokens(
    top: int,
    teacher: Policy,
    params: dict,
    student: Policy,
    documents: Sequence[tuple[list[int], int]],
    row_length: int,
    mesh: Mesh,
) -> tuple[np.ndarray, np.ndarray]:
    """Computes the teacher's likeliest tokens at the T response tokens of the documents.

    Returns (ids, logp), both [T, K]: token ids and log-probabilities in nats.

    Args:
        top: K, the number of tokens kept at each response token.
        params: the teacher's parameters.
        student: the policy to be trained. Token ids at or above its vocabulary size are excluded.
        documents: a pair (tokens, number of prompt tokens) for each document.
        row_length: S, slots of a packed row.
    """
    answers = [np.asarray(tokens[n:], np.int32) for tokens, n in documents]
    rows, places = pack([tokens[:n] for tokens, n in documents], list(enumerate(answers)), row_length)
    each = -(-8 // row_shards(mesh)) * row_shards(mesh)  # rows of every forward pass: one shape, one compiled program
    total = -(-len(rows.tokens) // each) * each
    rows = jax.tree.map(lambda x: np.pad(x, [(0, total - len(x)), (0, 0)]), rows)
    vocab = min(teacher.cfg.vocab_size, student.cfg.vocab_size)
    dtype, attention = np.dtype(compute_dtype(mesh)), attention_backend(mesh, teacher.cfg)
    reading = Reading(dtype, "none", rows_in_turn(mesh), attention, mesh)
    found = []
    for at in range(0, total, each):
        some = jax.tree.map(lambda x, at=at: x[at : at + each], rows)
        found.append(top_logprobs(teacher.cfg, params, shard_rows(some, mesh), top, vocab, reading))
    logp, ids = (np.concatenate([fetch(x) for x in parts]) for parts in zip(*found, strict=True))
    sizes = [len(answer) for answer in answers]
    return np.concatenate(gather(ids, places, sizes)), np.concatenate(gather(logp, places, sizes))


@functools.partial(jax.jit, static_argnums=(0, 3, 4, 5))
def top_logprobs(
    cfg: ModelConfig, params: dict, rows: PackedRows, top: int, vocab: int, reading: Reading
) -> tuple[Float[Array, "R S K"], Int[Array, "R S K"]]:
    """Returns (log-probabilities in nats, token ids) of the teacher's K = `top` likeliest tokens at each slot.

    The teacher reads only the tokens before the slot. Only ids below `vocab` are considered, and the probabilities of
    these ids sum to 1.
    """
    hidden, _ = hidden_before(cfg, params, rows, reading)
    found = likeliest_tokens(hidden, unembedding(params)[:, :vocab], top, cap=cfg.logit_cap, mesh=reading.mesh)
    return tuple(x.reshape(*rows.tokens.shape, top) for x in found)
