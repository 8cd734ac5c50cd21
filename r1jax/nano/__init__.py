"""The embedded doll's house: a small bilingual world whose problems a verifier can check.

    tasks      problems and their answers, split by canonical form
    solutions  solutions of every quality, as people write them
    corpus     documents for pre-training
    base       the tokenizer and base model that ship with the package
"""
