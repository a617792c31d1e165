"""Ask a server for translations from many clients at once, and check every answer.

    python benchmarks/serve.py [--clients 64] [--seconds 60] [--queue 24] [--images 12] [--size 48] [--model resnet_3]
        [--width 8]

The server is `img2img serve` in a process of its own, on this machine, with a network of random weights. Every client
sends PNGs one after the other, each over a new connection; after a 429 it waits a fifth of the time that the server
names. Results are compared, byte for byte, with the files that `img2img.translate` writes. Printed are the answers by
their status, how many differ, answers per second, the time that a client waits for a result, and the resident memory
of the server, in MB, at the start, after every tenth of the time and at the end, when its temporary folder is looked at
too.
"""

import argparse
import http.client
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from contextlib import closing
from pathlib import Path

import numpy as np
from PIL import Image
from translate import make_model

import img2img


def photos(folder, count, size):
    """Write noise of three sizes as PNG, and return the files."""
    rng = np.random.default_rng(0)
    folder.mkdir()
    paths = [folder / f"{i:03}.png" for i in range(count)]
    for i, path in enumerate(paths):
        Image.fromarray(rng.integers(0, 256, (size, size + 8 * (i % 3), 3), dtype=np.uint8)).save(path)
    return paths


def started(model, queue, folder):
    """Start the server, and return its process and its port."""
    env = os.environ | {"PYTHONUNBUFFERED": "1", "TMPDIR": str(folder)}
    command = [sys.executable, "-m", "img2img", "serve", str(model), "--port", "0", "--queue", str(queue)]
    process = subprocess.Popen([*command, "--device", "cpu"], stdout=subprocess.PIPE, text=True, env=env)
    return process, int(re.search(r"http://127\.0\.0\.1:(\d+)", process.stdout.readline())[1])


def asked(port, path, body=None):
    """Return the status, the headers and the body of an answer."""
    with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=120)) as connection:
        connection.request("POST" if body else "GET", path, body)
        answer = connection.getresponse()
        return answer.status, answer.headers, answer.read()


def memory_of(process):
    """Return the resident memory of a process, in MB."""
    status = Path(f"/proc/{process.pid}/status").read_text()
    return round(int(re.search(r"VmRSS:\s+(\d+)", status)[1]) / 1000)


def load(port, contents, expected, clients, seconds, at_each_tenth):
    """Let the clients ask for some time, and return what they were answered."""
    statuses, waits, wrong, end = Counter(), [], Counter(), time.monotonic() + seconds
    lock = threading.Lock()

    def client(number):
        k = number
        while time.monotonic() < end:
            k = (k + 1) % len(contents)
            begin = time.monotonic()
            try:
                status, headers, body = asked(port, "/v1/translate", contents[k])
            except OSError as error:
                status, headers, body = type(error).__name__, {}, b""
            with lock:
                statuses[str(status)] += 1
                if status == 200:
                    waits.append(time.monotonic() - begin)
                    wrong[k] += body != expected[k]
            if status == 429:
                time.sleep(0.2 * int(headers["Retry-After"]))

    threads = [threading.Thread(target=client, args=(number,)) for number in range(clients)]
    for thread in threads:
        thread.start()
    for _ in range(10):
        time.sleep(seconds / 10)
        at_each_tenth()
    for thread in threads:
        thread.join()
    waits.sort()
    return {
        "statuses": dict(statuses),
        "results_that_differ": wrong.total(),
        "results_per_second": round(statuses["200"] / seconds, 1),
        "seconds_waited": {
            "median": round(statistics.median(waits), 2),
            "p99": round(waits[len(waits) * 99 // 100], 2),
            "longest": round(waits[-1], 2),
        },
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--queue", type=int, default=24)
    parser.add_argument("--images", type=int, default=12)
    parser.add_argument("--size", type=int, default=48)
    parser.add_argument("--model", default="resnet_3")
    parser.add_argument("--width", type=int, default=8)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder, temporary = Path(name), Path(name) / "temporary"
        temporary.mkdir()
        make_model(folder / "model.safetensors", args.model, 3, args.width)
        paths = photos(folder / "in", args.images, args.size)
        img2img.translate(folder / "model.safetensors", folder / "in", folder / "out", device="cpu")
        contents = [path.read_bytes() for path in paths]
        expected = [(folder / "out" / path.name).read_bytes() for path in paths]
        process, port = started(folder / "model.safetensors", args.queue, temporary)
        try:
            for content in contents:
                asked(port, "/v1/translate", content)
            memory = [memory_of(process)]
            found = load(
                port, contents, expected, args.clients, args.seconds, lambda: memory.append(memory_of(process))
            )
            time.sleep(2)
            memory.append(memory_of(process))
            counters = asked(port, "/metrics")[2].decode()
            found["batches"] = int(re.search(r"img2img_batches_total\S* (\d+)", counters)[1]) - len(contents)
            uploads = [path for path in temporary.rglob("*") if path.is_file() and path.name != ".img2img.json"]
            found |= {"memory_mb": memory, "uploads_left": len(uploads)}
        finally:
            process.terminate()
            found_code = process.wait(60)
        found |= {"exit_code": found_code, "files_left": sum(1 for _ in temporary.rglob("*"))}
        print(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
