"""The speed of a trained detector on several engines."""
