"""Translate images with a trained model: one at a time, files, styles. Imports no training code."""
