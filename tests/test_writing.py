"""What is written appears whole, leaves nothing behind, and replaces nothing that img2img did not write."""

import json
import os
import stat
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from conftest import refused, write_images
from helpers import over

from img2img.data.images import read_image, write_image
from img2img.data.picture import Picture
from img2img.errors import ConfigError
from img2img.report import page
from img2img.runtime.files import atomic, holds_keys, refuse_unwritable, write_text

posix = pytest.mark.skipif(sys.platform == "win32", reason="of POSIX")


@posix
def test_files_have_the_mode_that_the_umask_leaves_also_from_many_threads(tmp_path):
    before = os.umask(0o027)
    try:
        picture = Picture(read_image(write_images(tmp_path / "in", 1, (4, 4), 1) / "000.png").array)
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda i: write_image(tmp_path / f"{i % 8}" / f"{i}.png", picture), range(400)))
        assert os.umask(0o027) == 0o027
    finally:
        os.umask(before)
    assert {stat.S_IMODE(path.stat().st_mode) for path in tmp_path.glob("[0-7]/*.png")} == {0o640}
    assert {stat.S_IMODE(path.stat().st_mode) for path in tmp_path.glob("[0-7]")} == {0o750}


@over(durable=[False, True])
def test_a_target_that_is_a_folder_leaves_nothing_behind(durable, tmp_path):
    (tmp_path / "a.png" / "x").mkdir(parents=True)
    with pytest.raises(OSError), atomic(tmp_path / "a.png", durable) as temporary:
        temporary.write_text("x")
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]


@posix
def test_a_pipe_gets_text_and_is_never_replaced(tmp_path):
    pipe, got = tmp_path / "pipe", []
    os.mkfifo(pipe)
    refuse_unwritable(pipe, holds_keys("rows"))
    reader = threading.Thread(target=lambda: got.append(pipe.read_text()))
    reader.start()
    write_text(pipe, "scores")
    reader.join()
    assert got == ["scores"]
    with pytest.raises(OSError, match="a device or a pipe"), atomic(pipe):
        raise AssertionError("nothing may be computed for it")
    assert stat.S_ISFIFO(pipe.stat().st_mode) and len(list(tmp_path.iterdir())) == 1


@posix
def test_a_device_gets_text_and_is_never_replaced():
    write_text(Path(os.devnull), "x")
    assert stat.S_ISCHR(Path(os.devnull).stat().st_mode)


def test_only_files_of_the_same_command_are_replaced(tmp_path):
    json_file, html = tmp_path / "a.json", tmp_path / "a.html"
    for text in ("", json.dumps({"rows": {}, "protocol": {}})):
        json_file.write_text(text)
        refuse_unwritable(json_file, holds_keys("rows", "protocol"))
    for text in ("mine", "[]", "{}", '{"rows": 1}', "\x00" * 9, "[" * 100_000):
        json_file.write_text(text)
        said = refused(ConfigError, refuse_unwritable, json_file, holds_keys("rows", "protocol"))
        assert "was not written by this command" in said
    html.write_text(page.page("title", "body"))
    refuse_unwritable(html, page.is_page)
    html.write_text("<!doctype html><html><title>mine</title></html>")
    assert "was not written by this command" in refused(ConfigError, refuse_unwritable, html, page.is_page)


def test_evaluate_does_not_replace_what_is_not_its_own(command_line, tmp_path):
    folders = [write_images(tmp_path / name, 4, (32, 32), seed) for seed, name in enumerate(("real", "fake"))]
    words = ["evaluate", "--real", folders[0], "--fake", folders[1], "--metric", "drift", "--json"]
    (tmp_path / "mine.csv").write_text("a,b\n1,2\n")
    code, _, err = command_line(*words, tmp_path / "mine.csv")
    assert code == 2 and "was not written by this command" in err
    assert (tmp_path / "mine.csv").read_text() == "a,b\n1,2\n"
    for _ in range(2):
        code, out, _ = command_line(*words, tmp_path / "scores.json")
        assert code == 0 and "json: " in out
