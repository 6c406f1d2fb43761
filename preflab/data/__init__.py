"""From files to batches: rows read, cleaned, paired, split, encoded."""
