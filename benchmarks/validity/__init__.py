"""Whether the figures can be believed: calibration, null comparisons, real held-out sets."""
