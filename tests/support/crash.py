"""A finished run's directory as it was at an earlier moment: the moment of a crash."""

import json
import shutil
from pathlib import Path

TORN = b'{"step": 6, "reward/mean": 0.2'


def crashed(whole: Path, into: Path, last: int | None, written: int, *, uncommitted: bool = False) -> Path:
    """What a finished run's directory was at an earlier moment: the moment of a crash.

    Args:
        last: the newest checkpoint then; None before the first.
        written: the last step in the logs, each of which ends in a torn line.
        uncommitted: whether the next checkpoint was half written.
    """
    shutil.copytree(whole, into)
    for path in (into / "checkpoints").iterdir():
        if last is None or int(path.name) > last:
            if uncommitted:
                (path / "commit_success.txt").unlink()
            else:
                shutil.rmtree(path)
    for name in ("metrics", "samples", "eval"):
        path = into / f"{name}.jsonl"
        kept = [line for line in path.read_bytes().splitlines(keepends=True) if json.loads(line)["step"] <= written]
        path.write_bytes(b"".join(kept) + TORN)
    manifest = json.loads((into / "manifest.json").read_text())
    manifest |= {"status": "running", "warnings": [w for w in manifest["warnings"] if w["step"] <= written]}
    if last is None:
        manifest["results"] = {"base": None, "final": None}
    elif last < 6:
        manifest["results"]["final"] = None  # the manifest is written before the checkpoint
    (into / "manifest.json").write_text(json.dumps(manifest))
    (into / "report.html").unlink()
    return into
