"""The server, over a real socket: results, refusals, limits, clients that leave, and its end."""

import base64
import http.client
import io
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import uuid
import zipfile
from contextlib import closing, contextmanager
from pathlib import Path
from urllib.parse import quote

import numpy as np
import pytest
import tifffile
from helpers import over, runs_to_serve, there, wait_until
from PIL import Image

import img2img

pytest.importorskip("fastapi")
from img2img.model.translator import Translator
from img2img.report.run import rewrite_report
from img2img.serve import asked
from img2img.serve.app import PAGE, Service
from img2img.serve.models import open_models
from img2img.serve.options import ServeOptions
from img2img.serve.server import listening, private_folder, run, server_of
from img2img.serve.watching import open_runs

ROOT = Path(img2img.__file__).parents[1]
CPU = dict(device="cpu", precision="fp32", backend="auto")
TOKEN = "a-token-of-some-length"


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    return runs_to_serve(tmp_path_factory.mktemp("models"))


@contextmanager
def running(models, runs=(), **options):
    """A server in this process, and the service behind it."""
    chosen = ServeOptions(**{"port": 0, "timeout": 60} | options)
    with closing(listening(chosen)) as listener, private_folder() as folder:
        service = Service(open_models(models, **CPU), chosen, folder, open_runs(runs))
        server, ready = server_of(service), threading.Event()
        thread = threading.Thread(target=run, args=(service, server, listener, lambda _: ready.set()))
        thread.start()
        service.port = listener.getsockname()[1]
        try:
            assert ready.wait(30)
            yield service
        finally:
            server.stop()
            thread.join(30)
        assert not thread.is_alive()


@pytest.fixture(scope="module")
def service(models):
    with running(models) as service:
        yield service


def ask(service, path, body=None, method=None, **headers):
    """The status, the headers and the body of an answer."""
    with closing(http.client.HTTPConnection("127.0.0.1", service.port, timeout=60)) as connection:
        connection.request(method or ("GET" if body is None else "POST"), path, body, headers)
        answer = connection.getresponse()
        return answer.status, answer.headers, answer.read()


def form(content, name="a.png", **fields):
    """A form with a file, and its type."""
    mark = uuid.uuid4().hex
    parts = [f'--{mark}\r\nContent-Disposition: form-data; name="{k}"\r\n\r\n{v}\r\n' for k, v in fields.items()]
    head = f'--{mark}\r\nContent-Disposition: form-data; name="file"; filename="{name}"\r\n\r\n'
    body = "".join(parts).encode() + head.encode() + content + f"\r\n--{mark}--\r\n".encode()
    return body, {"Content-Type": f"multipart/form-data; boundary={mark}"}


def photo(size=(50, 40), seed=0, kind="png", channels=3, **options):
    """The bytes of an image file."""
    array = np.random.default_rng(seed).integers(0, 256, (*size, channels), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(array.squeeze()).save(buffer, kind, **options)
    return buffer.getvalue()


def deep_tiff(pages=1, seed=0):
    buffer = io.BytesIO()
    array = np.random.default_rng(seed).integers(100, 60000, (pages, 20, 24, 2)).astype(np.uint16)
    tifffile.imwrite(buffer, array.squeeze(), photometric="minisblack", planarconfig="contig", resolution=(7, 7))
    return buffer.getvalue()


def npy(array, **options):
    buffer = io.BytesIO()
    np.save(buffer, array, **options)
    return buffer.getvalue()


def nothing_left(service):
    """Whether the service keeps no file but its records, once all answers are sent."""
    kept = [path.name for path in there(service.folder, "*")]
    return service.used == 0 and set(kept) <= {".img2img.json"}


def error_of(answer):
    """The status and the sentence of a refusal, which names no path of the server."""
    status, _, body = answer
    sentence = json.loads(body)["error"]
    assert "img2img-serve" not in sentence and "/in/" not in sentence and sentence.endswith(".")
    return status, sentence


# Results


CASES = {
    "a photo": ("photos", "a.png", photo(), {}),
    "another size": ("photos", "Ä b.JPG", photo((33, 61), 1, "jpeg"), {"direction": "b2a"}),
    "webp, lossless": ("photos", "a.webp", photo(kind="webp", lossless=True), {}),
    "an array": ("photos", "a.npy", npy(np.zeros((2, 16, 24, 3), np.uint8)), {}),
    "another format": ("photos", "a.bmp", photo(kind="bmp"), {"format": "tif"}),
    "an ensemble": ("photos", "a.png", photo(), {"ensemble": "true"}),
    "grey": ("photos", "a.png", photo(channels=1), {"channels": "convert"}),
    "quality": ("photos", "a.jpg", photo(kind="jpeg"), {"quality": "30"}),
    "16 bits": ("deep", "a.tif", deep_tiff(), {"seed": "3"}),
    "pages": ("deep", "a.ome.tif", deep_tiff(3), {"model": "deep"}),
}


@over(case=CASES)
def test_results_are_those_of_translate(case, service, models, tmp_path):
    model, name, content, options = CASES[case]
    path = next(path for path in models if path.name == model)
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / name).write_bytes(content)
    given = {k: v for k, v in options.items() if k != "model"}
    img2img.translate(path, tmp_path / "in", tmp_path / "out", device="cpu", precision="fp32", **given)
    (expected,) = (tmp_path / "out").glob("[!.]*")
    values = {"model": model, **options}
    body, kind = form(content, name, **values)
    status, headers, result = ask(service, "/v1/translate", body, **kind)
    assert (status, result) == (200, expected.read_bytes())
    assert quote(expected.name) in headers["Content-Disposition"]
    query = "&".join(f"{k}={v}" for k, v in values.items())
    assert ask(service, f"/v1/translate?{query}&name={quote(name)}", content)[2] == result


def test_the_content_tells_the_format_of_a_file_without_a_name(service):
    status, headers, result = ask(service, "/v1/translate", photo(kind="jpeg"))
    assert status == 200 and Image.open(io.BytesIO(result)).format == "JPEG"
    assert headers["Content-Type"] == "image/jpeg" and headers["X-Content-Type-Options"] == "nosniff"
    assert len(result) == int(headers["Content-Length"])


@over(query=["n=3&seed=5", "seed=5&label=y", "n=2&format=tif&batch_size=2"])
def test_drawn_images_are_those_of_sample(query, service, models, tmp_path):
    options = dict(pair.split("=") for pair in query.split("&"))
    n = int(options.pop("n", 1))
    img2img.sample(models[2], n, out=tmp_path / "out", device="cpu", precision="fp32", **options)
    expected = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir() if path.stem.isdecimal()}
    status, headers, body = ask(service, f"/v1/sample?{query}", b"")
    assert status == 200
    if n == 1:
        assert [body] == list(expected.values())
        return
    assert headers["Content-Type"] == "application/zip"
    with zipfile.ZipFile(io.BytesIO(body)) as archive:
        assert {name: archive.read(name) for name in archive.namelist()} == expected


def test_what_the_result_is_worth_is_in_its_headers(service):
    array = np.full((16, 16, 2), 65535, np.uint16)
    _, headers, _ = ask(service, "/v1/translate?model=deep&name=a.npy", npy(array))
    assert float(headers["Img2img-Outside"]) == 1


def test_models_are_described(service):
    facts = json.loads(ask(service, "/v1/models")[2])
    photos, deep, drawn = facts["models"]
    assert [x["name"] for x in (photos, deep, drawn)] == ["photos", "deep", "drawn"]
    assert list(photos["directions"]) == ["a2b", "b2a"] and photos["kind"] == "translator"
    assert deep["directions"]["a2b"]["takes_seed"] and not photos["directions"]["a2b"]["takes_seed"]
    assert deep["directions"]["a2b"]["input"] == {"channels": 2, "dtype": "uint16"}
    assert drawn["kind"] == "sampler" and drawn["classes"] == ["x", "y"]
    assert "zarr" not in facts["formats"]["read"] + facts["formats"]["written"]


def test_a_preview_shows_what_browsers_cannot(service):
    array = np.zeros((2, 30, 40, 4), np.uint16)
    array[1, :, :20, 3] = 4000
    content = npy(array)
    status, headers, body = ask(service, "/v1/preview?name=a.npy&page=1&show=3&low=0&high=8000", content)
    facts = json.loads(headers["Img2img-Image"])
    assert status == 200 and facts["channels"] == 4 and facts["pages"] == 2 and facts["dtype"] == "uint16"
    shown = np.asarray(Image.open(io.BytesIO(body)))
    assert shown.shape == (30, 40) and set(shown[:, :20].flat) == {128} and set(shown[:, 20:].flat) == {0}
    long = npy(np.arange(9000, dtype=np.uint16).reshape(1, 9000, 1))
    _, headers, body = ask(service, "/v1/preview?name=a.npy&low=0&high=8999", long)
    shown = np.asarray(Image.open(io.BytesIO(body)))
    assert json.loads(headers["Img2img-Image"])["width"] == 9000 and shown.shape == (1, 1600)
    assert abs(shown[0].astype(int) - np.linspace(0, 255, 1600)).max() < 2
    wrong = {"page=2": "from 0 to 1", "show=4": "from 0 to 3", "show=x": "up to 3", "low=1,2": "low"}
    for query, piece in wrong.items():
        status, sentence = error_of(ask(service, f"/v1/preview?name=a.npy&{query}", content))
        assert status == 422 and piece in sentence, sentence
    assert ask(service, "/v1/preview", photo())[0] == 200


# Refusals


@over(
    "query, content, status, piece",
    [
        ("", b"", 415, "this one is empty"),
        ("", b"hello", 415, "of another kind"),
        ("?name=a.svs", photo(), 415, "of another kind"),
        ("?name=a.zarr", photo(), 415, "of another kind"),
        ("?name=a.exe", photo(), 415, "of another kind"),
        ("?name=a.png", b"hello", 422, "a.png is not in a format"),
        ("?name=a.png", photo()[:200], 422, "a.png is truncated"),
        ("", photo(channels=1), 422, "It has 1 channel, but this model takes 3."),
        ("?model=fotos", photo(), 422, "Did you mean 'photos'?"),
        ("?model=drawn", photo(), 422, "not a model that translates"),
        ("?directoin=a2b", photo(), 422, "Did you mean 'direction'?"),
        ("?direction=b2c", photo(), 422, "a2b, b2a"),
        ("?label=x", photo(), 422, "takes no class"),
        ("?seed=1", photo(), 422, "takes no noise"),
        ("?quality=0", photo(), 422, "quality takes a whole number from 1 to 100"),
        ("?ensemble=maybe", photo(), 422, "ensemble takes true or false"),
        ("?format=zarr", photo(), 422, "Unknown format"),
        ("?format=jpg&model=deep&name=a.tif", deep_tiff(), 422, "JPEG cannot hold"),
        ("?out=/etc/passwd", photo(), 422, "Unknown parameter"),
        ("?n_outputs=2&model=deep&name=a.tif", deep_tiff(), 422, "Unknown parameter"),
    ],
)
def test_a_bad_request_is_answered_with_a_sentence(query, content, status, piece, service):
    answered, sentence = error_of(ask(service, f"/v1/translate{query}", content))
    assert (answered, piece in sentence) == (status, True), sentence
    wait_until(lambda: nothing_left(service))


@over("query, piece", [("n=0", "from 1 to 1000"), ("label=z", "x, y"), ("model=photos", "draws"), ("n=1e9", "n takes")])
def test_a_bad_request_for_samples(query, piece, service):
    status, sentence = error_of(ask(service, f"/v1/sample?{query}", b""))
    assert status == 422 and piece in sentence, sentence


def bomb(width, height):
    """A PNG whose header claims more than it holds."""
    import struct
    import zlib

    head = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunk = struct.pack(">I", 13) + head + struct.pack(">I", zlib.crc32(head))
    return b"\x89PNG\r\n\x1a\n" + chunk + struct.pack(">I", 0) + b"IDAT" + struct.pack(">I", zlib.crc32(b"IDAT"))


def zip_bomb():
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        header = npy(np.zeros((1, 1), np.uint8))[:128].replace(b"(1, 1)", b"(9999999, 9999)")
        archive.writestr("x.npy", header[:128] + bytes(10**6))
    return buffer.getvalue()


HOSTILE = {
    "a bomb": ("a.png", bomb(2**31 - 1, 2**31 - 1)),
    "a large header": ("a.png", bomb(60000, 60000)),
    "a pickle": ("a.npy", npy(np.array([{"a": print}], object), allow_pickle=True)),
    "a zip bomb": ("a.npz", zip_bomb()),
    "a zip of nothing": ("a.npz", b"PK\x05\x06" + bytes(18)),
    "a TIFF in circles": ("a.tif", b"II*\0\x08\0\0\0\0\0\x08\0\0\0"),
    "a TIFF that points away": ("a.tif", b"II*\0\xff\xff\xff\x7f"),
    "a page": ("a.png", b"<html><script>alert(1)</script>"),
    "an svg": ("a.svg", b"<svg xmlns='http://www.w3.org/2000/svg' onload='alert(1)'/>"),
    "a path": ("../../../../etc/passwd.png", b"\x89PNG\r\n\x1a\n"),
    "a Windows path": ("C:\\x\\a.png", b"\x89PNG\r\n\x1a\n" + bytes(99)),
    "controls": ("a\x1b[2J\x07.png", b"\x89PNG\r\n\x1a\n" + bytes(99)),
    "a long name": ("x" * 3000 + ".png", photo()[:100]),
    "ND2 of noise": ("a.nd2", b"\xda\xce\xbe\n" + bytes(200)),
    "CZI of noise": ("a.czi", b"ZISRAWFILE" + bytes(600)),
    **{f"{kind}, cut": (f"a.{kind}", photo(kind=kind)[:150]) for kind in ("jpeg", "webp", "bmp")},
}


@over(case=HOSTILE)
def test_hostile_files_are_refused_and_leave_nothing(case, service):
    name, content = HOSTILE[case]
    for path in ("/v1/translate", "/v1/preview"):
        status, sentence = error_of(ask(service, f"{path}?name={quote(name)}", content))
        assert status in (413, 415, 422) and sentence.isprintable() and len(sentence) < 900, (path, status, sentence)
    wait_until(lambda: nothing_left(service))
    assert (
        ask(service, "/v1/translate", photo())[0] == 200 and json.loads(ask(service, "/healthz")[2])["status"] == "ok"
    )


@over(
    content=[
        b"",
        b"--x\r\n\r\n",
        b'--x\r\nContent-Disposition: form-data; name="file"\r\n\r\nabc\r\n--x--\r\n',
        b'--x\r\nContent-Disposition: form-data; name="image"; filename="a.png"\r\n\r\nabc\r\n--x--\r\n',
        b'--x\r\nContent-Disposition: form-data; name="a"\r\n\r\n' + b"y" * 9999 + b"\r\n--x--\r\n",
        b"".join(b'--x\r\nContent-Disposition: form-data; name="%d"\r\n\r\ny\r\n' % i for i in range(99))
        + b"--x--\r\n",
    ]
)
def test_bad_forms(content, service):
    kind = {"Content-Type": "multipart/form-data; boundary=x"}
    status, sentence = error_of(ask(service, "/v1/translate", content, **kind))
    assert status == 400, sentence
    assert error_of(ask(service, "/v1/translate", content, **{"Content-Type": "multipart/form-data"}))[0] == 400
    wait_until(lambda: nothing_left(service))


def test_nothing_of_the_machine_is_readable(service):
    for path in ("/../pyproject.toml", "/page.js/../../app.py", "/%2e%2e/app.py", "/static/x", "/docs", "/redoc"):
        assert ask(service, path)[0] == 404, path
    assert ask(service, "/v1/translate")[0] == 405


# Limits


def test_large_files_are_refused_early(models):
    with running(models[:1], max_megabytes=0.01) as service:
        with closing(socket.create_connection(("127.0.0.1", service.port), 20)) as client:  # told before it sends
            client.sendall(b"POST /v1/translate HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99999999\r\n\r\n")
            assert b" 413 " in client.recv(100)
        chunks = (bytes(1000) for _ in range(1000))
        try:
            status, sentence = error_of(ask(service, "/v1/translate", chunks, "POST"))
            assert status == 413 and "0.01 MB" in sentence
        except (BrokenPipeError, ConnectionResetError):
            pass  # it stopped reading while we were still sending
        wait_until(lambda: service.used == 0)
        wait_until(lambda: nothing_left(service))
        big = form(bytes(20000))
        assert error_of(ask(service, "/v1/translate", big[0], **big[1]))[0] == 413


def test_too_many_pixels(models):
    with running(models[:1], max_megapixels=0.001) as service:
        status, sentence = error_of(ask(service, "/v1/translate?name=a.png", photo()))
        assert status == 413 and "a.png has more than 0.001 megapixels" in sentence


@pytest.fixture
def held(monkeypatch):
    """Lets no image through until it is set; `entered` tells that one is there."""
    gate, gate.entered, compute = threading.Event(), threading.Event(), Translator.translate_batch

    def wait(self, *args):
        gate.entered.set()
        assert gate.wait(30)
        return compute(self, *args)

    monkeypatch.setattr(Translator, "translate_batch", wait)
    yield gate
    gate.set()


def send(service, content=None, path="/v1/translate"):
    """A client that has asked, and has not yet read the answer."""
    connection = http.client.HTTPConnection("127.0.0.1", service.port, timeout=60)
    connection.request("POST", path, photo() if content is None else content)
    return connection


def test_a_full_queue_is_said_with_the_time_to_wait(models, held):
    with running(models[:1], queue=2) as service:
        clients = [send(service, photo(seed=i)) for i in range(2)]
        wait_until(lambda: service.used == 2)
        answer = ask(service, "/v1/translate", photo())
        assert error_of(answer)[0] == 429 and int(answer[1]["Retry-After"]) >= 1
        assert "img2img_slots_used 2\n" in ask(service, "/metrics")[2].decode()
        held.set()
        assert [client.getresponse().status for client in clients] == [200, 200]
        wait_until(lambda: service.used == 0)
        assert ask(service, "/v1/translate", photo())[0] == 200
        for client in clients:
            client.close()


def test_clients_that_leave_free_their_places(models, held):
    with running(models[:1]) as service:
        first, waiting, stays = send(service), *(send(service, photo((30, 30), i)) for i in range(2))
        wait_until(lambda: service.used == 3 and held.entered.is_set())
        for client in (first, waiting):
            client.sock.shutdown(socket.SHUT_RDWR)
            client.close()
        wait_until(lambda: service.used == 1)
        held.set()
        assert stays.getresponse().status == 200
        stays.close()
        wait_until(lambda: nothing_left(service))
        assert 'outcome="left"' in ask(service, "/metrics")[2].decode()


def test_work_that_nobody_waits_for_is_stopped(models):
    layers, entered, gate = [], threading.Event(), threading.Event()

    def computed(*_):
        layers.append(1)
        entered.set()
        gate.wait(30)

    with running(models[:1]) as service:
        translator = service.models["photos"]
        for layer in translator._network().modules():
            layer.register_forward_hook(computed)
        client = send(service, photo((400, 400)))
        assert entered.wait(30)
        client.sock.shutdown(socket.SHUT_RDWR)
        client.close()
        wait_until(lambda: service.used == 0)
        gate.set()
        wait_until(lambda: nothing_left(service))
        assert len(layers) < 5


def test_the_time_is_limited(models, held):
    with running(models[:1], timeout=0.5) as service:
        status, sentence = error_of(ask(service, "/v1/translate", photo()))
        assert status == 504 and "0.5 s" in sentence
        with closing(socket.create_connection(("127.0.0.1", service.port), 20)) as client:  # a slow one
            client.sendall(b"POST /v1/translate HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\nabc")
            assert b" 504 " in client.recv(100)
        held.set()
        wait_until(lambda: nothing_left(service))


def test_a_bug_reaches_one_request_alone(models, monkeypatch, capfd):
    compute = Translator.translate_batch

    def broken(self, arrays, *args):
        if arrays[0].shape[0] == 13:
            raise KeyError("a bug")
        return compute(self, arrays, *args)

    monkeypatch.setattr(Translator, "translate_batch", broken)
    with running(models[:1]) as service:
        expected = ask(service, "/v1/translate", photo())
        status, sentence = error_of(ask(service, "/v1/translate", photo((13, 20))))
        assert (status, sentence) == (500, "The server failed on this; its log says where.")
        assert ask(service, "/v1/translate", photo())[2] == expected[2]
        wait_until(lambda: nothing_left(service))
    assert "KeyError: 'a bug'" in capfd.readouterr().err


# Who may ask


def test_other_machines_need_a_token(models, command_line, monkeypatch):
    monkeypatch.delenv("IMG2IMG_TOKEN", raising=False)
    code, _, says = command_line("serve", models[0], "--host", "0.0.0.0")
    assert code == 2 and "give --token, or IMG2IMG_TOKEN" in says
    code, _, says = command_line("serve", models[0], "--token", "short")
    assert code == 2 and "at least 16" in says
    code, _, says = command_line("serve", models[0], models[0])
    assert code == 2 and "would both be called photos" in says
    with closing(listening(ServeOptions(port=0))) as taken:
        code, _, says = command_line("serve", models[0], "--port", taken.getsockname()[1])
        assert code == 2 and "Cannot listen at 127.0.0.1" in says and "--port" in says


def test_the_token_is_asked_for(models):
    with running(models[:1], token=TOKEN) as service:
        for header in ({}, {"Authorization": "Bearer no"}, {"Authorization": TOKEN}, {"Authorization": "Bearer \xff"}):
            for path in ("/v1/models", "/metrics", "/openapi.json", "/nothing"):
                status, headers, _ = ask(service, path, **header)
                assert status == 401 and headers["WWW-Authenticate"] == "Bearer"
        assert ask(service, "/v1/models", Authorization=f"Bearer {TOKEN}")[0] == 200
        assert ask(service, "/healthz")[0] == ask(service, "/")[0] == 200  # which say nothing of anyone


def test_pages_of_others_may_not_ask(service):
    for host in ("evil.example", "127.0.0.1.evil.example", "[::1", "", "user@localhost.evil"):
        assert ask(service, "/v1/models", Host=host)[0] == 421, host
    own = f"127.0.0.1:{service.port}"
    for origin in ("http://evil.example", "null", f"http://127.0.0.1:{service.port + 1}"):
        status, headers, _ = ask(service, "/v1/translate", photo(), Origin=origin, Host=own)
        assert status == 403 and "Access-Control-Allow-Origin" not in headers
    assert ask(service, "/v1/translate", photo(), Origin=f"http://{own}", Host=own)[0] == 200
    assert ask(service, "/v1/models", Host="localhost:1")[0] == 200


def test_every_answer_has_the_headers(service):
    for path in ("/", "/page.js", "/v1/models", "/nothing", "/healthz"):
        _, headers, _ = ask(service, path)
        policy = headers["Content-Security-Policy"]
        assert "default-src 'none'" in policy and "frame-ancestors 'none'" in policy and "unsafe" not in policy
        assert headers["Referrer-Policy"] == "no-referrer" and headers["X-Content-Type-Options"] == "nosniff"


# The schema and the counters


def test_the_schema_has_every_parameter_and_answer(service):
    paths = json.loads(ask(service, "/openapi.json")[2])["paths"]
    others = {"/v1/sample", "/v1/preview", "/v1/models", "/healthz", "/metrics", "/runs/{name}"}
    assert set(paths) == {"/v1/translate", *others}
    post = paths["/v1/translate"]["post"]
    given = {x["name"]: x for x in post["parameters"]}
    assert given.keys() == asked.TRANSLATE.keys() | {"name"} and all(x["description"] for x in given.values())
    assert given["channels"]["schema"]["enum"] == ["exact", "convert", "each"]
    assert given["quality"]["schema"] == {"type": "integer", "minimum": 1, "maximum": 100, "default": 95}
    content = post["requestBody"]["content"]
    assert content["multipart/form-data"]["schema"]["properties"].keys() == asked.TRANSLATE.keys() | {"file"}
    assert {"200", "413", "422", "429", "504"} <= post["responses"].keys()
    assert post["responses"]["422"]["content"]["application/json"]["schema"]["example"]["error"].endswith(".")


@pytest.mark.slow
def test_answers_are_those_of_the_schema(service, tmp_path):
    """Checked by schemathesis where that is installed; whether an image suits the model, no schema says."""
    pytest.importorskip("schemathesis")
    words = ["run", f"http://127.0.0.1:{service.port}/openapi.json", "--max-examples", "15"]
    command = [sys.executable, "-m", "schemathesis.cli", *words, "--exclude-checks", "positive_data_acceptance"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stdout[-4000:]


def test_counters_are_in_the_format_of_prometheus(service):
    ask(service, "/v1/translate", photo())
    text = ask(service, "/metrics")[2].decode()
    pattern = re.compile(r'[a-z0-9_]+(\{[a-z]+="[^"]*"(,[a-z]+="[^"]*")*\})? [0-9.e+]+')
    for line in text.splitlines():
        assert line.startswith(("# HELP ", "# TYPE ")) or pattern.fullmatch(line), line
    assert re.search(r'img2img_images_total\{model="photos",outcome="done"\} [1-9]', text)
    assert 'img2img_requests_total{path="/v1/translate",status="200"}' in text


# Runs


def test_a_run_is_shown_as_it_trains(models, tmp_path, command_line):
    run = tmp_path / "a run"
    shutil.copytree(models[0], run)
    (run / "report.html").unlink(missing_ok=True)
    before = {path: path.stat().st_mtime_ns for path in run.rglob("*")}
    with running([], [run], token=TOKEN) as service:
        password = {"Authorization": "Basic " + base64.b64encode(f"me:{TOKEN}".encode()).decode()}
        assert ask(service, "/runs/a%20run")[1]["WWW-Authenticate"].startswith("Basic ")
        status, sentence = error_of(ask(service, "/runs/a%20run", **password))
        assert status == 404 and "has no report yet" in sentence
        assert {path: path.stat().st_mtime_ns for path in run.rglob("*")} == before
        rewrite_report(run)
        status, headers, body = ask(service, "/runs/a%20run", **password)
        assert (status, body, headers["Refresh"]) == (200, (run / "report.html").read_bytes(), "30")
        assert "script" not in headers["Content-Security-Policy"] and headers["X-Content-Type-Options"] == "nosniff"
        for other in ("photos", "..%2fphotos", "..", "a%20run/config.json", "a%20run%2fconfig.json"):
            assert ask(service, f"/runs/{other}", **password)[0] == 404, other
        assert ask(service, "/runs/a%20run", Authorization="Basic ???")[0] == 401
        facts = json.loads(ask(service, "/v1/models", **password)[2])
        assert facts["runs"] == ["a run"] and facts["models"] == []
        assert (
            error_of(ask(service, "/v1/translate", photo(), **password))[1]
            == "No model that translates is served here."
        )
    code, _, says = command_line("serve", "--run", tmp_path)
    assert code == 2 and "is not the folder of a run" in says
    code, _, says = command_line("serve")
    assert code == 2 and "Give the models to serve" in says


# The examples of the documentation


@pytest.mark.slow
def test_the_examples_of_the_page_work(models, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "1.png").write_bytes(photo())
    text = (ROOT / "docs" / "serving.md").read_text(encoding="utf-8")
    with running([models[0], models[2]]) as service:
        text = text.replace("http://127.0.0.1:8000", f"http://127.0.0.1:{service.port}")
        expected = ask(service, "/v1/translate?name=1.png", photo())[2]
        lines = re.findall(r"^curl .*$", text, re.MULTILINE)
        if shutil.which("curl"):
            for line in lines:
                subprocess.run(["bash", "-c", line.replace("curl", "curl -sf", 1)], check=True)
            assert len(lines) == 4 and (tmp_path / "striped.png").read_bytes() == expected
            assert tifffile.imread(tmp_path / "plain.tif").shape == (50, 40, 3)
            assert len(zipfile.ZipFile(tmp_path / "drawn.zip").namelist()) == 4
        pytest.importorskip("httpx")
        (tmp_path / "striped.png").unlink(missing_ok=True)
        (code,) = re.findall(r"^```py\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
        exec(compile(code, "docs/serving.md", "exec"), {})
        assert (tmp_path / "striped.png").read_bytes() == expected


# The whole


def command(models, *words):
    """`img2img serve` in a process of its own, and its port."""
    env = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
    line = [sys.executable, "-m", "img2img", "serve", *map(str, models), "--port", "0", "--device", "cpu", *words]
    process = subprocess.Popen(line, stdout=subprocess.PIPE, text=True, env=env)
    process.port = int(re.search(r"http://127\.0\.0\.1:(\d+)", process.stdout.readline())[1])
    return process


@pytest.mark.slow
def test_sigterm_lets_requests_finish(models, tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    (tmp_path / "img2img-serve-999999999-dead").mkdir()  # of a server that was killed
    process = command(models[:1])
    assert [path.name.split("-")[2] for path in tmp_path.glob("img2img-serve-*")] == [str(process.pid)]
    client = send(process, photo((700, 700)), "/v1/translate?ensemble=true")
    time.sleep(0.5)
    process.send_signal(signal.SIGTERM)
    answer = client.getresponse()
    assert answer.status == 200 and read_size(answer.read()) == (700, 700)
    client.close()
    assert process.wait(30) == 0 and list(tmp_path.glob("img2img-serve-*")) == []
    process.stdout.close()
    with pytest.raises(ConnectionRefusedError):
        ask(process, "/healthz")


def read_size(content):
    return Image.open(io.BytesIO(content)).size


def memory_of(process):
    """The resident memory of a process, in MB."""
    return int(re.search(r"VmRSS:\s+(\d+)", Path(f"/proc/{process.pid}/status").read_text())[1]) / 1000


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads /proc")
def test_64_clients_at_once(models, tmp_path):
    contents = [photo((48, 40 + 8 * (i % 3)), i) for i in range(12)]
    for i, content in enumerate(contents):
        (tmp_path / f"{i}.png").write_bytes(content)
    img2img.translate(models[0], tmp_path, tmp_path / "out", device="cpu")
    expected = [(tmp_path / "out" / f"{i}.png").read_bytes() for i in range(12)]
    process = command(models[:1], "--queue", "24")
    statuses, wrong, end = [], [], time.monotonic() + 12

    def client(number):
        k = number
        while time.monotonic() < end:
            k += 1
            status, headers, body = ask(process, "/v1/translate", contents[k % 12])
            statuses.append(status)
            if status == 200 and body != expected[k % 12]:
                wrong.append(k % 12)
            if status == 429:
                time.sleep(0.2 * int(headers["Retry-After"]))

    try:
        for i in range(24):
            ask(process, "/v1/translate", contents[i % 12])
        before = memory_of(process)
        threads = [threading.Thread(target=client, args=(i,)) for i in range(64)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        after = memory_of(process)
        batches = int(re.search(r"img2img_batches_total\S* (\d+)", ask(process, "/metrics")[2].decode())[1])
    finally:
        process.terminate()
    assert process.wait(30) == 0
    process.stdout.close()
    print(len(statuses), statuses.count(200), statuses.count(429), batches, round(before), round(after))
    assert set(statuses) <= {200, 429} and statuses.count(429) and wrong == []
    assert statuses.count(200) > 64 and batches - 24 < statuses.count(200) / 2  # they share batches
    assert after - before < 150


def test_the_page_needs_nothing_else():
    texts = {path.name: path.read_text(encoding="utf-8") for path in PAGE.iterdir()}
    assert texts.keys() == {"index.html", "page.css", "page.js", "view.js", "zip.js"}
    for name, text in texts.items():
        assert not re.search(r"(src|href)\s*=\s*[\"'](https?:)?//|@import|url\(|https?://", text), name
    assert " style=" not in texts["index.html"] and " onclick=" not in texts["index.html"]  # the policy forbids both
