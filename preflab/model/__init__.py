"""One frozen base, four roles."""
