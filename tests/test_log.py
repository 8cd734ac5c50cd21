"""The logs of a run: what is written comes back, and nothing torn or non-finite ever does."""

import json
import math
import os
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from r1jax import jsonl
from r1jax.recipes import RunOptions
from r1jax.runs.trackers import tensorboard, wandb


def test_lines_come_back_in_order_and_each_is_on_disk_before_write_returns(tmp_path):
    with jsonl.JsonLines(tmp_path / "new" / "metrics.jsonl") as lines:
        lines.write({"step": 1, "kl": 0.25})
        assert jsonl.read(lines.path) == [{"step": 1, "kl": 0.25}]
        lines.write({"step": 2, "kl": None, "by_kind": {"countdown3": {"n": 8}}})
    assert jsonl.read(tmp_path / "new" / "metrics.jsonl") == [
        {"step": 1, "kl": 0.25},
        {"step": 2, "kl": None, "by_kind": {"countdown3": {"n": 8}}},
    ]


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_a_float_reads_back_bit_for_bit(value):
    text = json.dumps(jsonl._plain(value, "x", []))
    assert struct.pack("<d", json.loads(text)) == struct.pack("<d", value)  # bits: -0.0 stays -0.0


def test_array_scalars_and_arrays_are_written_as_the_numbers_they_hold(tmp_path):
    with jsonl.JsonLines(tmp_path / "m.jsonl") as lines:
        lines.write(
            {
                "loss": np.float32(0.1),
                "n": np.int64(3),
                "ok": np.bool_(True),
                "key": np.arange(2),
            }
        )
    (line,) = jsonl.read(tmp_path / "m.jsonl")
    # float32 -> float64 is exact, so the way back is too.
    assert np.float32(line["loss"]) == np.float32(0.1)
    assert (line["n"], line["ok"], line["key"]) == (3, True, [0, 1])


def test_a_jax_scalar_is_written_as_a_number(tmp_path):
    jnp = pytest.importorskip("jax.numpy")
    with jsonl.JsonLines(tmp_path / "m.jsonl") as lines:
        lines.write({"kl": jnp.float32(0.5), "gap": jnp.float32(jnp.nan)})
    assert jsonl.read(tmp_path / "m.jsonl") == [{"kl": 0.5, "gap": None, "nonfinite": ["gap"]}]


def test_a_nonfinite_figure_is_null_and_named_but_an_empty_mean_is_only_null(tmp_path):
    with jsonl.JsonLines(tmp_path / "m.jsonl") as lines:
        lines.write(
            {
                "step": 1,
                "loss": math.nan,
                "grad_norm": -math.inf,
                "completion/length_right": None,
                "by_kind": {"chain": {"length": np.float32("inf")}},
            }
        )
    assert "NaN" not in lines.path.read_text() and "Infinity" not in lines.path.read_text()
    assert jsonl.read(lines.path) == [
        {
            "step": 1,
            "loss": None,
            "grad_norm": None,
            "completion/length_right": None,
            "by_kind": {"chain": {"length": None}},
            "nonfinite": ["loss", "grad_norm", "by_kind.chain.length"],
        }
    ]


@pytest.mark.parametrize(
    "text",
    [
        "等等，不对",
        "a\nb\r\nc",
        "\u2028\u2029\x85\x0b\x0c",
        "\ud800 lone",
        "\x00\x1b[31m",
        "</script>",
        "😀",
    ],
)
def test_any_text_a_model_writes_stays_on_one_line_and_comes_back(tmp_path, text):
    with jsonl.JsonLines(tmp_path / "samples.jsonl") as lines:
        lines.write({"step": 1, "completion": text})
        lines.write({"step": 2, "completion": ""})
    lines.path.read_bytes().decode("utf-8")  # strict
    assert [row["completion"] for row in jsonl.read(lines.path)] == [text, ""]


def test_a_value_json_cannot_hold_is_an_error_naming_its_key_and_writes_nothing(tmp_path):
    match = r"reward\.proof: a log line cannot hold a set"
    with jsonl.JsonLines(tmp_path / "m.jsonl") as lines, pytest.raises(TypeError, match=match):
        lines.write({"step": 1, "reward": {"proof": {1}}})
    assert lines.path.read_bytes() == b""


@pytest.mark.parametrize("torn", [b'{"step": 3', b'{"step": 3}', b"\x00\x00", b"\xff\xfe", b"x" * 200_000])
def test_a_torn_last_line_is_dropped_when_read_cut_back_or_reopened(tmp_path, torn):
    whole = b'{"step": 1}\n{"step": 2}\n'
    path = tmp_path / "m.jsonl"
    path.write_bytes(whole + torn)
    assert jsonl.read(path) == [{"step": 1}, {"step": 2}]
    with jsonl.JsonLines(path) as lines:
        lines.write({"step": 3})
    assert path.read_bytes() == whole + b'{"step": 3}\n'
    path.write_bytes(whole + torn)
    assert jsonl.cut_back(path, 9) == 1
    assert path.read_bytes() == whole


def test_a_file_that_is_one_torn_line_starts_anew(tmp_path):
    path = tmp_path / "m.jsonl"
    path.write_bytes(b'{"step"')
    jsonl.JsonLines(path).close()
    assert path.read_bytes() == b""


def test_a_broken_whole_line_is_an_error_naming_file_and_line(tmp_path):
    path = tmp_path / "m.jsonl"
    path.write_text('{"step": 1}\nhello\n{"step": 2}\n')
    with pytest.raises(ValueError, match=r"m\.jsonl, line 2: not JSON"):
        jsonl.read(path)
    with pytest.raises(ValueError, match=r"m\.jsonl, line 2: not JSON"):
        jsonl.cut_back(path, 1)
    path.write_text('{"step": 1}\n[2]\n')
    with pytest.raises(ValueError, match="line 2: not a JSON object"):
        jsonl.read(path)
    path.write_text('{"step": 1}\n{"kl": 2}\n')
    with pytest.raises(ValueError, match="line 2 has no 'step'"):
        jsonl.cut_back(path, 1)
    assert path.read_text() == '{"step": 1}\n{"kl": 2}\n'
    assert os.listdir(tmp_path) == ["m.jsonl"]


def test_cutting_back_keeps_the_bytes_of_the_lines_up_to_the_step(tmp_path):
    path = tmp_path / "samples.jsonl"
    kept = b'{"step":0}\n{"kl": 0.10, "step": 4}\n{"step": 4, "x": "\xe7\xad\x89"}\n'
    path.write_bytes(kept + b'{"step": 5}\n{"step": 6}\n{"st')
    assert jsonl.cut_back(path, 4) == 3  # steps 5 and 6, and the torn one
    assert path.read_bytes() == kept
    assert jsonl.cut_back(path, 4) == 0
    assert jsonl.cut_back(path, -1) == 3
    assert path.read_bytes() == b""
    assert jsonl.cut_back(tmp_path / "none.jsonl", 4) == 0
    assert os.listdir(tmp_path) == ["samples.jsonl"]


def test_a_full_disk_raises_and_leaves_whole_lines_only(tmp_path):
    resource = pytest.importorskip("resource")
    signal = pytest.importorskip("signal")
    path = tmp_path / "m.jsonl"
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    old = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    with jsonl.JsonLines(path) as lines:
        lines.write({"step": 1})
        # A file-size limit of 20 bytes stands in for a full disk: 12 are there, 8 more fit.
        try:
            resource.setrlimit(resource.RLIMIT_FSIZE, (20, hard))
            with pytest.raises(OSError):
                lines.write({"step": 2, "completion": "0123456789"})
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
            signal.signal(signal.SIGXFSZ, old)
        assert path.read_bytes() == b'{"step": 1}\n'
        lines.write({"step": 3})
    assert jsonl.read(path) == [{"step": 1}, {"step": 3}]


@pytest.mark.parametrize("name", ["tensorboardX", "wandb"])
def test_a_missing_extra_is_named_with_what_to_type(tmp_path, monkeypatch, name):
    monkeypatch.setitem(sys.modules, name, None)  # what Python does for a module that is not there
    extra = {"tensorboardX": "tensorboard", "wandb": "wandb"}[name]
    with pytest.raises(ValueError, match=rf"pip install 'r1jax\[{extra}\]'"):
        if name == "wandb":
            wandb(tmp_path, project="p", name="n", config={})
        else:
            tensorboard(tmp_path)


def events(path: Path) -> list[tuple[int, str, float]]:
    """(step, name, value) of a TensorBoard event file."""
    from tensorboardX.proto.event_pb2 import Event

    raw, at, seen = path.read_bytes(), 0, []
    # A record is: length (8 bytes), its checksum (4), the event, its checksum (4).
    while at < len(raw):
        (size,) = struct.unpack_from("<Q", raw, at)
        event = Event.FromString(raw[at + 12 : at + 12 + size])
        seen += [(event.step, value.tag, value.simple_value) for value in event.summary.value]
        at += 12 + size + 4
    return seen


def test_tensorboard_has_every_finite_number_when_the_process_ends(tmp_path):
    pytest.importorskip("tensorboardX")
    # A process of its own, because the last events reach the disk when it exits.
    program = """
import math
import sys
import numpy as np
from r1jax.runs.trackers import tensorboard
from r1jax.recipes import RunOptions
write = tensorboard(sys.argv[1])
write(1, {"step": 1, "kl": 0.5, "loss": math.nan, "note": "text", "completion/length": None})
write(2, {"step": 2, "kl": np.float32(0.25)})
"""
    subprocess.run([sys.executable, "-c", program, str(tmp_path)], check=True)
    (path,) = tmp_path.iterdir()
    assert events(path) == [(1, "kl", 0.5), (2, "kl", 0.25)]


def test_a_run_may_be_tracked_with_what_was_held_out_told_apart(tmp_path):
    pytest.importorskip("tensorboardX")
    program = """
import sys
from pathlib import Path
from pathlib import Path
from r1jax.runs.logs import Logs
from r1jax.recipes import RunOptions
logs = Logs(Path(sys.argv[1]), -1, -1, RunOptions(track="tensorboard"), {})
logs.write("metrics", {"step": 2, "kl": 0.5})
logs.write("eval", {"step": 2, "accuracy": 0.25})
logs.write("samples", {"step": 2, "length": 7})
logs.close()
"""
    subprocess.run([sys.executable, "-c", program, str(tmp_path)], check=True)
    (path,) = (tmp_path / "tensorboard").iterdir()
    assert events(path) == [(2, "kl", 0.5), (2, "held_out/accuracy", 0.25)]


def test_a_tracker_that_is_not_installed_is_refused_before_anything_is_written(monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(ValueError, match=r"--track=wandb needs its package: pip install 'r1jax\[wandb\]'"):
        RunOptions(track="wandb")
