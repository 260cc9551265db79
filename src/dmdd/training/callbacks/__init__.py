"""Lightning callbacks of both stages: progress, saved states, diverged losses."""
