"""What leaves the training machine: exported graphs, the served page, speed."""
