"""The demo data set, drawn on the machine that asks for it."""
