"""An index follows its folders: new and changed files come in, removed ones leave, and an interruption loses little."""

from __future__ import annotations

import os
import shutil

import pytest

from slimbind.bulk import Item, Reader, learn_prompts, prompts, removal, update_index
from slimbind.bulk import embedding as embedding_module
from slimbind.bulk import indexing as module
from slimbind.bulk.indexing import name_of
from slimbind.collection import Collection, Entry

from ..conftest import write_picture


@pytest.fixture
def index(toy, tmp_path):
    ids = {name: toy.encoder(name).id for name in toy.modalities}
    with Collection.create(tmp_path / "index", dim=toy.dim, model="toy", encoders=ids) as made:
        yield made


def update(index, toy, *folders, modality=None, **options):
    reader = Reader("toy", toy.modalities, wanted=("vision", "audio"), modality=modality, exclude=index.folder)
    return update_index(index, toy, reader, [str(folder) for folder in folders], **options)


def counts(summary):
    return summary.added, summary.changed, summary.unchanged, summary.removed, summary.failed


def names(index):
    return sorted(os.path.basename(entry.source) for entry in index.entries())


ALL = ["blue.png", "green.jpg", "red.png", "rumble.wav", "whistle.flac"]


def test_the_first_time_all_is_embedded_and_the_second_time_nothing(toy, toy_folder, index):
    first = update(index, toy, toy_folder)
    assert counts(first) == (5, 0, 0, 0, 0)
    assert first.skipped == {"text, not asked for": 1, "of no known type": 1}
    assert names(index) == ALL
    toy.unload()
    assert counts(update(index, toy, toy_folder)) == (0, 0, 5, 0, 0)
    assert not toy.loaded  # nothing to embed, nothing opened
    assert counts(update(index, toy, toy_folder, refresh=True)) == (0, 5, 0, 0, 0)


def test_changes_come_in_and_what_is_gone_leaves(toy, toy_folder, index):
    update(index, toy, toy_folder)
    (toy_folder / "red.png").unlink()
    write_picture(toy_folder / "green.jpg", (220, 10, 10))
    write_picture(toy_folder / "new.png", (10, 10, 230))
    assert counts(update(index, toy, toy_folder)) == (1, 1, 3, 1, 0)
    best = index.search(toy.embed(["red"], "text")[0], 1)[0]
    assert os.path.basename(best.source) == "green.jpg"


def test_a_file_that_was_only_touched_is_not_embedded_again(toy, toy_folder, index):
    update(index, toy, toy_folder)
    toy.unload()
    os.utime(toy_folder / "red.png", ns=(1, 1))
    assert counts(update(index, toy, toy_folder)) == (0, 0, 5, 0, 0)
    assert not toy.loaded
    assert index.get(str(toy_folder / "red.png")).mtime_ns == 1  # so that it is not hashed the next time either


def test_another_content_of_the_same_size_and_time_of_another_file_is_a_change(toy, toy_folder, index):
    update(index, toy, toy_folder)
    path = toy_folder / "red.png"
    data = bytearray(path.read_bytes())
    data[-20] ^= 1  # in the checksum at the end: the picture cannot be read, but its size is the same
    path.write_bytes(data)
    os.utime(path, ns=(5, 5))
    assert counts(update(index, toy, toy_folder))[2] == 4


def padded(path, color):
    """A picture of 4096 bytes; what stands behind its end is no part of it."""
    write_picture(path, color)
    path.write_bytes(path.read_bytes().ljust(4096, b"\0"))


def test_another_content_of_the_same_size_within_one_tick_of_the_clock_is_a_change(toy, toy_folder, index):
    path = toy_folder / "red.png"
    padded(path, (220, 10, 10))
    info = path.stat()
    update(index, toy, toy_folder)
    padded(path, (10, 10, 230))
    os.utime(path, ns=(info.st_mtime_ns, info.st_mtime_ns))
    assert path.stat().st_size == info.st_size
    summary = update(index, toy, toy_folder)
    assert (summary.changed, summary.unchanged) == (1, 4)


def test_a_file_that_was_just_written_is_settled_by_a_later_run(toy, toy_folder, index, monkeypatch):
    update(index, toy, toy_folder)
    later = module.time.time_ns() + 10**10
    monkeypatch.setattr(module.time, "time_ns", lambda: later)
    update(index, toy, toy_folder)
    monkeypatch.setattr(module, "_hash", None)  # nothing is read any more
    assert counts(update(index, toy, toy_folder)) == (0, 0, 5, 0, 0)
    red = toy_folder / "red.png"
    assert index.get(str(red)).mtime_ns == red.stat().st_mtime_ns


def test_a_moved_file_takes_its_vector_along(toy, toy_folder, index):
    update(index, toy, toy_folder)
    toy.unload()
    (toy_folder / "red.png").rename(toy_folder / "rouge.png")
    shutil.copy(toy_folder / "green.jpg", toy_folder / "deep" / "vert.jpg")
    summary = update(index, toy, toy_folder)
    assert (counts(summary), summary.copied) == ((2, 0, 4, 1, 0), 2)
    assert not toy.loaded
    first, second = index.vectors([str(toy_folder / "green.jpg"), str(toy_folder / "deep" / "vert.jpg")])
    assert (first == second).all()
    assert index.search(toy.embed(["red"], "text")[0], 1)[0].id == str(toy_folder / "rouge.png")


def test_a_like_that_another_process_took_out_meanwhile_is_no_obstacle(toy, toy_folder, index, monkeypatch):
    monkeypatch.setattr(Collection, "with_hash", lambda *_: Entry("gone"))
    assert counts(update(index, toy, toy_folder)) == (5, 0, 0, 0, 0)


def test_one_file_has_another_id_for_each_modality():
    picture = Item("/x/a.png", "vision"), Item("/x/a.png", "depth")
    assert [name_of(item) for item in picture] == ["/x/a.png", "/x/a.png#depth"]


def test_several_folders_live_in_one_index_and_do_not_disturb_each_other(toy, toy_folder, index, tmp_path):
    other = tmp_path / "things2"  # the name begins like the other's: a prefix is no folder
    write_picture(other / "x.png", (0, 0, 255))
    update(index, toy, toy_folder)
    assert counts(update(index, toy, other)) == (1, 0, 0, 0, 0)
    assert counts(update(index, toy, toy_folder)) == (0, 0, 5, 0, 0)
    assert len(index) == 6
    (other / "x.png").unlink()
    (other / "notes.txt").write_text("still here")
    assert counts(update(index, toy, other)) == (0, 0, 0, 1, 0)


def test_overlapping_folders_are_read_once(toy, toy_folder, index):
    assert counts(update(index, toy, toy_folder, toy_folder / "deep", toy_folder)) == (5, 0, 0, 0, 0)


def test_another_modality_comes_beside_and_leaves_the_rest_alone(toy, toy_folder, index):
    update(index, toy, toy_folder)
    assert counts(update(index, toy, toy_folder, modality="text")) == (1, 0, 0, 0, 0)
    assert names(index) == sorted([*ALL, "notes.txt"])
    (toy_folder / "red.png").unlink()
    assert counts(update(index, toy, toy_folder, modality="text")) == (0, 0, 1, 0, 0)
    assert "red.png" in names(index)
    assert counts(update(index, toy, toy_folder)) == (0, 0, 4, 1, 0)


def test_a_file_that_went_bad_leaves_and_is_tried_again(toy, toy_folder, index):
    update(index, toy, toy_folder)
    good = (toy_folder / "red.png").read_bytes()
    (toy_folder / "red.png").write_bytes(b"")
    assert counts(update(index, toy, toy_folder)) == (0, 0, 4, 0, 1)
    assert "red.png" not in names(index)
    assert counts(update(index, toy, toy_folder)) == (0, 0, 4, 0, 1)
    (toy_folder / "red.png").write_bytes(good)
    assert counts(update(index, toy, toy_folder)) == (1, 0, 4, 0, 0)


def test_a_folder_that_cannot_be_listed_keeps_its_entries(toy, toy_folder, index, monkeypatch):
    update(index, toy, toy_folder)
    real = os.scandir

    def refuse(path):
        if str(path).endswith("/deep"):
            raise PermissionError(13, "Permission denied")
        return real(path)

    monkeypatch.setattr(os, "scandir", refuse)
    assert counts(update(index, toy, toy_folder)) == (0, 0, 4, 0, 1)
    assert names(index) == ALL


@pytest.mark.parametrize("refresh", [False, True])
def test_files_that_cannot_be_read_now_keep_their_entries(toy, toy_folder, index, monkeypatch, refresh):
    """As in a folder that may be listed but not entered, or on a drive that fails."""
    update(index, toy, toy_folder)
    real_stat, real_open = os.stat, open

    def stat(path, *args, **options):
        if str(path).endswith("red.png"):
            raise PermissionError(13, "Permission denied")
        return real_stat(path, *args, **options)

    def refuse(path, *args, **options):
        if str(path).endswith("green.jpg"):
            raise OSError(5, "Input/output error")
        return real_open(path, *args, **options)

    monkeypatch.setattr(os, "stat", stat)
    monkeypatch.setattr("builtins.open", refuse)
    os.utime(toy_folder / "green.jpg", ns=(7, 7))
    rows = []
    summary = update(index, toy, toy_folder, refresh=refresh, on_row=rows.append)
    assert (summary.failed, summary.removed) == (2, 0)
    assert sorted(os.path.basename(row.item.id) for row in rows if row.error) == ["green.jpg", "red.png"]
    assert names(index) == ALL
    monkeypatch.undo()
    os.utime(toy_folder / "green.jpg", ns=(8, 8))
    assert counts(update(index, toy, toy_folder)) == (0, 0, 5, 0, 0)


def test_a_link_to_nothing_leaves(toy, toy_folder, index):
    (toy_folder / "link.png").symlink_to(toy_folder / "red.png")
    assert counts(update(index, toy, toy_folder))[0] == 6
    (toy_folder / "red.png").rename(toy_folder.parent / "elsewhere.png")
    assert counts(update(index, toy, toy_folder)) == (0, 0, 4, 1, 1)
    assert names(index) == sorted(set(ALL) - {"red.png"})


def held(summary):
    return [(os.path.basename(one.folder), one.count, one.why) for one in summary.held]


def many(folder, count):
    """Pictures of different content in a folder of their own."""
    folder.mkdir(exist_ok=True)
    for n in range(count):
        write_picture(folder / f"{n}.png", (n, 200, 10))
    return folder


def test_a_drive_that_is_missing_loses_nothing(toy, toy_folder, index, tmp_path):
    update(index, toy, toy_folder)
    toy_folder.rename(tmp_path / "elsewhere")
    toy_folder.mkdir()
    (toy_folder / ".hidden").write_text("")
    (toy_folder / ".Trash").mkdir()
    write_picture(toy_folder / ".Trash" / "red.png", (1, 1, 1))
    for _ in range(2):
        summary = update(index, toy, toy_folder)
        assert (counts(summary), held(summary)) == ((0, 0, 0, 0, 0), [(toy_folder.name, 5, "has no files")])
        assert names(index) == ALL
    shutil.rmtree(toy_folder)
    (tmp_path / "elsewhere").rename(toy_folder)
    toy.unload()
    summary = update(index, toy, toy_folder)
    assert (counts(summary), summary.held, toy.loaded) == ((0, 0, 5, 0, 0), [], {})


def test_an_empty_folder_is_meant_where_one_says_so(toy, toy_folder, index):
    update(index, toy, toy_folder)
    shutil.rmtree(toy_folder)
    toy_folder.mkdir()
    summary = update(index, toy, toy_folder, remove_missing=True)
    assert (counts(summary), summary.held, names(index)) == ((0, 0, 0, 5, 0), [], [])


def test_a_drive_that_is_missing_in_a_folder_loses_nothing(toy, toy_folder, index):
    drive = many(toy_folder / "drive", 10)
    (drive / "few").mkdir()
    (drive / "0.png").rename(drive / "few" / "0.png")
    update(index, toy, toy_folder)
    shutil.rmtree(drive)
    drive.mkdir()
    (toy_folder / "red.png").unlink()
    summary = update(index, toy, toy_folder)
    assert (summary.removed, held(summary)) == (1, [("drive", 10, "is empty")])
    assert len(index) == 14
    drive.rmdir()  # somebody removed the folder itself
    assert (update(index, toy, toy_folder).removed, len(index)) == (10, 4)


def test_a_folder_emptied_of_a_few_files_is_an_everyday_thing(toy, toy_folder, index):
    drive = many(toy_folder / "album", 9)
    update(index, toy, toy_folder)
    shutil.rmtree(drive)
    drive.mkdir()
    summary = update(index, toy, toy_folder)
    assert (summary.removed, summary.held) == (9, [])


def test_the_loss_of_most_files_is_asked_about_and_renaming_them_is_not(toy, index, tmp_path, monkeypatch):
    monkeypatch.setattr(removal, "_MANY", 6)
    folder = many(tmp_path / "p", 12)
    update(index, toy, folder)
    for n in range(12):
        (folder / f"{n}.png").rename(folder / f"new{n}.png")
    summary = update(index, toy, folder)
    assert (summary.copied, summary.removed, summary.held) == (12, 12, [])
    for n in range(6):
        (folder / f"new{n}.png").unlink()
    assert update(index, toy, folder).removed == 6  # a half is not most
    write_picture(tmp_path / "p" / "other.png", (1, 1, 1))
    for n in range(6, 12):
        (folder / f"new{n}.png").unlink()
    summary = update(index, toy, folder)
    assert (summary.added, summary.removed) == (1, 0)
    assert held(summary) == [("p", 6, "has 1 files of 6 that it had")]
    assert update(index, toy, folder, remove_missing=True).removed == 6


def test_one_missing_drive_holds_nothing_back_elsewhere(toy, toy_folder, index, tmp_path):
    drive = many(tmp_path / "drive", 3)
    update(index, toy, toy_folder, drive)
    shutil.rmtree(drive)
    drive.mkdir()
    (toy_folder / "red.png").unlink()
    summary = update(index, toy, toy_folder, drive)
    assert (summary.removed, held(summary)) == (1, [("drive", 3, "has no files")])


def test_a_folder_with_files_of_another_kind_is_no_missing_drive(toy, toy_folder, index):
    update(index, toy, toy_folder, modality="text")
    assert names(index) == ["notes.txt"]
    (toy_folder / "notes.txt").unlink()
    summary = update(index, toy, toy_folder, modality="text")
    assert (summary.removed, summary.held) == (1, [])


def test_an_interruption_keeps_what_was_done_and_the_next_run_goes_on(toy, toy_folder, index, monkeypatch):
    monkeypatch.setattr(embedding_module, "_WINDOW", 2)
    done = []

    def stop_at_three(row):
        done.append(row)
        if len(done) == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        update(index, toy, toy_folder, on_row=stop_at_three)
    with Collection.open(index.folder) as reader:
        assert len(reader) == 3
    assert counts(update(index, toy, toy_folder)) == (2, 0, 3, 0, 0)


def test_an_interrupted_run_removes_nothing(toy, toy_folder, index):
    update(index, toy, toy_folder)
    write_picture(toy_folder / "aaa.png", (1, 1, 1))

    def stop(row):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        update(index, toy, toy_folder, on_row=stop)
    assert set(ALL) <= set(names(index))


def test_it_is_written_on_the_way(toy, toy_folder, index):
    seen = []

    def look(row):
        with Collection.open(index.folder) as reader:
            seen.append(len(reader))

    update(index, toy, toy_folder, checkpoint_seconds=0, on_row=look)
    assert seen == [0, 1, 2, 3, 4]


def test_it_is_written_when_there_is_much(toy, toy_folder, index, monkeypatch):
    monkeypatch.setattr(module, "_MAX_PENDING", 2)
    seen = []

    def look(row):
        with Collection.open(index.folder) as reader:
            seen.append(len(reader))

    update(index, toy, toy_folder, on_row=look)
    assert seen == [0, 0, 2, 2, 4]


def test_what_another_run_added_meanwhile_is_not_missed(toy, toy_folder, index):
    """It was not seen because the folder had been listed before it came; that is no reason to take it out."""
    late = str(toy_folder / "late.png")

    def add(row):
        if late not in index:
            ids = {name: toy.encoder(name).id for name in toy.modalities}
            index.add(row.vector[None], ids=[late], modality="vision", encoders=ids)

    assert counts(update(index, toy, toy_folder, on_row=add)) == (5, 0, 0, 0, 0)
    assert late in index
    assert counts(update(index, toy, toy_folder)) == (0, 0, 5, 1, 0)


def test_everything_is_reported_once(toy, toy_folder, index):
    write_picture(toy_folder / "zzz.png", (1, 1, 1))
    update(index, toy, toy_folder)
    (toy_folder / "zzz.png").write_bytes(b"")
    rows, done = [], []
    update(index, toy, toy_folder, on_row=rows.append, on_done=lambda: done.append(1))
    assert [os.path.basename(row.item.id) for row in rows] == ["zzz.png"]
    assert len(done) == 6


def test_codes_learn_what_people_ask_once_there_are_codes(toy, toy_folder, index, monkeypatch):
    monkeypatch.setattr(prompts, "PROMPTS", ("red", "a whistle", "green"))
    update(index, toy, toy_folder)
    toy.unload()
    assert not learn_prompts(index, toy)  # so few items are compared exactly
    assert not toy.loaded
    monkeypatch.setattr("slimbind.codecs.index.EXACT_BELOW", 5)
    assert learn_prompts(index, toy)
    assert index.stats().queries == {"text": 3}
    assert not learn_prompts(index, toy)


def test_the_prompts_are_many_and_different():
    assert len(set(prompts.PROMPTS)) == len(prompts.PROMPTS) > 500
    assert all(text == " ".join(text.split()) for text in prompts.PROMPTS)
