"""Published data sets: fetching and unpacking them."""
