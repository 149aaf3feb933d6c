"""The version, where the lowest floor can read it."""

__version__ = "0.1.0.dev0"
