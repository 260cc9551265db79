"""A trained detector as one graph for ONNX Runtime, OpenVINO or ``torch.export``, and its comparison with PyTorch."""
