"""What is kept on disk: files that are whole, locks, checkpoints, and the models of the package."""
