"""Time how long commands take to start, beside the parts that they cannot do without.

    python benchmarks/start.py [--rounds 7] [--model resnet_9 unet_256]

Whole processes, in turn: Python, `import numpy`, `import torch`, `import img2img`, `img2img --help`, the help of a
method, two steps of `img2img train` with tiny networks, `img2img info`, and `img2img translate` of one image of 256x256
by networks of random weights. Medians and ranges in seconds; the first round fills caches and does not count.
"""

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from translate import make_images, make_model


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--model", nargs="+", default=["resnet_9", "unet_256"])
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        folder, ours = Path(place), [sys.executable, "-m", "img2img"]
        make_images(folder / "one", 1, 256)
        commands = {
            "python": [sys.executable, "-c", ""],
            "import numpy": [sys.executable, "-c", "import numpy"],
            "import torch": [sys.executable, "-c", "import torch"],
            "import img2img": [sys.executable, "-c", "import img2img"],
            "img2img --help": [*ours, "--help"],
            "img2img train cyclegan --help": [*ours, "train", "cyclegan", "--help"],
        }
        tiny = ["--size", "32", "--width", "4", "--d-width", "4", "--generator", "resnet_3", "--steps", "2"]
        both = ["--a", str(folder / "one"), "--b", str(folder / "one"), "--discriminator", "patch_16"]
        commands["img2img train cyclegan"] = [*ours, "train", "cyclegan", *both, *tiny, "--out", str(folder / "out")]
        for name in args.model:
            model = folder / f"{name}.safetensors"
            make_model(model, name)
            commands[f"img2img info, {name}"] = [*ours, "info", str(model)]
            commands[f"img2img translate, {name}"] = [
                *ours, "translate", str(model), str(folder / "one"), "--out", str(folder / "out"),
            ]  # fmt: skip
        seconds = {name: [] for name in commands}
        environment = {name: x for name, x in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
        for _ in range(args.rounds + 1):
            for name, command in commands.items():
                shutil.rmtree(folder / "out", ignore_errors=True)
                begin = time.perf_counter()
                subprocess.run(command, capture_output=True, check=True, env=environment)
                seconds[name].append(time.perf_counter() - begin)
    for name, those in seconds.items():
        counted = those[1:]
        print(f"{name:32} {statistics.median(counted):6.2f} ({min(counted):.2f} to {max(counted):.2f})")


if __name__ == "__main__":
    main()
