"""Evaluation: metrics, statistics and tables that are the same for every method.

The package imports `preflab` and nothing of ``algorithms`` or ``recipes``, so that it serves models
that were trained elsewhere just as well.
"""
