"""DeepSeek-R1, whole: R1-Zero, the four stages, reward models, distillation, evaluation, one page.

Source:  DeepSeek-AI 2025, section 2.3; Nature 2025, Fig. 2 (lineage) and Methods
Run:     python -m experiments.r1                            (nano, on a laptop; about an hour on 2 cores)
         python -m experiments.r1 --workdir=DIR              (again: what is complete is skipped, what is not goes on)
Lineage: base -> R1-Zero; base -> cold-start SFT = Dev1 -> reasoning RL = Dev2 -> rejection-sampled SFT of the *base again*
         = Dev3 -> RL for all scenarios = R1; student base -> SFT on stage 3's data = the distilled student
Departs: every number of the nano recipes; see each stage's file for the paper's
"""

from __future__ import annotations

import dataclasses
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import tyro

from r1jax.run import RunOptions, explained

BASE = ""  # the parent of what begins with the shipped base


class Stage(NamedTuple):
    """One stage: what the page calls its result, its folder, its parent's folder, the planned minutes, and how it runs."""

    result: str
    folder: str
    parent: str
    minutes: float
    run: Callable[[Path, RunOptions], object]


@dataclasses.dataclass(frozen=True)
class Command:
    """DeepSeek-R1, whole."""

    workdir: str = "runs/r1"
    """Every stage has a folder here; the page is report.html."""
    seed: int = 0
    """Of all stages."""
    mesh: str = "auto"
    """Devices: auto, AxB (fsdp=A, tensor=B), or data:2,fsdp:2,tensor:2,expert:1."""
    model: str = "nano"
    """The base that ships with the package, when --weights is not given."""
    weights: str = ""
    """Another base: a run's directory or a Hugging Face directory."""
    until: str = ""
    """Stop after this folder, such as 2_reasoning_rl."""


def zero(home: Path, options: RunOptions) -> None:
    from experiments import r1_zero

    r1_zero.train(r1_zero.NANO, options)


def reasoning_rl(home: Path, options: RunOptions) -> None:
    from experiments import r1_2_reasoning_rl as stage

    template, prompts, held_out = stage.OPTIONS.template, stage.OPTIONS.prompts, stage.OPTIONS.eval_prompts
    stage.train(stage.NANO, dataclasses.replace(options, template=template, prompts=prompts, eval_prompts=held_out))
