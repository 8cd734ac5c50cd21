"""Reads records from jsonl, json and parquet files, folders, saved data sets, and data sets of the Hugging Face hub."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

from r1jax import storage

ENDINGS = (".jsonl", ".json", ".parquet", ".arrow")
HUB = re.compile(r"[\w.-]+/[\w.-]+(/[\w.-]+)?")
NOT_DATA = ("dataset_info.json", "state.json", "dataset_dict.json", "dataset_infos.json")


def records(path: str | Path) -> Iterator[tuple[str, int, object]]:
    """Yields (file, number, record) for each record, without checks of the record's content.

    `number` counts from 1. In a file with one object per line, it is the number of the line. In any other file
    (parquet, arrow, a JSON array), it is the number of the record.

    Args:
        path: a file; a folder; a folder that `datasets` saved (save_to_disk); or OWNER/NAME or OWNER/NAME/CONFIG of a
            data set on the hub. `:SPLIT` after a folder or a data set, such as `:train`, chooses a split.

    Raises:
        ValueError: a file cannot be understood, a folder holds no data, or the data set cannot be downloaded.
        FileNotFoundError: there is no such file.
    """
    for file in list_files(path):
        for number, record in read_file(file, path if storage.scheme_of(path) else file):
            yield str(path if storage.scheme_of(path) else file), number, record


def list_files(path: str | Path) -> list[Path]:
    """Returns the local data files that a path names, such as all files of a folder.

    Args:
        path: see `records`.
    """
    name, _, split = str(path).rpartition(":")
    if storage.scheme_of(path) or Path(path).exists() or not name:
        name, split = str(path), ""
    if storage.scheme_of(path):
        home = storage.fetch(storage.path_of(path), deep=True)
    else:
        home = Path(name)
        if not home.exists() and not home.parent.exists() and HUB.fullmatch(name):
            return download(name, split or "train")
    if not home.is_dir():
        return [home]
    if (home / "dataset_dict.json").exists():
        splits = json.loads((home / "dataset_dict.json").read_text())["splits"]
        if split not in splits:
            raise ValueError(f"{path} holds the splits {', '.join(splits)}: name one, such as {name}:{splits[0]}")
        home, split = home / split, ""
    found = [file for file in storage.list_files(home) if file.suffix in ENDINGS and file.name not in NOT_DATA]
    found = [file for file in found if not any(part.startswith(".") for part in file.relative_to(home).parts)]
    if split:
        found = [file for file in found if has_split(file.relative_to(home).as_posix(), split)]
    if not found:
        raise ValueError(
            f"{path} holds no {', '.join(ENDINGS)} file"
            + (f" of the split {split}" if split else "")
            + ". Name another path or split"
        )
    if len({file.suffix for file in found}) > 1:
        kinds = ", ".join(sorted({file.suffix for file in found}))
        raise ValueError(f"{path} holds files of several kinds ({kinds}): name one of the files")
    return found


def has_split(name: str, split: str) -> bool:
    """Returns whether a file's path names the split, as train-00000-of-00002.parquet and train/x do for "train"."""
    return bool(re.search(rf"(?:^|[/_.-]){re.escape(split)}(?:[/_.-]|$)", name))


def download(name: str, split: str) -> list[Path]:
    """Downloads the files of a split of a data set from the hub. Returns their local paths.

    Args:
        name: OWNER/NAME, or OWNER/NAME/CONFIG.

    Raises:
        ValueError: there is no such data set, split or configuration, or the hub cannot be reached.
    """
    owner, short, *config = name.split("/")
    repository = f"{owner}/{short}"
    try:
        from huggingface_hub import HfApi, hf_hub_download
    except ImportError as error:
        raise ValueError(
            f"{name} is not a local file. Reading a data set of the hub needs the extra hf: pip install 'r1jax[hf]'"
        ) from error
    how = dict(repo_type="dataset")
    try:
        every = [file for file in HfApi().list_repo_files(repository, **how) if file.endswith(ENDINGS)]
        found = [file for file in every if file not in NOT_DATA and has_split(file, split)]
        if config:
            found = [file for file in found if file.startswith(f"{config[0]}/")]
        folders = sorted({file.rpartition("/")[0] for file in found})
        if len(folders) == 1:
            return [Path(hf_hub_download(repository, file, **how)) for file in sorted(found)]
    except Exception as error:  # the client has errors of its own, and those of its network library
        said = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ValueError(
            f"{name} is not a local file, and the Hugging Face hub gives no such data set ({said}). Check the name. "
            "Without a network, copy the files to this machine and name them"
        ) from error
    if not found:
        raise ValueError(
            f"{name} on the hub has no file of the split {split!r}; it has the files {', '.join(every[:8])}. "
            "Name another split"
        )
    raise ValueError(
        f"{name} on the hub has several configurations: name one, such as {repository}/{folders[0]}:{split}"
    )


def read_file(path: Path, shown: str | Path) -> Iterator[tuple[int, object]]:
    """Yields (number, record) for each record of a local file.

    `number` is the number of the line or of the record, as in `records`. `shown` is the file's name in errors.
    """
    if path.suffix in (".parquet", ".arrow"):
        yield from read_arrow(path, shown)
        return
    if path.suffix not in ENDINGS:
        raise ValueError(
            f"{shown} ends in {path.suffix!r}; rows are read from .jsonl, .json and .parquet files, from folders of "
            "them, and from data sets of the hub (OWNER/NAME:SPLIT)"
        )
    if path.suffix == ".json":
        text = path.read_text("utf-8-sig")
        if text.lstrip().startswith("["):
            try:
                yield from enumerate(json.loads(text), 1)
            except ValueError as problem:
                raise ValueError(
                    f"{shown} is not a JSON array: {problem}; mend the file, or write one object per line "
                    "to a .jsonl file"
                ) from None
            return
    with path.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            if line.strip():
                try:
                    record = json.loads(line.decode("utf-8-sig"))
                except (ValueError, RecursionError) as problem:
                    raise ValueError(
                        f"{shown}:{number} is not JSON in UTF-8 ({problem}); write one object per line"
                    ) from None
                yield number, record


def read_arrow(path: Path, shown: str | Path) -> Iterator[tuple[int, object]]:
    """Yields (number, record) for each row of a parquet or arrow file. `number` counts from 1.

    `shown` is the file's name in errors.
    """
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise ValueError(f"{shown} needs pyarrow: pip install 'r1jax[hf]', or give the rows as .jsonl") from None
    number = 0
    try:
        if path.suffix == ".arrow":
            with pyarrow.memory_map(str(path)) as source, pyarrow.ipc.open_stream(source) as stream:
                for batch in stream:
                    for record in batch.to_pylist():
                        number += 1
                        yield number, record
            return
        with pyarrow.parquet.ParquetFile(path) as file:
            for batch in file.iter_batches():
                for record in batch.to_pylist():
                    number += 1
                    yield number, record
    except pyarrow.ArrowException as problem:
        raise ValueError(
            f"{shown} is not a readable {path.suffix[1:]} file: {problem}; write the file again, or give "
            "the rows as .jsonl"
        ) from None
