"""Records for supervised fine-tuning: n samples of each prompt from any checkpoint, judged and filtered.

Source:  DeepSeek-AI 2025 (arXiv 2501.12948), sections 2.3.1 and 2.3.3 (v2: B.3.2, B.3.3); how many samples of each
         prompt is not published
Run:     python -m experiments.generate --weights=RUN --prompts=nano:reasoning --template=r1 --samples=8
         python -m experiments.generate --weights=HF_DIR --prompts=mine.jsonl --template=chat --to=parquet --mesh=8x8
Writes:  <workdir>/samples.jsonl (every sample as it came), records.jsonl or .parquet (the same with keep and reason,
         which people may edit), manifest.json. Several processes write samples-I-of-N.jsonl each and merge them at the
         end. The same command goes on where it was killed
Departs: 1. thresholds of repetition, language and length are not published; the defaults ask for a right answer, the
            question's language and an end, and drop what repeats half of its 8-grams
"""

from __future__ import annotations

import dataclasses
import json
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from r1jax.rejection import Filters, filtered
from r1jax.run import explained
from r1jax.waves import Sampling

if TYPE_CHECKING:
    from r1jax.lineage import Manifest

GENERATED = 512  # prompts of the generator where no number is asked for
SAMPLING, FILTERS = Sampling(), Filters()


@dataclasses.dataclass(frozen=True)
class Command:
    """Samples of a checkpoint as SFT records."""

    sampling: Annotated[Sampling, tyro.conf.arg(name="")] = SAMPLING
    filters: Annotated[Filters, tyro.conf.arg(name="")] = FILTERS
    weights: str = ""
    """A run's directory, one of its checkpoints, or a Hugging Face directory. Default: the nano base."""
    model: str = "nano"
    """The base that ships with the package, when --weights is not given."""
    prompts: str = "nano:reasoning"
    """jsonl or parquet rows {id, problem, gold, kind}, or nano:MIX of the generator."""
    count: int = 0
    """Only so many prompts; 0: all, of the generator 512."""
    template: str = "r1"
    """r1, r1_zero, chat (the tokenizer's own), or a text file that holds {question}."""
    route: str = "rejection"
    """What the records say about where they come from."""
    to: Literal["jsonl", "parquet"] = "jsonl"
    """Form of the records; in parquet gold and source are JSON."""
    seed: int = 0
    """Of the generator's prompts and of the noise."""
    mesh: str = "auto"
    """Devices: auto, AxB (fsdp=A, tensor=B), or data:2,fsdp:2,tensor:2,expert:1."""
    workdir: str = ""
    """Where everything is written. Default: a new directory below runs/."""
    coordinator: str | None = None
    """host:port of process 0, where no cluster is detected."""
    processes: int | None = None
    """Number of processes; 1 runs alone even on a cluster."""
    process_id: int | None = None
    """This process's number, from 0."""


MAY_CHANGE = frozenset({
    "weights",  # compared by their hash: they may lie elsewhere
    "filters", "to", "mesh", "workdir", "coordinator", "processes", "process_id",
})  # fmt: skip


def generate(command: Command) -> Path:
    """The file of records.

    Raises:
        ValueError: a flag, file or checkpoint that cannot be used; a --workdir with something else in it.
    """
    from r1jax import generate as sft
    from r1jax import launch, lineage
    from r1jax.data import prompts as questions
    from r1jax.rewards.isolate import Pool
    from r1jax.run import new_workdir
    from r1jax.sharding import make_mesh
    from r1jax.waves import check

    launch.share_cpu(command.mesh)
    launch.start(command.coordinator, command.processes, command.process_id)
    launch.keep_compilations()
    mesh = make_mesh(command.mesh)
    check(command.sampling)
    workdir = Path(command.workdir or new_workdir("generate"))
    fields = dataclasses.asdict(command)
    before = lineage.check_resume(workdir, fields, True, MAY_CHANGE)
    if questions.generated(command.prompts) is None:
        examples = questions.read(command.prompts, "--prompts")[: command.count or None]
    else:
        take, _ = questions.stream(command.prompts, command.seed)
        examples = [take(i) for i in range(command.count or GENERATED)]
    policy, params, parent = sft.load(command.model, command.weights, command.template, mesh)
    data = {"sha256": questions.fingerprint(examples), "counts": {"prompts": len(examples)}}
    lineage.check_parent(workdir, before, parent)
    lineage.check_same(workdir, before, data, "problems")
    path = workdir / f"records.{command.to}"
    if edited(path, before):
        if lineage.differences(before.recipe, fields, MAY_CHANGE - {"filters"}):
            raise ValueError(
                f"{path} was edited since it was written, and other filters would write it anew: "
                "move it away, or name a new directory"
            )
        print(f"{path}: complete, and edited since: it stays as it is")
        return path
    manifest = lineage.Manifest("generate", fields, command.seed, lineage.versions(), parent, data)
    if launch.is_main():
        lineage.write(workdir, manifest)
    with Pool() as pool:
        records = sft.generate(
            policy, params, examples, mesh, pool, command.sampling, workdir / "samples.jsonl",
            seed=command.seed, route=command.route, source=parent,
        )  # fmt: skip
    if launch.is_main():
        records = filtered(records, command.filters)
        write(path, records)
        counts = Counter(record["reason"] or "kept" for record in records)
        results = {"base": None, "final": dict(counts), "records": lineage.files(path)}
        lineage.write(workdir, dataclasses.replace(manifest, results=results, status="complete"))
        for reason, number in counts.most_common():
            print(f"{number:8d}  {reason}")
        print(path)
    return path


def edited(path: Path, before: Manifest | None) -> bool:
    """Whether records are there that are not those that were written."""
    from r1jax.lineage import files

    if before is None or not path.exists():
        return False
    written = [file["sha256"] for file in before.results.get("records", []) if Path(file["path"]).name == path.name]
    return bool(written) and files(path)[0]["sha256"] not in written


def write(path: Path, records: Sequence[Mapping]) -> None:
    """All records, in one move.

    Raises:
        ValueError: parquet without pyarrow.
    """
    from r1jax.lineage import write_atomically

    if path.suffix == ".jsonl":
        write_atomically(path, "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records))
        return
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise ValueError("--to=parquet needs pyarrow: pip install 'r1jax[hf]', or use --to=jsonl") from None
    columns = [
        {name: json.dumps(x, ensure_ascii=False) if name in ("gold", "source") else x for name, x in record.items()}
        for record in records
    ]
    part = path.with_name(f".{path.name}.tmp")
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(columns), part)
    part.replace(path)


def main() -> None:
    try:
        generate(tyro.cli(Command, description=__doc__, config=(tyro.conf.FlagConversionOff,)))
    except (ValueError, OSError) as error:
        sys.exit(explained(error))


if __name__ == "__main__":
    main()
