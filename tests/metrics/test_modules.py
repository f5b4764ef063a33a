"""The same numbers as `evaluate.Metric`, offline, and further metrics by path."""

import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from prefdistill.errors import RecipeError
from prefdistill.metrics import rates, rogan_gladen, texts
from prefdistill.metrics.further import BUILT_IN, OF_TEXTS, load_metric, load_text_metric, measure, reference_rows
from prefdistill.metrics.length_control import length_controlled_rate
from prefdistill.records import Draft, Message, Prompt

OVERLAP = '''
import datasets
import evaluate


class Overlap(evaluate.Metric):
    """Share of the reference's words that the completion has."""

    def _info(self):
        text = datasets.Value("string")
        return evaluate.MetricInfo(
            description="", citation="", inputs_description="",
            features=datasets.Features({"predictions": text, "references": text}),
        )

    def _compute(self, predictions, references):
        each = [len(set(p.split()) & set(r.split())) / len(set(r.split())) for p, r in zip(predictions, references)]
        return {"overlap": each, "note": "not a number"}
'''


@pytest.fixture(autouse=True, scope="module")
def _offline(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("evaluate.config.HF_EVALUATE_OFFLINE", True)
        modules = tmp_path_factory.mktemp("modules")
        patch.setattr("evaluate.config.HF_MODULES_CACHE", str(modules))
        patch.syspath_prepend(str(modules))  # before the user's own, from which a test before may have imported
        for name in [each for each in sys.modules if each.split(".")[0] == "evaluate_modules"]:
            patch.delitem(sys.modules, name)
        yield


def test_every_built_in_computes_offline() -> None:
    scores, baseline, teacher = [0.7, 0.5, 0.9], [0.5, 0.5, 0.4], [0.9, 1.0, 0.95]
    fed = {
        "win_rate": {"predictions": scores, "references": baseline, "seed": 3},
        "rubric_score": {"predictions": scores, "references": baseline},
        "pgr": {"predictions": scores, "references": baseline, "teacher": teacher},
        "length_ratio": {"predictions": ["a b", "c"], "references": ["a", "b"]},
        "distinct": {"predictions": ["a b", "a b"], "references": ["p1", "p1"]},
        "gate_pass_rate": {"predictions": [0, 2]},
        "length_controlled_win_rate": {
            "predictions": scores * 10,
            "references": baseline * 10,
            "words": [12, 9, 30, 25, 17] * 6,
            "baseline_words": [14, 11, 20] * 10,
        },
        "cohen_kappa": {"predictions": list("aabbdcccedda"), "references": list("babbbcccedda")},
        "krippendorff_alpha": {"predictions": [[1, 1], [2, 3, 3], [2]], "levels": [1, 2, 3], "scale": "ordinal"},
        "corrected_win_rate": {
            "predictions": ["win", "loss", "tie", "win", "unknown"] * 10,
            "references": ["win", "loss", "unknown", "unknown", "win"] * 10,
        },
    }
    assert sorted(fed) == sorted(BUILT_IN)
    found = {name: load_metric(name).compute(**inputs) for name, inputs in fed.items()}
    assert found["win_rate"]["win_rate"] == rates.win_rate(["win", "tie", "win"]).value
    assert found["win_rate"]["interval"] == rates.win_rate(["win", "tie", "win"], 3).interval
    assert found["rubric_score"]["gain"] == pytest.approx(0.7 / 3)
    assert found["pgr"]["pgr"] == rates.gap_recovered(baseline, scores, teacher).value
    assert found["length_ratio"] == {"length_ratio": texts.length_ratio(["a b", "c"], ["a", "b"])}
    assert found["distinct"]["distinct_drafts"] == 0.5
    assert found["gate_pass_rate"] == {"gate_pass_rate": 0.5}
    assert found["cohen_kappa"]["agreement"] == pytest.approx(10 / 12)
    assert found["krippendorff_alpha"]["krippendorff_alpha"] == pytest.approx(0.8)
    corrected = rogan_gladen.corrected_rate(0.625, 40, (10, 10), (10, 10))
    assert (found["corrected_win_rate"]["corrected_win_rate"], found["corrected_win_rate"]["interval"]) == (
        corrected.value,
        corrected.interval,
    )
    longer = np.subtract(
        fed["length_controlled_win_rate"]["words"], fed["length_controlled_win_rate"]["baseline_words"]
    )
    controlled = found["length_controlled_win_rate"]
    assert controlled["length_controlled_win_rate"] == length_controlled_rate([1, 0.5, 1] * 10, longer)
    assert controlled["win_rate"] == pytest.approx(2.5 / 3)


def test_modules_load_by_path_like_any_other() -> None:
    path = Path(rates.__file__).with_name("length_ratio.py")
    assert load_metric(str(path)).compute(predictions=["a b"], references=["a"]) == {"length_ratio": 2.0}


def test_further_metric_by_path(tmp_path: Path) -> None:
    (tmp_path / "overlap.py").write_text(OVERLAP)
    prompts = [
        Prompt(id=name, messages=(Message(role="user", content="x"),), split="test", fields=fields)
        for name, fields in [("a", {"reference": "one two"}), ("b", {}), ("c", {})]
    ]
    drafts = [_draft(name, "file:x", "one three") for name in "abc"]
    rows = reference_rows(prompts, drafts, [_draft("b", "teacher", "one three")])
    assert (rows.references, rows.without_reference) == (("one two", "one three"), 1)
    assert measure(["overlap.py"], rows, tmp_path) == {"overlap.overlap": 0.75}


def test_errors_say_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"missing\.py does not exist"):
        load_metric("missing.py", tmp_path)
    (tmp_path / "empty.py").write_text("import math\n")
    with pytest.raises(RecipeError, match="cannot be loaded"):
        load_metric("empty.py", tmp_path)
    with pytest.raises(RecipeError, match="none of 1 test drafts has a reference"):
        measure(["win_rate"], reference_rows([], [_draft("a", "file:x", "y")], []))
    rows = reference_rows([], [_draft("a", "file:x", "y")], [_draft("a", "teacher", "z")])
    with pytest.raises(RecipeError, match="`win_rate` cannot be computed"):
        measure(["win_rate"], rows)


@pytest.mark.parametrize("name", BUILT_IN)
def test_what_is_made_from_scores_is_refused_where_texts_are_fed(name: str) -> None:
    if name in OF_TEXTS:
        assert load_text_metric(name).compute(predictions=["a b"], references=["a"])
        return
    with pytest.raises(RecipeError, match=f"`{name}` cannot be computed from drafts and reference texts: it is made"):
        load_text_metric(name)


def _draft(prompt_id: str, source: str, text: str) -> Draft:
    return Draft(
        id=f"{prompt_id}/{source}", prompt_id=prompt_id, source=source, policy=None, round=0, purpose="test", index=0,
        completion=text,
    )  # fmt: skip
