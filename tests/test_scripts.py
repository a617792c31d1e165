"""The scripts install what their job needs, once, and show what pip does."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PYTHON = """#!/usr/bin/env bash
if [ "$2" = venv ]; then
    mkdir -p "$3/bin"
    cp "$0" "$3/bin/python"
elif [ "$2" = pip ]; then
    echo "$@" >> pip.log
fi
"""
pytestmark = pytest.mark.skipif(os.name == "nt" or not shutil.which("bash"), reason="the scripts are for bash")


def test_setup_installs_the_core_or_an_extra_and_nothing_twice(tmp_path):
    shutil.copytree(ROOT / "scripts", tmp_path / "scripts")
    (tmp_path / "pyproject.toml").touch()
    python = tmp_path / "python"
    python.write_text(PYTHON)
    python.chmod(0o755)

    def installed(*words):
        (tmp_path / "pip.log").unlink(missing_ok=True)
        environment = os.environ | {"PYTHON": str(python)}
        done = subprocess.run(
            ["bash", tmp_path / "scripts" / "setup", *words],
            env=environment,
            capture_output=True,
            text=True,
            check=True,
        )
        log = tmp_path / "pip.log"
        return (log.read_text().split()[2:] if log.exists() else None), done.stdout

    pip, told = installed()
    assert pip == ["install", "--disable-pip-version-check", "--no-compile", "--editable", "."]
    assert "installing img2img" in told
    assert installed() == (None, "")
    assert installed("test")[0][-1] == ".[test]"
    assert installed("test") == installed() == (None, "")
    later = (tmp_path / ".venv" / "installed").stat().st_mtime + 10
    os.utime(tmp_path / "pyproject.toml", (later, later))
    assert installed()[0][-1] == "."


@pytest.mark.parametrize(("script", "extra"), [("demo", False), ("test", True), ("check", True), ("benchmark", True)])
def test_the_demo_needs_no_test_tools(script, extra):
    lines = (ROOT / "scripts" / script).read_text().splitlines()
    assert ("scripts/setup test" if extra else "scripts/setup") in lines
