"""Scripts a person runs, and their YAML configs."""
