"""Makes records for supervised fine-tuning: samples a checkpoint n times per prompt, judges and filters the samples.

Source:  DeepSeek-AI 2025 (arXiv 2501.12948), sections 2.3.1 and 2.3.3 (v2: B.3.2, B.3.3); the number of samples
         per prompt is not published
Run:     python -m experiments.generate --weights=RUN --prompts=nano:reasoning --template=r1 --samples=8
         python -m experiments.generate --weights=HF_DIR --prompts=mine.jsonl --template=chat --to=parquet --mesh=8x8
Writes:  <workdir>/samples.jsonl (every sample, unfiltered), manifest.json, and records.jsonl or .parquet. The records
         are all samples, with the fields `keep` and `reason` set by the filters. People may edit the file of records.
         With several processes, each writes samples-I-of-N.jsonl, and these files are merged at the end. The same
         command resumes a killed run
Departs: 1. thresholds of repetition, language and length are not published; the defaults keep answers that
            are right, finished and in the question's language, and drop completions that repeat half of their 8-grams
"""

from __future__ import annotations

import dataclasses
import io
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Literal

from r1jax import cli, distributed, storage
from r1jax.data import questions
from r1jax.data.readers import read_columns
from r1jax.recipes import CheckpointOptions, SamplingOptions
from r1jax.rewards.isolate import Pool
from r1jax.runs import manifests
from r1jax.runs.files import hash_files, write_atomically
from r1jax.runs.manifests import Manifest
from r1jax.runs.run import MAY_CHANGE, Run
from r1jax.sft_data.batch_sampling import check
from r1jax.sft_data.filters import Filters, apply_filters
from r1jax.sft_data.generate import Route, load
from r1jax.sft_data.generate import generate as sample_records

GENERATED = 512  # prompts of the generator if --count is not given
SAMPLING, FILTERS, OPTIONS = SamplingOptions(), Filters(), CheckpointOptions()


@dataclasses.dataclass(frozen=True)
class Command:
    """Samples a checkpoint and writes SFT records."""

    sampling: Annotated[SamplingOptions, cli.FLAT] = SAMPLING
    filters: Annotated[Filters, cli.FLAT] = FILTERS
    options: Annotated[CheckpointOptions, cli.FLAT] = OPTIONS
    prompts: str = "nano:reasoning"
    """jsonl or parquet file of rows {id, problem, gold, kind}, or nano:MIX for the nano generator."""
    count: int = 0
    """Number of prompts; 0: all prompts of a file, or 512 of the nano generator."""
    route: str = "rejection"
    """Value of the records' field `route`, which says how the records were made."""
    to: Literal["jsonl", "parquet"] = "jsonl"
    """File format of the records; parquet stores gold and source as JSON text."""


def generate(command: Command) -> Path:
    """Samples, judges and filters the records, and writes them to a file. Returns the file's path.

    Raises:
        ValueError: a flag, file or checkpoint cannot be used, or --workdir holds another run.
    """
    options, fields = command.options, dataclasses.asdict(command)
    fields |= fields.pop("options")
    may_change = {"to", "filters"}
    defaults = manifests.defaults_of(command, options)
    with Run("generate", options, fields, may_change=may_change, defaults=defaults, resume=True) as run:
        check(command.sampling)
        if questions.generator_mix(command.prompts) is None:
            examples = questions.read(command.prompts, "--prompts", columns=read_columns(options.column))[
                : command.count or None
            ]
        else:
            take, _ = questions.stream(command.prompts, options.seed)
            examples = [take(i) for i in range(command.count or GENERATED)]
        author = load(options, run.mesh)
        run.claim_parent(author.source)
        run.claim({"sha256": questions.fingerprint(examples), "counts": {"prompts": len(examples)}}, "problems")
        path = run.workdir / f"records.{command.to}"
        if was_edited(path, run.before):
            if manifests.differences(run.before.recipe, fields, MAY_CHANGE | {"to"}):
                raise ValueError(
                    f"{path} was edited after an earlier command with different flags wrote it. This command would "
                    "overwrite the edits: move the file away, or name a new directory with --workdir"
                )
            print(f"{path}: complete, and edited since: it stays as it is")
            return path
        run.write_manifest()
        route = Route(command.route, run.workdir / "samples.jsonl", options.seed)
        records = sample_records(author, examples, run.mesh, run.enter(Pool()), command.sampling, route)
        if distributed.is_main():
            records = apply_filters(records, command.filters)
            write(path, records)
            counts = Counter(record["reason"] or "kept" for record in records)
            run.complete({"base": None, "final": dict(counts), "records": hash_files(path)})
            for reason, number in counts.most_common():
                print(f"{number:8d}  {reason}")
            print(path)
    return path


def was_edited(path: Path, before: Manifest | None) -> bool:
    """Returns whether the file of records was edited after an earlier run of this command wrote it.

    Args:
        path: the file of records.
        before: the manifest of the earlier run, which holds the file's hash; None if there was no earlier run.
    """
    if before is None or not path.exists():
        return False
    written = [file["sha256"] for file in before.results.get("records", []) if Path(file["path"]).name == path.name]
    return bool(written) and hash_files(path)[0]["sha256"] not in written


def write(path: Path, records: Sequence[Mapping]) -> None:
    """Writes all records to `path` atomically, in the format of its suffix.

    Raises:
        ValueError: the format is parquet and pyarrow is not installed.
    """
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
    table = pyarrow.Table.from_pylist(columns)
    if storage.scheme_of(path):
        held = io.BytesIO()
        pyarrow.parquet.write_table(table, held)
        path.write_bytes(held.getvalue())
        return
    part = path.with_name(f".{path.name}.tmp")
    pyarrow.parquet.write_table(table, part)
    part.replace(path)


def main() -> None:
    cli.main(Command, generate, __doc__, resumes=True)


if __name__ == "__main__":
    main()
