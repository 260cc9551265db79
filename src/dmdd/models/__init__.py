"""Networks as plain PyTorch modules: teacher, student, segmentation network, and the detector made of them."""
