"""The loop, what feeds it and what it keeps."""
