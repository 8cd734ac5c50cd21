"""Reads data sets and known benchmarks, makes streams of questions, drops contaminated questions, and checks gold
answers.
"""
