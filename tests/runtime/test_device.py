"""What a device text means, and that what is not there is refused before anything is opened."""

from __future__ import annotations

import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

import slimbind
from slimbind.errors import MissingExtraError, UsageError
from slimbind.runtime import device as module
from slimbind.runtime.device import DTYPES, WEIGHTS, Device, resolve

devices = st.builds(
    Device,
    st.sampled_from(["cpu", "cuda", "cuda:0", "cuda:12"]),
    st.none() | st.sampled_from(DTYPES),
    st.none() | st.sampled_from(WEIGHTS),
    st.booleans(),
)


@given(devices)
def test_a_device_is_what_its_text_says(device):
    assert Device.parse(str(device)) == device == Device.parse(device)
    assert device.is_plain == (str(device) == "cpu")
    assert device.is_cuda == str(device).startswith("cuda")


def test_the_parts_come_in_any_order_and_with_spaces():
    expected = Device("cuda:1", "f16", "fp8-weight", compile=True)
    assert Device.parse("cuda:1, compile,fp8-weight ,f16") == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("gpu", "begins with 'gpu'; allowed: cpu, cuda"),
        ("", "begins with ''"),
        ("cuda:", "begins with 'cuda:'"),
        ("cuda:x", "begins with 'cuda:x'"),
        ("cuda:-1", "begins with"),
        ("f16,cuda", "begins with 'f16'"),
        ("cuda,int4", "unknown part of a device 'int4'; allowed: bf16, compile, f16, f32, fp8-dynamic"),
        ("cuda,", "unknown part of a device ''"),
        ("cuda,f16,bf16", "says both f16 and bf16"),
        ("cuda,int8-weight,fp8-weight", "says both int8-weight and fp8-weight"),
        ("cpu,compile,compile", "says both"),
    ],
)
def test_a_text_that_is_no_device_is_refused(text, message):
    with pytest.raises(UsageError, match=message):
        Device.parse(text)


def test_exported_towers_stay_on_the_cpu(toy_artifact, monkeypatch):
    for text in ("cuda", "cpu,bf16"):
        with pytest.raises(UsageError, match=rf"device '{text}' is for towers that PyTorch runs.*for openvino"):
            slimbind.load(toy_artifact, device=text)
    with pytest.raises(UsageError, match="begins with 'gpu'"):
        slimbind.load(toy_artifact, device="gpu")
    monkeypatch.setitem(sys.modules, "torch", None)
    with slimbind.load(toy_artifact, device="cpu", threads=1) as model:  # plain cpu asks for no PyTorch
        assert model.device == Device() and len(model.embed(["red"], "text")) == 1


def test_without_pytorch_it_says_how_to_get_it(toy_artifact, monkeypatch):
    artifact = slimbind.Artifact.open(toy_artifact)
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(MissingExtraError, match=r"slimbind\[build\]"):
        resolve(Device("cuda"), artifact, modalities=())


def test_other_numbers_are_another_encoder_and_the_same_ones_the_same(toy_artifact):
    entry = slimbind.Artifact.open(toy_artifact).tower("vision")
    exported = entry.model_copy(update={"scheme": "bf16"})
    told = {text: Device.parse(text).record(entry).encoder_id for text in ("cpu", "cuda,f32", "cuda,bf16", "cuda,f16")}
    assert told["cpu"] == told["cuda,f32"] == entry.encoder_id
    assert told["cuda,bf16"] == exported.encoder_id
    schemes = {Device("cuda", "bf16", weights).record(entry).encoder_id for weights in WEIGHTS}
    assert len(schemes | set(told.values())) == len(WEIGHTS) + 3


def test_the_text_on_top_of_the_module_names_every_part():
    for part in (*DTYPES, *WEIGHTS, "compile"):
        assert part in (module.__doc__ or "")
