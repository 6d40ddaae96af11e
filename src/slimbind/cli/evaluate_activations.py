"""``slimbind eval activations``: how weights and inputs of each layer are distributed, and which channels are loud."""

from __future__ import annotations

from contextlib import ExitStack
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from slimbind.cli import console, options
from slimbind.cli.evaluate_output import Html, check_target, finish

if TYPE_CHECKING:
    from collections.abc import Callable

    from slimbind.evaluate.record import Record

_SHOWN = 10  # layers
_NAMED = 4  # channels of a layer


def activations(
    source: Annotated[Path, typer.Argument(metavar="SPLIT", help="A folder of `slimbind split`.")],
    data: Annotated[
        list[str] | None,
        typer.Option(
            "--data",
            "-d",
            help="A folder, a .txt or a .npz, or modality=path; repeat it (default: what comes with slimbind).",
        ),
    ] = None,
    modalities: options.Modalities = "",
    samples: Annotated[int | None, typer.Option(min=1, help="Most items of a modality.")] = None,
    loud: Annotated[
        float, typer.Option("--outliers", min=1.0, help="A channel this many times as loud as the median is one.")
    ] = 6.0,
    progress: options.Progress = None,
    as_json: options.Json = False,
    html: Html = None,
) -> None:
    """Look into each layer while real inputs run through: see why it resists 8 bits, and which channels do.

    Shown are the layers that are hardest to round, with how many decibels are left (6 dB are one bit) of their input
    with one scale for all of it, of their input with a scale for each row (token), and of their weight with a scale
    for each output; and the channels that are much louder than the median one. The page also has the distributions.

    slimbind eval activations split/ --modalities vision --html layers.html
    """
    from slimbind.errors import MissingExtraError

    check_target(html)
    try:
        import_module("torch")  # by name: nothing here needs it but what is imported next
    except ImportError as error:
        raise MissingExtraError("PyTorch", extra="build") from error
    from slimbind.quantize.distributions import activations as evaluate

    with _Stages(progress) as stages:
        records = evaluate(
            source,
            modalities=options.modality_list(modalities),
            data=data or (),
            samples=samples,
            loud=loud,
            name=str(source),
            note=lambda text: console.say(f"note: {text}"),
            progress=stages.begin,
        )
    if not as_json:
        for record in records:
            _print_hardest(record)
    finish(records, as_json=as_json, html=html, title="Weights and inputs of each layer")


class _Stages:
    """Progress of one stage after the other."""

    def __init__(self, show: bool | None) -> None:
        self._show = show
        self._stack = ExitStack()

    def begin(self, stage: str, total: int) -> Callable[[int], None]:
        self._stack.close()
        advance = self._stack.enter_context(console.progress(stage, total=total, show=self._show))
        done = 0

        def tell(so_far: int) -> None:
            nonlocal done
            advance(so_far - done)
            done = so_far

        return tell

    def __enter__(self) -> _Stages:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()


def _print_hardest(record: Record) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    layers = record.details["layers"]
    assert isinstance(layers, list)
    table = Table(box=None, pad_edge=False, padding=(0, 1))
    for place, heading in enumerate(("layer", "one scale", "per row", "weight", "ratio", "outlier channels")):
        table.add_column(heading, justify="right" if 0 < place < 5 else "left", no_wrap=True)
    for layer in layers[:_SHOWN]:
        assert isinstance(layer, dict)
        named = layer["outliers"]
        assert isinstance(named, list)
        told = ", ".join(f"{one['channel']} ({one['ratio']:.0f}x)" for one in named[:_NAMED] if isinstance(one, dict))
        more = f" and {layer['loud channels'] - _NAMED} more" if layer["loud channels"] > _NAMED else ""  # type: ignore[operator]
        decibels = [_number(layer.get(key), "dB") for key in ("one scale dB", "scale per row dB", "weight dB")]
        name = Text(console.printable(str(layer["name"])))
        table.add_row(name, *decibels, _number(layer.get("ratio"), "x"), told + more or "-")
    out = Console(highlight=False, soft_wrap=True)
    out.print(Text(console.printable(f"{record.title}; the {min(_SHOWN, len(layers))} hardest of {len(layers)}")))
    out.print(table)


def _number(value: object, unit: str) -> str:
    return f"{value:.1f} {unit}" if isinstance(value, int | float) else "-"
