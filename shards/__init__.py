"""From raw videos or a prepared tree to shards: clips, detections, cleaning, index, packing, verification."""
