"""What is kept on disk: checkpoints, and the models that come with the package."""
