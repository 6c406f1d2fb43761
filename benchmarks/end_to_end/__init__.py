"""Whole comparisons, by preflab and by scripts of TRL (see `benchmarks.end_to_end.__main__`)."""
