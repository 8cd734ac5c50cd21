"""Tokenizers written out from their definitions, to compare fast ones with."""

import itertools

import regex

GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,%d}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
    r"|\s+(?!\S)|\s+"
)
# src/llama-vocab.cpp: the rules are applied one after the other, each to what the last has cut
RULES = {"smollm": [r"\p{N}", GPT2], "gpt-2": [GPT2], "llama-bpe": [WORDS % 3], "qwen2": [WORDS % 1]}


def spelling() -> dict[int, str]:
    """GPT-2's printable character of each byte."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    rest = [byte for byte in range(256) if byte not in plain]
    return {byte: chr(byte) for byte in plain} | {byte: chr(256 + i) for i, byte in enumerate(rest)}


def cut(text: str, rule: str) -> list[str]:
    """The matches of a rule and what lies between them, in order."""
    parts, end = [], 0
    for found in regex.finditer(rule, text):
        parts += [text[end : found.start()], found[0]]
        end = found.end()
    return [part for part in (*parts, text[end:]) if part]


def encode(text: str, vocab: dict[str, int], merges: list[str], pre: str, special: list[str] = ()) -> list[int]:
    """Byte-level BPE: the pair with the lowest rank is merged first, the leftmost of equals."""
    if special:
        pattern = "|".join(map(regex.escape, sorted(special, key=len, reverse=True)))
        pieces = cut(text, pattern)
        return [
            i for piece in pieces for i in ([vocab[piece]] if piece in special else encode(piece, vocab, merges, pre))
        ]
    ranks, letters, ids = {tuple(pair.split(" ")): i for i, pair in enumerate(merges)}, spelling(), []
    chunks = [text]
    for rule in RULES[pre]:
        chunks = [part for chunk in chunks for part in cut(chunk, rule)]
    for chunk in chunks:
        word = [letters[byte] for byte in chunk.encode()]
        while len(word) > 1:
            rank, at = min((ranks.get((a, b), 1 << 60), i) for i, (a, b) in enumerate(itertools.pairwise(word)))
            if rank == 1 << 60:
                break
            word[at : at + 2] = [word[at] + word[at + 1]]
        ids += [vocab[part] for part in word]
    return ids


def sentencepiece_model(tokens: list[str], scores: list[float], types: list[int], **ids: int) -> bytes:
    """A SentencePiece BPE model with byte fallback and no hidden changes to the text, as protobuf writes it.

    ids: unk, bos, eos and pad.
    """
    import struct

    def varint(n: int) -> bytes:
        out = b""
        while n > 127:
            out, n = out + bytes([n & 127 | 128]), n >> 7
        return out + bytes([n])

    def number(field: int, value: int) -> bytes:
        return varint(field << 3) + varint(value)

    def block(field: int, content: bytes) -> bytes:
        return varint(field << 3 | 2) + varint(len(content)) + content

    pieces = b"".join(
        block(1, block(1, token.encode()) + varint(2 << 3 | 5) + struct.pack("<f", score) + number(3, kind))
        for token, score, kind in zip(tokens, scores, types, strict=True)
    )
    fields = {"unk": 40, "bos": 41, "eos": 42, "pad": 43}
    trainer = number(3, 2) + number(35, 1) + b"".join(number(fields[name], i) for name, i in ids.items())
    return pieces + block(2, trainer) + block(3, block(1, b"identity") + number(3, 0) + number(4, 0) + number(5, 1))
