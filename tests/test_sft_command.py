"""Fine-tuning on one's own conversations: which tokens count, the command, and the loss against torch."""

import json

import numpy as np
import pytest

from experiments import sft
from r1jax import jsonl
from r1jax.data import conversations
from r1jax.recipes import RunOptions
from r1jax.runs import checkpoint
from r1jax.sft.conversations import encode_conversation
from r1jax.tokenizers.load import load_tokenizer
from support import families
from support.byte_pairs import write_tokenizer
from support.families import torch, transformers

CHATML = (
    "{%- for m in messages %}{{- '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n' }}{%- endif %}"
)
DROPPING = CHATML.replace("m.content +", "(m.content if loop.last else m.content.split('</think>')[-1]) +")
TALK = [
    {"role": "user", "content": "1+1?"},
    {"role": "assistant", "content": "<think> so </think>2"},
    {"role": "user", "content": "sure?"},
    {"role": "assistant", "content": "yes!"},
]


@pytest.fixture(scope="module")
def chatty(tmp_path_factory):
    """A random model with a chat template."""
    home = tmp_path_factory.mktemp("chatty")
    model = families.model("qwen2")
    model.resize_token_embeddings(340)
    families.randomise(model).save_pretrained(home)
    return write_tokenizer(home, generation={"eos_token_id": [3]}, chat_template=CHATML)


def spoken(tokens, weights, tokenizer):
    """The texts of the runs of tokens that count, with their special tokens."""
    runs, inner = [], tokenizer._inner
    for token, weight, before in zip(tokens, weights, [0.0, *weights], strict=False):
        if weight and not before:
            runs.append([])
        if weight:
            runs[-1].append(token)
    return [inner.decode(run, skip_special_tokens=False) for run in runs]


def test_the_replies_and_what_ends_them_count_and_nothing_else(chatty):
    tokenizer = load_tokenizer(chatty)
    tokens, weights = encode_conversation(TALK, tokenizer)
    theirs = transformers.AutoTokenizer.from_pretrained(chatty)
    text = theirs.apply_chat_template(TALK, tokenize=False)
    assert tokenizer._inner.decode(tokens, skip_special_tokens=False) == text
    assert spoken(tokens, weights, tokenizer) == ["<think> so </think>2<|im_end|>", "yes!<|im_end|>"]
    with_system = encode_conversation(TALK, tokenizer, "boxed")[0]
    assert tokenizer.decode(with_system).startswith("system\nPlease reason step by step")


def test_a_template_that_drops_earlier_thoughts_trains_the_last_reply_alone(chatty, tmp_path):
    pieces = write_tokenizer(tmp_path, generation={"eos_token_id": [3]}, chat_template=DROPPING)
    tokenizer = load_tokenizer(pieces)
    tokens, weights = encode_conversation(TALK, tokenizer)
    assert spoken(tokens, weights, tokenizer) == ["yes!<|im_end|>"]
    assert "so" not in tokenizer.decode(tokens).replace("sure", "")
    always = DROPPING.replace("m.content if loop.last else ", "")
    tokenizer = load_tokenizer(write_tokenizer(tmp_path, generation={"eos_token_id": [3]}, chat_template=always))
    with pytest.raises(ValueError, match="does not write the reply as it is"):
        encode_conversation(TALK[:2], tokenizer)


def talks(path, count=40):
    rows = [
        {"messages": [{"role": "user", "content": f"{i}+1?"}, {"role": "assistant", "content": f"It is {i + 1}."}]}
        for i in range(count)
    ]
    rows[3]["messages"] += [{"role": "user", "content": "Sure?"}, {"role": "assistant", "content": "Yes."}]
    rows[5]["messages"][1]["content"] = "much " * 200
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


FLAGS = dict(
    steps=4,
    learning_rate=1e-2,
    row_length=96,
    batch_rows=4,
    micro_rows=2,
    held_out_problems=3,
    eval_problems=2,
    max_tokens=8,
    log_samples=2,
    save_every=2,
    mesh="1x1",
)


def run(monkeypatch, workdir, **flags):
    every = FLAGS | {"workdir": workdir} | flags
    monkeypatch.setattr("sys.argv", ["sft", *(f"--{k.replace('_', '-')}={v}" for k, v in every.items())])
    sft.main()
    return workdir


def test_a_file_of_messages_is_learnt_resumed_and_evaluated(chatty, tmp_path, monkeypatch, capfd):
    flags = dict(weights=chatty, data=talks(tmp_path / "messages.jsonl"))
    whole = run(monkeypatch, tmp_path / "whole", **flags)
    said = "".join(capfd.readouterr())
    assert "40 conversations, taken as messages: role, content; the first: '0+1?' -> 'It is 1.'" in said
    assert "36 records" in said and "3 more kept out, 1 longer than --row-length dropped" in said
    assert "<|im_start|>assistant" in said
    losses = [line["loss"] for line in jsonl.read(whole / "eval.jsonl")]
    assert len(losses) == 2 and losses[1] < losses[0]
    samples = jsonl.read(whole / "samples.jsonl")
    assert len(samples) == 4 and samples[0]["prompt"].endswith("<|im_start|>assistant\n")
    half = run(monkeypatch, tmp_path / "half", **flags | {"steps": 4, "save_every": 2})
    for step in ("4",):
        (half / "checkpoints" / step).rename(tmp_path / "gone")
    run(monkeypatch, half, **flags, resume=True)
    assert checkpoint.sha256(half) == checkpoint.sha256(whole)


@pytest.mark.weekly
@pytest.mark.slow
def test_adapters_are_trained_alone_and_read_back(chatty, tmp_path, monkeypatch):
    from r1jax.runs.policies import load_policy
    from r1jax.sharding import make_mesh

    flags = dict(weights=chatty, data=talks(tmp_path / "messages.jsonl"), recipe="lora", lora_rank=4)
    workdir = run(monkeypatch, tmp_path / "run", **flags)
    losses = [line["loss"] for line in jsonl.read(workdir / "eval.jsonl")]
    assert losses[1] < losses[0]
    _, before, _ = load_policy(RunOptions(weights=str(chatty)), make_mesh("1x1"))
    _, after, _ = load_policy(RunOptions(weights=str(workdir)), make_mesh("1x1"))
    same = np.array_equal(before["embed"]["embedding"], after["embed"]["embedding"])
    assert same and not np.array_equal(
        before["layers"][0]["attention"]["q"]["kernel"], after["layers"][0]["attention"]["q"]["kernel"]
    )


def test_what_cannot_be_learnt_is_named(chatty, tmp_path, monkeypatch):
    path = tmp_path / "bad.jsonl"
    for text, said in (
        ('{"text": "x"}', "a conversation needs messages"),
        ('{"messages": [{"role": "user", "content": "x"}]}', "no question with a reply"),
        ('{"messages": [{"role": "tool", "content": "x"}]}', "a turn has role='tool'"),
        ("", "holds no conversation"),
    ):
        path.write_text(text)
        with pytest.raises(ValueError, match=said):
            conversations.read(str(path), "--data")
    with pytest.raises(SystemExit, match="--data=FILE is missing"):
        run(monkeypatch, tmp_path / "run", weights=chatty)
    path.write_text(json.dumps({"messages": TALK}))
    with pytest.raises(SystemExit, match="conversation 0: it has the turns user, assistant, user, assistant"):
        run(monkeypatch, tmp_path / "run2", weights=chatty, data=path, template="r1")


@pytest.mark.slow
def test_five_steps_have_the_losses_of_trls_formula_in_torch(chatty, tmp_path, monkeypatch):
    """The mean negative log-probability of the assistant's tokens, and torch's AdamW, without packing."""
    from r1jax.training import supervised_batches

    seen = []
    batches = supervised_batches.batches

    def watched(*arguments):
        stream = batches(*arguments)

        class Watched:
            def __next__(self):
                seen.append(next(stream))
                return seen[-1]

            def __getattr__(self, name):
                return getattr(stream, name)

        return Watched()

    monkeypatch.setattr("r1jax.train_sft.batches", watched)
    flags = dict(steps=5, weights=chatty, data=talks(tmp_path / "m.jsonl"), micro_rows=4, learning_rate=1e-3)
    workdir = run(monkeypatch, tmp_path / "run", **flags, final_learning_rate=1e-4, grad_clip=1.0)
    ours = [line["loss"] for line in jsonl.read(workdir / "metrics.jsonl")]

    tokenizer = transformers.PreTrainedTokenizerFast.from_pretrained(chatty)  # not a family's own splitting
    model = transformers.AutoModelForCausalLM.from_pretrained(chatty, dtype=torch.float32, attn_implementation="eager")
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, betas=(0.9, 0.95), eps=1e-8, weight_decay=0.0)
    opens, closes = tokenizer.convert_tokens_to_ids(["<|im_start|>", "<|im_end|>"])
    theirs = []
    for step, batch in enumerate(seen[:5]):
        for group in optimizer.param_groups:
            group["lr"] = 1e-4 + (1e-3 - 1e-4) * 0.5 * (1 + np.cos(np.pi * step / 5))
        lost, counted = 0.0, 0
        for row, segments in zip(batch["tokens"], batch["tokens_segment_ids"], strict=True):
            for segment in range(1, segments.max() + 1):
                ids = row[segments == segment]
                text = tokenizer.decode(ids)
                again = tokenizer(text, return_offsets_mapping=True)
                assert again["input_ids"] == ids.tolist()  # the document is what transformers makes of its text
                mask, inside = np.zeros(len(ids), bool), False
                for i, token in enumerate(ids):
                    mask[i] = inside
                    if token == closes:
                        inside = False
                    head = "<|im_start|>assistant\n"
                    inside = inside or (text[: again["offset_mapping"][i][1]].endswith(head) and token != opens)
                labels = torch.from_numpy(np.where(mask, ids, -100)).long()[None]
                logits = model(torch.from_numpy(ids).long()[None]).logits
                lost = lost + torch.nn.functional.cross_entropy(
                    logits[0, :-1], labels[0, 1:], ignore_index=-100, reduction="sum"
                )
                counted += int(mask[1:].sum())
        loss = lost / counted
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        theirs.append(float(loss))
    assert theirs[4] < theirs[0] - 0.01
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-4)
