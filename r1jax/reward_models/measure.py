"""Measures a reward model on held-out items and fits its calibration."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import numpy as np
from jax.sharding import Mesh

from r1jax.distributed import gather_rows
from r1jax.nano import general
from r1jax.reward_models import calibration
from r1jax.reward_models.data import texts_of
from r1jax.reward_models.model import RewardModel, score, summary_of
from r1jax.reward_models.preference_files import replies


def measure_model(kind: str, model: RewardModel, items: Sequence[dict], mesh: Mesh) -> dict:
    """Returns accuracy, biases and calibration of an uncalibrated model on held-out items, as a dict.

    `calibration.of_pairs` (helpful) or `calibration.of_labels` (safety) describes the keys. Every process must call
    this function, with the same items.

    Args:
        kind: "helpful" or "safety".
        items: held-out pairs or labels, as `data.judgements` returns them.
    """
    texts = [text for item in items for text in texts_of(item, kind)]
    mine = np.arange(len(texts))[jax.process_index() :: jax.process_count()]
    scored = score(model, [texts[i] for i in mine], mesh)
    values = gather_rows({"values": scored}, mine, len(texts))["values"]
    said = [completion for item in items for completion in replies(item, kind)]
    said = [summary_of(completion) for completion in said] if kind == "helpful" else said
    lengths, phrases = (np.asarray([size(text) for text in said], np.float64) for size in (len, general.fillers))
    truth = [item["truth"] for item in items] if all("truth" in item for item in items) else None
    if kind == "helpful":
        return calibration.of_pairs(values, lengths, phrases, truth)
    return calibration.of_labels(values, np.asarray([bool(item["safe"]) for item in items]), lengths, phrases, truth)
