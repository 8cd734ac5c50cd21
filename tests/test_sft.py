"""Supervised fine-tuning without its loop: where the loss lies; packing, mixing, micro-batches and their state."""

import itertools

import jax
import numpy as np
import optax
import pytest

from r1jax.policy import Policy
from r1jax.recipes import PretrainRecipe, SFTRecipe
from r1jax.sft.documents import Part, check, choose_held_out, document, measure_loss, resolve_steps
from r1jax.training import optimizers, supervised_batches
from r1jax.training.logprobs import Network
from r1jax.training.objectives import cross_entropy
from r1jax.training.step import Learner, score
from r1jax.training.supervised_batches import Documents
from support.tiny import dense_logp

ROW = 24
NUMBERS = PretrainRecipe(
    steps=4,
    learning_rate=1e-3,
    final_learning_rate=1e-4,
    warmup_steps=0,
    optimizer="adamw",
    weight_decay=0.0,
    grad_clip=1.0,
    row_length=ROW,
    batch_rows=4,
    save_every=2,
)
TUNE = SFTRecipe(
    epochs=2.0,
    steps=0,
    learning_rate=1e-3,
    final_learning_rate=1e-4,
    warmup_steps=0,
    optimizer="adamw",
    weight_decay=0.0,
    grad_clip=1.0,
    row_length=ROW,
    batch_rows=4,
    micro_rows=0,
    remat="dots",
    held_out_problems=2,
    max_tokens=8,
    eval_problems=2,
    eval_every=0,
    log_samples=1,
    save_every=2,
)
RECORDS = [{"id": str(i), "problem": "ab"[i % 2] * (1 + i % 3), "response": "xyz"[: 1 + i % 3] * 2} for i in range(12)]
ROWS = NUMBERS.row_length, NUMBERS.batch_rows


@pytest.fixture(scope="module")
def policy(cfg, tokenizer):
    return Policy(cfg, tokenizer, "<{question}>")


@pytest.fixture(scope="module")
def documents(policy):
    return Documents(len(RECORDS), lambda i: document(RECORDS[i], policy, ROW), ROW)


def test_the_loss_lies_on_the_response_and_the_end_of_text(policy, tokenizer):
    tokens, weights = document({"id": "1", "problem": "ab", "response": "xyz"}, policy, ROW)
    prompt = tokenizer.encode("<ab>")
    assert tokens == [*prompt, *tokenizer.encode("xyz", start=False), tokenizer.eos_id]
    assert weights == [0.0] * len(prompt) + [1.0] * 4  # x, y, z and the end


def test_a_response_does_not_begin_the_chain_of_thought_that_its_template_began(policy, tokenizer):
    record = {"id": "1", "problem": "a", "response": "<think>b</think>"}
    tokens, weights = document(record, policy._replace(template="{question}<think>\n"), 64)
    prompt = tokenizer.encode("a<think>\n")
    assert tokens == [*prompt, *tokenizer.encode("b</think>", start=False), tokenizer.eos_id]
    assert weights.index(1.0) == len(prompt)
    tokens, _ = document(record, policy._replace(template="{question}"), 64)
    assert tokens == [*tokenizer.encode("a<think>b</think>"), tokenizer.eos_id]


def test_a_record_that_does_not_fit_a_row_is_named(policy, tokenizer):
    room = ROW - len(tokenizer.encode("<>")) - 1
    document({"id": "1", "problem": "", "response": "x" * room}, policy, ROW)
    with pytest.raises(ValueError, match="record long has 25 tokens and does not fit --row-length=24"):
        document({"id": "long", "problem": "", "response": "x" * (room + 1)}, policy, ROW)


def by_hand(cfg, params, documents, indices) -> tuple[float, int]:
    """Sum of -log p over the response tokens, each document alone in a row, and how many there are."""
    lost, counted = 0.0, 0
    for i in indices:
        one = documents[i]
        tokens = np.zeros((1, ROW), np.int32)
        tokens[0, : len(one["tokens"])] = one["tokens"]
        logp = dense_logp(cfg, params, tokens)[0]
        for t in np.flatnonzero(one["weights"]):
            lost -= logp[t - 1, one["tokens"][t]]
            counted += 1
    return lost, counted


def learner(cfg) -> Learner:
    return Learner(Network(cfg), optax.sgd(0.1), cross_entropy)


def test_a_packed_batch_has_the_mean_loss_of_its_documents_alone(cfg, params, one, documents):
    batch = next(supervised_batches.batches([documents], [1.0], *ROWS))
    (placed,) = supervised_batches.token_batches(batch, one)
    # Unshuffled: whole documents in order, several to a row. Which of them came, their tokens tell.
    group = batch["tokens_segment_ids"]
    assert group.max() > 1, "nothing was packed: the test would see nothing"
    whole = [
        tuple(batch["tokens"][r][group[r] == g].tolist())
        for r in range(len(group))
        for g in range(1, group[r].max() + 1)
    ]
    known = {tuple(documents[i]["tokens"].tolist()): i for i in range(len(documents))}
    lost, counted = by_hand(cfg, params, documents, [known[tokens] for tokens in whole])
    logp = score(learner(cfg).network, params, placed.rows)[0]
    assert float(placed.weight.sum()) == pytest.approx(1.0)
    assert float(-(placed.weight * logp).sum()) == pytest.approx(lost / counted, rel=1e-5)


def test_held_out_loss_is_the_mean_over_all_response_tokens(cfg, params, one, documents):
    # Three batches of four rows of unequal length: a mean of means would differ.
    lost, counted = by_hand(cfg, params, documents, range(len(documents)))
    assert measure_loss(
        documents,
        learner(cfg).network,
        params,
        one,
        rows=TUNE.micro_rows or TUNE.batch_rows,
        row_length=TUNE.row_length,
    ) == pytest.approx(lost / counted, rel=1e-5)


def test_micro_batches_are_the_batch_and_their_weights_sum_to_one(one, documents):
    batch = next(supervised_batches.batches([documents], [1.0], *ROWS))
    (whole,) = supervised_batches.token_batches(batch, one)
    parts = supervised_batches.token_batches(batch, one, 2)
    assert len(parts) == 2
    for name in ("tokens", "positions", "group", "segment", "source"):
        there = np.concatenate([np.asarray(getattr(part.rows, name)) for part in parts])
        np.testing.assert_array_equal(there, getattr(whole.rows, name))
    weight = np.concatenate([np.asarray(part.weight) for part in parts])
    np.testing.assert_array_equal(weight, whole.weight)
    assert weight.sum() == pytest.approx(1.0)
    first = np.asarray(whole.rows.positions) == 0
    assert (weight[first] == 0).all(), "a first token is predicted by nothing"


def test_records_are_mixed_by_their_shares_and_each_comes_once_an_epoch():
    def letters(base: int, count: int) -> Documents:
        return Documents(count, lambda i: ([base + i] * 4, [1.0] * 4), ROW)

    stream = supervised_batches.batches([letters(0, 5), letters(100, 50)], [3.0, 1.0], *ROWS, shuffled=0)
    seen = []
    for batch in itertools.islice(stream, 30):
        first = (batch["tokens_positions"] == 0) & (batch["tokens_segment_ids"] > 0)
        seen += batch["tokens"][first].tolist()
    few, many = [t for t in seen if t < 100], [t for t in seen if t >= 100]
    assert len(few) / len(seen) == pytest.approx(0.75, abs=0.03)
    # A record comes again only after the others; a packer's open rows may hold some back.
    counts = [few.count(t) for t in range(5)]
    assert max(counts) - min(counts) <= supervised_batches.PACKING_BINS // 5
    assert max(many.count(t) for t in set(many)) <= len(many) // 50 + 3


def test_the_stream_goes_on_where_its_state_was_kept(documents):
    def stream():
        return supervised_batches.batches([documents, documents], [2.0, 1.0], *ROWS, shuffled=3)

    whole = stream()
    batches = [next(whole) for _ in range(3)]
    state = whole.get_state()
    after = [next(whole) for _ in range(6)]
    again = stream()
    again.set_state(state)
    for ours, theirs in zip(after, [next(again) for _ in range(6)], strict=True):
        jax.tree.map(np.testing.assert_array_equal, ours, theirs)
    assert any((a["tokens"] != b["tokens"]).any() for a, b in zip(batches, after[:3], strict=True))


def test_problems_are_kept_out_whole_and_a_tenth_at_most():
    records = [{"problem": f"p{i % 30}"} for i in range(90)]
    out = choose_held_out([Part(records[:40]), Part(records[40:])], 2)
    assert len(out) == 2 and out <= {record["problem"] for record in records}
    assert out < choose_held_out([Part(records)], 3), "more are kept out, none other"
    assert len(choose_held_out([Part(records)], 100)) == 3
    assert choose_held_out([Part(records[:9])], 5) == set()


def test_epochs_become_steps_and_steps_may_be_named():
    import dataclasses

    # 2 epochs of 960 tokens through 4 rows of 24 slots: 1920 / 96 = 20
    assert resolve_steps(TUNE, 960).steps == 20
    assert resolve_steps(dataclasses.replace(TUNE, steps=7), 960).steps == 7
    with pytest.raises(ValueError, match="--warmup-steps=20 leaves nothing of 20 steps"):
        resolve_steps(dataclasses.replace(TUNE, warmup_steps=20), 960)


def test_the_cosine_goes_from_the_highest_rate_to_the_last():
    import dataclasses

    import jax.numpy as jnp

    recipe = dataclasses.replace(NUMBERS, steps=100, grad_clip=1e9)
    optimizer = optimizers.optimizer(recipe.descent)
    params = {"w": jnp.ones(3)}
    state, moves = optimizer.init(params), []
    for _ in range(100):
        # AdamW with a constant gradient moves by the learning rate
        change, state = optimizer.update({"w": jnp.ones(3)}, state, params)
        moves.append(float(-change["w"][0]))
    half = recipe.final_learning_rate + (recipe.learning_rate - recipe.final_learning_rate) / 2
    assert moves[0] == pytest.approx(recipe.learning_rate, rel=1e-3)
    assert moves[50] == pytest.approx(half, rel=1e-2)
    # One step before the end the cosine is 1 - cos(π/100) ≈ 5e-4 of the way above its floor
    assert moves[99] == pytest.approx(recipe.final_learning_rate, rel=1e-2)


@pytest.mark.parametrize(
    "changed, said",
    [
        ({"batch_rows": 6}, "--micro-rows=6 must be a multiple of the mesh's 4 row shards"),
        ({"batch_rows": 12, "micro_rows": 8}, "--batch-rows=12 must be a multiple of --micro-rows=8"),
        ({"steps": -1}, "--steps=-1"),
        ({"epochs": 0.0}, "--epochs=0.0 must be above 0"),
        ({"eval_problems": 0}, "--eval-problems=0"),
    ],
)
def test_numbers_that_cannot_be_trained_with_are_refused(eight, changed, said):
    import dataclasses

    check(TUNE, eight)
    with pytest.raises(ValueError, match=said):
        check(dataclasses.replace(TUNE, **changed), eight)
