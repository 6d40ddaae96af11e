"""Memory: a tower costs about its weights while it is open, and nothing once it is closed."""

from __future__ import annotations

import json
import mmap
import shutil
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from slimbind.artifact import ArtifactWriter, ModelInfo
from slimbind.media.spec import ImuSpec
from slimbind.runtime import memory, quiet

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")

MIB = 1 << 20
WIDTH, LAYERS = 2048, 10


@pytest.fixture(scope="module")
def heavy(tmp_path_factory):
    """An artifact whose towers, imu and depth, are stacks of linear layers: 160 MiB in f32 each."""
    ov = quiet.openvino()
    op = ov.opset13
    random = np.random.default_rng(0)
    signal = op.parameter([-1, 6, 2000], np.float32, name="input")
    x = op.reshape(signal, op.constant(np.array([0, 12000])), True)
    x = op.matmul(x, op.constant(random.normal(size=(12000, 64)).astype(np.float32)), False, False)
    x = op.matmul(x, op.constant(random.normal(size=(64, WIDTH)).astype(np.float32)), False, False)
    for _ in range(LAYERS):
        x = op.matmul(x, op.constant(random.normal(size=(WIDTH, WIDTH)).astype(np.float32) / 45), False, False)
        x = op.tanh(x)
    unit = op.normalize_l2(x, op.constant(np.array([1])), 1e-12, "max")
    model = ov.Model([unit], [signal], "heavy")
    folder = tmp_path_factory.mktemp("heavy") / "heavy"
    info = ModelInfo(id="heavy", family="mini", license="CC0-1.0")
    with ArtifactWriter(folder, model=info, embedding_dim=WIDTH) as writer:
        for modality, scheme in (("imu", "f32"), ("depth", "bf16")):
            ov.save_model(model, writer.folder(modality) / "tower.xml", compress_to_fp16=False)
            writer.add(modality, engine="openvino", scheme=scheme, parameters=0, preprocess=ImuSpec())
    return folder


def measure(code, folder):
    """Run ``code`` in a fresh process; ``rss()`` there is in MiB, and the list ``told`` comes back."""
    program = f"""
        import json
        import numpy as np
        import slimbind
        from slimbind.runtime.memory import resident_bytes, mapped_files
        def rss():
            return resident_bytes() / {MIB}
        signal = [np.random.default_rng(0).normal(size=(6, 2000)).astype(np.float32)]
        told = []
        model = slimbind.load({str(folder)!r}, threads=1, verify=False)
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program) + textwrap.dedent(code) + "\nprint(json.dumps(told))"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_an_open_tower_costs_its_weights_and_a_closed_one_nothing(heavy):
    # The first round loads the engine's libraries, which stay: what is measured is the second.
    start, opened, used, closed = measure(
        """
        for _ in range(2):
            told.clear()
            told.append(rss())
            model.embed(signal, "imu")
            told.append(rss())
            for size in (1, 3, 8):
                model.embed(signal * size, "imu", batch_size=size)
            told.append(rss())
            model.unload()
            told.append(rss())
        """,
        heavy,
    )
    weights = (heavy / "imu" / "tower.bin").stat().st_size / MIB
    assert weights > 150
    assert 0.9 * weights < opened - start <= 1.15 * weights
    assert used - start <= 1.15 * weights
    assert closed - start <= 0.05 * weights


def test_opening_keeps_nothing_of_the_file_beside_what_was_made_of_it(heavy):
    (left,) = measure(
        """
        model = slimbind.load(model.artifact.folder, threads=1, verify=False, preload=["imu"])
        told.append(0)
        with open("/proc/self/smaps", encoding="utf-8") as file:
            ours = False
            for line in file:
                if not line.split()[0].endswith(":"):
                    ours = line.rstrip().endswith("/imu/tower.bin")
                elif ours and line.startswith("Rss:"):
                    told[0] += int(line.split()[1]) / 1024
        """,
        heavy,
    )
    assert left < 1


def test_nothing_of_the_other_towers_is_in_memory(heavy):
    (files,) = measure('model.embed(signal, "imu"); told.append(sorted(mapped_files(model.artifact.folder)))', heavy)
    assert files == [str((heavy / "imu" / "tower.bin").resolve())]


def test_an_idle_tower_gives_its_memory_back(heavy):
    before, after = measure(
        """
        import time
        model = slimbind.load(model.artifact.folder, threads=1, verify=False, idle_ttl=0.2)
        model.embed(signal, "imu")
        told.append(rss())
        end = time.monotonic() + 20
        while model.loaded and time.monotonic() < end:
            time.sleep(0.05)
        time.sleep(0.3)
        told.append(rss())
        """,
        heavy,
    )
    assert before - after > 0.9 * (heavy / "imu" / "tower.bin").stat().st_size / MIB


def test_dropped_pages_are_not_resident_and_read_the_same(tmp_path):
    (tmp_path / "a").mkdir()
    path = tmp_path / "a" / "weights"
    path.write_bytes(np.random.default_rng(0).bytes(40 * MIB))
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as view:
        first = bytes(view)
        full = memory.resident_bytes()
        assert memory.mapped_files(tmp_path / "a") == {str(path.resolve())}
        assert memory.drop_file_pages([tmp_path / "other"]) == 0
        (tmp_path / "link").symlink_to(path)
        assert memory.drop_file_pages([tmp_path / "link"]) == 40 * MIB
        assert full - memory.resident_bytes() > 30 * MIB
        assert bytes(view) == first


def test_pages_are_dropped_while_they_are_read(tmp_path):
    path = tmp_path / "weights"
    data = np.arange(2 << 20, dtype=np.uint8).tobytes()
    path.write_bytes(data)
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
        with memory.dropping_pages([path]):
            assert mapped[:] == data
            started = time.monotonic()
            while resident_of(path) and time.monotonic() < started + 10:
                time.sleep(0.01)
            assert resident_of(path) == 0
        assert mapped[:] == data
    assert not any(thread.name == "slimbind-memory" for thread in threading.enumerate())


def resident_of(path):
    """KiB of a mapped file that are in memory."""
    blocks = Path("/proc/self/smaps").read_text(encoding="utf-8", errors="replace").split(f" {path}\n")[1:]
    return sum(int(line.split()[1]) for block in blocks for line in block.splitlines()[:6] if line.startswith("Rss:"))


def test_changed_pages_are_never_dropped(tmp_path):
    path = tmp_path / "weights"
    path.write_bytes(bytes(MIB))
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY) as view:
        view[:4] = b"mine"
        assert memory.drop_file_pages([path]) == 0
        assert view[:4] == b"mine"


def test_pages_that_could_be_changed_but_were_not_are_dropped(tmp_path):
    path = tmp_path / "weights"
    path.write_bytes(np.random.default_rng(0).bytes(40 * MIB))
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY) as view:
        first = bytes(view)
        full = memory.resident_bytes()
        assert memory.drop_file_pages([path]) == 40 * MIB
        assert full - memory.resident_bytes() > 30 * MIB
        assert bytes(view) == first


def test_nobody_ends_a_mapping_between_the_look_for_it_and_the_dropping(monkeypatch, tmp_path):
    path = tmp_path / "file"
    path.write_bytes(bytes(1 << 20))
    looked, ended = threading.Event(), threading.Event()
    find = memory._mappings

    def slow():
        found = find()
        looked.set()
        assert not ended.wait(0.2)  # the addresses that were found are still this file's
        return found

    def end():
        looked.wait()
        with memory.unmapping():
            ended.set()

    monkeypatch.setattr(memory, "_mappings", slow)
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
        assert mapped[0] == 0
        other = threading.Thread(target=end)
        other.start()
        assert memory.drop_file_pages([path]) >= 1 << 20
        other.join(timeout=10)
    assert ended.is_set()


def test_elsewhere_they_do_nothing(monkeypatch, tmp_path):
    memory._libc.cache_clear()
    monkeypatch.setattr(sys, "platform", "sunos5")
    try:
        assert memory.drop_file_pages([tmp_path]) == 0
        memory.trim_heap()
    finally:
        monkeypatch.undo()
        memory._libc.cache_clear()


def test_what_a_tower_costs_is_known_after_its_first_use(heavy):
    opened, used = measure(
        """
        model.embed(signal, "depth")
        model.unload()
        model = slimbind.load(model.artifact.folder, threads=1, verify=False, preload=["imu"])
        told.append(model.loaded["imu"].resident)
        model.embed(signal, "imu")
        told.append(model.loaded["imu"].resident)
        """,
        heavy,
    )
    weights = (heavy / "imu" / "tower.bin").stat().st_size
    assert 0.9 * weights < used <= 1.15 * weights
    assert opened != used


def test_an_artifact_behind_links_costs_no_more(heavy, tmp_path):
    """A cache of downloads keeps its files under other names in another folder."""
    for number, file in enumerate(file for file in heavy.rglob("*") if file.is_file()):
        blob = tmp_path / "blobs" / str(number)
        link = tmp_path / "snapshot" / file.relative_to(heavy)
        link.parent.mkdir(parents=True, exist_ok=True)
        blob.parent.mkdir(exist_ok=True)
        shutil.copyfile(file, blob)
        link.symlink_to(blob)
    start, opened = measure(
        """
        for _ in range(2):
            told.clear()
            told.append(rss())
            model.embed(signal, "imu")
            told.append(rss())
            model.unload()
        """,
        tmp_path / "snapshot",
    )
    assert opened - start <= 1.15 * (heavy / "imu" / "tower.bin").stat().st_size / MIB
