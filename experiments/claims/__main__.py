"""Checks the claims that --claims names, skips those that are complete, and writes a page with all verdicts.

Run:     python -m experiments.claims                                     every claim; hours
         ... --claims distillation_beats_rl r1_by_stage                   two claims, from results in docs/r1; seconds
         ... --claims length_growth language_mixing --seeds 0 1           two claims, with two seeds
         ... --runs R1_RUN R1_RUN R1_RUN                                  claims that need checkpoints of experiments.r1
         the same command again                                           skips complete claims and goes on
Writes:  <workdir>/report.html, <workdir>/results/CLAIM.json, and the runs. Claims that need the same run share it
Expect:  a verdict on each claim: it holds, does not hold, or cannot be shown here. The verdicts are for nano, the small
         model that ships with the package
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import sys
import time
from pathlib import Path
from typing import Any

from experiments.claims.protocol import Bench, show
from experiments.claims.table import CLAIMS, Claim
from r1jax import cli
from r1jax.report.claims import Claimed, write_claims
from r1jax.runs.files import write_atomically


@dataclasses.dataclass(frozen=True)
class Command(Bench):
    """Checks claims and writes their page."""

    claims: tuple[str, ...] = tuple(CLAIMS)
    """Names of the claims to check. Some claims have further flags, which only their own command takes:
    python -m experiments.claims.NAME --help lists them."""


def asked_of(command: Command, claim: Claim) -> Bench:
    """Returns the flags of a claim: the shared flags as in `command`, and the defaults of the claim's own flags."""
    shared = {field.name: getattr(command, field.name) for field in dataclasses.fields(Bench)}
    return claim.command(**shared)


def fingerprint(asked: Bench) -> str:
    """Returns one SHA-256 of a claim's flags and of the runs of experiments.r1 that the claim may read."""
    said: dict[str, Any] = dataclasses.asdict(asked)
    for name in ("workdir", "runs"):  # the folders may move
        said.pop(name)
    said["results"] = []
    for folder in asked.folders:
        path = folder / "stages.json"
        content = path.read_bytes() if path.exists() else b""
        stages = sorted(manifest.parent.name for manifest in folder.glob("*/manifest.json"))
        said["results"].append([hashlib.sha256(content).hexdigest(), stages])
    return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()


def path_of(command: Command, name: str) -> Path:
    return command.home / "results" / f"{name}.json"


def read_result(command: Command, name: str) -> dict[str, Any]:
    """Returns the content of a claim's result file: sha256, minutes and finding; {} if there is no such file."""
    path = path_of(command, name)
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def draw(command: Command) -> Path:
    """Writes the page of all claims that have a result, and returns its path."""
    claims = []
    for name, claim in CLAIMS.items():
        result = read_result(command, name)
        claims.append(Claimed(name, claim.said, result.get("finding"), result.get("minutes")))
    return write_claims(command.home, claims, command.seeds)


def run(command: Command) -> dict[str, str]:
    """Measures every claim of --claims that is not complete. Returns {claim: its verdict, or why it failed}.

    A claim that fails does not stop the others.

    Raises:
        ValueError: --claims names an unknown claim.
    """
    if unknown := [name for name in command.claims if name not in CLAIMS]:
        raise ValueError(f"--claims {' '.join(unknown)}: there is no such claim. Use {', '.join(CLAIMS)}")
    found = {}
    for name in command.claims:
        asked = asked_of(command, CLAIMS[name])
        key, result = fingerprint(asked), read_result(command, name)
        if result.get("sha256") == key:
            print(f"{name}: complete, skipped")
        else:
            minutes = max(1, CLAIMS[name].minutes * len(command.seeds))
            print(f"\n{name}: {CLAIMS[name].said} At most {minutes:.0f} minutes, estimated", flush=True)
            began = time.monotonic()
            try:
                finding = dataclasses.asdict(show(CLAIMS[name].find(asked)))
            except (ValueError, OSError) as error:
                found[name] = f"failed: {error}"
                print(f"{name} failed: {error}", flush=True)
                continue
            result = {"sha256": key, "minutes": (time.monotonic() - began) / 60, "finding": finding}
            write_atomically(path_of(command, name), json.dumps(result, ensure_ascii=False, indent=1) + "\n")
            draw(command)
        found[name] = result["finding"]["verdict"]
    print(f"\nthe page is {draw(command)}")
    for name, verdict in found.items():
        print(f"{name:>24}: {verdict.splitlines()[0]}")
    return found


if __name__ == "__main__":
    verdicts = cli.main(Command, run, __doc__, resumes=True)
    sys.exit(any(verdict.startswith("failed") for verdict in verdicts.values()))
