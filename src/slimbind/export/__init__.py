"""Turns split towers into files an inference engine runs, and refuses when they say something else. Needs ``build``."""
