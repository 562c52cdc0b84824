"""The training loop and what a step computes."""
