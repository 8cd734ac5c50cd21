"""Samples completions of prompts with compiled prefill and decode programs."""
