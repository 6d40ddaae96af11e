"""What a model is worth: how near it stays to its reference, how large and how fast it is."""
