"""A trained detector as a user calls it."""
