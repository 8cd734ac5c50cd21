"""Loads, trains and runs tokenizers with one common interface, `protocol.Tokenizer`."""
