"""From the manifest to batches: manifest -> plan -> clips -> mixtures -> batches (one module each)."""
