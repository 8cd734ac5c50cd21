"""Learning from preferences: rows, losses, the reference, and the command."""

import dataclasses
import json
import sys
from unittest import mock

import jax
import numpy as np
import optax
import pytest

from experiments import dpo
from r1jax.policy import Policy
from r1jax.preferences import train as training
from r1jax.preferences.data import encode, micro_batches, parse, read
from r1jax.preferences.objectives import PREFERENCES, Settings, preference_objective, score_pairs
from r1jax.preferences.recipe import check
from r1jax.training.logprobs import Network
from r1jax.training.step import Learner, accumulate, start, update
from support.tiny import dense_logp

SETTINGS = Settings(0.3, gamma=0.2)
TEXTS = [
    {"problem": "one", "chosen": "a longer reply", "rejected": "short"},
    {"problem": "two and more", "chosen": "s", "rejected": "a reply that is longer"},
    {"problem": "3", "chosen": "equal", "rejected": "sizes"},
]


@pytest.fixture
def policy(cfg, tokenizer):
    return Policy(cfg, tokenizer, "Q: {question} A:")


def sums(cfg, params, policy, items):
    """[N, 2] Σ log π of both completions, each in a plain row of its own, float64; and their sizes."""
    found, sizes = np.zeros((2, len(items), 2))
    for i, item in enumerate(items):
        for j, name in enumerate(("chosen", "rejected")):
            prompt = policy.tokenizer.encode(policy.template.replace("{question}", item["problem"]))
            reply = [*policy.tokenizer.encode(item[name], start=False), policy.tokenizer.eos_id]
            row = np.asarray([prompt + reply])
            logp = dense_logp(cfg, params, row)[0]
            at = np.arange(len(prompt), row.shape[1])
            found[i, j], sizes[i, j] = logp[at - 1, row[0, at]].sum(), len(reply)
    return found, sizes


def published(loss, logp, ref, sizes, beta=0.3, gamma=0.2):
    """The formula of each pair, float64."""
    sigmoid = 1 / (1 + np.exp(-beta * ((logp - ref)[:, 0] - (logp - ref)[:, 1])))
    mean, ref_mean = logp / sizes, ref / sizes
    if loss == "dpo":
        return -np.log(sigmoid)
    if loss == "ipo":
        return ((mean - ref_mean)[:, 0] - (mean - ref_mean)[:, 1] - 1 / (2 * beta)) ** 2
    if loss == "simpo":
        return -np.log(1 / (1 + np.exp(-(beta * (mean[:, 0] - mean[:, 1]) - gamma))))
    odds = np.exp(mean) / (1 - np.exp(mean))
    return -mean[:, 0] - beta * np.log(1 / (1 + odds[:, 1] / odds[:, 0]))


@pytest.mark.parametrize("loss", [name for name, entry in PREFERENCES.items() if not entry.labelled])
def test_a_loss_on_packed_rows_is_the_formula_of_plain_rows(cfg, params, one, policy, loss):
    other = jax.tree.map(lambda x: x * 1.01, params)
    items = encode(TEXTS, policy, 96)
    (ref, _), (logp, sizes) = (sums(cfg, p, policy, TEXTS) for p in (other, params))
    network = Network(cfg, remat="none")
    learner = Learner(network, optax.sgd(1.0), preference_objective(loss, SETTINGS))
    total, figures = 0.0, []
    for batch in micro_batches(items, [0, 1, 2], 2, one):
        known = score_pairs(network, other, batch.rows)
        value, metrics = learner.forward(params, batch._replace(reference=known))
        total, figures = total + value, [*figures, metrics]
    np.testing.assert_allclose(total, published(loss, logp, ref, sizes).mean(), rtol=2e-5)
    assert sum(float(each["weight"]) for each in figures) == pytest.approx(1)
    accuracy = sum(float(each["accuracy"]) for each in figures)
    score = logp - ref if PREFERENCES[loss].referenced else logp
    score = score / sizes if PREFERENCES[loss].averaged else score
    assert accuracy == pytest.approx((score[:, 0] > score[:, 1]).mean())


@pytest.mark.weekly
@pytest.mark.slow
def test_the_gradient_of_micro_batches_is_that_of_one(cfg, params, one, policy):
    items = encode(TEXTS, policy, 96)
    learner = Learner(Network(cfg, remat="none"), optax.sgd(1.0), preference_objective("dpo", SETTINGS))
    reference = np.float32([[-30, -20], [-5, -60], [-20, -21]])
    grads = []
    for rows in (1, 4):
        held = None
        for batch in micro_batches(items, [2, 0, 1], rows, one, reference):
            held = accumulate(learner, params, None, held, batch)
        grads.append(held.grads)
    for a, b in zip(*map(jax.tree.leaves, grads), strict=True):
        np.testing.assert_allclose(a, b, atol=2e-5 * float(abs(b).max() + 1e-6), rtol=0)


def test_five_steps_are_those_of_transformers_and_the_formula_in_torch(tmp_path, one):
    """The same tiny Hugging Face model: TRL's sigmoid loss on torch's log-probabilities, and torch's AdamW."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    from r1jax.weights import from_hf

    shape = dict(hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4, vocab_size=96)
    torch.manual_seed(0)
    theirs = transformers.Qwen2ForCausalLM(
        transformers.Qwen2Config(**shape, num_key_value_heads=2, max_position_embeddings=128, tie_word_embeddings=False)
    ).double()
    theirs.save_pretrained(tmp_path)
    cfg, params = from_hf(tmp_path, one, np.float32)
    rng = np.random.default_rng(0)
    from r1jax.preferences.data import Item

    items = [
        Item(rng.integers(3, 96, 5).tolist(), tuple(rng.integers(3, 96, n) for n in rng.integers(2, 9, 2)), 1.0)
        for _ in range(20)
    ]

    def their_sums(model):
        found = []
        for item in items:
            for reply in item.completions:
                row = torch.tensor([[*item.prompt, *reply.tolist()]])
                logp = model(row).logits.log_softmax(-1)[0, len(item.prompt) - 1 : -1]
                found.append(logp.gather(1, row[0, len(item.prompt) :, None]).sum())
        return torch.stack(found).reshape(-1, 2)

    with torch.no_grad():
        ref = their_sums(theirs)
    descent = torch.optim.AdamW(theirs.parameters(), lr=1e-3, betas=(0.9, 0.95), weight_decay=0.0)
    want = []
    for _ in range(5):
        logp = their_sums(theirs)
        margin = 0.1 * ((logp - ref)[:, 0] - (logp - ref)[:, 1])
        loss = -torch.nn.functional.logsigmoid(margin).mean()
        descent.zero_grad()
        loss.backward()
        descent.step()
        want.append(float(loss.detach()))

    network = Network(cfg, remat="none")
    learner = Learner(
        network, optax.adamw(1e-3, 0.9, 0.95, weight_decay=0.0), preference_objective("dpo", Settings(0.1))
    )
    state, got = start(learner, params, one), []
    batches = micro_batches(items, list(range(20)), 10, one)
    batches = [b._replace(reference=score_pairs(network, params, b.rows)) for b in batches]
    for _ in range(5):
        state, figures = update(learner, state, batches)
        got.append(float(figures["loss"]))
    np.testing.assert_allclose(got, want, atol=1e-5)
    assert want[0] == pytest.approx(np.log(2)) and want[4] < want[0] - 0.01


def test_labelled_items_share_rows_with_the_next_one_and_are_ktos_formula(cfg, params, one, policy):
    rows = [
        {"problem": p, "response": r, "desirable": d}
        for p, r, d in (("a", "one", True), ("b", "two!", False), ("c", "3", True))
    ]
    items = encode(rows, policy, 96)
    other = jax.tree.map(lambda x: x * 1.02, params)
    network = Network(cfg, remat="none")
    learner = Learner(network, optax.sgd(1.0), preference_objective("kto", SETTINGS._replace(undesirable_weight=1.5)))
    (batch,) = micro_batches(items, [0, 1, 2], 4, one)
    batch = batch._replace(reference=score_pairs(network, other, batch.rows))
    value, figures = learner.forward(params, batch)
    swapped = [
        {"problem": a["problem"], "chosen": a["response"], "rejected": b["response"]}
        for a, b in zip(rows, [*rows[1:], rows[0]], strict=True)
    ]
    gap = sums(cfg, params, policy, swapped)[0] - sums(cfg, other, policy, swapped)[0]
    z = max(gap[:, 1].mean(), 0.0)
    v = 1 / (1 + np.exp(-0.3 * np.asarray([1, -1, 1]) * (gap[:, 0] - z)))
    np.testing.assert_allclose(value, (np.asarray([1, 1.5, 1]) * (1 - v)).mean(), rtol=2e-5)
    line = training.finish_figures({name: float(x) for name, x in figures.items()})
    assert line["reward/margin"] == pytest.approx(0.3 * (gap[[0, 2], 0].mean() - gap[1, 0]), rel=1e-3)


def test_texts_and_messages_are_the_same_item():
    def said(role, content):
        return {"role": role, "content": content}

    want = [{"problem": "why?", "chosen": "so", "rejected": "no"}]
    asked = [said("user", "why?")]
    whole = [[*asked, said("assistant", text)] for text in ("so", "no")]
    for row in (
        {"problem": "why?", "chosen": "so", "rejected": "no"},
        {"prompt": "why?", "chosen": [said("assistant", "so")], "rejected": [said("assistant", "no")]},
        {"prompt": asked, "chosen": "so", "rejected": "no"},
        {"chosen": whole[0], "rejected": whole[1]},
        {"prompt": asked, "chosen": whole[0], "rejected": whole[1]},
    ):
        assert parse(json.dumps(row), False, "here") == want
    assert [x["desirable"] for x in parse(json.dumps(want[0]), True, "here")] == [True, False]
    assert parse('{"problem": "a", "response": "b", "desirable": false}', True, "here")[0]["desirable"] is False


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ("{", "line 1 is not JSON"),
        ("[]", "line 1 is not a JSON object"),
        ('{"problem": "a", "chosen": "b"}', "line 1: rejected is None"),
        ('{"problem": "a", "chosen": "b", "rejected": "b"}', "the same text"),
        ('{"chosen": "b", "rejected": "c"}', "chosen follows 0 messages"),
        ('{"problem": "a", "chosen": [{"role": "user", "content": "x"}], "rejected": "c"}', "end with the assistant's"),
        (
            '{"problem": [{"role": "system", "content": "s"}, {"role": "user", "content": "x"}], "chosen": "b", '
            '"rejected": "c"}',
            "follows 2 messages. A completion must follow exactly one message of the user",
        ),
    ],
)
def test_a_line_that_is_no_pair_is_refused_with_its_number(tmp_path, row, words):
    (tmp_path / "pairs.jsonl").write_text(row + "\n")
    with pytest.raises(ValueError, match=words):
        read(str(tmp_path / "pairs.jsonl"), labelled=False)


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"loss": "ppo"}, "--loss=ppo must be one of dpo, ipo, kto, orpo, simpo"),
        ({"beta": 0.0}, "--beta=0.0 must be above 0"),
        ({"label_smoothing": 0.1, "loss": "ipo"}, "--label-smoothing=0.1 .* is for --loss=dpo"),
        ({"gamma": 1.0}, "--gamma=1.0 is for --loss=simpo, not dpo"),
        ({"undesirable_weight": 2.0}, "--undesirable-weight=2.0 .* is for --loss=kto"),
        ({"reference": "never"}, "--reference=never must be once or each"),
        ({"batch_rows": 0}, "--batch-rows=0 must be a multiple"),
        ({"decay": "matrices"}, "--decay=matrices does nothing"),
    ],
)
def test_numbers_that_mean_nothing_are_refused(one, changed, words):
    check(dpo.NANO, one)
    with pytest.raises(ValueError, match=words):
        check(dataclasses.replace(dpo.NANO, **changed), one)


FLAGS = dict(
    items=12, held_out_items=4, batch_items=4, batch_rows=2, warmup_steps=0, mesh="1x1", max_tokens=512, save_every=2
)


def command(walk, workdir, *extra, **changed):
    """Runs the command on the small base. Returns (lines of metrics, lines of evaluations)."""
    from support.walk import lines

    flags = FLAGS | dict(weights=walk.base, workdir=workdir, learning_rate=1e-3) | changed
    words = [f"--{name.replace('_', '-')}={value}" for name, value in flags.items()]
    with mock.patch.object(sys, "argv", ["dpo", *words, *extra]):
        dpo.main()
    return lines(workdir, "metrics"), lines(workdir, "eval")


@pytest.mark.slow
def test_the_command_learns_the_order_of_pairs_and_its_reference_is_the_same_either_way(walk, tmp_path):
    once, evals = command(walk, tmp_path / "once", epochs=4)
    assert len(once) == 12
    assert once[0]["loss"] == pytest.approx(np.log(2), abs=1e-5) and once[0]["reward/margin"] == pytest.approx(
        0, abs=1e-5
    )
    assert np.mean([line["loss"] for line in once[-3:]]) < 0.6
    assert [line["step"] for line in (evals[0], evals[-1])] == [0, 12]
    assert evals[0]["loss"] == pytest.approx(np.log(2), abs=1e-5) != evals[-1]["loss"]  # the policy is the reference
    each, _ = command(walk, tmp_path / "each", epochs=4, reference="each")
    np.testing.assert_allclose([x["loss"] for x in each], [x["loss"] for x in once], atol=1e-5)


@pytest.mark.weekly
@pytest.mark.slow
@pytest.mark.parametrize(
    "changed", [{"loss": "kto"}, {"loss": "orpo"}, {"loss": "simpo", "gamma": 0.5}, {"loss": "ipo"}, {"lora_rank": 4}]
)
def test_every_loss_runs_and_its_policy_can_be_loaded(walk, tmp_path, changed):
    metrics, _ = command(walk, tmp_path / "run", epochs=2, **changed)
    assert all(np.isfinite(line["loss"]) and line["grad_norm"] > 0 for line in metrics[1:])
    assert abs(metrics[-1]["reward/margin"] - metrics[0]["reward/margin"]) > 1e-3  # the policy has left the reference
    again, _ = command(walk, tmp_path / "next", epochs=1, weights=tmp_path / "run")
    assert len(again) == 3


@pytest.mark.slow
def test_a_run_that_is_cut_goes_on_as_if_it_had_not_been(walk, tmp_path):
    whole, _ = command(walk, tmp_path / "whole", epochs=2)
    from r1jax.runs.run import Run

    def cut(run):
        if run.step == 4:
            raise KeyboardInterrupt

    with mock.patch.object(Run, "stop_if_asked", cut), pytest.raises((KeyboardInterrupt, SystemExit)):
        command(walk, tmp_path / "cut", epochs=2)
    resumed, _ = command(walk, tmp_path / "cut", "--resume=True", epochs=2)
    assert [x["loss"] for x in resumed] == [x["loss"] for x in whole]
