"""Runs that train nothing, runs that measure the best of several drafts, and runs whose labels are drawn by lot."""

import html
import json
import shutil
from statistics import fmean

import pytest

from prefdistill.console import summary
from prefdistill.errors import RecipeError, RunError
from prefdistill.export.source import read_source
from prefdistill.finished import read_finished
from prefdistill.forgetting import forget, plan_forgetting
from prefdistill.loop import run_recipe
from prefdistill.metrics.best_of import best_of_kl
from prefdistill.recipe import load_recipe
from prefdistill.records import Draft, PreferencePair, Verdict
from prefdistill.run import Fingerprints, RowFile, read_json, write_json
from prefdistill.status import read_status
from tests.conftest import ROOT, TINY

NOTHING, BEST = ("loop.rounds=0",), ("loop.rounds=0", "evaluate.best_of=3")
JUDGE = '''
from prefdistill import Plugin
from prefdistill.records import Draft, Judgement, Preference, Verdict


def by_length(prompt, drafts, rubric):
    """Prefers long drafts; has no opinion on prompts with an even first digit, nor on any third draft."""
    assert len(drafts) == 1 or drafts[0].purpose == "train", "an evaluation's drafts are judged one by one"
    return [None if int(d.prompt_id[0], 16) % 2 == 0 or d.index == 2 else float(len(d.completion)) for d in drafts]


class Both(Plugin):
    """Scores a draft by its words, and compares two drafts by their length."""
    def judge(self, prompt, drafts, rubric):
        if len(drafts) == 1:
            return [float(len(drafts[0].completion.split()))]
        first, second = drafts
        p = 1.0 if len(first.completion) > len(second.completion) else 0.0
        shown = [(first, second, p), (second, first, 1 - p)]
        preferences = [
            Preference(first_id=a.id, second_id=b.id, probability=each, judge="both") for a, b, each in shown
        ]
        return Verdict(prompt_id=prompt.id, preferences=tuple(preferences))
'''


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    folder = tmp_path_factory.mktemp("recipe")
    (folder / "judges.py").write_text(JUDGE)
    (folder / "tiny.yaml").write_text(TINY.format(root=ROOT, cache=folder / "cache"))
    return folder / "tiny.yaml"


def run(recipe, folder, *overrides, **options):
    return run_recipe(load_recipe(recipe, overrides), folder, **options)


@pytest.fixture(scope="module")
def nothing(recipe, tmp_path_factory):
    folder = tmp_path_factory.mktemp("nothing") / "run"
    run(recipe, folder, *NOTHING)
    return folder


@pytest.fixture(scope="module")
def best(recipe, tmp_path_factory):
    folder = tmp_path_factory.mktemp("best") / "run"
    run(recipe, folder, *BEST)
    return folder


@pytest.fixture(scope="module")
def drawn(recipe, tmp_path_factory):
    """One round with random labels, its policy measured by the best of two drafts."""
    folder = tmp_path_factory.mktemp("drawn") / "run"
    run(
        recipe, folder, "loop.rounds=1", "evaluate.best_of=2", "pair.labels=random", "loop.stop=never", "loop.keep=last"
    )
    return folder


def drafts_of(path):
    return RowFile(path, Draft).read()


def judged_by(folder, kind):
    return RowFile(folder / f"{kind}.jsonl", Verdict).read()


def everything_measured(folder):
    """Every row of an evaluation, without what it cost and when."""
    rows = {}
    for path in sorted(folder.glob("*.jsonl")):
        found = [json.loads(line) for line in path.read_text().splitlines()]
        rows[path.name] = json.loads(json.dumps(found), object_hook=_without_usage)
    return rows


def _without_usage(row):
    """Leave out what it cost, and a sum of floats whose last digit depends on the batch."""
    return {key: value for key, value in row.items() if key not in ("usage", "log_prob")}


def test_a_run_of_no_rounds_measures_the_base_and_says_that_nothing_was_trained(nothing):
    result = read_json(nothing / "result.json")
    assert [each["round"] for each in result["rounds"]] == [0]
    assert (result["best_round"], result["policy"]["adapter"]) == (0, None)
    assert (result["test"]["ties"], result["test"]["best_of"], result["test"]["best_of_kl"]) == (8, 1, 0.0)
    assert read_json(nothing / "policy" / "policy.json")["adapter"] is None
    page = html.unescape((nothing / "report.html").read_text())
    assert "Nothing was trained: this is the base as it is." in page
    assert '<span class="name">Gap recovered' not in page
    lines = summary(result, nothing)
    assert "kept policy: the base: nothing was trained" in lines
    assert any(line.startswith("test, 8 prompts: score 0.") for line in lines)
    assert not any("wins over" in line or "→" in line or "gap" in line for line in lines)
    assert not (nothing / "test" / "round-00" / "drafts.jsonl").exists()
    assert read_finished(nothing).test["policy"] == read_finished(nothing).test["base"]


def test_there_is_nothing_to_export_and_nothing_is_owed(nothing, best):
    for folder in (nothing, best):
        with pytest.raises(RunError, match=r"nothing was trained \(loop.rounds is 0\); there is nothing to export"):
            read_source(folder)
        status = read_status(folder)
        assert (status.finished, status.rounds, status.best_round, status.command) == (True, 0, 0, "")


@pytest.mark.slow
def test_rounds_may_be_added_to_a_run_of_none(recipe, nothing, tmp_path):
    folder = shutil.copytree(nothing, tmp_path / "run")
    outcome = run(recipe, folder, "loop.rounds=1")
    assert [each.round for each in outcome.rounds] == [0, 1]


def test_the_training_judge_chooses_and_the_others_see_only_its_choice(best):
    folder, judged = best / "test" / "round-00", {}
    drafts = drafts_of(folder / "drafts.jsonl")
    base = drafts_of(best / "baselines" / "base-test-drafts.jsonl")
    assert len(drafts) == 8 * 3
    assert {key: drafts[key] for key in base} == base, "the first draft is the baseline's own"
    for kind in ("verdicts", "held-out", "gold"):
        judged[kind] = {each.draft_id for verdict in judged_by(folder, kind).values() for each in verdict.judgements}
    assert judged["verdicts"] == set(drafts)
    assert judged["held-out"] == judged["gold"]
    assert len(judged["gold"]) == 8
    written = read_finished(best).test["policy"]
    assert {draft.id for draft in written.drafts.values()} == judged["gold"]
    assert {draft.index for draft in written.drafts.values()} > {0}
    comparisons = read_finished(best).comparisons["base"].values()
    assert {row.draft_id for row in comparisons} == judged["gold"]
    assert {row.baseline_draft_id for row in comparisons} == set(base)


def test_the_choice_is_the_best_by_gated_score_the_first_of_equal_ones(best):
    from prefdistill.metrics.scores import draft_scores

    found, folder = read_finished(best), best / "test" / "round-00"
    drafts = list(drafts_of(folder / "drafts.jsonl").values())
    prompts = [found.prompts[key] for key in sorted({draft.prompt_id for draft in drafts})]
    scores = draft_scores(judged_by(folder, "verdicts").values(), drafts, prompts, found.rubrics)
    for prompt in prompts:
        mine = [draft for draft in drafts if draft.prompt_id == prompt.id]
        top = max(scores[draft.id].gated_score for draft in mine)
        first = min(draft.index for draft in mine if scores[draft.id].gated_score == top)
        assert found.test["policy"].drafts[prompt.id].index == first
    mean = fmean(each.gated_score for each in found.test["policy"].scores["verdicts"].values())
    alone = fmean(each.gated_score for each in found.test["base"].scores["verdicts"].values())
    assert mean > alone


def test_the_result_and_the_page_say_what_was_measured(best):
    result = read_json(best / "result.json")
    test = result["test"]
    assert (test["best_of"], test["best_of_kl"]) == (3, pytest.approx(best_of_kl(3)))
    assert test["win_rate"] > 0.5
    page = html.unescape((best / "report.html").read_text())
    assert "Nothing was trained: this is the base as it is. The best of 3 of its drafts" in page
    assert "which took no part in the choice" in page
    assert any(
        "the best of 3 drafts, chosen by the training judge, wins over the base" in x for x in summary(result, best)
    )


@pytest.mark.parametrize("lost", ["half the drafts", "verdicts", "the choice", "another choice"])
def test_a_run_that_was_killed_goes_on_to_the_same_choice(recipe, best, tmp_path, lost):
    folder = shutil.copytree(best, tmp_path / "run")
    test = folder / "test" / "round-00"
    for path in (folder / "result.json", folder / "report.html", test / "comparisons.jsonl"):
        path.unlink()
    owed = {"half the drafts": ("drafts", "verdicts", "held-out", "gold"), "verdicts": ("verdicts", "held-out", "gold")}
    marks = Fingerprints(test)
    for name in owed.get(lost, ("held-out", "gold")):
        marks.reopen(name)
        path = test / f"{name}.jsonl"
        lines = path.read_text().splitlines(keepends=True)
        if lost == "another choice":  # the training judge had failed, and another draft was judged instead
            rows = [json.loads(line) for line in lines]
            for row in rows:
                for each in row["judgements"]:
                    each["draft_id"] = f"{row['prompt_id']}/base/test-00/{(int(each['draft_id'][-1]) + 1) % 3}"
            path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        else:
            path.write_text("".join(lines[: len(lines) // 2]) + lines[-1][:40])
    run(recipe, folder, *BEST)
    assert everything_measured(test) == everything_measured(best / "test" / "round-00")
    assert read_json(folder / "result.json")["test"] == read_json(best / "result.json")["test"]


@pytest.mark.slow
def test_a_changed_number_is_stale_and_redone_from_the_evaluation(recipe, best, tmp_path):
    folder = shutil.copytree(best, tmp_path / "run")
    with pytest.raises(RunError, match=r"test/round-00/drafts .*evaluate.best_of: 3 → 2.*--redo-from evaluate"):
        run(recipe, folder, "loop.rounds=0", "evaluate.best_of=2")
    run(recipe, folder, "loop.rounds=0", "evaluate.best_of=2", redo_from="evaluate")
    assert len(drafts_of(folder / "test" / "round-00" / "drafts.jsonl")) == 8 * 2
    run(recipe, folder, "loop.rounds=0", redo_from="evaluate")
    found = read_finished(folder)
    assert found.test["policy"] == found.test["base"], "what an earlier ending left in test/ is not read"


def test_what_the_judge_cannot_score_is_not_chosen_and_a_prompt_without_any_score_is_unknown(recipe, tmp_path):
    own = ("judge={use: 'judges.py:by_length'}", "pair.min_margin=0", *BEST)
    folder = tmp_path / "run"
    outcome = run(recipe, folder, *own)
    found = read_finished(folder)
    chosen, rows = found.test["policy"].drafts, found.comparisons["base"]
    unknown = {key for key in chosen if int(key[0], 16) % 2 == 0}
    assert unknown
    assert len(unknown) < len(chosen)
    drafts = drafts_of(folder / "test" / "round-00" / "drafts.jsonl")
    for key, draft in chosen.items():
        if key in unknown:
            assert draft.index == 0
            assert (rows[key].outcome, rows[key].score) == ("unknown", None)
        else:
            lengths = [len(drafts[f"{key}/base/test-00/{index}"].completion) for index in (0, 1)]
            assert draft.index == lengths.index(max(lengths)), "the third draft has no score"
    assert outcome.test[0].unknown == len(unknown)
    judged = judged_by(folder / "test" / "round-00", "held-out")
    assert set(judged) == set(chosen) - unknown


def test_the_chosen_draft_is_what_is_compared_in_both_orders(recipe, tmp_path):
    own = ("evaluate={baselines: [base], compare: both_orders, best_of: 3, judge: {use: 'judges.py:Both'}}",)
    run(recipe, tmp_path / "run", *own, "loop.rounds=0")
    found = read_finished(tmp_path / "run")
    chosen, rows = found.test["policy"].drafts, found.comparisons["base"]
    asked = judged_by(tmp_path / "run" / "test" / "round-00", "preferences-base")
    assert set(asked) == {key for key, draft in chosen.items() if draft.index > 0}, "no draft is compared with itself"
    for key, draft in chosen.items():
        longer = len(draft.completion) - len(found.test["base"].drafts[key].completion)
        expected = "tie" if draft.index == 0 else "win" if longer > 0 else "loss"
        assert rows[key].outcome == expected


def test_every_round_is_measured_by_the_best_and_the_base_by_one(recipe, drawn):
    folder = drawn / "round-01"
    drafts = drafts_of(folder / "6-drafts.jsonl")
    assert len(drafts) == 8 * 2
    assert len(drafts_of(drawn / "baselines" / "base-validation-drafts.jsonl")) == 8
    for kind in ("6-held-out", "6-gold"):
        assert sum(len(verdict.judgements) for verdict in judged_by(folder, kind).values()) == 8
    assert len(drafts_of(drawn / "test" / "round-01" / "drafts.jsonl")) == 8 * 2
    status = read_status(drawn)
    counted = [step for part in status.parts if part.name == "round 1" for step in part.steps if step.name == "drafts"]
    assert [(step.done, step.of, step.state) for step in counted] == [(24, 24, "done"), (16, 16, "done")]
    assert status.finished
    page = html.unescape((drawn / "report.html").read_text())
    assert "evaluate.best_of is 2: every round is measured by the best of 2 drafts a prompt, the base by one" in page
    assert "the best of 2 of its drafts" in page
    assert "which took no part in training" in page


def test_an_evaluation_that_is_under_way_counts_every_draft(drawn, tmp_path):
    folder = shutil.copytree(drawn, tmp_path / "run")
    (folder / "round-01" / "round.json").unlink()
    for name in ("6-verdicts", "6-held-out", "6-gold"):
        (folder / "round-01" / f"{name}.jsonl").unlink()
    path = folder / "round-01" / "6-drafts.jsonl"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:5]))
    part = next(part for part in read_status(folder).parts if part.name == "round 1")
    step = [each for each in part.steps if each.name == "drafts"][-1]
    assert (step.state, step.done, step.of) == ("begun", 5, 16)


@pytest.mark.slow
def test_random_labels_are_the_judges_pairs_drawn_by_lot_the_same_on_resume(recipe, drawn, tmp_path):
    judged = tmp_path / "judged"
    run(recipe, judged, "loop.rounds=1", "loop.stop=never", "evaluate={baselines: [base]}")
    mine, theirs = (
        RowFile(folder / "round-01" / "4-pairs.jsonl", PreferencePair).read().values() for folder in (drawn, judged)
    )
    assert {frozenset((p.chosen_id, p.rejected_id)) for p in mine} == {
        frozenset((p.chosen_id, p.rejected_id)) for p in theirs
    }
    same = {(p.chosen_id, p.rejected_id) for p in mine} & {(p.chosen_id, p.rejected_id) for p in theirs}
    assert 0 < len(same) < len(list(mine))
    for name in ("1-drafts.jsonl", "4-drops.jsonl"):
        assert (drawn / "round-01" / name).read_bytes() == (judged / "round-01" / name).read_bytes()
    again = shutil.copytree(drawn, tmp_path / "again")
    (again / "result.json").unlink()
    options = ("loop.rounds=1", "evaluate.best_of=2", "pair.labels=random", "loop.stop=never", "loop.keep=last")
    run(recipe, again, *options)
    for name in ("4-pairs.jsonl", "5-policy/adapter_model.safetensors"):
        assert (again / "round-01" / name).read_bytes() == (drawn / "round-01" / name).read_bytes()
    page = html.unescape((drawn / "report.html").read_text())
    assert "pair.labels is random: which of a pair's two drafts was chosen was drawn by lot" in page
    with pytest.raises(RunError, match=r"pair.labels: 'random' → 'judged'"):
        run(recipe, again, *(each for each in options if not each.startswith("pair.")))


def test_a_prompt_is_forgotten_with_all_its_drafts(recipe, best, tmp_path):
    folder = shutil.copytree(best, tmp_path / "run")
    gone, *_ = read_finished(folder).test["policy"].drafts
    assert forget(plan_forgetting(folder, gone)) == []
    outcome = run(recipe, folder, *BEST)
    left = read_finished(folder)
    assert gone not in left.test["policy"].drafts
    assert len(left.test["policy"].drafts) == 7
    assert sum((outcome.test[0].wins, outcome.test[0].ties, outcome.test[0].losses)) == 7
    before = read_finished(best).test["policy"].drafts
    assert all(left.test["policy"].drafts[key] == draft for key, draft in before.items() if key != gone)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (("loop.rounds=-1",), r"loop.rounds"),
        (("evaluate.best_of=0",), r"evaluate.best_of"),
        (("evaluate.best_of=2", "evaluate.temperature=0"), r"all drafts of a prompt would be the same"),
        (("evaluate.best_of=2", "judge={use: pairwise, teacher: {use: sandbox}}"), r"cannot score a draft alone"),
        (("pair.labels=guessed",), r"pair.labels"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_sampled(recipe, overrides, message):
    with pytest.raises(RecipeError, match=message):
        load_recipe(recipe, overrides)


def test_a_recipe_of_an_older_version_is_the_same_run(recipe, nothing, tmp_path):
    """The keys are new: a run that was made before them has none in its manifest, and goes on."""
    folder = shutil.copytree(nothing, tmp_path / "run")
    manifest = read_json(folder / "manifest.json")
    del manifest["recipe"]["evaluate"]["best_of"], manifest["recipe"]["pair"]["labels"]
    write_json(folder / "manifest.json", manifest)
    run(recipe, folder, *NOTHING)
