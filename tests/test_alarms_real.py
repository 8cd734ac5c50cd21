"""Each warning about a loss, fired by a run in which the fault is real."""

import numpy as np
import pytest

from experiments.r1_zero import NANO
from r1jax import losses
from r1jax.rl.checks import describe_weights
from r1jax.rl.metrics import measure_share
from r1jax.runs import manifests
from r1jax.sampling import sampler


def warnings(workdir):
    return " ".join(warning["text"] for warning in manifests.read(workdir).warnings)


LEARNT = dict(prompts="nano:compare", eval_prompts="nano:compare", eval_every=0, save_every=0)


@pytest.mark.slow
def test_a_reference_that_follows_every_step_leaves_the_kl_without_effect(walk, tmp_path):
    said = warnings(walk.here(tmp_path / "run", steps=4, kl_coef=0.1, ref_every=1, **LEARNT))
    assert "the KL is exactly 0 for 3 steps" in said
    assert "the KL is exactly 0" not in warnings(walk.finished())  # the reference stays for 40 steps


@pytest.mark.weekly
@pytest.mark.slow
def test_a_rate_that_is_too_high_moves_ratios_past_a_wide_clip_and_keeps_a_narrow_one_busy(walk, tmp_path):
    wild = LEARNT | dict(
        steps=8, minibatches=8, questions_per_round=32, learning_rate=0.02, kl_coef=0.0, warmup_steps=0
    )
    assert "none is clipped" in warnings(walk.here(tmp_path / "wide", clip_eps=1e6, **wild))
    said = warnings(walk.here(tmp_path / "narrow", **wild | dict(clip_eps=1e-7, learning_rate=1e-3)))
    assert "of the tokens are clipped for 3 steps" in said


@pytest.mark.slow
def test_a_sampler_of_other_weights_is_noticed(walk, tmp_path, monkeypatch):
    import jax

    whole = sampler.sync
    monkeypatch.setattr(sampler, "sync", lambda params, mesh: whole(jax.tree.map(lambda x: 1.3 * x, params), mesh))
    assert "sampler and trainer differ" in warnings(walk.here(tmp_path / "run", steps=1, **LEARNT))


@pytest.mark.slow
def test_a_part_of_a_thousand_times_the_weight_dominates(walk, tmp_path):
    run = dict(steps=5, accuracy_weight=0.001, format_weight=1.0, questions_per_round=16, **LEARNT)
    assert "one part of the reward explains more than 95%" in warnings(walk.here(tmp_path / "run", **run))


def test_the_share_of_a_part_by_hand():
    accuracy, form = np.float64([1, 0, 1, 0]), np.float64([1, 1, 0, 0])
    rows = {"valid": np.ones(4), "part/accuracy": accuracy, "part/format": form, "total": accuracy + form}
    assert measure_share(rows)["reward/largest_share"] == pytest.approx(0.5)
    assert measure_share(rows | {"total": accuracy + 10 * form})["reward/largest_share"] == pytest.approx(100 / 101)
    assert measure_share(rows | {"part/format": np.ones(4)}) == {}
    assert measure_share(rows | {"valid": np.zeros(4)}) == {}


def test_weights_that_do_not_add_up_to_one_are_said_at_the_start():
    for name, entry in losses.LOSSES.items():
        assert describe_weights(name, entry, NANO.max_tokens) is None
    forgot = losses.Objective(lambda lengths, rows, tokens, max_tokens: 1 / lengths)  # no N
    said = describe_weights("mine", forgot, 448)
    assert said is not None and "the token weights of --loss=mine add up to 3, not to 1" in said
    assert describe_weights("mine", forgot._replace(sums_to_one=False), 448) is None


@pytest.mark.slow
def test_a_run_of_such_a_loss_says_so(walk, tmp_path, monkeypatch, capsys):
    entry = losses.Objective(lambda lengths, rows, tokens, max_tokens: 1 / lengths)
    monkeypatch.setitem(losses.LOSSES, "mine", entry)
    walk.here(tmp_path / "run", steps=1, loss="mine", **LEARNT)
    assert "add up to 3, not to 1" in capsys.readouterr().err


def test_the_token_that_ends_a_completion_counts_even_where_padding_has_the_same_id():
    """Pad = EOS is a fault where masks are made from ids. Here they are made from lengths."""
    from r1jax.training.packing import pack, spread

    rows, places = pack([[5, 6]], [(0, np.asarray([7, 0])), (0, np.asarray([8, 0]))], 12)
    weight = spread([np.ones(2), np.ones(2)], places, rows.tokens.shape)
    assert weight.sum() == 4 and (rows.tokens[weight > 0] == [7, 0, 8, 0]).all()
