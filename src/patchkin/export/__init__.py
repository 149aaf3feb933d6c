"""Trained models as files for other programs: ONNX, and torch's own exported programs."""
