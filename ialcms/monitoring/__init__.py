"""What a run shows: progress, metrics as JSON lines, TensorBoard."""
