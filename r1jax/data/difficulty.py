"""Chooses and orders questions by their pass rate: the share of completions that were right in an earlier run."""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from r1jax import storage

UNKNOWN = 0.5  # where --curriculum puts a question without a pass rate


class Difficulty(NamedTuple):
    """The choice of questions by pass rate: which questions to keep, and whether to order them.

    Attributes:
        low, high: lowest and highest pass rate of a question that is kept.
        rates: id of a question -> pass rate. If an id is missing, the row's own `pass_rate` is used.
        in_order: whether a pass over the questions goes from the highest pass rate to the lowest.
        about: the entry for the run's manifest: the values of the flags, and the hash of the file of pass rates.
    """

    low: float
    high: float
    rates: Mapping[str, float]
    in_order: bool
    about: Mapping[str, object]

    def rate(self, row: Mapping) -> float | None:
        """Returns the pass rate of a question; None if it is unknown."""
        found = self.rates.get(str(row.get("id")), row.get("pass_rate"))
        return None if found is None else float(found)

    def keep(self, rows: Sequence[dict]) -> list[dict]:
        """Returns the rows whose pass rate lies within the bounds or is unknown.

        Raises:
            ValueError: no row has a pass rate, or no row is kept.
        """
        rates = [self.rate(row) for row in rows]
        if all(rate is None for rate in rates):
            raise ValueError(
                f"none of the {len(rows)} rows of --prompts has a pass rate: name a file of their pass rates with "
                "--pass-rates, or add a key pass_rate to the rows"
            )
        kept = [row for row, rate in zip(rows, rates, strict=True) if rate is None or self.low <= rate <= self.high]
        if not kept:
            raise ValueError(
                f"--keep-pass-rate={self.low}:{self.high} keeps none of {len(rows)} rows, whose pass rates lie "
                f"between {min(r for r in rates if r is not None)} and {max(r for r in rates if r is not None)}. "
                "Widen the bounds"
            )
        return kept

    def arrange(self, rows: Sequence[Mapping], order: np.ndarray) -> np.ndarray:
        """Returns the permutation `order` of the rows, sorted by falling pass rate if `in_order` is True.

        Rows with equal pass rates keep their sequence in `order`. A row without a pass rate counts as `UNKNOWN`, 0.5.
        """
        if not self.in_order:
            return order
        rates = [self.rate(row) for row in rows]
        known = np.asarray([UNKNOWN if rate is None else rate for rate in rates])
        return order[np.argsort(-known[order], kind="stable")]


def read_difficulty(keep: str, path: str, *, in_order: bool) -> Difficulty | None:
    """Returns the `Difficulty` that --keep-pass-rate, --pass-rates and --curriculum describe; None without these flags.

    Args:
        keep: LOW:HIGH, or "" to keep all.
        path: a jsonl file with lines {id, pass_rate} or {id, reward: {accuracy}}; the accuracies are averaged by id. ""
            means no file.
        in_order: whether to order the questions by falling pass rate.

    Raises:
        ValueError: `keep` is not LOW:HIGH with 0 <= LOW <= HIGH <= 1, the file cannot be read, or a file is given
            although `keep` is empty and `in_order` is False.
    """
    if not keep and not in_order:
        if path:
            raise ValueError(f"--pass-rates={path} does nothing without --keep-pass-rate or --curriculum=True")
        return None
    low, high = parse(keep) if keep else (0.0, 1.0)
    rates, digest = read_rates(path) if path else ({}, "")
    about = {"keep_pass_rate": [low, high], "curriculum": in_order, "pass_rates": digest}
    return Difficulty(low, high, rates, in_order, about)


def parse(keep: str) -> tuple[float, float]:
    """Returns (LOW, HIGH) of --keep-pass-rate. Raises ValueError unless 0 <= LOW <= HIGH <= 1."""
    low, _, high = keep.partition(":")
    try:
        bounds = float(low), float(high)
    except ValueError:
        bounds = (1.0, 0.0)
    if not 0 <= bounds[0] <= bounds[1] <= 1:
        raise ValueError(f"--keep-pass-rate={keep} must be LOW:HIGH with 0 <= LOW <= HIGH <= 1, such as 0.1:0.9")
    return bounds


def read_rates(path: str) -> tuple[dict[str, float], str]:
    """Returns {id: pass rate} of a file of --pass-rates, and the SHA-256 of the file.

    Raises:
        ValueError: the file cannot be read, a line is not a JSON object with an id, or no line has a pass rate.
    """
    try:
        raw = storage.path_of(path).read_bytes()
    except OSError as error:
        raise ValueError(
            f"--pass-rates={path} cannot be read ({error.strerror or error}). Name another file"
        ) from error
    found: dict[str, list[float]] = defaultdict(list)
    for number, line in enumerate(raw.decode("utf-8").splitlines(), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            name, rate = str(row["id"]), row.get("pass_rate", (row.get("reward") or {}).get("accuracy"))
            if rate is not None and np.isfinite(float(rate)):
                found[name].append(float(rate))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(
                f"--pass-rates={path}, line {number} is not {{id, pass_rate}} ({error!r}): {line[:80]!r}. "
                "Correct the line"
            ) from error
    if not found:
        raise ValueError(
            f"--pass-rates={path}: no line has a pass_rate, or a reward with a part called accuracy. Name another file"
        )
    return {name: float(np.mean(rates)) for name, rates in found.items()}, hashlib.sha256(raw).hexdigest()
