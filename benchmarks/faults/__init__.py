"""Faults, made on purpose: malformed inputs, damaged run folders and kills, and what preflab answers to them.

`python -m benchmarks.faults` makes them all and counts wrong answers; docs/reliability.md has its tables.
"""
