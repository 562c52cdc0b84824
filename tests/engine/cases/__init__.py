"""What ranks of the multi-process tests do: each function with the ranks as its first argument is a case."""
