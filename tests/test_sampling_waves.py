"""Waves: whatever their size, every row has the tokens that it has among all rows, and is heard of once."""

import dataclasses
import types

import numpy as np
import pytest

from experiments import r1_zero
from r1jax.model.presets import PRESETS
from r1jax.rl import memory
from r1jax.sampling import programs, sampler
from r1jax.sampling.rollout import Rollout
from r1jax.sampling.sampler import Partial, Sampling, Sizes, sync
from r1jax.sampling.waves import divide_wave, sample_in_waves
from support.marks import WEEKLY
from support.tiny import HEAT, STOPS, keys, prompts
from support.walk import lines

SIZE, LONGEST = 3, 30
FEW = Sizes(chunk=4, least_rows=1024, least_carried=64)  # of all sizes one, so few programs


def in_waves(cfg, weights, mesh, rows, asked, row_keys, finished=None, partial=sampler.WHOLE):
    how = Sampling(40, HEAT, stop_ids=STOPS, sizes=FEW, wave_rows=rows)
    return sample_in_waves(cfg, weights, asked, row_keys, mesh, how, finished, partial)


@pytest.mark.parametrize("mesh, rows", [("one", 6), ("one", 12), ("one", 16), ("eight", 8)])
def test_the_size_of_a_wave_changes_no_token_and_bounds_the_rows(cfg, params, mesh, rows, rolled, request, monkeypatch):
    mesh, heard, held, waves = request.getfixturevalue(mesh), [], [], []
    decode, sample = programs.decode, sampler.sample

    def watched(*args, **options):
        held.append(args[3].token.shape[0])
        return decode(*args, **options)

    monkeypatch.setattr(programs, "decode", watched)
    monkeypatch.setattr(sampler, "sample", lambda *a, **k: waves.append(1) or sample(*a, **k))
    got = in_waves(cfg, sync(params, mesh), mesh, rows, prompts(), keys(4), heard.extend)
    assert got.prompts == prompts()
    for name in ("tokens", "lengths", "stopped"):
        np.testing.assert_array_equal(getattr(got, name), getattr(rolled, name))
    np.testing.assert_allclose(got.logp, rolled.logp, atol=2e-5)
    assert max(held) == min(rows, 16) and len(waves) == {6: 4, 8: 4, 12: 2, 16: 1}[rows]
    assert sorted(row for row, _ in heard) == list(range(16))
    for row, tokens in heard:
        np.testing.assert_array_equal(tokens, got.tokens[row, : got.lengths[row]])


@pytest.mark.weekly
@pytest.mark.slow
def test_waves_go_on_with_rows_of_an_earlier_round_and_leave_some_to_the_next(cfg, params, one, rolled):
    weights = sync(params, one)
    first = in_waves(cfg, weights, one, 16, prompts()[:2], keys(4)[:8], partial=Partial(leave=3))
    assert 0 < first.unfinished.sum() <= 3
    second = in_waves(cfg, weights, one, 8, prompts()[2:], keys(4), partial=Partial(first, leave=2))
    assert second.unfinished.sum() <= 2 and second.prompts == prompts()
    there = np.arange(40) < second.lengths[:, None]
    np.testing.assert_array_equal(second.tokens[there], rolled.tokens[there])
    done = ~second.unfinished
    np.testing.assert_array_equal(second.lengths[done], rolled.lengths[done])


def toy(rows: int) -> tuple[np.ndarray, np.ndarray]:
    """Tokens and lengths that rows have in the end, by their keys."""
    rng = np.random.default_rng(0)
    lengths = np.minimum(rng.geometric(0.1, rows), LONGEST)
    return np.where(np.arange(LONGEST) < lengths[:, None], rng.integers(1, 99, (rows, LONGEST)), 0), lengths


def toy_sampler(process: int, processes: int, rng: np.random.Generator, replay: bool):
    """A `sampler.sample` for one of several processes, which deals the rows in another way in every wave."""

    def sample(cfg, weights, asked, row_keys, mesh, sampling, finished, partial):
        before, leave = partial
        tokens, lengths = (x[row_keys[:, 0]].copy() for x in toy(300))
        old = 0 if before is None else len(before.lengths)
        begun = (
            np.zeros(len(lengths), int) if before is None else np.append(before.lengths, np.zeros(len(lengths) - old))
        )
        ended = (
            np.zeros(len(lengths), bool)
            if before is None
            else np.append(~before.unfinished, [False] * (len(lengths) - old))
        )
        if before is not None:
            np.testing.assert_array_equal(
                before.tokens, np.where(np.arange(LONGEST) < begun[:old, None], tokens[:old], 0)
            )
        left = np.argsort(lengths - begun, kind="stable")[len(lengths) - leave :] if leave else []
        cut = np.asarray([i for i in left if not ended[i] and lengths[i] > begun[i] + 1], int)
        lengths[cut] = begun[cut] + 1
        tokens[np.arange(LONGEST) >= lengths[:, None]] = 0
        stopped = lengths < LONGEST
        stopped[cut] = False
        mine = np.flatnonzero(rng.integers(0, processes, len(lengths)) == process)
        rollout = Rollout(
            [*(before.prompts if before is not None else []), *asked],
            tokens,
            lengths,
            -tokens.astype(float),
            stopped,
            mine=mine,
            prompt_routes=[np.asarray(p) for p in asked] if replay else None,
        )
        finished([(row, tokens[row, : lengths[row]]) for row in mine if not ended[row] and not rollout.unfinished[row]])
        return rollout

    return sample


@pytest.mark.parametrize("replay", [False, True])
@pytest.mark.parametrize("groups, rows", [(1, 3), (7, 3), (7, 5), (10, 12), (30, 20), (30, 200)])
def test_every_row_of_several_processes_is_told_once_and_belongs_to_who_was_told(groups, rows, replay, monkeypatch):
    asked, row_keys = [[i] for i in range(groups)], np.arange(groups * SIZE)[:, None]
    tokens, lengths = (x[: groups * SIZE] for x in toy(300))
    owned, told = [], []
    for process in range(3):
        heard = []
        monkeypatch.setattr(sampler, "sample", toy_sampler(process, 3, np.random.default_rng(1), replay))
        got = sample_in_waves(
            None, None, asked, row_keys, None, Sampling(LONGEST, wave_rows=rows, replay=replay), heard.extend
        )
        np.testing.assert_array_equal(got.tokens, tokens)
        np.testing.assert_array_equal(got.lengths, lengths)
        assert got.prompts == asked and (not replay or [list(p) for p in got.prompt_routes] == asked)
        assert all((t == tokens[row, : lengths[row]]).all() for row, t in heard)
        assert sorted(row for row, _ in heard) == got.own.tolist()
        owned.extend(got.own)
        told.extend(row for row, _ in heard)
    assert sorted(owned) == sorted(told) == list(range(groups * SIZE))


def test_a_wave_without_room_for_a_group_is_an_error_that_says_how_much_it_needs():
    found = {rows: divide_wave(rows, 4, 0, continues=True) for rows in (4, 6, 8, 12, 18)}
    assert found == {4: (1, 0), 6: (1, 2), 8: (1, 4), 12: (2, 4), 18: (3, 6)}
    assert divide_wave(16, 4, 9, continues=True) == (1, 12) and divide_wave(18, 4, 0, continues=False) == (4, 0)
    with pytest.raises(
        ValueError,
        match=r"--wave-rows: a wave of 6 completions .* the 4 completions of one prompt beside 3 rows .* at least 7",
    ):
        divide_wave(6, 4, 3, continues=True)


@pytest.mark.parametrize("free, rows", [(None, 0), (80e9, 0), (12e9, 208), (1e9, 16)])
def test_the_free_memory_of_the_devices_decides_unless_the_flag_does(free, rows, one, caplog):
    stats = None if free is None else {"bytes_limit": int(free) + 10, "bytes_in_use": 10}
    mesh = types.SimpleNamespace(shape=one.shape, local_devices=[types.SimpleNamespace(memory_stats=lambda: stats)])
    recipe = dataclasses.replace(r1_zero.PAPER, questions_per_round=16, max_tokens=4096)
    # Qwen2.5-1.5B: 1.54e9 parameters take 3.09 GB; a token takes 28,672 bytes, and a row is counted at 1,024 of them.
    assert rows in (0, 16) or rows <= (0.8 * free - 3.09e9) / (28_672 * 1024) < rows + 16
    assert memory.choose_wave_rows(recipe, PRESETS["qwen2.5-1.5b"], mesh) == rows
    assert (f"--wave-rows={rows}: " in caplog.text) == (rows > 0)
    given = dataclasses.replace(recipe, wave_rows=48)
    assert memory.choose_wave_rows(given, PRESETS["qwen2.5-1.5b"], mesh) == 48


def test_a_run_in_small_waves_has_the_tokens_of_a_run_that_samples_all_rows_at_once(walk, tmp_path, capsys):
    flags = dict(steps=2, eval_every=0, log_samples=64)
    whole, waves = walk.finished(**flags), walk.here(tmp_path / "run", wave_rows=6, **flags)
    assert [line["completion"] for line in lines(waves, "samples")] == [
        line["completion"] for line in lines(whole, "samples")
    ]
    assert max(line["sampler_gap/max"] for line in lines(waves, "metrics")) <= 2e-5
    said = walk.refused(capsys, tmp_path / "small", wave_rows=3)
    assert "--wave-rows=3 in 1 process has no room for --group-size=4 plus --carry-over=0 rows: use at least 4" in said


@pytest.mark.slow
@pytest.mark.parametrize("wave_rows", [pytest.param(8, marks=WEEKLY), 13])
def test_waves_and_carry_over_together_have_the_tokens_of_carry_over_without_a_bound(walk, tmp_path, wave_rows):
    """Which rows wait differs, because waves end by what is finished; a group has its tokens whenever it is trained."""
    flags = dict(questions_per_round=4, carry_over=3, steps=3, eval_every=0, log_samples=64, max_tokens=40)
    flags |= dict(learning_rate=0.0)
    found = [walk.here(tmp_path / str(rows), wave_rows=rows, **flags) for rows in (0, wave_rows)]
    a, b = ({(s["id"], s["sample"]): s["completion"] for s in lines(run, "samples")} for run in found)
    both = a.keys() & b.keys()
    assert len(both) >= 24 and all(a[key] == b[key] for key in both)
