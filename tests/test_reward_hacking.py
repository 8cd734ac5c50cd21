"""The table of the reward-hacking claim."""

from experiments.claims.reward_hacking import join_rewards

TRUTH = {"helpful": 0.5, "padding": 1.0, "harmless": 1.0, "accuracy": 0.25}


def test_each_evaluation_stands_beside_the_mean_reward_of_the_steps_since_the_one_before():
    rewards = [0.1, 0.3, None, 0.7]  # a step without a helpful prompt has no mean
    metrics = [{"step": i, "reward/helpful": reward} for i, reward in enumerate(rewards, 1)]
    evaluations = [{"step": step, **TRUTH, "helpful": worth} for step, worth in ((0, 0.5), (2, 0.6), (4, 0.4))]
    found = join_rewards(metrics, evaluations)
    assert [line["reward"] for line in found] == [None, 0.2, 0.7]  # (0.1 + 0.3) / 2; 0.7 alone
    assert [line["helpful"] for line in found] == [0.5, 0.6, 0.4]
    assert found[0] == {"step": 0, "reward": None} | TRUTH
