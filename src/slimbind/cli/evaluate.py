"""``slimbind eval``: what a model is worth on data of one's own."""

from __future__ import annotations

from importlib import import_module

import typer

# Command -> the module under slimbind.cli that holds its function (dashes as underscores), in the order of the help.
COMMANDS: dict[str, str] = {
    "zero-shot": "evaluate_zero_shot",
    "linear-probe": "evaluate_linear_probe",
    "retrieval": "evaluate_retrieval",
    "calibrate": "evaluate_calibrate",
    "similarity": "evaluate_similarity",
    "fidelity": "fidelity",
    "speed": "evaluate_speed",
    "memory": "evaluate_memory",
    "activations": "evaluate_activations",
    "compare": "evaluate_compare",
}

group = typer.Typer(
    help="See what a model is worth on data of your own: accuracy, retrieval, what was lost, speed, memory.",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for _name, _module in COMMANDS.items():
    group.command(_name)(getattr(import_module(f"slimbind.cli.{_module}"), _name.replace("-", "_")))

eval = group  # the name it is looked up by
