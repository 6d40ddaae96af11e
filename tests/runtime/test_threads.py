"""Threads: no more than affinity and cgroup quota allow; overridable."""

from __future__ import annotations

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slimbind.errors import UsageError
from slimbind.runtime.threads import VARIABLE, available_cpus, cgroup_quota, resolve_threads


def _v2(root, group, limits):
    """A fake root with a version-2 cgroup; ``limits`` is folder below the mount -> contents of cpu.max."""
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/self/cgroup").write_text(f"0::{group}\n")
    for folder, text in limits.items():
        place = root / "sys/fs/cgroup" / folder
        place.mkdir(parents=True, exist_ok=True)
        (place / "cpu.max").write_text(text)
    return root


def _v1(root, group, quota, *, controllers="cpu,cpuacct", where=""):
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/self/cgroup").write_text(f"5:memory:/x\n4:{controllers}:{group}\n1:name=systemd:/y\n")
    place = root / "sys/fs/cgroup" / controllers / where
    place.mkdir(parents=True)
    (place / "cpu.cfs_quota_us").write_text(quota)
    (place / "cpu.cfs_period_us").write_text("100000\n")
    return root


@pytest.mark.parametrize(
    ("limits", "quota"),
    [
        ({"": "150000 100000\n"}, 1.5),
        ({"": "max 100000\n"}, None),
        ({"": "max 100000\n", "a/b": "200000 100000\n"}, 2.0),
        ({"a": "50000 100000\n", "a/b": "400000 100000\n"}, 0.5),
        ({"": "nonsense"}, None),
        ({"": "100000 0\n"}, None),
        ({}, None),
    ],
)
def test_quota_of_version_2_is_the_smallest_on_the_way_up(tmp_path, limits, quota):
    assert cgroup_quota(_v2(tmp_path, "/a/b", limits)) == quota


def test_quota_is_found_where_proc_shows_the_hosts_path(tmp_path):
    assert cgroup_quota(_v2(tmp_path, "/docker/0123/../x", {"": "300000 100000"})) == 3.0


@pytest.mark.parametrize("controllers", ["cpu,cpuacct", "cpu"])
@pytest.mark.parametrize(("text", "quota"), [("250000\n", 2.5), ("-1\n", None)])
def test_quota_of_version_1(tmp_path, controllers, text, quota):
    assert cgroup_quota(_v1(tmp_path, "/docker/1", text, controllers=controllers)) == quota


def test_quota_of_version_1_in_an_inner_group(tmp_path):
    assert cgroup_quota(_v1(tmp_path, "/a", "100000", where="a")) == 1.0


def test_without_cgroups_there_is_no_quota(tmp_path):
    assert cgroup_quota(tmp_path) is None


@pytest.mark.parametrize(("quota", "cpus"), [("50000", 1), ("150000", 1), ("200000", 2), ("9900000", 8)])
def test_cpus_are_cut_to_the_quota_rounded_down_but_never_to_none(tmp_path, monkeypatch, quota, cpus):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)), raising=False)
    assert available_cpus(_v2(tmp_path, "/", {"": f"{quota} 100000"})) == cpus


def test_cpus_follow_the_affinity_mask(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {3, 5, 6}, raising=False)
    assert available_cpus(tmp_path) == 3


def test_cpus_where_there_is_no_affinity_mask(tmp_path, monkeypatch):
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 6)
    assert available_cpus(tmp_path) == 6


def test_the_argument_beats_the_variable_which_beats_the_machine(monkeypatch):
    monkeypatch.setenv(VARIABLE, "7")
    assert resolve_threads(3) == 3
    assert resolve_threads() == 7
    monkeypatch.delenv(VARIABLE)
    assert resolve_threads() == available_cpus() >= 1


@pytest.mark.parametrize("told", ["0", "-2", "many", "1.5"])
def test_a_senseless_variable_is_an_error_that_names_it(monkeypatch, told):
    monkeypatch.setenv(VARIABLE, told)
    with pytest.raises(UsageError, match=f"{VARIABLE} is '{told}'"):
        resolve_threads()


@pytest.mark.parametrize("asked", [0, -1, True, 1.5])
def test_a_senseless_argument_is_an_error(asked):
    with pytest.raises(UsageError, match="threads is"):
        resolve_threads(asked)


@given(quota=st.integers(1, 10**7), period=st.integers(1, 10**6))
def test_any_quota_is_read_as_the_kernel_means_it(tmp_path_factory, quota, period):
    root = _v2(tmp_path_factory.mktemp("root"), "/", {"": f"{quota} {period}\n"})
    assert cgroup_quota(root) == quota / period
