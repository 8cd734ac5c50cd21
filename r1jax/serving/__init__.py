"""Serves a checkpoint: streams replies, keeps conversations, and answers requests of OpenAI's protocol."""
