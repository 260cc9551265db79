"""Setting thresholds anew from photographs of the line."""
