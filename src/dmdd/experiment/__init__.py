"""One run: its stages, resuming, processes, outputs and loggers."""
