"""Scores of a trained run: mixes of held-out videos, BSS Eval, results, comparison of runs."""
