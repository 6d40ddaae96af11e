"""The run plane: opens one tower of an artifact at a time and turns items into embeddings. Needs no PyTorch."""
