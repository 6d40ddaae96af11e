"""Zero-shot classification: every item goes to the class whose description lies nearest, without any training."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from pydantic import JsonValue

from slimbind.datasets import Dataset
from slimbind.errors import UsageError
from slimbind.evaluate import metrics
from slimbind.evaluate.compression import check_plain, compressed, wanted
from slimbind.evaluate.embedding import Progress, Vectors, check_classes, embed_labelled, reason, silent
from slimbind.evaluate.outcome import Beside, Outcome
from slimbind.evaluate.record import Estimate, Record, environment
from slimbind.evaluate.templates import choose, fill, usual
from slimbind.runtime.model import Model

_TINY = 1e-6


def zero_shot(
    model: Model,
    data: Dataset,
    *,
    name: str = "",
    names: Sequence[str] | None = None,
    templates: Sequence[str] = (),
    samples: int | None = None,
    seed: int = 0,
    batch_size: int | None = None,
    beside: Beside | None = None,
    progress: Progress = silent,
) -> Record:
    """``zero_shot_through`` without codecs: the record of whole embeddings."""
    (record,) = zero_shot_through(
        (),
        model,
        data,
        name=name,
        names=names,
        templates=templates,
        samples=samples,
        seed=seed,
        batch_size=batch_size,
        beside=beside,
        progress=progress,
    )
    return record


def zero_shot_through(
    codecs: Sequence[str],
    model: Model,
    data: Dataset,
    *,
    name: str = "",
    names: Sequence[str] | None = None,
    templates: Sequence[str] = (),
    prompts: Sequence[str] = (),
    samples: int | None = None,
    seed: int = 0,
    batch_size: int | None = None,
    beside: Beside | None = None,
    progress: Progress = silent,
) -> list[Record]:
    """Classify a data set by the names of its classes.

    A class is described by its name in each template; its vector is the mean of their unit vectors, again of length 1
    (Radford et al. 2021, section 3.1.4: an ensemble in embedding space). An item belongs to the class with the largest
    dot product.

    Args:
        codecs: what the items are compressed with, one after the other (see ``codecs.spec``); f32 always comes first.
        model: with text and the modality of the data.
        data: with classes.
        name: the model's, for the record; by default its id.
        names: of the classes, in the order of ``data.classes``; by default these, with spaces for underscores.
        templates: sets and sentences, see ``templates.choose``; by default one sentence that suits the modality.
        prompts: texts that codes are fitted to, as a collection does; without them, codecs are used as they are.
        samples: most of them, evenly spread over the data.
        seed: of the intervals.
        batch_size: most views in a forward pass.
        beside: has the first record of several models; by default the first record of this one is what the others
            are held against.
        progress: shows it.

    Returns:
        A record for each codec, with ``bytes_per_vector`` where there are several, ``top-1``, ``top-5`` (from five
        classes on) and ``mean class recall``; those behind the first also have by how much they differ from it.
        ``details`` has the classes and the confusion matrix (rows: true, columns: told). A codec that needs more
        vectors than there are to learn from is among what failed.

    Raises:
        UsageError: there are no classes, a name is missing, a template has no ``{}``, there is no such codec or it has
            a second look, the model lacks a modality, or no item can be read.
        ArtifactCorruptError, EngineError: a tower cannot be opened.
    """
    modality, classes = data.modalities[0], check_classes(data)
    spoken = [spoken_name(one) for one in classes] if names is None else list(names)
    if len(spoken) != len(classes):
        raise UsageError(f"{len(spoken)} names for {len(classes)} classes", hint="one for each, in their order")
    sentences, specs = choose(templates, modality), wanted(codecs, model.dim)
    for spec in specs.values():
        check_plain(spec)
    model.encoder(modality)  # a tower that is not there is told before the texts are embedded
    described = describe_classes(model, spoken, sentences, batch_size=batch_size, progress=progress)
    known = {"text": model.embed(prompts, "text")} if prompts and len(specs) > 1 and modality != "text" else {}
    items = embed_labelled(model, data, samples=samples, batch_size=batch_size, progress=progress)
    about: dict[str, JsonValue] = {
        "data": str(data.path),
        "kind": data.kind,
        "modality": modality,
        "templates": ", ".join(templates) or usual(modality),
        "sentences": len(sentences),
        "first_sentence": sentences[0],
        "items": len(items.labels),
        "seed": seed,
    }
    failed = list(items.failed)
    records: list[Record] = []
    beside = beside or Beside()
    for text, spec in specs.items():
        try:
            stored, asked = compressed(spec, items.vectors, described, known)
        except UsageError as error:  # too few vectors to learn codes from, which nobody knew before
            failed.append((f"codec {text}", error.message))
            continue
        outcome, table = classify(stored, items.labels, asked, items=items.places)
        size = {"bytes_per_vector": Estimate(float(spec.bytes_per_vector))} if len(specs) > 1 else {}
        record = Record(
            task="zero-shot",
            title=f"{data.path.name}: {modality}, {len(classes)} classes",
            model=name or model.id,
            settings=about | {"codec": text},
            measures=size | outcome.measures(seed=seed),
            details={"classes": [*spoken], "confusion": table.tolist()},
            failed=items.failed,
            environment=environment(model),
        )
        records.append(beside.add(record, [outcome], seed=seed))
    return [replace(records[0], failed=tuple(failed)), *records[1:]]


def spoken_name(folder: str) -> str:
    """A folder's name as people say it: ``golden_retriever`` is ``golden retriever``."""
    return folder.replace("_", " ").strip()


def read_names(path: Path, classes: Sequence[str]) -> list[str]:
    """Names of classes from a UTF-8 text file.

    Either one name a line, as many as there are classes and in their order; or on each line a class, a tab and its
    name, in any order.

    Raises:
        UsageError: it cannot be read, or does not name each class once.
    """
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}", hint="name a text file") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"{path} is no text in UTF-8", hint="save it as UTF-8") from error
    mend = "one name a line in the order of the classes, or on each line a class, a tab and its name"
    if not any("\t" in line for line in lines):
        if len(lines) != len(classes):
            raise UsageError(f"{path} has {len(lines)} names for {len(classes)} classes", hint=mend)
        return lines
    found: dict[str, str] = {}
    for line in lines:
        one, tab, told = (part.strip() for part in line.partition("\t"))
        if not tab and not told:
            raise UsageError(f"{path}: {one!r} has no name behind a tab", hint=mend)
        if one in found:
            raise UsageError(f"{path} names {one!r} twice", hint=mend)
        found[one] = told
    if missing := [one for one in classes if not found.get(one)]:
        raise UsageError(f"{path} has no name for {len(missing)} classes, such as {missing[0]!r}", hint=mend)
    return [found[one] for one in classes]


def describe_classes(
    model: Model,
    names: Sequence[str],
    templates: Sequence[str],
    *,
    batch_size: int | None = None,
    progress: Progress = silent,
) -> Vectors:
    """The vector of each class ``[classes, dim]``: the normalised mean of its sentences' unit vectors.

    Raises:
        UsageError: a sentence cannot be embedded, or those of a class cancel out.
    """
    sums = np.zeros((len(names), model.dim), np.float64)

    def sentences() -> Iterator[str]:
        for name in names:
            for template in templates:
                yield fill(template, name)

    with progress("embedding class names", total=len(names) * len(templates)) as advance:
        for done in model.stream(sentences(), "text", batch_size=batch_size):
            which, template = divmod(done.index, len(templates))
            if done.vector is None:
                sentence = fill(templates[template], names[which])
                raise UsageError(f"the sentence {sentence!r} cannot be embedded: {reason(done.error)}")
            sums[which] += done.vector
            advance(1)
    lengths = np.linalg.norm(sums, axis=1)
    if (lengths < _TINY * len(templates)).any():
        lost = names[int(lengths.argmin())]
        raise UsageError(f"the sentences of class {lost!r} cancel each other out", hint="use other templates")
    return np.asarray(sums / lengths[:, None], np.float32)


def score(
    vectors: Vectors, labels: metrics.Integers, classes: Vectors, *, seed: int = 0
) -> tuple[dict[str, Estimate], metrics.Integers]:
    """The measures and the confusion matrix ``[c, c]`` of embeddings that are there already; see ``classify``."""
    outcome, table = classify(vectors, labels, classes)
    return outcome.measures(seed=seed), table


def classify(
    vectors: Vectors, labels: metrics.Integers, classes: Vectors, *, items: metrics.Integers | None = None
) -> tuple[Outcome, metrics.Integers]:
    """What becomes of each item, and the confusion matrix ``[c, c]``, of embeddings that are there already.

    Args:
        vectors: of the items ``[n, dim]``.
        labels: class numbers ``[n]``.
        classes: of the classes ``[c, dim]``.
        items: see ``Outcome``.

    Raises:
        UsageError: shapes or numbers do not fit; see ``metrics.rank``.
    """
    ranking = metrics.rank(vectors, classes, metrics.Positives.one_each(labels))
    outcome = Outcome.of_classes(ranking.ranks, labels, len(classes), items)
    return outcome, metrics.confusion(labels, ranking.first, len(classes))
