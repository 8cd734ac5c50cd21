"""A byte-level BPE tokenizer as Qwen's and Llama's are."""

import json

import tokenizers
from tokenizers import decoders, models, pre_tokenizers, processors, trainers

TEXT = ["Wait, let me check: 12 + 30 = 42.", "等等,让我再想想。", "<think> is it? </think>\n\n  yes!", "naïve café 🙂"]
ADDED = {
    "__type": "AddedToken",
    "content": "<|im_end|>",
    "lstrip": False,
    "normalized": False,
    "rstrip": False,
    "single_word": False,
}


def write_tokenizer(directory, *, starts=False, pad="<pad>", generation=None, text=TEXT, size=330, **config):
    """A byte-level BPE tokenizer as Qwen's and Llama's are, of `size` tokens learned from `text`."""
    inner = tokenizers.Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    special = ["<pad>", "<s>", "<|im_start|>", "<|im_end|>", "<eos>"]
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    inner.train_from_iterator(text * 3, trainer)
    inner.add_tokens(["<think>", "</think>"])
    if starts:
        inner.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    inner.save(str(directory / "tokenizer.json"))
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": "<s>",
        "eos_token": ADDED,
        "pad_token": pad,
    } | config
    (directory / "tokenizer_config.json").write_text(json.dumps(settings))
    if generation is not None:
        (directory / "generation_config.json").write_text(json.dumps(generation))
    return directory
