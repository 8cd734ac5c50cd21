"""Prompt templates, the form of answers that goes with them, and what a run says about both."""

import dataclasses
import json

import numpy as np
import pytest

from experiments import r1_zero
from r1jax.data import questions
from r1jax.evaluation.benchmark import extract_final_answer
from r1jax.model import presets
from r1jax.policy import Policy
from r1jax.prompts import R1_ZERO
from r1jax.recipes import CheckpointOptions, RunOptions
from r1jax.rewards import format as format_reward
from r1jax.rewards import rule
from r1jax.rewards.isolate import Pool
from r1jax.rewards.verdict import Verdict
from r1jax.rl.first_round import explain_first, explain_zero, warn_rate
from r1jax.rl.rounds import Round
from r1jax.runs.templates import ask_form, read_template
from r1jax.sampling.rollout import Rollout
from support import families
from support.byte_pairs import write_tokenizer
from support.walk import lines

CHATML = (
    "{%- for m in messages %}{{- '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n' }}{%- endif %}"
)
TAGGED, BOXED = "<think> 1+1 </think> <answer> 2 </answer>", "<think> 1+1 </think> so \\boxed{2}"


@pytest.mark.parametrize(
    "text, style, right, formed",
    [
        (TAGGED, "r1_zero", True, True),
        (TAGGED, "r1", False, True),
        (TAGGED, "any", True, True),
        (TAGGED, "think_any", True, True),
        (TAGGED, "tags", True, True),
        (TAGGED, "boxed", False, False),
        (BOXED, "r1", True, True),
        (BOXED, "boxed", True, True),
        (BOXED, "any", True, True),
        (BOXED, "tags", False, False),
        ("We add. The answer is 2.", "any", True, True),
        ("1 + 1 = 2\n#### 2", "any", True, True),
        ("The answer is 2.", "think_any", False, False),
        ("The answer is \\boxed{2}.", "boxed", True, True),
        ("The answer is \\boxed{2}.", "r1", False, False),
        ("sum <answer>2</answer>", "tags", True, True),
        ("<answer>2</answer> <answer>2</answer>", "tags", False, False),
        ("</answer>2<answer>", "tags", False, False),
        ("<think> 1 + 1 = 2", "any", False, True),
        ("", "any", False, False),
    ],
)
def test_an_answer_counts_where_its_style_says(text, style, right, formed):
    example = {"kind": "math", "gold": "2"}
    with Pool() as pool:
        (verdict,) = rule.verify(pool, [text], [example], style)
    assert (verdict.reward == 1.0) == right
    assert format_reward.verify(text, {"style": style}).reward == formed
    assert rule.score_format([text], [example], style)[0] == formed


def test_an_evaluation_reads_plain_answers_only_if_any_form_will_do():
    for text, free in (("So the answer is 3.", True), ("x\n#### 1", True), ("\\boxed{1}", True), ("<think> 3", False)):
        assert bool(extract_final_answer(text, "math", "any")) == free
    assert extract_final_answer("So the answer is 3.", "math", "r1") is None


class Chatty:
    chat_template, eos_token = CHATML, "<|im_end|>"


@pytest.mark.parametrize(
    "flags, name, style",
    [
        ({"template": "r1_zero"}, "r1_zero", "r1_zero"),
        ({"template": "r1"}, "r1", "r1"),
        ({"template": "chat"}, "chat", "any"),
        ({"template": "chat", "system_prompt": "r1_zero"}, "chat", "r1_zero"),
        ({"template": "chat", "system_prompt": "boxed"}, "chat", "boxed"),
        ({"template": "chat", "system_prompt": "Be brief."}, "chat", "any"),
        ({"template": "chat", "think": "wanted"}, "chat", "think_any"),
        ({"template": "r1_zero", "think": "free"}, "r1_zero", "tags"),
        ({"template": "r1", "answers": "any", "think": "free"}, "r1", "any"),
        ({"template": "chat", "answers": "boxed", "think": "wanted"}, "chat", "r1"),
    ],
)
def test_a_template_has_the_form_that_it_asks_for_unless_flags_say_otherwise(flags, name, style):
    asked = read_template(RunOptions(**flags), Chatty())
    assert (asked.name, asked.style) == (name, style) and asked.text.count("{question}") == 1
    if flags.get("system_prompt") == "r1_zero":
        assert R1_ZERO.partition(" User:")[0] in asked.text and "<|im_start|>user\n{question}<|im_end|>" in asked.text


def test_evaluation_takes_the_chat_template_that_a_tokenizer_has():
    assert read_template(CheckpointOptions(), Chatty()).name == "chat"
    assert read_template(CheckpointOptions(), object())[:1] == ("r1",)


def test_a_prompt_that_names_a_think_tag_wants_a_thought():
    assert ask_form("{question}<think>\n") == (True, "any")
    assert ask_form("{question}") == (False, "any")
    assert ask_form("Think in <think>. {question}") == (True, "any")


def test_a_template_file_without_tags_takes_any_answer(tmp_path):
    (tmp_path / "plain.txt").write_text("Q: {question}\nA:")
    assert read_template(RunOptions(template=str(tmp_path / "plain.txt")), object()).style == "any"
    for flags, said in (
        ({"template": str(tmp_path / "none.txt")}, "neither a file nor one of r1_zero, r1, chat"),
        ({"system_prompt": "Be brief."}, "--system-prompt is for --template=chat"),
        ({"template": "chat"}, "no chat template"),
    ):
        with pytest.raises(ValueError, match=said):
            read_template(RunOptions(**flags), object())


def write_rows(path, count):
    rows = [{"id": f"q{i}", "problem": f"What is {i} + 1?", "gold": str(i + 1), "kind": "math"} for i in range(count)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_held_out_rows_are_never_trained_on(tmp_path):
    path = write_rows(tmp_path / "rows.jsonl", 40)
    held = questions.split_off(str(path), 64)
    assert len(held) == 4 and len(questions.split_off(str(path), 3)) == 3
    without = {row["problem"]: "held_out" for row in held}
    take, data = questions.stream(str(path), 0, without=without)
    assert data["counts"] == {"rows": 36, "held_out": 4}
    assert (
        not {take(i)["problem"] for i in range(36)} & without.keys() and len({take(i)["id"] for i in range(36)}) == 36
    )
    lines_ = path.read_text().splitlines()
    path.write_text("\n".join(reversed(lines_)))
    assert {row["problem"] for row in questions.split_off(str(path), 64)} == without.keys()
    with pytest.raises(ValueError, match="--eval-prompts=FILE"):
        questions.split_off(str(write_rows(tmp_path / "one.jsonl", 1)), 8)


@pytest.fixture(scope="module")
def chatty(tmp_path_factory):
    """A random model with a chat template."""
    home = tmp_path_factory.mktemp("chatty")
    model = families.model("qwen2")
    model.resize_token_embeddings(340)
    families.randomise(model).save_pretrained(home)
    return write_tokenizer(home, generation={"eos_token_id": [3, 4]}, chat_template=CHATML)


def test_rl_under_a_chat_template_says_what_it_asks_and_why_nothing_is_right(chatty, tmp_path, monkeypatch, capfd):
    flags = dict(
        weights=chatty,
        prompts=write_rows(tmp_path / "rows.jsonl", 30),
        template="chat",
        system_prompt="boxed",
        workdir=tmp_path / "run",
        steps=1,
        questions_per_round=2,
        group_size=2,
        max_tokens=8,
        row_length=160,
        batch_rows=2,
        eval_problems=4,
        log_samples=4,
        mesh="1x1",
    )
    monkeypatch.setattr("sys.argv", ["r1_zero", *(f"--{k.replace('_', '-')}={v}" for k, v in flags.items())])
    r1_zero.main()
    said = "".join(capfd.readouterr())
    asked = [line["prompt"] for line in lines(tmp_path / "run", "samples")]
    assert all(text.startswith("<|im_start|>system\nPlease reason step by step") for text in asked)
    assert "answers: \\boxed{} (--answers, --think)" in said and "What is" in said
    assert "3 rows of --prompts are held out" in said
    assert "no completion of the first round was right" in said and "4 box missing" in said and "4 no_answer" in said
    first = lines(tmp_path / "run", "eval")[0]
    assert first["no_answer"] == 1.0 and first["by_kind"].keys() == {"math"} and first["n"] == 3


def test_a_large_model_is_warned_about_nanos_learning_rate():
    large = presets.PRESETS["qwen2.5-0.5b"]
    assert "--recipe=small" in warn_rate(r1_zero.NANO, large)
    assert warn_rate(r1_zero.SMALL, large) == ""
    assert warn_rate(dataclasses.replace(r1_zero.NANO, lora_rank=8), large) == ""
    assert warn_rate(r1_zero.NANO, dataclasses.replace(large, vocab_size=1800)) == ""


def test_a_first_round_with_a_right_answer_needs_no_word():
    policy = Policy(None, None, "{question}", "any")
    verdicts = [Verdict(0.0, "wrong"), Verdict(1.0, "correct")]
    parts = {"accuracy": np.asarray([0.0, 1.0])}
    some = rule.Scores(np.asarray([0.0, 1.0]), np.ones(2, bool), parts, verdicts)
    none = some._replace(parts={"accuracy": np.zeros(2)}, verdicts=verdicts[:1] * 2)
    cut = np.asarray([True, False])
    assert explain_zero(some, ["2", "3"], policy, {"accuracy": 1.0}, cut) == ""
    said = explain_zero(none, ["It is 5.", "3"], policy, {"accuracy": 1.0}, cut)
    assert "2 wrong" in said and "It is 5." in said and "cut off at --max-tokens: 1" in said
    own = none._replace(total=np.asarray([0.5, 0.0]))
    assert explain_zero(own, ["a", "b"], policy, {}, cut) == ""
    assert "every reward" in explain_zero(own._replace(total=np.zeros(2)), ["a", "b"], policy, {}, cut)


def test_only_the_first_round_is_explained_and_only_where_there_are_completions():
    """With more processes than rows, some processes have no completion of their own."""
    policy, nothing = Policy(None, None, "{question}", "any"), np.zeros((2, 1), np.int32)
    rolled = Rollout([[1]], nothing, np.ones(2, np.int32), nothing.astype(np.float32), np.ones(2, bool))
    scores = rule.Scores(np.zeros(2), np.ones(2, bool), {"accuracy": np.zeros(2)}, [Verdict(0.0, "wrong")] * 2)
    first = Round([{}], rolled, ["5", "7"], np.zeros(1, int), scores)
    assert "no completion of the first round was right" in explain_first(first, policy, {"accuracy": 1.0})[0]
    assert explain_first(first._replace(number=1), policy, {"accuracy": 1.0}) == []
    elsewhere = first._replace(texts=[], rollout=rolled._replace(mine=np.zeros(0, int)))
    assert explain_first(elsewhere, policy, {"accuracy": 1.0}) == []
