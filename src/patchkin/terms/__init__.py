"""Terms that methods share: losses joined with the networks they judge."""
