"""Artifacts with towers of others: each says what it said before, and nothing is left behind."""

from __future__ import annotations

import numpy as np
import pytest

import slimbind
from slimbind.errors import ArtifactError, UsageError
from slimbind.evaluate.mixing import mixed


def test_each_tower_says_what_it_said_where_it_comes_from(reference, candidate):
    sentences, picture = ["a red dog", "the sun"], np.full((40, 30, 3), 90, np.uint8)
    with mixed({"vision": candidate, "text": reference}) as mix, slimbind.load(mix.folder) as model:
        assert model.modalities == ("vision", "text")
        found = model.embed(sentences, "text"), model.embed([picture], "vision")
        assert mix.tower("vision").encoder_id == candidate.tower("vision").encoder_id
        assert mix.tower("text") == reference.tower("text")
        mix.verify("vision")
        folder = mix.folder
    assert not folder.exists()
    with slimbind.load(reference.folder) as first, slimbind.load(candidate.folder) as second:
        assert np.array_equal(found[0], first.embed(sentences, "text"))
        assert np.array_equal(found[1], second.embed([picture], "vision"))
        assert not np.array_equal(found[1], first.embed([picture], "vision"))
    assert (candidate.folder / "vision" / "tower.xml").exists(), "what was mixed from stays"


def test_where_folders_cannot_be_linked_they_are_copied(reference, monkeypatch):
    def refused(*_, **__):
        raise OSError("not allowed")

    monkeypatch.setattr("os.symlink", refused)
    with mixed({"text": reference}) as mix:
        mix.verify("text")
        assert not (mix.folder / "text").is_symlink()


def test_only_towers_of_one_model_are_mixed(reference, write_model, tmp_path):
    other = write_model(tmp_path / "other", name="another")
    with pytest.raises(UsageError, match="say different things"), mixed({"vision": reference, "text": other}):
        pass
    with pytest.raises(UsageError, match="no tower"), mixed({}):
        pass
    with pytest.raises((ArtifactError, UsageError), match="audio"), mixed({"audio": reference}):
        pass
