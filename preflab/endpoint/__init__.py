"""OpenAI-compatible endpoints: many questions at once, at a pace and within a budget, no answer paid for twice."""
