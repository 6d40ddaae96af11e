"""CLIP's towers say what open_clip says, with random weights, from both key formats."""

from __future__ import annotations

import pytest
import torch

from slimbind.errors import CheckpointError
from slimbind.towers import clip, registry

from .conftest import load_towers

VISION = {"image_size": 48, "patch_size": 16, "width": 128, "layers": 2}
TEXT = {"context_length": 20, "vocab_size": 300, "width": 64, "heads": 1, "layers": 2}
RESNET = {"image_size": 64, "width": 16, "layers": [1, 2, 1, 1]}


def make(open_clip, vision, text, quick_gelu, seed=0):
    """A small open_clip model whose weights are far from their gentle initial values."""
    torch.manual_seed(seed)
    model = open_clip.model.CLIP(
        24, open_clip.CLIPVisionCfg(**vision), open_clip.CLIPTextCfg(**text), quick_gelu=quick_gelu
    )
    shake(model)
    return model.eval()


def shake(model):
    for name, value in model.state_dict().items():
        if "running_var" in name:
            value.uniform_(0.5, 2.0)
        elif "num_batches" not in name and name != "logit_scale":
            value.add_(torch.randn_like(value) * 0.1)


def sentences(count, length, vocabulary):
    ids = torch.zeros(count, length, dtype=torch.int64)
    for row in range(count):
        end = 2 + row % (length - 2)
        ids[row, :end] = torch.randint(1, vocabulary - 1, (end,))
        ids[row, end] = vocabulary - 1
    return ids


@torch.no_grad()
def compare(model, towers, size, vocabulary, length):
    # Coarse pictures: white noise looks the same to a convolutional network, whatever its seed.
    images = torch.nn.functional.interpolate(torch.randn(3, 3, 4, 4) * 2, size=(size, size), mode="bilinear")
    ids = sentences(5, length, vocabulary)
    pairs = {
        "vision": (towers["vision"](images), model.encode_image(images, normalize=True)),
        "text": (towers["text"](ids.int()), model.encode_text(ids, normalize=True)),
    }
    for name, (ours, theirs) in pairs.items():
        assert (theirs @ theirs.T).tril(-1).max() < 0.9999, f"{name}: the inputs must tell apart"
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)
    scale = towers["text"].logit_scale
    assert scale == pytest.approx(float(model.logit_scale.exp()), rel=1e-6)
    torch.testing.assert_close(towers["text"].forward_raw(ids), pairs["text"][1] * scale, rtol=0, atol=1e-4)


@pytest.mark.parametrize("quick_gelu", [False, True])
def test_small_transformer(open_clip, quick_gelu):
    model = make(open_clip, VISION, TEXT, quick_gelu)
    towers = load_towers(model.state_dict(), {"quick_gelu": quick_gelu})
    compare(model, towers, 48, 300, 20)


def test_small_resnet(open_clip):
    model = make(open_clip, RESNET, TEXT, False)
    towers = load_towers(model.state_dict(), clip.VARIANTS["openclip"])
    compare(model, towers, 64, 300, 20)
    assert not any("bn" in key for key in towers["vision"].state_dict())


def test_wide_heads_come_from_the_config(open_clip):
    model = make(open_clip, VISION | {"head_width": 32}, TEXT, False)
    config = {"model_cfg": {"embed_dim": 24, "vision_cfg": VISION | {"head_width": 32}, "text_cfg": TEXT}}
    compare(model, load_towers(model.state_dict(), config), 48, 300, 20)


def hugging_face(weights):
    """An OpenCLIP state dict under Hugging Face's names."""
    out = {}
    single = {
        "visual.conv1.weight": "vision_model.embeddings.patch_embedding.weight",
        "visual.class_embedding": "vision_model.embeddings.class_embedding",
        "visual.positional_embedding": "vision_model.embeddings.position_embedding.weight",
        "token_embedding.weight": "text_model.embeddings.token_embedding.weight",
        "positional_embedding": "text_model.embeddings.position_embedding.weight",
        "logit_scale": "logit_scale",
    }
    prefixes = {
        "visual.ln_pre": "vision_model.pre_layrnorm",
        "visual.ln_post": "vision_model.post_layernorm",
        "ln_final": "text_model.final_layer_norm",
        "visual.transformer.resblocks": "vision_model.encoder.layers",
        "transformer.resblocks": "text_model.encoder.layers",
    }
    layers = {
        "ln_1": "layer_norm1",
        "ln_2": "layer_norm2",
        "mlp.c_fc": "mlp.fc1",
        "mlp.c_proj": "mlp.fc2",
        "attn.out_proj": "self_attn.out_proj",
    }
    for key, value in weights.items():
        if key in single:
            out[single[key]] = value
        elif key in ("visual.proj", "text_projection"):
            out["visual_projection.weight" if key == "visual.proj" else "text_projection.weight"] = value.t()
        elif ".attn.in_proj_" in key:
            prefix, name = key.split(".attn.in_proj_")
            for old, new in prefixes.items():
                prefix = prefix.replace(old, new) if prefix.startswith(old) else prefix
            for part, rows in zip("qkv", value.chunk(3), strict=True):
                out[f"{prefix}.self_attn.{part}_proj.{name}"] = rows
        else:
            for old, new in prefixes.items():
                key = new + key.removeprefix(old) if key.startswith(old) else key
            for old, new in layers.items():
                key = key.replace(f".{old}.", f".{new}.")
            out[key] = value
    for tower, key in (("vision", "visual.positional_embedding"), ("text", "positional_embedding")):
        out[f"{tower}_model.embeddings.position_ids"] = torch.arange(len(weights[key]))[None]
    return out


def test_hugging_face_format(open_clip):
    model = make(open_clip, VISION, TEXT, True)
    config = {
        "vision_config": {"hidden_act": "quick_gelu", "num_attention_heads": 2},
        "text_config": {"hidden_act": "quick_gelu", "num_attention_heads": 1},
    }
    weights = hugging_face(model.state_dict())
    compare(model, load_towers(weights, config), 48, 300, 20)
    assert set(registry.detect({k: v.shape for k, v in weights.items()}, config).recomputed) == {
        "vision_model.embeddings.position_ids",
        "text_model.embeddings.position_ids",
    }


def test_old_hugging_face_configs_say_it_in_dicts_that_come_first(open_clip):
    """Of two entries of one name the one in ``..._config_dict`` holds, as in the library that wrote the file."""
    shapes = shapes_of(open_clip)
    config = {
        "vision_config": {"hidden_act": "gelu", "num_attention_heads": 4},
        "vision_config_dict": {"hidden_act": "quick_gelu"},
        "text_config": None,
        "text_config_dict": {"hidden_act": "gelu", "num_attention_heads": 2},
    }
    found = registry.detect(shapes, config).configs
    assert (found["vision"]["activation"], found["vision"]["heads"]) == ("quick_gelu", 4)
    assert (found["text"]["activation"], found["text"]["heads"]) == ("gelu", 2)
    alone = {"vision_config_dict": {"hidden_act": "gelu", "num_attention_heads": 4}, "text_config_dict": {}}
    assert registry.detect(shapes, alone).configs["vision"]["activation"] == "gelu"


def test_a_tower_alone_with_its_own_hugging_face_config(open_clip):
    model = make(open_clip, VISION, TEXT, True)
    weights = {k: v for k, v in hugging_face(model.state_dict()).items() if k.startswith("vis")}
    towers = load_towers(weights, {"model_type": "clip_vision_model", "num_attention_heads": 2})
    images = torch.randn(2, 3, 48, 48)
    with torch.no_grad():
        torch.testing.assert_close(
            towers["vision"](images), model.encode_image(images, normalize=True), rtol=0, atol=1e-5
        )


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ViT-B-32", "RN50"])
def test_full_size(open_clip, name):
    torch.manual_seed(0)
    model = open_clip.create_model(name, pretrained=None).eval()
    for key, value in model.state_dict().items():
        if "running_var" in key:
            value.uniform_(0.5, 2.0)
    towers = load_towers(model.state_dict(), {"model_cfg": open_clip.get_model_config(name)})
    compare_full(model, towers)


@torch.no_grad()
def compare_full(model, towers):
    images, ids = torch.randn(2, 3, 224, 224), sentences(2, 77, 49408)
    torch.testing.assert_close(towers["vision"](images), model.encode_image(images, normalize=True), rtol=0, atol=1e-5)
    torch.testing.assert_close(towers["text"](ids.int()), model.encode_text(ids, normalize=True), rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", ["ViT-B-32", "ViT-B-16", "ViT-L-14", "ViT-H-14", "ViT-bigG-14", "RN50", "RN50x4"])
def test_sizes_are_read_from_shapes(open_clip, name):
    """Heads, depth and image size of the known models, without a weight in memory."""
    config = open_clip.get_model_config(name)
    with torch.device("meta"):
        model = open_clip.model.CLIP(
            config["embed_dim"],
            open_clip.CLIPVisionCfg(**config["vision_cfg"]),
            open_clip.CLIPTextCfg(**config["text_cfg"]),
        )
    found = registry.detect({k: tuple(v.shape) for k, v in model.state_dict().items()}, clip.VARIANTS["openclip"])
    vision, text = found.configs["vision"], found.configs["text"]
    assert vision["size"] == config["vision_cfg"]["image_size"]
    assert vision["dim"] == text["dim"] == config["embed_dim"]
    assert text["heads"] == config["text_cfg"]["heads"]
    assert text["depth"] == config["text_cfg"]["layers"]
    if name.startswith("ViT"):
        assert vision["heads"] == model.visual.transformer.resblocks[0].attn.num_heads
        assert vision["depth"] == config["vision_cfg"]["layers"]
    else:
        assert vision["heads"] == model.visual.attnpool.num_heads
        assert vision["layers"] == config["vision_cfg"]["layers"]


def shapes_of(open_clip):
    return {k: tuple(v.shape) for k, v in make(open_clip, VISION, TEXT, False).state_dict().items()}


def test_the_activation_must_be_told(open_clip):
    with pytest.raises(CheckpointError, match=r"activation.*cannot be read from the weights.*quick_gelu"):
        registry.detect(shapes_of(open_clip))


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (
            {"vision_config": {"hidden_act": "silu", "num_attention_heads": 2}},
            "vision activation is 'silu'; allowed: gelu, quick_gelu",
        ),
        ({"quick_gelu": True, "vision_heads": 3}, "vision_heads is 3; the tower's width 128 must be a whole multiple"),
        ({"vision_cfg": {"timm_model_name": "convnext"}}, "tower of another library"),
        ({"vision_cfg": {"pool_type": "avg"}}, "pool_type is 'avg'; supported: tok, argmax"),
        ({"text_cfg": {"act_kwargs": {"approximate": "tanh"}}}, "act_kwargs is {'approximate': 'tanh'}"),
        ({"text_cfg": {"hf_tokenizer_name": "bert-base-uncased"}}, "hf_tokenizer_name is 'bert-base-uncased'"),
        ({"text_cfg": {"tokenizer_kwargs": {"clean": "canonicalize"}}}, "tokenizer_kwargs is"),
        ({"vision_cfg": 3}, "vision_cfg is 3; it must be an object"),
        ({"vision_cfg": {"norm_kwargs": {"eps": "x"}}}, "LayerNorm epsilon is 'x'"),
        ({"vision_cfg": {"head_width": 0, "width": 128, "layers": 2}}, "head_width is 0"),
        ({"text_config": [1]}, r"text_config is \[1\]; it must be an object"),
        ({"quick_gelu": "no"}, "quick_gelu is 'no'; allowed: true, false"),
        ({"quick_gelu": True, "text_heads": True}, "text_heads is True"),
        (["openai"], "the config is a list"),
    ],
)
def test_configs_that_do_not_fit(open_clip, config, message):
    with pytest.raises(CheckpointError, match=message):
        registry.detect(shapes_of(open_clip), config)


@pytest.mark.parametrize("vision", [VISION, RESNET])
def test_no_shape_can_be_wrong(open_clip, vision):
    """Not of any key, also not of those that are folded or joined with others."""
    shapes = {k: tuple(v.shape) for k, v in make(open_clip, vision, TEXT, False).state_dict().items()}
    # How many words a model knows, and how long a text it takes, can be anything.
    free = ("token_embedding.weight", "positional_embedding")
    for key, shape in shapes.items():
        if shape and key not in free:
            with pytest.raises(CheckpointError):
                registry.detect(shapes | {key: (shape[0] + 1, *shape[1:])}, {"quick_gelu": False})
    for key in ("self_attn.k_proj.weight", "self_attn.v_proj.bias"):
        if vision is VISION:
            one = f"text_model.encoder.layers.1.{key}"
            weights = hugging_face(make(open_clip, vision, TEXT, False).state_dict())
            weights[one] = weights[one][:-1]
            with pytest.raises(CheckpointError, match=one):
                load_towers(weights, {"quick_gelu": False})


def test_the_logit_scale_belongs_to_a_whole_model(open_clip):
    shapes = shapes_of(open_clip)
    del shapes["logit_scale"]
    with pytest.raises(CheckpointError, match="lacks 1 key: 'logit_scale'"):
        registry.detect(shapes, {"quick_gelu": False})
    alone = {key: shape for key, shape in shapes.items() if not key.startswith("visual.")}
    assert registry.detect(alone, {"quick_gelu": False}).configs["text"]["logit_scale"] is False


def test_towers_of_different_spaces(open_clip):
    shapes = shapes_of(open_clip)
    with pytest.raises(CheckpointError, match=r"different size: \{'vision': 24, 'text': 7\}"):
        registry.detect(shapes | {"text_projection": (64, 7)}, {"quick_gelu": False})


def test_numbers_that_repeat_a_size_are_checked(open_clip):
    weights = make(open_clip, VISION, TEXT, True).state_dict()
    weights |= {"input_resolution": torch.tensor(48), "context_length": torch.tensor(20), "vocab_size": torch.tensor(9)}
    with pytest.raises(CheckpointError, match="'vocab_size' does not hold what the clip family computes"):
        load_towers(weights, {"quick_gelu": True})
    assert set(load_towers(weights | {"vocab_size": torch.tensor(300)}, {"quick_gelu": True})) == {"vision", "text"}


def test_examples_fit(open_clip):
    for vision in (VISION, RESNET):
        for tower in load_towers(make(open_clip, vision, TEXT, True).state_dict(), {"quick_gelu": True}).values():
            with torch.no_grad():
                assert tower(tower.example(3)).shape == (3, 24)
            assert set(tower.dynamic_axes) == ({0, 1} if tower.modality == "text" else {0})


def test_a_resnet_whose_positions_are_no_square(open_clip):
    shapes = {k: tuple(v.shape) for k, v in make(open_clip, RESNET, TEXT, False).state_dict().items()}
    key = "visual.attnpool.positional_embedding"
    with pytest.raises(CheckpointError, match=f"{key} has 7 rows; expected a square and one more"):
        registry.detect(shapes | {key: (7, shapes[key][1])}, {"quick_gelu": False})
