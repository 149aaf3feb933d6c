"""What only a processor needs: memory layouts and convolutions that suit it."""
