"""Text to token ids: special tokens, templates, ends of responses."""
