"""What a CPU is known to do with 8-bit numbers, read from what each system tells."""

from __future__ import annotations

import subprocess
import sys

import pytest

from slimbind.runtime import cpu
from slimbind.runtime.cpu import Cpu, from_cpuinfo, from_numpy, from_sysctl, int8_note

X86 = """processor\t: {number}
model name\t: {name}
flags\t\t: fpu sse2 avx2 {flags}
bugs\t\t: spectre_v1
"""
ARM = """processor\t: {number}
BogoMIPS\t: 50.00
Features\t: fp asimd {flags}
CPU implementer\t: 0x41
"""


def cores(template, *flags, name="CPU"):
    return "\n".join(template.format(number=n, flags=each, name=name) for n, each in enumerate(flags))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (cores(X86, "avx512f avx512_vnni avx512_bf16", name="AMD EPYC"), (("AVX512-VNNI",), ("AVX512-BF16",))),
        (cores(X86, "avx512_vnni amx_bf16 amx_int8 amx_tile avx_vnni"), (("AMX", "AVX512-VNNI", "AVX-VNNI"), ("AMX",))),
        (cores(X86, "avx_vnni"), (("AVX-VNNI",), ())),
        (cores(X86, "avx512f avx512bw"), ((), ())),
        (cores(X86, "fma f16c"), ((), ())),
        (cores(ARM, "asimddp i8mm bf16"), (("i8mm", "dot product"), ("bf16",))),
        (cores(ARM, "asimddp"), (("dot product",), ())),
        (cores(ARM, "crc32 atomics"), ((), ())),
        # A word that merely contains the name of an instruction set is another one.
        (cores(X86, "avx512_vnni_not xavx_vnni"), ((), ())),
    ],
)
def test_linux(text, expected):
    found = from_cpuinfo(text)
    assert (found.int8, found.bf16, found.known) == (*expected, True)


def test_what_only_some_cores_have_does_not_count():
    assert from_cpuinfo(cores(ARM, "asimddp i8mm", "asimddp")).int8 == ("dot product",)


def test_the_name_is_the_makers():
    assert from_cpuinfo(cores(X86, "", "", name="Intel(R) Xeon(R) @ 2.20GHz: fast")).name == (
        "Intel(R) Xeon(R) @ 2.20GHz: fast"
    )


@pytest.mark.parametrize("text", ["", "cpu : nothing of use\n"])
def test_a_system_that_tells_nothing_is_unknown(text):
    for found in (from_cpuinfo(text), from_sysctl(text)):
        assert not found.known and found.int8 == () and found.name


def test_macos_on_arm():
    text = (
        "machdep.cpu.brand_string: Apple M2\nhw.optional.arm.FEAT_DotProd: 1\nhw.optional.arm.FEAT_I8MM: 1\n"
        "hw.optional.arm.FEAT_BF16: 0\nhw.optional.arm64: 1\n"
    )
    assert from_sysctl(text) == Cpu("Apple M2", int8=("i8mm", "dot product"))


def test_macos_on_intel():
    text = (
        "machdep.cpu.brand_string: Intel(R) Core(TM) i7\nmachdep.cpu.features: FPU SSE4.2\n"
        "machdep.cpu.leaf7_features: AVX2 AVX512F AVX512VNNI\n"
    )
    assert from_sysctl(text) == Cpu("Intel(R) Core(TM) i7", int8=("AVX512-VNNI",))
    assert from_sysctl(text.replace(" AVX512VNNI", "")) == Cpu("Intel(R) Core(TM) i7")


def test_elsewhere_numpy_is_asked_and_its_no_is_not_taken_for_one():
    assert from_numpy({"AVX512VNNI": True, "AVX512BF16": False}).int8 == ("AVX512-VNNI",)
    assert from_numpy({"ASIMDDP": True}).int8 == ("dot product",)
    assert from_numpy({}, dot_product=True).int8 == ("dot product",)
    silent = from_numpy({"AVX2": True, "AVX512VNNI": False})
    assert silent.int8 == () and not silent.known


def test_the_note_is_for_those_whom_it_concerns():
    assert int8_note(Cpu("x", int8=("AMX",))) == ""
    assert "smaller but not faster on this CPU (Old One)" in int8_note(Cpu("Old One"))
    assert "cannot be told" in int8_note(Cpu("Odd One", known=False))


@pytest.fixture
def fresh():
    """``this_cpu`` remembers; here it must not."""
    cpu.this_cpu.cache_clear()
    yield
    cpu.this_cpu.cache_clear()


def test_this_cpu_is_read_once_from_where_its_system_tells(fresh, monkeypatch):
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(cpu, "_read", lambda path: cores(X86, "amx_int8") if path == "/proc/cpuinfo" else "")
    assert cpu.this_cpu().int8 == ("AMX",)
    assert int8_note() == ""
    cpu.this_cpu.cache_clear()
    monkeypatch.setattr(sys, "platform", "darwin")
    asked = []

    def answer(command, **options):
        asked.append(command[0])
        return subprocess.CompletedProcess(command, 1, "hw.optional.arm.FEAT_DotProd: 1\n", "unknown oid")

    monkeypatch.setattr(subprocess, "run", answer)
    assert cpu.this_cpu().int8 == ("dot product",)
    assert cpu.this_cpu() is cpu.this_cpu() and len(asked) == 1
    cpu.this_cpu.cache_clear()
    monkeypatch.setattr(sys, "platform", "win32")
    monkeypatch.setattr(cpu, "_numpy_features", lambda: {"AVX512VNNI": True})
    assert cpu.this_cpu().int8 == ("AVX512-VNNI",)


def test_a_system_without_its_tools_is_unknown(fresh, monkeypatch):
    def fail(*_, **__):
        raise FileNotFoundError

    monkeypatch.setattr(subprocess, "run", fail)
    monkeypatch.setattr(sys, "platform", "darwin")
    assert not cpu.this_cpu().known
    assert cpu._read("/no/such/file") == ""


def test_numpy_still_tells_its_features():
    """A private place of numpy's: when it moves, this says so."""
    assert {"AVX512VNNI", "ASIMDDP"} <= cpu._numpy_features().keys()
