"""Turns the tokenizer in a GGUF file's metadata into the files of a Hugging Face tokenizer.

Sources: llama.cpp (src/llama-vocab.cpp, the regular expression of each `tokenizer.ggml.pre`), and the tokenizer.json
that the models' authors publish.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

NORMAL, CONTROL, USER_DEFINED = 1, 3, 4  # values of tokenizer.ggml.token_type
WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{DIGITS}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
    r"|\s+(?!\S)|\s+"
)
LLAMA3, QWEN2, GPT2, SMOLLM = WORDS.replace("{DIGITS}", "{1,3}"), WORDS.replace("{DIGITS}", ""), "gpt-2", "smollm"
SPLITS = {  # tokenizer.ggml.pre -> how text is cut before pairs are merged
    "gpt-2": GPT2,
    "smollm": SMOLLM,
    "llama-bpe": LLAMA3,
    "llama3": LLAMA3,
    "llama-v3": LLAMA3,
    "qwen2": QWEN2,
    "deepseek-r1-qwen": QWEN2,
}
# Tokens that end a turn. A file names one end of text, but a chat model may end its turns with another token.
TURN_ENDS = ("<|im_end|>", "<end_of_turn>", "<|eot_id|>")


def tokenizer_files(metadata: Mapping[str, Any]) -> dict[str, bytes]:
    """Returns {name: content} of tokenizer.json, tokenizer_config.json, generation_config.json, and, if the file has a
    chat template, chat_template.jinja.

    Args:
        metadata: the key-value pairs of a GGUF file.

    Raises:
        ValueError: the metadata has no tokenizer, or one of a kind that is not implemented.
    """
    from tokenizers import AddedToken, processors

    given = {key.removeprefix("tokenizer.ggml."): value for key, value in metadata.items()}
    if not given.get("tokens"):
        raise ValueError("the file holds no tokenizer (tokenizer.ggml.tokens): use a GGUF file of a whole model")
    tokens, model = list(given["tokens"]), given.get("model")
    types = given.get("token_type") or [NORMAL] * len(tokens)
    if model == "gpt2":
        inner = byte_level(tokens, given["merges"], str(given.get("pre", "default")))
    elif model == "llama":
        tokens = [spell_spaces(token) for token in tokens]
        prefix = bool(given.get("add_space_prefix", True))
        gemma = str(metadata.get("general.architecture", "")).startswith("gemma")
        inner = sentence_pieces(tokens, types, None if gemma else given["scores"], prefix, given)
    else:
        raise ValueError(f"the tokenizer is of the kind {model!r}; only gpt2 and llama can be read. Use another file")
    inner.add_special_tokens(
        [AddedToken(token, normalized=False) for token, of in zip(tokens, types, strict=True) if of == CONTROL]
    )
    # A run of ▁ must not match a literal ▁ of the text: the merges make it from spaces.
    kept = [token for token, of in zip(tokens, types, strict=True) if of == USER_DEFINED and set(token) != {"▁"}]
    inner.add_tokens([AddedToken(token, normalized=False) for token in kept])
    names = {
        f"{name}_token": tokens[given[f"{key}_token_id"]]
        for name, key in (("bos", "bos"), ("eos", "eos"), ("unk", "unknown"), ("pad", "padding"))
        if given.get(f"{key}_token_id") is not None
    }
    if given.get("add_bos_token", model == "llama") and "bos_token" in names:
        bos = names["bos_token"]
        inner.post_processor = processors.TemplateProcessing(
            single=f"{bos} $A", special_tokens=[(bos, given["bos_token_id"])]
        )
    template = metadata.get("tokenizer.chat_template") or ""
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False, **names}
    ends = [given.get("eos_token_id"), given.get("eot_token_id")]
    ends += [tokens.index(token) for token in TURN_ENDS if token in template and token in tokens]
    stops = list(dict.fromkeys(int(i) for i in ends if i is not None))
    generation: dict[str, Any] = {"eos_token_id": stops[0] if len(stops) == 1 else stops}
    if given.get("bos_token_id") is not None:
        generation["bos_token_id"] = int(given["bos_token_id"])
    if given.get("padding_token_id") is not None:
        generation["pad_token_id"] = int(given["padding_token_id"])
    files = {
        "tokenizer.json": inner.to_str().encode(),
        "tokenizer_config.json": (json.dumps(config, indent=1, ensure_ascii=False) + "\n").encode(),
        "generation_config.json": (json.dumps(generation, indent=1) + "\n").encode(),
    }
    return files | ({"chat_template.jinja": template.encode()} if template else {})


def byte_level(tokens: Sequence[str], merges: Sequence[str], pre: str) -> Any:
    """Returns the `tokenizers.Tokenizer` of a byte-level BPE, as Llama 3, Qwen and SmolLM have it.

    Args:
        tokens: the vocabulary, in the order of the ids.
        merges: the pairs of tokens that merge, each as "LEFT RIGHT"; the pair that merges first comes first.
        pre: value of tokenizer.ggml.pre: the name of the rule that cuts text into words before pairs merge.

    Raises:
        ValueError: `pre` is not one of `SPLITS`.
    """
    from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

    if pre not in SPLITS:
        known = ", ".join(SPLITS)
        raise ValueError(
            f"the tokenizer cuts text by the rule {pre!r} (tokenizer.ggml.pre); the known rules are {known}. "
            "Use the model's Hugging Face directory"
        )
    split = SPLITS[pre]
    pairs = [tuple(pair.split(" ")) for pair in merges]
    vocab = {token: i for i, token in enumerate(tokens)}
    inner = Tokenizer(models.BPE(vocab=vocab, merges=pairs, ignore_merges=split == LLAMA3))
    bytes_ = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=split in (GPT2, SMOLLM))
    if split == SMOLLM:
        inner.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), bytes_])
    elif split == GPT2:
        inner.pre_tokenizer = bytes_
    else:
        words = pre_tokenizers.Split(Regex(split), behavior="isolated")
        inner.pre_tokenizer = pre_tokenizers.Sequence([words, bytes_])
    if split == QWEN2:
        inner.normalizer = normalizers.NFC()
    inner.decoder = decoders.ByteLevel()
    return inner


def sentence_pieces(
    tokens: Sequence[str],
    types: Sequence[int],
    scores: Sequence[float] | None,
    prefix: bool,
    given: Mapping[str, Any],
) -> Any:
    """Returns the `tokenizers.Tokenizer` of a SentencePiece BPE with byte fallback, as Gemma and Llama 2 have it.

    Args:
        tokens: the vocabulary, in the order of the ids, with ▁ for a space.
        types: the type of each token: `NORMAL`, `CONTROL`, `USER_DEFINED`, or another value of
            tokenizer.ggml.token_type.
        scores: the score of each token; pairs with a higher score are merged first. If None, pairs are
            merged in the order of the ids, as in Gemma, whose scores carry no information.
        prefix: whether encoding puts a space before a text, and decoding removes it.
        given: the metadata of the file. The prefix "tokenizer.ggml." has been removed from the keys.
    """
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers

    vocab = {token: i for i, token in enumerate(tokens)}
    unknown = tokens[given.get("unknown_token_id", 0)]
    merges = list_merges(tokens, types, scores, vocab)
    inner = Tokenizer(models.BPE(vocab=vocab, merges=merges, fuse_unk=True, unk_token=unknown, byte_fallback=True))
    spaces = normalizers.Replace(" ", "▁")
    inner.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), spaces]) if prefix else spaces
    if not prefix:
        inner.pre_tokenizer = pre_tokenizers.Split(" ", behavior="merged_with_previous")
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    inner.decoder = decoders.Sequence([*steps, decoders.Strip(" ", 1, 0)] if prefix else steps)
    return inner


def list_merges(
    tokens: Sequence[str], types: Sequence[int], scores: Sequence[float] | None, vocab: Mapping[str, int]
) -> list[tuple[str, str]]:
    """Returns the pairs that merge into each token of a SentencePiece vocabulary, in the order in which they merge.

    For the first three arguments see `sentence_pieces`. `vocab` is {token: id}.
    """
    found = []
    for i, token in enumerate(tokens):
        if types[i] not in (NORMAL, USER_DEFINED):
            continue
        rank = i if scores is None else -scores[i]
        for cut in range(1, len(token)):
            left, right = vocab.get(token[:cut]), vocab.get(token[cut:])
            if left is not None and right is not None:
                found.append((rank, left, right))
    return [(tokens[left], tokens[right]) for _, left, right in sorted(found)]


def spell_spaces(token: str) -> str:
    """Replaces every space by ▁ in a token that consists of spaces alone. Returns other tokens unchanged.

    Some files write such a token with spaces instead of ▁.
    """
    return "▁" * len(token) if token and not token.strip(" ") else token
