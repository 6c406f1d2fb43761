"""People's verdicts: which of two answers is better, asked blind, in a terminal or on a page in their browsers."""
