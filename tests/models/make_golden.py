"""How ``mini_reference.npz`` was made: published implementations of both networks, reproducible weights.

    pip install efficientnet-lite-pytorch transformers && python tests/models/make_golden.py

Weights come from ``random_weights`` alone, so the test needs neither these packages nor any checkpoint.
"""

from __future__ import annotations

import zlib
from pathlib import Path

import numpy as np
import torch

EFFICIENTNET_BLOCKS = 16
TEXT = {"vocabulary": 50, "tokens": 12, "depth": 2, "heads": 12, "width": 384, "hidden": 1536, "dim": 384}


def random_weights(shapes: dict[str, tuple[int, ...]]) -> dict[str, torch.Tensor]:
    """float64 weights of a plausible size for every name, the same on every machine.

    In float32 fifty layers of random weights would multiply rounding errors by thousands.
    """
    found = {}
    for name, shape in shapes.items():
        numbers = np.random.RandomState(zlib.crc32(name.encode()))
        values = numbers.standard_normal(shape)
        if len(shape) > 1:
            values *= 1.4 / np.sqrt(np.prod(shape[1:]))
        elif name.endswith("running_var") or (name.endswith("weight") and len(shape) == 1):
            values = 0.5 + np.abs(values)
        else:
            values *= 0.2
        found[name] = torch.from_numpy(values)
    return found


def main() -> None:
    from efficientnet_lite_pytorch import EfficientNet
    from transformers import BertConfig, BertModel

    network = EfficientNet.from_name("efficientnet-lite0").eval().double()
    shapes = {k: tuple(v.shape) for k, v in network.state_dict().items() if not k.endswith("batches_tracked")}
    network.load_state_dict(random_weights(shapes), strict=False)
    pixels = torch.from_numpy(np.random.RandomState(1).standard_normal((2, 3, 224, 224)))

    config = BertConfig(
        vocab_size=TEXT["vocabulary"], max_position_embeddings=TEXT["tokens"], num_hidden_layers=TEXT["depth"],
        hidden_size=384, num_attention_heads=12, intermediate_size=1536,
    )  # fmt: skip
    bert = BertModel(config, add_pooling_layer=False).eval().double()
    bert_shapes = {k: tuple(v.shape) for k, v in bert.state_dict().items() if v.is_floating_point()}
    bert.load_state_dict(random_weights(bert_shapes), strict=False)
    ids = np.array([[2, 7, 9, 3, 0, 0], [2, 41, 5, 5, 23, 3]])
    mask = torch.from_numpy((ids != 0).astype(np.int64))
    with torch.no_grad():
        logits = network(pixels)
        hidden = bert(torch.from_numpy(ids), attention_mask=mask).last_hidden_state * mask[..., None]
        mean = hidden.sum(1) / mask.sum(1, keepdim=True)
    np.savez_compressed(
        Path(__file__).parent / "mini_reference.npz",
        logits=logits.numpy(),
        ids=ids.astype(np.int32),
        sentences=torch.nn.functional.normalize(mean, dim=-1).numpy(),
        efficientnet_shapes=np.array([f"{k} {' '.join(map(str, v))}" for k, v in shapes.items()]),
        bert_shapes=np.array([f"{k} {' '.join(map(str, v))}" for k, v in bert_shapes.items()]),
    )


if __name__ == "__main__":
    main()
