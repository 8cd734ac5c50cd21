"""Guided tree search against independent samples: the search on made-up questions, and the claim."""

import json
from pathlib import Path

import pytest

from experiments.claims import rollout_values, tree, tree_search
from experiments.claims.tree_search import Answer, share_right
from r1jax.runs.manifests import Manifest, write

ROOT = Path(__file__).resolve().parent.parent


# ---- the search


def test_puct_is_the_mean_value_and_a_term_for_nodes_visited_less():
    root = tree.Node(visits=9)
    root.below = {
        (1,): tree.Node((1,), root, times=3, visits=4, total=2.0),
        (2,): tree.Node((2,), root, times=1, visits=1, total=0.4),
    }
    # Q + 1.25·P·√9/(1 + n): 2/4 + 1.25·3/4·3/5 and 0.4 + 1.25·1/4·3/2
    assert tree.puct(root.below[1,], root, 1.25) == pytest.approx(1.0625)
    assert tree.puct(root.below[2,], root, 1.25) == pytest.approx(0.86875)
    one = tree.Tree(1.25, root)
    root.extended = 1
    assert tree.select(one) is root.below[1,]
    root.below[1,].ended = True  # a complete completion is not extended
    assert tree.select(one) is root.below[2,]


def test_equal_steps_are_one_node_whose_tokens_are_all_counted_and_values_go_up_to_the_root():
    one = tree.Tree()
    first, second = tree.extend(one, one.root, [((5, 6), False), ((5, 6), False), ((7,), True), ((5, 6), False)])
    assert one.spent == 7 and (first.times, second.times) == (3, 1)
    tree.back_up(one, first, 0.5)
    tree.back_up(one, second, 0.25)
    (deeper,) = tree.extend(one, first, [((8,), True)])
    tree.back_up(one, deeper, 1.0)
    assert deeper.tokens == (5, 6, 8) and (first.visits, first.total) == (2, 1.5)
    assert (one.root.visits, one.root.total) == (3, 1.75)
    assert one.found == [(7, (7,), 0.25), (8, (5, 6, 8), 1.0)]


def test_search_follows_the_values_to_a_completion_that_few_samples_would_reach():
    """Ten binary steps: one completion of 1,024 has only ones. The budget is that of twenty samples."""
    calls = []

    def go_on(rows, nodes):
        calls.append(len(rows))
        return [[((digit,), len(node) == 9) for digit in (0, 1)] for node in nodes]

    def value(rows, nodes):
        return [0.5 ** node.count(0) for node in nodes]

    trees = [tree.Tree() for _ in range(5)]
    tree.search(trees, go_on, value, 200, 2)
    assert max(calls) == 2 and all(one.spent == 200 for one in trees)
    assert all(max(one.found, key=lambda found: found[2])[1] == (1,) * 10 for one in trees)
    assert all(one.root.visits == sum(child.visits for child in one.root.below.values()) for one in trees)


def test_a_tree_with_no_node_left_is_extended_once_more_everywhere():
    def always(rows, nodes):  # one chain of three steps
        return [[((len(node),), len(node) == 2)] * 2 for node in nodes]

    one = tree.Tree()
    tree.search([one], always, lambda rows, nodes: [0.5] * len(nodes), 12, 1)
    assert one.limit == 2 and one.spent == 12 and [tokens for _, tokens, _ in one.found] == [(0, 1, 2)]


# ---- the value model's texts


def test_of_each_roll_out_a_beginning_up_to_a_step_and_the_whole_are_labelled(tmp_path):
    whole = "<think> 1+2=3,3*4=12\nso 12 </think> <answer> 12 </answer>"
    lines = [
        {"problem": "p", "response": whole, "right": True},
        {"problem": "q", "response": "no steps", "right": False},
        {"problem": "r", "response": "", "right": None},
    ]
    (tmp_path / "samples.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    seen = set()
    for seed in range(20):
        path = rollout_values.write_labels(tmp_path / "samples.jsonl", tmp_path / "labels.jsonl", seed)
        begun, complete, *rest = [json.loads(line) for line in path.read_text().splitlines()]
        assert complete == {"problem": "p", "response": whole, "safe": True} and begun["safe"] is True
        assert [(line["response"], line["safe"]) for line in rest] == [("no steps", False), ("", False)]
        seen.add(begun["response"])
    assert seen == {"<think> 1+2=3,", "<think> 1+2=3,3*4=12\n"}


# ---- the claim


def test_only_answers_within_the_budget_count_and_each_rule_picks_its_own():
    first, second, third = Answer(100, 0.2, True, "5"), Answer(200, 0.9, False, "7"), Answer(300, 0.1, True, "5")
    problems = [[first, second, third], []]
    assert [share_right(problems, b, tree_search.pick_best) for b in (99, 100, 300)] == [0.0, 0.5, 0.0]
    assert [share_right(problems, b, tree_search.pick_frequent) for b in (100, 200, 300)] == [0.5, 0.25, 0.5]
    assert [share_right(problems, b, tree_search.pick_right) for b in (99, 300)] == [0.0, 0.5]


def test_samples_spend_their_tokens_one_after_another_and_those_of_other_problems_are_refused(tmp_path):
    lines = [{"id": name, "length": n, "completion": f"{name}{n}"} for name in "ab" for n in (10, 30)]
    path = tmp_path / "nano_zero.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    examples = [{"id": "a"}, {"id": "b"}]
    assert tree_search.read_samples(path, 2, examples) == [
        (0, 10, "a10"),
        (0, 40, "a30"),
        (1, 10, "b10"),
        (1, 40, "b30"),
    ]
    with pytest.raises(ValueError, match="does not hold 2 samples of b"):
        tree_search.read_samples(path, 2, examples[::-1])
    with pytest.raises(ValueError, match="--searched=200 must be at most --asked=128"):
        tree_search.Command(searched=200)


def made(seed, right):
    """Twenty problems with one completion at 100 tokens and one at 200, of which the first `right` have right ones."""
    return [[Answer(spent, 0.5, i < right + seed, "5") for spent in (100, 200)] for i in range(20)]


@pytest.mark.parametrize(
    ("searched", "verdict"), [(10, "holds"), (8, "holds"), (14, "does not hold")], ids=["equal", "behind", "ahead"]
)
def test_the_claim_holds_unless_search_is_ahead_at_some_budget(tmp_path, monkeypatch, searched, verdict):
    home = tmp_path / "value"
    home.mkdir()
    write(home, Manifest("reward_model_safety", {}, 0, {}, results={"base": None, "final": {"auc": 0.75}}))
    monkeypatch.setattr(tree_search, "train_zero", lambda bench, seed, *words: Path(f"zero{seed}"))
    monkeypatch.setattr(tree_search, "evaluate", lambda bench, weights, *words, samples, problems: tmp_path)
    monkeypatch.setattr(tree_search, "train_value", lambda bench, zero, seed, questions, rollouts: home)
    monkeypatch.setattr(
        tree_search,
        "measure",
        lambda command, zero, value, samples, seed: {"search": made(seed, searched), "samples": made(seed, 10)},
    )
    found = tree_search.find(tree_search.Command(str(tmp_path), budgets=(50, 200)))
    assert found.verdict == verdict
    lead = f"{(searched - 10) / 20:+.3f} ± 0.000"
    assert found.figure.count(lead) == 2
    assert ("exceeds the interval at 200 tokens" in found.figure) == (verdict != "holds")
    cells = {row[0]: row[1:] for row in found.table}
    assert cells["samples, most frequent, 200 tokens"][:2] == ["0.500", "0.550"]
    assert cells["search, 50 tokens"][-1] == "0.000 ± 0.000"
    assert cells["area under the ROC curve of the value model"][0] == "0.750"


@pytest.mark.weekly
@pytest.mark.slow
@pytest.mark.timeout(3000)  # some two CPU minutes, in five processes
def test_the_claim_runs_from_end_to_end_at_toy_size(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    flags = ("--questions-per-round=2", "--group-size=4", "--max-tokens=32", "--row-length=256", "--batch-rows=2")
    command = tree_search.Command(
        str(tmp_path),
        seeds=(0,),
        steps=1,
        problems=8,
        flags=flags,
        samples=4,
        asked=4,
        searched=4,
        budgets=(64, 128),
        questions=4,
        rollouts=4,
    )
    found = tree_search.find(command)
    assert found.verdict == "cannot be shown here" and len(found.table) == 12  # one seed
    names = {path.name.partition("-")[0] for path in tmp_path.iterdir() if path.is_dir()}
    assert names == {"r1_zero", "evaluate", "generate", "train_reward_model"}
    shares = [float(row[1]) for row in found.table[1:-1]]
    assert all(0 <= share <= 1 for share in shares) and any(shares)
