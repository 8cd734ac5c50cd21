"""Verdicts asked for early are those asked for late."""

import random

import pytest

from r1jax.nano import tasks
from r1jax.rewards import rule
from r1jax.rewards.ahead import Ahead
from r1jax.rewards.isolate import Pool


@pytest.fixture(scope="module")
def pool():
    with Pool(1) as pool:
        yield pool


def completions():
    """Examples of the nano world with right, wrong, repeated and missing answers."""
    rng = random.Random(0)
    examples = [tasks.draw(rng, "rl", "zero", "compare") for _ in range(4)]
    texts, rows = [], []
    for example in examples:
        for answer in (example["gold"], "B", "B", "no letter"):
            texts.append(f"<think>so</think> <answer>{answer}</answer>")
            rows.append(example)
        texts.append("nothing in the form")
        rows.append(example)
    return texts, rows


def test_the_scores_of_answers_judged_ahead_are_those_of_all_judged_at_the_end(pool):
    texts, examples = completions()
    ahead = Ahead(pool)
    order = random.Random(1).sample(range(len(texts)), 13)  # as rows happen to end; some not at all
    for batch in (order[:1], order[1:8], order[8:]):
        jobs = [rule.accuracy_job(texts[i], examples[i]) for i in batch]
        ahead.begin([job for job in jobs if job is not None])
    weights = {"accuracy": 1.0, "format": 1.0}
    got, want = (rule.score(p, texts, examples, weights) for p in (ahead, pool))
    assert [v._replace(ms=0) for v in got.verdicts] == [v._replace(ms=0) for v in want.verdicts]
    assert got.total.tolist() == want.total.tolist()
    assert got.valid.tolist() == want.valid.tolist()
    assert 0 < got.parts["accuracy"].mean() < 1


def test_a_job_begun_twice_is_judged_once(pool):
    job = ("choice", "<answer>A</answer>", {"gold": "A"})
    ahead = Ahead(pool)
    ahead.begin([job, job])
    ahead.begin([job])
    first, second = ahead.run([job, job])
    assert first is second  # the very same verdict
    assert first.reward == 1


def test_nothing_begun_is_nothing_to_wait_for(pool):
    ahead = Ahead(pool)
    ahead.begin([])
    assert ahead.run([]) == []
