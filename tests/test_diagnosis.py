"""Signs of failing games: found where they are, not found where games learn, told and kept."""

import json
import random

import pytest
from helpers import journal_in, over

import img2img
from img2img.report.diagnosis import EARLY, SIGNS, SWING, WINDOW, Diagnosis
from img2img.runs.facts import MEANINGS, Progress

HEALTHY = {"d_real": 0.8, "d_fake": 0.7, "diversity": 0.9, "grad_G": 1.0, "grad_D": 1.0}
BAD = {
    "discriminator winning": {"d_real": 1.0, "d_fake": 1.0, "grad_G": 0.01},
    "saturation": {"d_real": 1.0, "d_fake": 1.0, "grad_D": 0.001},
    "mode collapse": {"diversity": 0.05},
}


def seen(rows, steps=100):
    diagnosis = Diagnosis(steps, advise="what helps {}".format)
    for step, row in enumerate(rows, start=1):
        diagnosis.see(step, row)
    return {finding.kind: finding for finding in diagnosis.findings}


def swinging(i):
    return HEALTHY | {"d_real": 0.95 if i % 2 else 0.3, "d_fake": 0.3 if i % 2 else 0.95}


def test_every_sign_has_a_meaning():
    assert set(MEANINGS) == {*SIGNS, "not finite"}


def test_a_healthy_game_has_no_finding():
    assert seen([HEALTHY] * 100) == {}
    assert seen([{"g_gan": 1.0, "cycle": 0.2}] * 100) == {}  # nothing is known of it


@over("kind", BAD)
def test_a_failure_is_found_and_nothing_else(kind):
    found = seen([HEALTHY] * 60 + [HEALTHY | BAD[kind]] * 20)
    assert list(found) == [kind] and 60 < found[kind].start <= 60 + WINDOW and found[kind].end is None
    assert found[kind].text == f"{kind}: {MEANINGS[kind]} To try: what helps {kind}."


@over("period", [1, 2, 3])
def test_oscillation_is_found_from_the_first_swings_on(period):
    found = seen([swinging(i // period) for i in range(20)])
    assert list(found) == ["oscillation"] and found["oscillation"].start <= SWING and found["oscillation"].end is None


@over("lead", [-0.9, 0.9])
def test_a_game_that_finds_its_balance_once_does_not_oscillate(lead):
    """Small CycleGANs begin so: real images are all judged wrong, and then about half of them."""
    rows = [HEALTHY | {"d_real": 0.5 + x / 2, "d_fake": 0.5 - x / 2} for x in (lead, lead / 2, lead / 5, -0.1, 0.05)]
    assert seen(rows + [HEALTHY] * 10) == {}


def test_noise_around_balance_does_not_oscillate():
    leads = random.Random(0)
    rows = [HEALTHY | {"d_real": 0.7 + leads.uniform(-0.15, 0.15), "d_fake": 0.65} for _ in range(400)]
    assert seen(rows, 400) == {}


def test_a_failure_can_be_over():
    rows = [HEALTHY] * 60 + [HEALTHY | BAD["mode collapse"]] * 20 + [HEALTHY] * 20
    finding = seen(rows)["mode collapse"]
    assert 80 < finding.end <= 80 + WINDOW and finding.when == f"from step {finding.start} to {finding.end}"


@over("kind", ["discriminator winning", "saturation"])
def test_a_sure_discriminator_alone_is_no_failure(kind):
    assert seen([HEALTHY | {"d_real": 1.0, "d_fake": 1.0}] * 40) == {}


@over("steps, first", [(400, 200), (700, 350), (2000, 500), (10_000, 1000)])
def test_generators_are_alike_at_first(steps, first):
    """A DCGAN on MNIST draws the same spot for 500 steps, and digits after that."""
    diagnosis = Diagnosis(steps)
    for step in range(10, steps + 1, 10):
        diagnosis.see(step, HEALTHY | BAD["mode collapse"])
    assert [finding.start for finding in diagnosis.findings] == [first]
    learning = Diagnosis(steps)
    for step in range(10, steps + 1, 10):
        learning.see(step, HEALTHY | (BAD["mode collapse"] if step < first - 10 * WINDOW else {}))
    assert learning.findings == []


def test_a_discriminator_that_has_little_left_to_learn_is_not_saturated():
    """A healthy DCGAN's discriminator falls to 1 % of its first gradients, one of a lost game far below."""
    sure = HEALTHY | {"d_real": 1.0, "d_fake": 1.0}
    assert seen([HEALTHY] * EARLY + [sure | {"grad_D": 0.01}] * 40) == {}
    assert list(seen([HEALTHY] * EARLY + [sure | {"grad_D": 0.004}] * 40)) == ["saturation"]


def test_every_discriminator_has_to_be_sure():
    first = {"d_a_real": 0.8, "d_a_fake": 0.8, "d_b_real": 0.8, "d_b_fake": 0.8, "grad_G": 1.0}
    later = first | {"d_a_real": 1.0, "d_a_fake": 1.0, "grad_G": 0.0}
    assert seen([first] * EARLY + [later] * 20) == {}
    assert "discriminator winning" in seen([first] * EARLY + [later | {"d_b_real": 1.0, "d_b_fake": 1.0}] * 20)


def test_a_resumed_run_knows_what_was_found(tmp_path):
    values = {"images_per_s": 1.0, "lr": 1.0, "seconds_per_step": 1.0}
    first = journal_in(tmp_path, 100, quiet=True)
    for step in range(1, 61):
        first.record(step, 1, HEALTHY | BAD["mode collapse"] | values)
    again = journal_in(tmp_path, 100, 60, quiet=True)
    assert again.diagnosis.findings == first.diagnosis.findings != []
    again.record(61, 1, HEALTHY | BAD["mode collapse"] | values)
    assert len(again.diagnosis.findings) == 1
    again.report(Progress(61, 100))
    assert "mode collapse: generated images" in (tmp_path / "report.html").read_text()


@pytest.mark.slow
def test_games_that_are_made_to_fail_are_told(tmp_path, capfd):
    points = img2img.modes.ring().sample(2000)
    tiny = {"network": "mlp", "width": 32, "d_width": 64, "latent": 4, "size": 1, "batch_size": 64, "log_every": 2}
    img2img.train("gan", data=points, out=tmp_path / "stuck", steps=200, lr=1e-8, d_lr=1e-2, device="cpu", **tiny)
    told = capfd.readouterr().err
    assert "mode collapse: " in told and "saturation: " in told
    assert "Diagnosis" in (tmp_path / "stuck" / "report.html").read_text()
    with pytest.raises(img2img.Img2ImgError, match="no longer a finite number"):
        img2img.train(
            "gan", data=points, out=tmp_path / "nan", steps=50, objective="f_kl", lr=10.0, device="cpu", **tiny
        )
    assert "not finite: " in (tmp_path / "nan" / "report.html").read_text()
    rows = [json.loads(line) for line in (tmp_path / "stuck" / "log.jsonl").read_text().splitlines()]
    assert {"grad_G", "grad_D", "diversity", "d_real", "d_fake"} <= set(rows[0])
