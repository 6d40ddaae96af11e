"""Many callers of one model: the same bits as alone, no more cores than allowed, nobody left waiting, nothing lost."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import slimbind
from slimbind.artifact import FileEntry, TowerEntry
from slimbind.errors import EngineError, ItemsError, UsageError
from slimbind.media.spec import ImuSpec
from slimbind.runtime.crew import Crew
from slimbind.runtime.encoder import Encoder
from slimbind.runtime.layout import Layout

WORDS = ["red", "green", "blue", "low", "high", "red green", "a very long text of rumble and whistle", "nothing known"]


def pictures(n):
    random = np.random.default_rng(0)
    return list(random.integers(0, 256, (n, 40, 30, 3), dtype=np.uint8))


@pytest.fixture(scope="module", params=[(1, None), (2, None), (3, 1), (4, 2)], ids=str)
def model(request, toy_artifact):
    threads, streams = request.param
    with slimbind.load(toy_artifact, threads=threads, streams=streams) as loaded:
        yield loaded


@settings(max_examples=5, deadline=None)
@given(
    calls=st.lists(
        st.tuples(st.sampled_from(["text", "vision"]), st.integers(0, 7), st.integers(1, 20), st.integers(1, 9)),
        min_size=2,
        max_size=8,
    )
)
def test_whoever_calls_beside_one_the_vectors_are_the_same_bit_for_bit(model, calls):
    photos = pictures(8)

    def embed(call):
        modality, start, count, size = call
        pool = WORDS if modality == "text" else photos
        return model.embed([pool[(start + n) % 8] for n in range(count)], modality, batch_size=size)

    alone = [embed(call) for call in calls]
    with ThreadPoolExecutor(len(calls)) as threads:
        together = list(threads.map(embed, calls))
    for one, other in zip(alone, together, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("threads", [1, 2])
def test_the_shipped_model_says_the_same_to_eight_callers(threads):
    with slimbind.load("mini", threads=threads) as model:
        texts = [[f"a photo of {number} dogs"] * (1 + number % 3) for number in range(8)]
        alone = [model.embed(text, "text") for text in texts]
        with ThreadPoolExecutor(8) as pool:
            for _ in range(3):
                for one, other in zip(alone, pool.map(lambda text: model.embed(text, "text"), texts), strict=True):
                    np.testing.assert_array_equal(one, other)


def test_onnx_runtime_says_the_same_to_all_callers_on_its_cores(tmp_path):
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    from slimbind.artifact import ModelInfo
    from slimbind.runtime.engine import Options, engine

    weights = np.random.default_rng(0).normal(size=(64, 8)).astype(np.float32)
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("MatMul", ["input", "w"], ["vectors"])],
        "toy",
        [onnx.helper.make_tensor_value_info("input", onnx.TensorProto.FLOAT, ["n", 64])],
        [onnx.helper.make_tensor_value_info("vectors", onnx.TensorProto.FLOAT, ["n", 8])],
        [onnx.numpy_helper.from_array(weights, "w")],
    )
    made = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)])
    made.ir_version = 9
    (tmp_path / "tower.onnx").write_bytes(made.SerializeToString())
    file = FileEntry(path="tower.onnx", bytes=1, sha256="0" * 64)
    entry = tower(files=(file,), engine="onnx")
    info = ModelInfo(id="toy", family="mini", license="CC0-1.0", source="a test")
    session = engine("onnx").open(tmp_path, entry, Options(1, streams=2), model=info, modality="imu")
    batches = [np.random.default_rng(n).normal(size=(1 + n, 64)).astype(np.float32) for n in range(8)]
    alone = [session.run({"input": batch}) for batch in batches]
    with ThreadPoolExecutor(8) as pool:
        for one, other in zip(alone, pool.map(lambda b: session.run({"input": b}), batches * 3), strict=False):
            np.testing.assert_array_equal(one, other)
    session.close()


def tower(files=(), engine="none"):
    return TowerEntry(
        engine=engine,
        scheme="f32",
        weights="0" * 64,
        files=files or (FileEntry(path="x", bytes=1, sha256="0" * 64),),
        parameters=0,
        preprocess=ImuSpec(),
    )


class Watched:
    """An encoder over a made-up tower that counts the cores at work: one for each item, some for each pass."""

    def __init__(self, cores, layout, *, fails=()):
        self.layout, self.fails = layout, set(fails)
        self.lock, self.working, self.most, self.passes, self.most_passes = threading.Lock(), 0, 0, 0, 0
        self.held = 0
        self.encoder = Encoder(
            "imu",
            tower(),
            2,
            lease=self.lease,
            preprocessor=lambda: self.prepare,
            crew=Crew(cores),
            layout=layout,
        )

    rank = 3

    @contextmanager
    def lease(self):
        with self.lock:
            self.held += 1
        try:
            yield self
        finally:
            with self.lock:
                self.held -= 1
                assert self.held or not self.passes, "let go of while a pass runs"

    @contextmanager
    def at_work(self, cores, passes):
        with self.lock:
            self.working += cores
            self.passes += passes
            self.most, self.most_passes = max(self.most, self.working), max(self.most_passes, self.passes)
        try:
            time.sleep(0.001)
            yield
        finally:
            with self.lock:
                self.working -= cores
                self.passes -= passes

    def prepare(self, item):
        with self.at_work(1, 0):
            return np.full((1, 6, 4), item, np.float32)

    def run(self, inputs):
        with self.at_work(self.layout.threads, 1):
            batch = inputs["input"][:, 0, 0]
            if self.fails & set(batch.tolist()):
                raise EngineError("it fails")
            return np.stack([np.cos(batch), np.sin(batch)], axis=1)


@settings(max_examples=15, deadline=None)
@given(
    cores=st.integers(1, 5),
    streams=st.integers(1, 5),
    callers=st.integers(1, 8),
    items=st.integers(1, 25),
    size=st.integers(1, 6),
)
def test_decoding_and_passes_of_all_callers_never_use_more_cores_than_there_are(cores, streams, callers, items, size):
    streams = min(streams, cores)
    watched = Watched(cores, Layout(streams, cores // streams, ""))
    with ThreadPoolExecutor(callers) as pool:
        found = list(pool.map(lambda _: watched.encoder.embed(range(items), batch_size=size), range(callers)))
    angles = np.arange(items)
    for vectors in found:
        np.testing.assert_allclose(vectors, np.stack([np.cos(angles), np.sin(angles)], axis=1), atol=1e-6)
    assert 1 <= watched.most <= cores
    assert watched.most_passes <= cores // watched.layout.threads
    assert watched.encoder.timings.items == callers * items


def test_a_single_caller_keeps_several_streams_busy():
    watched = Watched(3, Layout(3, 1, ""))
    watched.encoder.embed(range(60), batch_size=4)
    assert watched.most_passes > 1


def test_bad_items_fail_alone_in_side_by_side_passes():
    watched = Watched(2, Layout(2, 1, ""), fails=(3, 17))
    with pytest.raises(ItemsError) as caught:
        watched.encoder.embed(range(24), batch_size=4)
    assert set(caught.value.errors) == {3, 17} and len(caught.value.vectors) == 22


def test_a_surprise_in_one_pass_does_not_let_go_of_the_tower_while_another_runs(monkeypatch):
    watched = Watched(2, Layout(2, 1, ""))
    plain = watched.run

    def run(inputs):
        if (inputs["input"] == 0).any():
            raise ZeroDivisionError("of all things")
        time.sleep(0.05)
        return plain(inputs)

    monkeypatch.setattr(watched, "run", run)
    with pytest.raises(ZeroDivisionError):  # Watched.lease asserts the rest
        watched.encoder.embed(range(16), batch_size=4)
    assert watched.encoder.embed(range(1, 3)).shape == (2, 2)


def test_closing_waits_for_those_who_embed_and_the_others_are_told(toy_artifact):
    for _ in range(5):
        model = slimbind.load(toy_artifact, threads=2)
        model.embed(["red"], "text")
        begun, refused, done = threading.Barrier(5), [], []

        def caller(model=model, begun=begun, refused=refused, done=done):
            begun.wait()
            try:
                while True:
                    done.append(model.embed(WORDS, "text").shape)
            except UsageError as error:
                refused.append(str(error))

        threads = [threading.Thread(target=caller) for _ in range(4)]
        for thread in threads:
            thread.start()
        begun.wait()
        time.sleep(0.02)
        model.close()
        assert model.loaded == {}
        for thread in threads:
            thread.join(20)
        assert len(refused) == 4 and all("closed" in told for told in refused)
        assert set(done) <= {(8, 8)}


def test_unloading_beside_callers_loses_nothing(toy_artifact):
    with slimbind.load(toy_artifact, threads=2) as model:
        alone = model.embed(WORDS, "text")
        with ThreadPoolExecutor(4) as pool:
            calls = [pool.submit(model.embed, WORDS, "text") for _ in range(40)]
            for _ in range(10):
                model.unload("text")
            for call in calls:
                np.testing.assert_array_equal(call.result(timeout=60), alone)


def fork(artifact, before="", after=""):
    """A model that has embedded texts is forked, and the child embeds them too; ``before`` and ``after`` are code."""
    code = (
        "import os, signal, sys, warnings, slimbind\n"
        "warnings.simplefilter('ignore')\n"
        "words = ['red', 'green', 'red green'] * 20\n"
        "model = slimbind.load(sys.argv[1], threads=2)\n"
        "own = model.embed(words, 'text')\n"
        f"{before}\n"
        "child = os.fork()\n"
        "if not child:\n"
        "    signal.alarm(60)\n"
        "    os._exit(0 if (model.embed(words, 'text') == own).all() else 1)\n"
        "code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])\n"
        f"{after}\n"
        "sys.exit(code)"
    )
    subprocess.run([sys.executable, "-c", code, str(artifact)], check=True, timeout=120)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")
def test_a_forked_process_opens_the_towers_anew(toy_artifact):
    """It has none of its parent's threads, and would wait for them for ever."""
    fork(toy_artifact, after="assert (model.embed(words, 'text') == own).all(); model.close()")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")
def test_a_process_forked_while_others_work_does_not_wait_for_them(toy_artifact):
    """Whatever lock they hold at that moment stays held in it."""
    locks = (
        "model._parts._verifying['text']",  # a thread that compares checksums has it for long
        "model._parts._lock",
        "model._encoders['text'].timings._lock",
    )
    fork(toy_artifact, before="; ".join(f"{lock}.acquire()" for lock in locks))


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="this system has no such signals")
def test_ctrl_c_after_another_thread_closed_what_this_one_opened_is_no_crash(toy_artifact):
    """The engine frees a stack for signals that the thread which opened the tower would then use."""
    code = (
        "import gc, signal, sys, threading, time, slimbind\n"
        "model = slimbind.load(sys.argv[1], threads=2)\n"
        "model.embed(['red'], 'text')\n"
        "closing = threading.Thread(target=model.close)\n"
        "closing.start(); closing.join(); gc.collect()\n"
        "signal.signal(signal.SIGALRM, signal.default_int_handler)\n"
        "try:\n"
        "    signal.setitimer(signal.ITIMER_REAL, 0.05); time.sleep(30)\n"
        "except KeyboardInterrupt:\n"
        "    sys.exit(7)"
    )
    assert subprocess.run([sys.executable, "-c", code, str(toy_artifact)], timeout=120).returncode == 7


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="threads are counted in /proc")
def test_threads_do_not_grow_with_the_number_of_calls(toy_artifact):
    def count():
        return len(list(Path("/proc/self/task").iterdir()))

    with slimbind.load(toy_artifact, threads=2) as model:
        model.embed(WORDS, "text")
        with ThreadPoolExecutor(6) as pool:
            list(pool.map(lambda _: model.embed(WORDS, "text"), range(12)))
            before = count()
            list(pool.map(lambda _: model.embed(WORDS, "text"), range(60)))
            assert count() <= before + 4  # two that decode and two that run passes, should they be new
