"""Work in several processes and threads."""
