"""Dynamic sampling: which groups a round keeps, what it counts, and that it needs no record to resume."""

from types import SimpleNamespace

import numpy as np
import pytest

from r1jax.rewards.rule import Scores
from r1jax.rl import refill
from r1jax.rl.refill import RefilledRounds, choose, find_differing, join
from r1jax.rl.rounds import Round, RoundDraws
from r1jax.sampling.rollout import Rollout
from r1jax.sampling.sampler import Sampling

B, G, T = 3, 2, 4


class World:
    """Questions 0, 1, ... of which some have groups that differ; a sampler that writes the question's number."""

    def __init__(self, monkeypatch, differing, own=None):
        self.differing, self.own, self.asked, self.steps = set(differing), own, [], []
        monkeypatch.setattr(refill, "sample_and_judge", self.sample)
        monkeypatch.setattr(refill, "gather_scores", lambda scores, rollout: scores)
        draws = RoundDraws(B, G, 2, 0, Sampling(T, 1.0))
        self.setting = SimpleNamespace(pool=None, ask=self.ask, draws=draws)

    def ask(self, index, step):
        self.asked.append(index)
        self.steps.append(step)
        return {"id": str(index), "problem": str(index)}

    def sample(self, setting, params, examples, drawn, verdicts):
        numbers = np.repeat([int(e["id"]) for e in examples], G)
        assert drawn.places.tolist() == [int(e["id"]) for e in examples]
        tokens = np.repeat(numbers[:, None], T, axis=1).astype(np.int32)
        mine = None if self.own is None else np.arange(len(numbers))[self.own :: 2]
        rollout = Rollout(
            [[n] for n in numbers[::G]], tokens, numbers % T + 1, np.float32(-tokens), numbers % 2 == 0, mine=mine
        )
        return rollout, [f"{numbers[i]}/{i % G}" for i in rollout.own], verdicts

    def task(self, verdicts, texts, examples, step):
        # Two processes' worth of rewards at once: `gather_scores` is the identity here.
        total = [float(i % G) if n in self.differing else 1.0 for n in self.asked[-B:] for i in range(G)]
        return Scores(np.asarray(total), np.ones(B * G, bool), {}, None)

    def rounds(self, waves=3):
        return RefilledRounds(self.setting, self.task, waves)


def numbers(round_: Round) -> list[int]:
    return [int(example["id"]) for example in round_.examples]


def test_a_round_goes_on_until_it_is_full_and_no_further(monkeypatch):
    world = World(monkeypatch, differing=[0, 2, 4, 5, 7])
    round_ = world.rounds()(None, 0)
    assert world.asked == [0, 1, 2, 3, 4, 5]  # the third wave was not needed
    assert numbers(round_) == [0, 2, 4] and round_.index.tolist() == [0, 2, 4]
    assert round_.sampled == 6
    assert round_.rollout.prompts == [[0], [2], [4]]
    assert round_.rollout.tokens[:, 0].tolist() == [0, 0, 2, 2, 4, 4]
    assert round_.texts == ["0/0", "0/1", "2/0", "2/1", "4/0", "4/1"]
    assert [len(x) for x in round_.drawn] == [6, 12]  # what was sampled, for the throughput


def test_at_its_bound_a_round_is_filled_with_groups_that_do_not_differ(monkeypatch):
    world = World(monkeypatch, differing=[5])
    round_ = world.rounds()(None, 0)
    assert world.asked == list(range(9)) and round_.sampled == 9
    assert numbers(round_) == [0, 1, 5]


def test_where_every_group_differs_a_round_is_one_wave(monkeypatch):
    world = World(monkeypatch, differing=range(99))
    assert numbers(world.rounds()(None, 0)) == [0, 1, 2] and world.asked == [0, 1, 2]


def test_a_round_looks_at_questions_of_its_own_so_that_it_can_be_drawn_alone(monkeypatch):
    whole = World(monkeypatch, differing=[1, 4, 8, 9, 13, 15, 17])
    rounds = whole.rounds()
    one, two = rounds(None, 0), rounds(None, 1)
    assert not set(numbers(one)) & set(numbers(two))
    again = World(monkeypatch, differing=[1, 4, 8, 9, 13, 15, 17])
    resumed = again.rounds()(None, 1)  # what a run that begins with round 1 draws
    assert numbers(resumed) == numbers(two) == [9, 13, 15]
    assert (resumed.rollout.tokens == two.rollout.tokens).all()
    assert set(again.steps) == {2}  # a round has two steps


def test_each_process_keeps_the_texts_of_its_own_rows(monkeypatch):
    rounds = []
    for process in (0, 1):
        world = World(monkeypatch, differing=[0, 2, 4], own=process)
        rounds.append(world.rounds()(None, 0))
    assert [r.rollout.own.tolist() for r in rounds] == [[0, 2, 4], [1, 3, 5]]
    assert [r.texts for r in rounds] == [["0/0", "2/0", "4/0"], ["0/1", "2/1", "4/1"]]
    assert [e["id"] for e in rounds[1].repeated] == ["0", "2", "4"]


def test_a_group_differs_by_its_valid_rewards():
    total = np.asarray([1, 1, 0, 1, 0, 1, 5, 5.0])
    valid = np.asarray([1, 1, 1, 1, 1, 0, 0, 0], bool)
    assert find_differing(Scores(total, valid, {}, None), 2).tolist() == [False, True, False, False]


def test_the_routes_of_experts_stay_with_their_rows(monkeypatch):
    world = World(monkeypatch, differing=[0])
    parts = []
    for start in (0, 3):
        rollout, texts, _ = world.sample(
            None, None, [{"id": str(start + i)} for i in range(B)], SimpleNamespace(places=start + np.arange(B)), None
        )
        routes = np.int16(rollout.tokens[:, :, None, None])
        rollout = rollout._replace(routes=routes, prompt_routes=[np.full((1, 1, 1), p[0]) for p in rollout.prompts])
        parts.append(Round([{"id": str(start + i)} for i in range(B)], rollout, texts, start + np.arange(B)))
    taken = choose(join(parts), np.asarray([1, 5])).rollout
    assert taken.routes[:, 0, 0, 0].tolist() == [1, 1, 5, 5]
    assert [int(x.ravel()[0]) for x in taken.prompt_routes] == [1, 5]


@pytest.mark.slow
def test_a_run_with_refill_resumes_exactly_and_says_how_many_groups_it_sampled(walk, tmp_path):
    from support.walk import lines

    flags = dict(refill=3, save_every=2, prompts="nano:compare", eval_prompts="nano:compare", kl_coef=0.0)
    whole = lines(walk.here(tmp_path / "whole", steps=4, **flags), "metrics")
    walk.here(tmp_path / "cut", steps=2, **flags)
    cut = lines(walk.here(tmp_path / "cut", "--resume=True", steps=4, **flags), "metrics")
    names = ("loss", "reward/mean", "group/sampled", "completion/length", "grad_norm")
    assert [[line[name] for name in names] for line in cut] == [[line[name] for name in names] for line in whole]
    assert all(line["group/sampled"] in (2, 4, 6) for line in whole)
    assert any(line["group/sampled"] > 2 for line in whole)
    full = [line for line in whole if line["group/sampled"] < 6]
    assert all(line["group/zero_variance"] == 0 for line in full)
