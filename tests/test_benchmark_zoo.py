"""The benchmark of the zoo: its jobs are of methods that exist, and their options and measures too."""

import importlib.util
from pathlib import Path

from img2img.methods import METHODS
from img2img.options.declared import check_names, pick, refuse_idle
from img2img.training.config import groups_of

PATH = Path(__file__).parents[1] / "benchmarks" / "zoo.py"


def benchmark():
    spec = importlib.util.spec_from_file_location("benchmark_zoo", PATH)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_jobs_have_options_that_their_methods_take():
    zoo = benchmark()
    for job in zoo.JOBS.values():
        config = METHODS[job.method].Config
        options = zoo.COMMON | job.options
        check_names(job.method, options, *groups_of(config))
        refuse_idle(job.method, set(job.options), config(**pick(options, config)))
        assert callable(getattr(zoo, job.measure)) and job.steps > 0


def test_files_of_jobs_differ_and_the_page_has_each_with_its_spread():
    zoo = benchmark()
    assert len({zoo.file_name(name) for name in zoo.JOBS}) == len(zoo.JOBS)
    rows = [{"job": "cgan", "seed": k, "steps": 5, "seconds": 2.0, "cpu": 1.0, "right": 0.5 + k / 4} for k in (0, 1)]
    failed = {"job": "acgan", "seed": 0, "failed": "Traceback\nValueError: no"}
    text = zoo.page([failed, *rows])
    assert "| cgan | 5 | 2 | right 0.625 (0.5 to 0.75) | [cgan](cgan_0.png) |" in text
    assert "acgan, seed 0" in text and "ValueError: no" in text
