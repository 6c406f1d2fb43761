"""What lies on disk: files that appear whole, stages, seals."""
