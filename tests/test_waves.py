"""Completions drawn in waves: every example its samples, whatever was interrupted."""

import json
import shutil

import pytest

from r1jax.policy import Policy
from r1jax.recipes import SamplingOptions
from r1jax.sft_data.batch_sampling import Output, examples_per_wave, sample_in_waves
from support.two_processes import results, start

SAMPLING = SamplingOptions(samples=4, temperature=0.7, top_p=0.95, max_tokens=6, wave_rows=8)
EXAMPLES = [{"id": str(i), "problem": f"What is {i}+{i}?", "kind": "math", "gold": str(2 * i)} for i in range(5)]


def lines(wave):
    rows = zip(wave.examples, wave.samples, wave.texts, wave.lengths, wave.stopped, strict=True)
    return [{"id": e["id"], "sample": k, "text": t, "length": int(n), "stopped": bool(s)} for e, k, t, n, s in rows]


@pytest.fixture(scope="module")
def policy(cfg, tokenizer):
    return Policy(cfg, tokenizer, "{question} =")


@pytest.fixture(scope="module")
def whole(policy, params, one, tmp_path_factory):
    path = tmp_path_factory.mktemp("waves") / "a.jsonl"
    return path, drawn(policy, params, one, path)


def drawn(policy, params, one, path, sampling=SAMPLING, source="abc", seed=3, prompts=None):
    output = Output(path, lines, {"source": source})
    return sample_in_waves(policy, params, EXAMPLES, one, sampling, output, seed=seed, prompts=prompts)


@pytest.mark.parametrize("count", [1, 4, 7, 30])
@pytest.mark.parametrize("samples, wave_rows", [(4, 8), (4, 2), (1, 512), (3, 10)])
def test_waves_are_as_few_as_fit_and_of_near_equal_size(count, samples, wave_rows):
    size = examples_per_wave(count, SamplingOptions(samples=samples, wave_rows=wave_rows))
    most = max(wave_rows // samples, 1)
    assert size <= most and -(-count // size) == -(-count // most)
    assert -(-count // size) * size - count < -(-count // size)  # a wave lacks less than one example on average


def test_the_lines_are_those_of_all_samples_in_order_and_differ_within_a_problem(whole):
    path, found = whole
    assert [(line["id"], line["sample"]) for line in found] == [(str(i), k) for i in range(5) for k in range(4)]
    assert found == [json.loads(line) for line in path.read_text().splitlines()]
    assert all(len({line["text"] for line in found[i : i + 4]}) > 1 for i in range(0, 20, 4))
    assert all(1 <= line["length"] <= 6 for line in found)


def test_a_chain_of_thought_that_the_prompt_began_is_read_from_its_beginning(policy, params, one, tmp_path):
    begun = policy._replace(template="{question} = <think>\n")
    found = drawn(begun, params, one, tmp_path / "begun.jsonl")
    assert all(line["text"].startswith("<think>") and line["length"] <= 6 for line in found)
    ended_ = drawn(policy._replace(template="<think> </think> {question}"), params, one, tmp_path / "ended.jsonl")
    assert not any(line["text"].startswith("<think>") for line in ended_)


@pytest.mark.parametrize("left", [0.0, 0.3, 0.55, 0.8, 1.0])
def test_a_file_cut_off_anywhere_grows_to_the_same_bytes(whole, policy, params, one, tmp_path, left):
    path, found = whole
    shutil.copytree(path.parent, tmp_path, dirs_exist_ok=True)
    there = path.read_bytes()
    (tmp_path / "a.jsonl").write_bytes(there[: int(len(there) * left)])
    assert drawn(policy, params, one, tmp_path / "a.jsonl") == found
    assert (tmp_path / "a.jsonl").read_bytes() == there


def test_whole_waves_are_not_drawn_again(whole, policy, params, one, tmp_path):
    path, _ = whole
    shutil.copytree(path.parent, tmp_path, dirs_exist_ok=True)
    marked = path.read_text().replace('"text": "', '"text": "kept ', 16).splitlines()  # two waves of two problems
    (tmp_path / "a.jsonl").write_text("\n".join(marked[:18]) + "\n")
    found = drawn(policy, params, one, tmp_path / "a.jsonl")
    assert [line["text"].startswith("kept ") for line in found] == [True] * 16 + [False] * 4


@pytest.mark.parametrize(
    "changed, words",
    [
        ({"seed": 4}, "seed was 3 and is now 4"),
        ({"source": "other"}, 'source was "abc" and is now "other"'),
        ({"sampling": SamplingOptions(samples=2)}, "sampling.samples was 4 and is now 2"),
        ({"prompts": ["other"] * 5}, "prompts was "),
    ],
)
def test_lines_of_other_settings_are_refused(whole, policy, params, one, changed, words):
    with pytest.raises(
        ValueError, match=r"a\.jsonl holds samples of other settings.*" + words + ".*name a new directory"
    ):
        drawn(policy, params, one, whole[0], **changed)


def test_a_file_that_is_none_of_ours_is_left_alone(policy, params, one, tmp_path):
    (tmp_path / "a.jsonl").write_text("mine\n")
    with pytest.raises(ValueError, match=r"a\.jsonl is not a file of samples of r1jax"):
        drawn(policy, params, one, tmp_path / "a.jsonl")
    assert (tmp_path / "a.jsonl").read_text() == "mine\n"


@pytest.mark.parametrize(
    "sampling, words",
    [
        (SamplingOptions(samples=0), "--samples=0 must be at least 1"),
        (SamplingOptions(temperature=-1.0), "--temperature=-1.0 must be 0, which is greedy, or more"),
        (SamplingOptions(top_p=0.0), r"--top-p=0.0 must lie in \(0, 1\]"),
        (SamplingOptions(top_k=-1), "--top-k=-1 must be 0"),
        (SamplingOptions(min_p=2.0), r"--min-p=2.0 must lie in \[0, 1\]"),
        (SamplingOptions(max_tokens=0), "--max-tokens=0 must be at least 1"),
        (SamplingOptions(wave_rows=0), "--wave-rows=0 must be at least 1"),
    ],
)
def test_numbers_that_cannot_be_sampled_with_are_named(policy, params, one, tmp_path, sampling, words):
    with pytest.raises(ValueError, match=words):
        drawn(policy, params, one, tmp_path / "a.jsonl", sampling)
    assert not list(tmp_path.iterdir())


def test_two_processes_share_the_problems_get_all_lines_in_order_and_one_writes_them(tmp_path):
    first, second = results(start("sampled", str(tmp_path)))
    assert first == second and first["same"]
    assert [(line["id"], line["sample"]) for line in first["lines"]] == [
        (str(i), k) for i in range(3) for k in range(2)
    ]
    assert [json.loads(line) for line in (tmp_path / "a.jsonl").read_text().splitlines()] == first["lines"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.jsonl", "a.settings.json"]
