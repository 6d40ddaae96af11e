"""The networks, in PyTorch: what a checkpoint is taken apart into. Needs the extra ``build``."""
