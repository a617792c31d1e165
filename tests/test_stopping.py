"""What ends a run, and what does not: scripts without a guard, signals, readers that go away, files that vanish."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import img2img

ROOT = Path(img2img.__file__).parents[1]
ENV = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "COLUMNS": "500", "NO_COLOR": "1"}

SCRIPT = """
import numpy as np
import img2img

print("begins")
images = np.random.default_rng(0).integers(0, 255, (6, 32, 32, 3), dtype=np.uint8)
model = img2img.train(
    "dcgan", data=images, out="run", size=32, steps=2, width=4, d_width=4, device="cpu", workers=2, quiet=True
)
print("ends as", __name__, globals().get("__file__"))
"""


@pytest.mark.slow
@pytest.mark.parametrize("way", ["a file", "stdin"])
def test_a_script_without_a_guard_may_have_workers(way, tmp_path):
    (tmp_path / "script.py").write_text(SCRIPT)
    word, given = ("script.py", None) if way == "a file" else ("-", SCRIPT)
    done = subprocess.run(
        [sys.executable, word], cwd=tmp_path, env=ENV, input=given, capture_output=True, text=True, timeout=120
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert [line.split(" as ")[0] for line in done.stdout.splitlines()] == ["begins", "ends"], "run again by a worker"
    if way == "a file":
        assert done.stdout.endswith(f"ends as __main__ {tmp_path / 'script.py'}\n")
    assert (tmp_path / "run" / "model.safetensors").exists()
