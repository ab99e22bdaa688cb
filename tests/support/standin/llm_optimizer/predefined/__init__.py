"""What the tool knows beforehand."""
