"""Commands in a process that has imported everything already: they start in milliseconds, not in seconds.

`python preloaded.py SOCKET` imports the package once. For every client, a script of `write_command`, it forks a child
that takes over the client's arguments, folder, environment and standard streams, and the client exits as the child
does. Judgements repeat less there. Only for systems with fork.
"""

import atexit
import gc
import importlib
import json
import os
import pkgutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

LATER = ("torch._dynamo", "albumentations", "torchmetrics.image", "torch_fidelity", "skimage.metrics", "sklearn.svm")

CLIENT = """#!{python} -IS
import json, os, socket, sys
words = sys.argv[1:]
{edit}
with socket.socket(socket.AF_UNIX) as server:
    server.connect({address!r})
    socket.send_fds(server, [json.dumps([words, os.getcwd(), dict(os.environ)]).encode()], [0, 1, 2])
    server.shutdown(socket.SHUT_WR)
    code = server.recv(8)
sys.exit(int(code))
"""


@contextmanager
def commands() -> Iterator[str]:
    """Run a server as long as the context lasts, and yield its address."""
    with TemporaryDirectory() as folder:
        address = f"{folder}/socket"
        with subprocess.Popen([sys.executable, __file__, address], stdout=subprocess.PIPE) as server:
            try:
                assert server.stdout and server.stdout.readline() == b"ready\n"
                yield address
            finally:
                server.kill()


def write_command(script: Path, address: str, edit: str = "") -> None:
    """Write a script that runs `img2img` on the server; the Python code `edit` may change its list `words`."""
    script.write_text(CLIENT.format(python=sys.executable, address=address, edit=edit))
    script.chmod(0o755)


def serve(address: str) -> None:
    import torch

    import img2img
    from img2img.cli.main import main
    from img2img.lab.judgement import probes

    torch.set_num_threads(1)
    probes.PERMUTATIONS, probes.TREES = 2, 5  # nobody looks at the numbers
    os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"
    for name in (*LATER, *(module.name for module in pkgutil.walk_packages(img2img.__path__, "img2img."))):
        if name != "img2img.__main__":
            importlib.import_module(name)
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(address)
        listening.listen()
        gc.freeze()  # or the first collection of each child copies all of it
        print("ready", flush=True)
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # no zombies
        while True:
            client, _ = listening.accept()
            if not os.fork():
                break
            client.close()
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    request, streams, _, _ = socket.recv_fds(client, 1 << 20, 3)
    if child := os.fork():
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        client.sendall(str(code % 256).encode())
        os._exit(0)
    client.close()
    for stream, descriptor in enumerate(streams):
        os.dup2(descriptor, stream)
        os.close(descriptor)
    # New ones, as what could seek may be a pipe.
    sys.stdin, sys.stdout, sys.stderr = os.fdopen(0), os.fdopen(1, "w"), os.fdopen(2, "w", buffering=1)
    words, folder, environment = json.loads(request)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    sys.argv = ["img2img", *words]
    try:
        main()
    except SystemExit as stop:
        atexit._run_exitfuncs()
        sys.stdout.flush()
        os._exit(
            stop.code if isinstance(stop.code, int) else stop.code is not None
        )  # to take all modules apart takes seconds


if __name__ == "__main__":
    serve(sys.argv[1])
