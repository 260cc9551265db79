"""LightningModules: the two stages of training, and evaluation."""
