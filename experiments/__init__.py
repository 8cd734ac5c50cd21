"""Recipes: each file reads as a methods paragraph and runs with `python -m experiments.NAME`."""
