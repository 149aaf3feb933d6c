"""Runs, models and folders of translations side by side, in one table."""
