"""Whole runs: a configuration becomes data, a method, and a trained model in a folder."""
