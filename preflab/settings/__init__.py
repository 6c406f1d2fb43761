"""Settings: configs as dataclasses, YAML and command line."""
