"""Configuration: composing it from YAML, checking it, and building what it names."""
