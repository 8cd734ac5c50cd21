"""Talking with a checkpoint: replies stream, the thinking is folded, Ctrl-C stops the reply and not the program."""

import os
import sys
from pathlib import Path

import numpy as np
import pexpect
import pytest

from r1jax.policy import Policy
from r1jax.prompts import R1, R1_ZERO
from r1jax.sampling.keys import row_keys
from r1jax.sampling.sampler import Sampling, sample
from r1jax.serving.conversation import Splitter, encode_messages, starts_thinking
from r1jax.serving.models import load
from r1jax.serving.replies import CHUNK, Request, Settings, reply
from r1jax.tokenizers.bytes import Bytes
from r1jax.tokenizers.hugging_face import TokenizerJson
from support.byte_pairs import write_tokenizer

QUESTION = "Use 4, 4, 10 with + - * to make 44."


@pytest.fixture(scope="module")
def nano():
    return load("", "nano-small", "", "1x1")


@pytest.mark.parametrize("size", [1, 2, 3, 7, 100])
def test_thinking_is_told_from_the_answer_however_the_text_is_cut(size):
    text = "a<b<think>x </thin y</think> z < w<think>"
    for begins, whole in ((False, text), (True, text.removeprefix("a<b<think>"))):
        split, parts = Splitter(begins), []
        for at in range(0, len(whole), size):
            parts += split.feed(whole[at : at + size])
        parts += split.feed("", last=True)
        said = {kind: "".join(part for thinking, part in parts if thinking == kind) for kind in (True, False)}
        assert said == {True: "x </thin y", False: ("" if begins else "a<b") + " z < w"}


@pytest.mark.parametrize("size", [1, 2, 5, 50])
def test_a_stop_string_ends_a_reply_and_nothing_of_it_is_heard(size):
    heard = []
    tokens = np.asarray(Bytes().encode("naïve é, one END\nEND of it"))
    request = Request([1], Settings(), 50, stop=("\nEND", "never"), hear=heard.append)
    for at in range(size, len(tokens) + size, size):
        request.grow(tokens[:at], at >= len(tokens), Bytes())
    assert request.text == "".join(heard) == "naïve é, one END" and request.finish == "stop"


def test_a_reply_ends_at_its_length_and_at_a_stop_token():
    tokens = np.asarray(Bytes().encode("abcdef"))
    for most, given, finish, text in ((4, tokens, "length", "abcd"), (9, [*tokens, Bytes.eos_id], "stop", "abcdef")):
        request = Request([1], Settings(), most)
        request.grow(np.asarray(given), False, Bytes())
        assert (request.finish, request.text) == (finish, text)


def test_a_conversation_becomes_the_prompt_of_its_template(tmp_path):
    said = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "A?"},
        {"role": "assistant", "content": "<think> hm </think> B."},
        {"role": "user", "content": "C?"},
    ]
    plain = Policy(None, Bytes(), R1)
    text = "Be brief.\n<｜User｜>A?<｜Assistant｜>B.<｜User｜>C?<｜Assistant｜>"
    assert encode_messages(plain, said, chat=False) == Bytes().encode(text)
    one = encode_messages(plain._replace(template=R1_ZERO), said, chat=False)
    assert one == Bytes().encode(R1_ZERO.replace("{question}", "Be brief.\nC?"))
    template = "{% for m in messages %}[{{ m.role }}] {{ m.content }}\n{% endfor %}[assistant] <think>"
    chat = Policy(None, TokenizerJson.load(write_tokenizer(tmp_path, chat_template=template)), R1)
    prompt = encode_messages(chat, said[-1:], chat=True)
    assert chat.tokenizer.decode(prompt) == "[user] C?\n[assistant] <think>" and starts_thinking(chat, prompt)
    for bad, message in (
        ([], "must end with a message of role user"),
        (said[:3], "must end with"),
        (["a"], r"messages\[0\]"),
    ):
        with pytest.raises(ValueError, match=message):
            encode_messages(chat, bad, chat=True)


def test_requests_of_a_wave_get_the_replies_that_they_would_get_alone(nano):
    prompts = [encode_messages(nano.policy, [{"role": "user", "content": q}], chat=False) for q in (QUESTION, "2+3=?")]
    heard: list[list[str]] = [[], []]
    both = [Request(p, Settings(), 40, seed=i, hear=heard[i].append) for i, p in enumerate(prompts)]
    reply(nano.policy, nano.weights, nano.mesh, both)
    sampling = Sampling(40, stop_ids=nano.policy.tokenizer.stop_ids)
    for i, request in enumerate(both):
        keys = row_keys(i, 0, [0], [0])
        alone = sample(nano.policy.cfg, nano.weights, [prompts[i]], keys, nano.mesh, sampling)
        assert request.tokens == alone.tokens[0, : alone.lengths[0]].tolist()
        assert request.text == nano.policy.tokenizer.decode(request.tokens) == "".join(heard[i])
        assert len(heard[i]) > 1 and request.finish == ("stop" if alone.stopped[0] else "length")


def test_a_reply_that_nobody_waits_for_ends_the_wave(nano):
    prompt, looks = nano.policy.tokenizer.encode(QUESTION), []
    request = Request(prompt, Settings(3.0), 900, given_up=lambda: looks.append(1) or len(looks) > 2)
    reply(nano.policy, nano.weights, nano.mesh, [request])
    assert request.finish == "given up" and len(looks) == 3 and 0 < len(request.tokens) <= 3 * CHUNK


def stop_a_reply(talk: pexpect.spawn, line: str) -> None:
    """Asks for a reply and stops it with Ctrl-C. On a busy machine a reply may end first: then it asks again."""
    for question in (line, *["/again"] * 9):
        talk.sendline(question)
        talk.expect_exact(question + "\r\n")
        talk.expect("[^ \r\n\x1b]{2}")  # of the reply
        talk.sendintr()
        if talk.expect_exact(["[stopped]", ">>> "]) == 0:
            talk.expect_exact(">>> ")
            return
    raise AssertionError("every reply ended before Ctrl-C reached it")


def test_a_conversation_in_a_terminal(tmp_path):
    arguments = [
        "-m",
        "experiments.chat",
        "--model=nano-small",
        "--temperature=4",
        "--top-p=1",
        "--max-tokens=900",
        "--seed=1",
    ]
    settings = os.environ | {"PYTHONPATH": str(Path(__file__).resolve().parents[1]), "TERM": "xterm"}
    talk = pexpect.spawn(sys.executable, arguments, env=settings, cwd=tmp_path, encoding="utf-8", timeout=240)
    talk.expect("template r1_zero.*>>> ")
    stop_a_reply(talk, QUESTION)
    talk.sendline("/nonsense")
    talk.expect("type a question")
    talk.sendintr()  # at the prompt it drops the line
    talk.expect(">>> ")
    stop_a_reply(talk, "/again")
    talk.sendline("/quit")
    talk.expect(pexpect.EOF)
    talk.close()
    assert talk.exitstatus == 0
