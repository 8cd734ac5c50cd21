"""Turns records into training documents, and computes a teacher's likeliest tokens, for `train_sft`."""
