"""Responses from the policy."""
