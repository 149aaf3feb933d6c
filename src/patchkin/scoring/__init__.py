"""Honest scores: of models, of folders, while training, and runs side by side."""
