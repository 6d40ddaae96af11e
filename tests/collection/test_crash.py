"""Killed processes, full disks and several processes at once: nothing that was acknowledged is lost."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from slimbind.codecs import index
from slimbind.collection import Collection, codes
from slimbind.errors import CollectionError

from .conftest import IDS, fill, units

ROOT = Path(__file__).parents[2]
posix = pytest.mark.skipif(sys.platform == "win32", reason="signals and limits work otherwise there")


@pytest.fixture
def crash(monkeypatch):
    spec = importlib.util.spec_from_file_location("crash", ROOT / "benchmarks" / "crash.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    for owner, name in ((index, "EXACT_BELOW"), (codes, "_TAIL"), (codes, "_YOUNG")):
        monkeypatch.setattr(owner, name, getattr(owner, name))  # the module sets them; this puts them back
    return module


@posix
def test_a_killed_process_loses_nothing_that_was_done(crash, tmp_path):
    Collection.create(tmp_path / "s").close()
    state = {}
    for number in range(10):
        state = crash.kill_once(tmp_path / "s", state, seed=1000 + number)
    assert state


def test_the_check_of_the_crash_test_sees_what_is_lost(crash, tmp_path):
    with Collection.create(tmp_path / "s") as shelf:
        shelf.add(crash.vector(1)[None], ids=["a"], metadata=[{"seed": 1}])
    assert crash.check(tmp_path / "s", [{}, {"a": 1}]) == {"a": 1}
    for wrong in ({}, {"a": 2}, {"a": 1, "b": 1}):
        with pytest.raises(AssertionError):
            crash.check(tmp_path / "s", [wrong])


LIMITED = """
import resource, sys, numpy as np
from slimbind.collection import Collection
from slimbind.errors import CollectionError
folder, limit = sys.argv[1], int(sys.argv[2])
with Collection.open(folder) as shelf:
    done = 0
    # No file may grow beyond this: a write beyond it fails as it does on a full disk.
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
    try:
        for n in range(1000):
            rows = np.random.default_rng(n).standard_normal((20, 64))
            shelf.add(rows, ids=[f"{n}-{m}" for m in range(20)])
            done = n + 1
    except CollectionError as error:
        print(done, error)
    try:
        shelf.compact()
    except CollectionError as error:
        print("compact:", error)
    print(len(shelf), len(shelf.search(rows[:1], 3)))
"""


@posix
@pytest.mark.parametrize("kilobytes", [150, 400, 900])
def test_a_full_disk_loses_nothing(tmp_path, kilobytes):
    Collection.create(tmp_path / "s").close()
    line = [sys.executable, "-c", LIMITED, str(tmp_path / "s"), str(kilobytes * 1024)]
    told = subprocess.run(line, capture_output=True, text=True, timeout=60, check=True).stdout.splitlines()
    done, message = told[0].split(" ", 1)
    assert "nothing was changed" in message
    assert told[-1] == f"{int(done) * 20} {min(3, int(done) * 20)}"
    with Collection.open(tmp_path / "s") as shelf:
        assert shelf.verify().ok
        assert {entry.id for entry in shelf.entries()} == {f"{n}-{m}" for n in range(int(done)) for m in range(20)}
        shelf.add(units(1, 1, 64), ids=["there is room again"])
        shelf.compact()
        assert shelf.verify().ok


HOLD = """
import sys
from slimbind.collection import Collection
with Collection.open(sys.argv[1]) as shelf, shelf._db.writing():
    print("writing", flush=True)
    sys.stdin.readline()
"""


def test_a_second_writer_waits_and_then_is_told(shelf):
    fill(shelf, 2)
    line = [sys.executable, "-c", HOLD, str(shelf.folder)]
    with subprocess.Popen(line, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout.readline() == "writing\n"
        with (
            Collection.open(shelf.folder, timeout=0.2) as hasty,
            pytest.raises(CollectionError, match="another process is writing .* within 0.2 s .*longer timeout"),
        ):
            fill(hasty, 1, start=5)
        assert len(shelf.search(units(1), 5)) == 2  # readers do not wait
        waiting = threading.Thread(target=fill, args=(shelf, 1), kwargs={"start": 9})
        waiting.start()
        time.sleep(0.2)
        assert waiting.is_alive()
        other.stdin.write("\n")
        other.stdin.flush()
        waiting.join(20)
        assert not waiting.is_alive()
    assert "i9" in shelf and "i5" not in shelf


def test_threads_of_one_process_write_one_after_the_other(shelf):
    def write(number):
        for n in range(5):
            fill(shelf, 3, start=100 * number + 3 * n)

    threads = [threading.Thread(target=write, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(shelf) == 60
    assert shelf.verify().ok


READ = """
import sys, numpy as np
from slimbind.collection import Collection
query = np.ones(8)
least = rounds = 0
with Collection.open(sys.argv[1]) as shelf:
    while least < int(sys.argv[2]):
        hits = shelf.search(query, 1000)
        ids = {hit.id for hit in hits}
        assert len(ids) == len(hits) >= least, (len(ids), len(hits), least)
        assert len(hits) % 10 == 0, "half of a batch was seen"
        assert [hit.score for hit in hits] == sorted((hit.score for hit in hits), reverse=True)
        least, rounds = len(hits), rounds + 1
print(rounds)
"""


def test_searches_during_adds_see_whole_batches_from_threads_and_processes(shelf, monkeypatch):
    monkeypatch.setattr("slimbind.codecs.index.EXACT_BELOW", 100)
    monkeypatch.setattr(codes, "_TAIL", 40)
    line = [sys.executable, "-c", READ, str(shelf.folder), "300"]
    readers = [subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    stop, wrong = threading.Event(), []

    def look():
        least = 0
        while not stop.is_set():
            count = len(shelf.search(np.ones(8), 1000))
            if count < least or count % 10:
                wrong.append((count, least))
            least = count

    threads = [threading.Thread(target=look) for _ in range(3)]
    for thread in threads:
        thread.start()
    try:
        for n in range(30):
            fill(shelf, 10, start=10 * n)
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert wrong == []
    for reader in readers:
        out, err = reader.communicate(timeout=60)
        assert (reader.returncode, int(out) > 0) == (0, True), err


def test_a_flipped_byte_in_the_database_is_found(shelf):
    fill(shelf, 50)
    shelf.compact()
    shelf.close()
    path = shelf.folder / "collection.db"
    good = path.read_bytes()
    needle = units(7)[0].tobytes()
    places = {
        "vector": good.index(needle) + 3,
        "metadata": good.index(b'{"number":7}') + 10,
        "id": good.index(b"i7visioni7") + 1,
    }
    for place in places.values():
        path.write_bytes(good[:place] + bytes([good[place] ^ 1]) + good[place + 1 :])
        with Collection.open(shelf.folder) as again:
            assert not again.verify().ok
    path.write_bytes(good)
    with Collection.open(shelf.folder) as again:
        assert again.verify().ok


def test_what_belongs_together_is_checked(shelf):
    fill(shelf, 20)
    for change, match in (
        ("DELETE FROM vectors WHERE key = 3", "1 items without a vector"),
        ("INSERT INTO vectors VALUES (99, x'00')", "1 vectors without an item"),
        ("INSERT INTO removed (key) VALUES (5)", "1 removed items that are there"),
        ("UPDATE header SET next_key = 7", "14 items whose number is still to be given"),
        ("UPDATE items SET source = 'other' WHERE key = 4", "'i3': it is not what was written"),
        ("DROP INDEX items_hash; CREATE TABLE x (y)", None),
    ):
        with shelf._db.writing() as connection:
            connection.execute("SAVEPOINT before")
            for statement in change.split(";"):
                connection.execute(statement)
        report = shelf.verify()
        assert (report.problems == []) == (match is None)
        assert match is None or any(match in problem for problem in report.problems), report.problems
        with shelf._db.alone() as connection:  # put it back
            for statement in (
                "DELETE FROM removed; DELETE FROM vectors; DELETE FROM items; UPDATE header SET next_key = 1"
            ).split(";"):
                connection.execute(statement)
        fill(shelf, 20)


@pytest.mark.skipif(sys.platform == "win32" or os.geteuid() == 0, reason="needs a user whom permissions bind")
def test_a_folder_that_may_only_be_read(shelf):
    fill(shelf, 5)
    shelf.close()
    os.chmod(shelf.folder, 0o555)
    try:
        with Collection.open(shelf.folder) as again:
            assert len(again.search(units(1), 9)) == 5
            with pytest.raises(CollectionError, match="cannot be written"):
                fill(again, 1, start=9)
    finally:
        os.chmod(shelf.folder, 0o755)


def test_a_folder_that_may_only_be_read_is_opened_as_one(shelf, monkeypatch):
    """The same for the user whom nothing binds: SQLite is made to say what it says to others."""
    from slimbind.collection.database import Database

    fill(shelf, 5)
    shelf.close()
    real = Database._prepared

    def refuse(self, mode):
        if mode == "rw":
            import sqlite3

            raise sqlite3.OperationalError("unable to open database file")
        return real(self, mode)

    monkeypatch.setattr(Database, "_prepared", refuse)
    with pytest.raises(CollectionError, match="unable to open"):
        Collection.open(shelf.folder)
    monkeypatch.setattr(os, "access", lambda *_: False)
    with Collection.open(shelf.folder) as again:
        assert len(again.search(units(1), 9)) == 5
        with pytest.raises(CollectionError, match="cannot be written"):
            again.add(units(1), ids=["x"], modality="vision", encoders=IDS)


FORK = """
import multiprocessing, os, sys, threading
import numpy as np
from slimbind.collection import Collection
from slimbind.errors import CollectionError

place = sys.argv[1]
shelf = Collection.open(place)
shelf.add(np.ones((1, 8)), ids=["first"])
done = threading.Event()

def work(number):
    rng, n = np.random.default_rng(number), 0
    while not done.is_set():
        shelf.search(rng.standard_normal(8), 3)
        if number == 0:
            shelf.add(rng.standard_normal((2, 8)), ids=[f"thread {n} {m}" for m in range(2)])
            n += 1

def refused():
    uses = [len, Collection.build, Collection.compact, Collection.stats, lambda s: s.search(np.ones(8))]
    for use in [*uses, lambda s: s.delete(["x"]), lambda s: list(s.entries())]:
        try:
            use(shelf)
            os._exit(1)
        except CollectionError as error:
            assert "opened by the process that forked this one" in str(error), error
    with shelf:
        pass  # leaves the parent's files alone

def opens_its_own(number):
    refused()
    with Collection.open(place) as own:
        own.add(np.ones((1, 8)), ids=[f"child {number}"])
        assert len(own.search(np.ones(8), 1)) == 1

def run(child, *args):
    one = multiprocessing.get_context("fork").Process(target=child, args=args)
    one.start()
    one.join(20)
    if one.exitcode is None:
        one.kill()
    assert one.exitcode == 0, (child, one.exitcode)

for number in range(3):
    run(opens_its_own, number)
threads = [threading.Thread(target=work, args=(number,), daemon=True) for number in range(3)]
for thread in threads:
    thread.start()
for _ in range(12):
    run(refused)
done.set()
for thread in threads:
    thread.join()
shelf.add(np.ones((1, 8)), ids=["parent"])
"""


@posix
def test_a_forked_process_opens_its_own_and_is_told_so(tmp_path):
    """It is told so without waiting for a lock, which a thread that searched during the fork may have held."""
    Collection.create(tmp_path / "s").close()
    done = subprocess.run([sys.executable, "-c", FORK, str(tmp_path / "s")], capture_output=True, text=True, timeout=90)
    assert done.returncode == 0, done.stderr
    with Collection.open(tmp_path / "s") as shelf:
        assert {"first", "parent", "child 0", "child 1", "child 2"} <= {entry.id for entry in shelf.entries()}
        assert shelf.verify().ok
