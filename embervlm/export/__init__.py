"""From trained weights to files that other places run."""
