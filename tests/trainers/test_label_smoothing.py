"""Robust label smoothing from the round's own flip rate: what is trained, what is written down, what is warned of."""

import json
import math

import pytest
from pydantic import ValidationError

from prefdistill.protocols import RunContext, TrainingData
from prefdistill.records import Policy
from prefdistill.trainers.dpo import MOST_SMOOTHING, DPOTrainer
from prefdistill.trainers.outcome import flip_warnings
from tests.tiny_student import build_tiny_student, pairs, section
from tests.trainers.test_dpo import OPTIONS

MEASURED = {"loss": "robust", "label_smoothing": "flip_rate"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return build_tiny_student(tmp_path_factory.mktemp("student") / "tiny")


def train(folder, run, name, flip_rate, **options):
    trainer = DPOTrainer(**{**OPTIONS, **options})
    trainer.open(RunContext(directory=run, seed=0, student=section(folder)))
    base = Policy(model=str(folder))
    directory = run / name / "5-policy"
    result = trainer.train(TrainingData(pairs(16), (), flip_rate), base, base, directory, 7)
    first = json.loads((directory / "metrics.jsonl").read_text().splitlines()[0])
    return result, first["grad_norm"], (directory / "adapter_model.safetensors").read_bytes()


def test_the_measured_rate_trains_exactly_as_the_number_does(folder, tmp_path):
    measured, norm, weights = train(folder, tmp_path, "a", 0.25, **MEASURED)
    given, _, same = train(folder, tmp_path, "b", None, loss="robust", label_smoothing=0.25)
    _, plain, other = train(folder, tmp_path, "c", 0.25, loss="sigmoid")
    assert weights == same
    assert weights != other
    assert measured.diagnostics["label_smoothing"] == measured.diagnostics["flip_rate"] == 0.25
    assert given.diagnostics["label_smoothing"] == 0.25
    assert "flip_rate" not in given.diagnostics
    assert measured.first_loss == pytest.approx(math.log(2), abs=1e-5)
    assert norm == pytest.approx(plain / (1 - 2 * 0.25), rel=0.01), "robust divides by 1 - 2 x"
    written = json.loads((tmp_path / "a" / "5-policy" / "train.json").read_text())
    assert written["diagnostics"]["label_smoothing"] == 0.25


def test_without_a_flip_it_is_the_sigmoid_loss(folder, tmp_path):
    none, _, weights = train(folder, tmp_path, "a", None, **MEASURED)
    _, _, zero = train(folder, tmp_path, "b", 0.0, **MEASURED)
    _, _, sigmoid = train(folder, tmp_path, "c", None, loss="sigmoid")
    assert weights == zero == sigmoid
    assert none.diagnostics["label_smoothing"] == 0.0
    assert any("no flip rate was measured" in warning for warning in none.warnings)


@pytest.mark.parametrize(("measured", "used"), [(0.1, 0.1), (0.45, MOST_SMOOTHING), (1.0, MOST_SMOOTHING), (None, 0.0)])
def test_the_rate_is_capped_where_the_loss_would_run_away(measured, used):
    trainer = DPOTrainer(**OPTIONS, **MEASURED)
    assert trainer.smoothing(TrainingData(pairs(1), (), measured)) == used
    assert trainer.uses_flip_rate


def test_a_number_stays_a_number_whatever_was_measured():
    trainer = DPOTrainer(**OPTIONS, loss="robust", label_smoothing=0.05)
    assert trainer.smoothing(TrainingData(pairs(1), (), 0.3)) == 0.05
    assert not trainer.uses_flip_rate


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"label_smoothing": "flip_rate"}, "ignored by the loss sigmoid"),
        ({"loss": "exo_pair", "label_smoothing": "flip_rate"}, "goes with the loss robust"),
        ({"loss": "robust", "label_smoothing": "fliprate"}, "flip_rate"),
        ({"loss": "robust", "label_smoothing": 0.5}, "less than 0.5"),
    ],
)
def test_what_it_cannot_mean_is_refused(options, told):
    with pytest.raises(ValidationError, match=told):
        DPOTrainer(**{**OPTIONS, **options})


@pytest.mark.parametrize(
    ("loss", "rate", "smoothing", "told"),
    [
        ("sigmoid", 0.16, None, None),
        ("robust", 0.2, 0.2, None),
        ("robust", 0.6, 0.4, "more than the 40%"),
        ("robust", None, 0.0, "no flip rate was measured"),
        ("robust", None, 0.1, None),
        ("robust", 0.0, 0.0, None),
    ],
)
def test_flips_that_the_loss_does_not_model_are_warned_of(loss, rate, smoothing, told):
    found = list(flip_warnings(rate, smoothing, loss))
    assert len(found) == (told is not None)
    assert told is None or told in found[0]


def test_a_checkpoint_made_with_another_rate_is_not_continued(folder, tmp_path, monkeypatch):
    from prefdistill.trainers import tuning

    seen = []
    monkeypatch.setattr(tuning, "claim_checkpoints", lambda folder, fingerprint: seen.append(fingerprint))
    for number, rate in enumerate((0.1, 0.2, 0.2)):
        train(folder, tmp_path, f"r{number}", rate, **MEASURED)
    train(folder, tmp_path, "s0", 0.1, loss="sigmoid")
    train(folder, tmp_path, "s1", 0.2, loss="sigmoid")
    assert seen[0] != seen[1] == seen[2]
    assert seen[3] == seen[4], "a loss that does not use the rate does not depend on it"
