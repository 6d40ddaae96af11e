"""One measurement of one embedding pipeline, in a fresh process of that pipeline's own environment; see pipeline.py.

    PYTHON benchmarks/pipeline_child.py PIPELINE TASK '{"models": "FOLDER", "modality": "vision", ...}'

The last line on standard output is the result as JSON. Each pipeline is used as its own documentation shows, with the
batch size that it takes where nobody says (the usual script around open_clip, which has none of its own: 32, which is
what sentence-transformers takes too).
"""

from __future__ import annotations

import json
import resource
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

# Nothing else is imported up here: what a pipeline imports is part of what is measured.
Embed = Callable[..., Any]  # (items, batch=None) -> vectors [n, dim], as the pipeline gives them
SCRIPT_BATCH, FEW = 32, 8


def sentence_transformers(models: Path, modality: str, threads: int) -> Embed:
    import torch

    torchvision_cpu()
    import numpy as np
    from PIL import Image
    from sentence_transformers import SentenceTransformer

    torch.set_num_threads(threads)
    model = SentenceTransformer(str(models / "huggingface"), device="cpu")

    def embed(items: Sequence[str], batch: int | None = None) -> Any:  # noqa: ANN401  (an array)
        asked = {"batch_size": batch or SCRIPT_BATCH, "normalize_embeddings": True, "show_progress_bar": False}
        if modality == "text":
            return model.encode(list(items), **asked)
        # Pictures that Pillow opened, as many at a time as go through the model together, so that the rest takes no
        # memory yet. Paths would be decoded by torchvision, whose decoder PyPI's build for CUDA has not got here.
        parts = [items[at : at + asked["batch_size"]] for at in range(0, len(items), asked["batch_size"])]
        return np.concatenate([model.encode([Image.open(path) for path in part], **asked) for part in parts])

    return embed


def fastembed(models: Path, modality: str, threads: int, **options: Any) -> Embed:  # noqa: ANN401
    import numpy as np
    from fastembed import ImageEmbedding, TextEmbedding

    kind, name = (ImageEmbedding, "vision") if modality == "vision" else (TextEmbedding, "text")
    folder = str(models / "fastembed" / name)
    model = kind(f"Qdrant/clip-ViT-B-32-{name}", specific_model_path=folder, threads=threads)

    def embed(items: Sequence[str], batch: int | None = None) -> Any:  # noqa: ANN401
        asked = {} if batch is None else {"batch_size": batch}
        return np.stack(list(model.embed(list(items), **asked, **options)))

    return embed


def open_clip(models: Path, modality: str, threads: int, workers: int = 0) -> Embed:
    import torch

    torchvision_cpu()
    import open_clip
    from PIL import Image

    torch.set_num_threads(threads)
    model, _, preprocess = open_clip.create_model_and_transforms(f"local-dir:{models / 'open_clip'}")
    model.eval()
    tokenize = open_clip.get_tokenizer("ViT-B-32")

    class Photos(torch.utils.data.Dataset):  # type: ignore[type-arg]
        def __init__(self, paths: Sequence[str]) -> None:
            self.paths = paths

        def __len__(self) -> int:
            return len(self.paths)

        def __getitem__(self, index: int) -> torch.Tensor:
            return preprocess(Image.open(self.paths[index]))

    def embed(items: Sequence[str], batch: int | None = None) -> Any:  # noqa: ANN401
        size, found = batch or SCRIPT_BATCH, []
        with torch.no_grad():
            if modality == "vision":
                for pixels in torch.utils.data.DataLoader(Photos(items), batch_size=size, num_workers=workers):
                    found.append(model.encode_image(pixels))
            else:
                for start in range(0, len(items), size):
                    found.append(model.encode_text(tokenize(list(items[start : start + size]))))
        vectors = torch.cat(found)
        return (vectors / vectors.norm(dim=-1, keepdim=True)).numpy()

    return embed


def slimbind(models: Path, modality: str, threads: int, scheme: str = "f32") -> Embed:
    import slimbind

    model = slimbind.load(models / f"slimbind-{scheme}", threads=threads)
    return lambda items, batch=None: model.embed(items, modality, batch_size=batch)


# Name -> how it is opened, and with what.
PIPELINES: dict[str, tuple[Callable[..., Embed], dict[str, Any]]] = {
    "sentence-transformers": (sentence_transformers, {}),
    "fastembed": (fastembed, {}),
    "fastembed, parallel=2": (fastembed, {"parallel": 2}),
    "open_clip": (open_clip, {}),
    "open_clip, 2 workers": (open_clip, {"workers": 2}),
    "slimbind f32": (slimbind, {"scheme": "f32"}),
    "slimbind bf16": (slimbind, {"scheme": "bf16"}),
    "slimbind int8-dynamic": (slimbind, {"scheme": "int8-dynamic"}),
}


def torchvision_cpu() -> None:
    """torchvision as PyPI has it is built for CUDA; beside a torch for CPUs it can be imported only so."""
    import torchvision_cpu as mend

    mend.name_operators()


def opened(pipeline: str, told: dict[str, Any]) -> Embed:
    start, options = PIPELINES[pipeline]
    return start(Path(told["models"]), told["modality"], told["threads"], **options)


def spent(told: dict[str, Any]) -> dict[str, float]:
    """Since this process was started: seconds by the clock and of processors, and the most memory it ever held."""
    return {
        "seconds": time.time() - told["started"],
        "cpu_seconds": time.process_time(),
        "peak_mib": peak_mib(),
    }


def peak_mib() -> float:
    """The most this process held. Not what ``getrusage`` says, which counts the process that started it too."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 1024
    raise SystemExit("this system does not say what a process held at most")


def imported(pipeline: str, told: dict[str, Any]) -> dict[str, Any]:
    name = PIPELINES[pipeline][0].__name__
    if name in ("sentence_transformers", "open_clip"):
        torchvision_cpu()
    if name == "sentence_transformers":
        from sentence_transformers import SentenceTransformer  # noqa: F401
    elif name == "fastembed":
        from fastembed import ImageEmbedding, TextEmbedding  # noqa: F401
    elif name == "open_clip":
        import open_clip  # noqa: F401
    else:
        from slimbind import load  # noqa: F401  (`import slimbind` alone would load nothing yet)
    return spent(told)


def whole(pipeline: str, told: dict[str, Any]) -> dict[str, Any]:
    """From the start of the process to the first vector, then each of ``told["loads"]``, name -> items.

    To the file ``told["output"]``, where there is one: the vectors of each load, and some of them made one at a time
    and all at once.
    """
    found = {"import": imported(pipeline, told)}
    embed = opened(pipeline, told)
    loads = told["loads"]
    few = next(iter(loads.values()))[:FEW]
    embed(few[:1])
    found["first"] = spent(told)
    made = {"together": embed(few, batch=FEW)}
    if told["output"]:
        made["alone"] = embed(few, batch=1)
    for name, items in loads.items():
        wall, cpu = time.perf_counter(), processors()
        made[name] = embed(items)
        found[name] = {"cpu_seconds": processors() - cpu, "seconds": time.perf_counter() - wall}
        assert len(made[name]) == len(items)
    if told["output"]:
        import numpy as np

        np.savez(told["output"], **made)
    return found


def processors() -> float:
    """Processor seconds of this process and of those it started that have ended."""
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime


def damaged(pipeline: str, told: dict[str, Any]) -> dict[str, Any]:
    """One damaged file among good ones: what is got, and what is said."""
    embed = opened(pipeline, told)
    try:
        got = len(embed(told["items"]))
    except Exception as error:
        kept = getattr(error, "vectors", None)
        lines = str(error).strip().splitlines()
        return {
            "raised": type(error).__name__,
            "said": lines[0][:300] if lines else "",
            "vectors": 0 if kept is None else len(kept),
            "names_the_file": any(Path(path).name in str(error) for path in told["damaged"]),
        }
    return {"raised": None, "said": "", "vectors": got, "names_the_file": False}


TASKS = {"whole": whole, "damaged": damaged}


if __name__ == "__main__":
    asked = json.loads(sys.argv[3])
    print(json.dumps(TASKS[sys.argv[2]](sys.argv[1], asked)))
