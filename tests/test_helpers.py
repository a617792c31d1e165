"""`over`, which holds many of the other tests."""

import os

import pytest
from helpers import over


def test_every_case_runs_and_those_that_fail_are_named(tmp_path, monkeypatch):
    seen = []

    @over("suffix, side", [(".png", 1), (".tif", 2)], deep=[False, True])
    def check(tmp_path, suffix, side, deep, monkeypatch):
        """One thing."""
        seen.append((suffix, side, deep))
        assert not list(tmp_path.iterdir()) and "OF_A_CASE" not in os.environ
        (tmp_path / f"x{suffix}").touch()
        monkeypatch.setenv("OF_A_CASE", "1")
        if suffix == ".png" and deep:
            pytest.skip("no such files")
        if suffix == ".tif":
            with pytest.raises(ValueError, match="two"):
                raise ValueError("two" if deep else "one")

    assert (check.__name__, check.__doc__) == ("check", "One thing.")
    with pytest.raises(AssertionError) as caught:
        check(tmp_path=tmp_path, monkeypatch=monkeypatch)
    first, *cases = str(caught.value).splitlines()
    assert first == "1 of 4 cases failed:"
    assert cases[0].startswith("  suffix='.tif', side=2, deep=False: ")
    assert seen == [(".png", 1, False), (".png", 1, True), (".tif", 2, False), (".tif", 2, True)]


def test_a_grid_of_skipped_cases_is_skipped():
    @over(name=["a", "b"])
    def check(name):
        pytest.skip(name)

    with pytest.raises(pytest.skip.Exception, match="a"):
        check()


@over(x=[1, 2, 3])
def test_one_name_is_one_argument(x):
    assert x in (1, 2, 3)
