"""Lets a policy answer, and scores pairs."""
