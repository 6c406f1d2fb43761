"""Studies: a question, a config, one command that can be interrupted, and a page in docs/studies."""
