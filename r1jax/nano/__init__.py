"""Generates the nano world: problems in English and Chinese that a verifier can check, with solutions and documents.

tasks        problems and their answers, split by canonical form
programs     one-line Python functions with unit tests
general      general prompts whose right answers the generator knows
facts        the facts of the world
solutions    solutions of every quality, as people write them
rewriting    chains of thought in one language, and short solutions
corpus       documents for pre-training
preferences  preference pairs and safety labels for reward models
"""
