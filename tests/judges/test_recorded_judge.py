"""The recorded judge: verdicts on record, played back through the judge stage; what is not there is a failure."""

import json

import pytest
from pydantic import ValidationError

from prefdistill.errors import JudgeError
from prefdistill.judges.recorded import RecordedJudge
from prefdistill.protocols import RunContext
from prefdistill.records import Draft, PreferencePair, Prompt
from prefdistill.selection import PairOptions, rank_drafts
from prefdistill.stages.judge import judge_prompts
from prefdistill.stages.pair import pair_prompt
from tests.making import (
    ASKED,
    CLEAN,
    LENGTH,
    both_orders,
    make_drafts,
    make_prompt,
    make_rubric,
    make_verdict,
    one_rubric,
    scored,
)

PROMPT = make_prompt("p", "Write it.")
RUBRIC = make_rubric(ASKED)


def system_drafts(*names, texts=None):
    return [
        Draft(
            id=f"p/{index}",
            prompt_id="p",
            source=f"file:{name}",
            policy=None,
            round=1,
            purpose="train",
            index=index,
            completion=(texts or {}).get(name, f"by {name}"),
        )
        for index, name in enumerate(names)
    ]


def opened(tmp_path, rows, **options):
    path = tmp_path / "verdicts.jsonl"
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    judge = RecordedJudge(path=path, **options)
    judge.open(RunContext(directory=tmp_path, seed=0))
    return judge


def judged(tmp_path, rows, drafts, rubric=RUBRIC, prompt=PROMPT, **options):
    (verdict,) = judge_prompts(opened(tmp_path, rows, **options), [(prompt, drafts)], one_rubric(rubric))
    return verdict


def compared(first, second, winner, **more):
    return {"prompt_id": "p", "first": first, "second": second, "winner": winner, **more}


def scores(verdict, drafts, rubric=RUBRIC):
    return {each.draft_id: each.score for each in rank_drafts(PROMPT, drafts, verdict, rubric, 1).entries}


@pytest.mark.parametrize("prompt", [{"prompt_id": "p"}, {"prompt_id": "mine"}, {"prompt": " Write it.\n"}])
@pytest.mark.parametrize("names", [("a", "b"), ("p/0", "p/1"), ("by a", "by b ")])
def test_prompts_and_drafts_go_by_any_of_their_names(tmp_path, prompt, names):
    mine = Prompt(**{**PROMPT.model_dump(), "tags": ("id:mine",)})
    one, other = names
    rows = [{**prompt, "first": one, "second": other, "winner": "first"}]
    rows.append({**prompt, "first": other, "second": one, "probability": 0.25})
    verdict = judged(tmp_path, rows, system_drafts("a", "b"), prompt=mine)
    assert [(each.first_id, each.second_id, each.probability) for each in verdict.preferences] == [
        ("p/0", "p/1", 1.0),
        ("p/1", "p/0", 0.25),
    ]
    assert not verdict.failures


@pytest.mark.parametrize("unread", [None, -1, "-", "-1", ""])
def test_a_verdict_that_could_not_be_read_is_a_failure_and_no_tie(tmp_path, unread):
    drafts = system_drafts("a", "b")
    verdict = judged(tmp_path, [compared("a", "b", "first"), compared("b", "a", unread)], drafts)
    assert [(each.key, each.kind) for each in verdict.failures] == [("p/1|p/0", "parse")]
    assert len(verdict.preferences) == 1
    ranking = rank_drafts(PROMPT, drafts, verdict, RUBRIC, 1)
    assert ranking.entries == (), "one order alone is not known"
    (row,) = pair_prompt(PROMPT, drafts, verdict, ranking, PairOptions(), 1)
    assert row.reason == "judge_failed"


def test_a_comparison_that_is_not_there_is_a_failure(tmp_path):
    verdict = judged(tmp_path, [compared("a", "b", "tie")], system_drafts("a", "b", "c"))
    assert {(each.key, each.kind) for each in verdict.failures} == {
        (key, "empty") for key in ("p/1|p/0", "p/0|p/2", "p/2|p/0", "p/1|p/2", "p/2|p/1")
    }
    assert [each.probability for each in verdict.preferences] == [0.5]


def test_a_prompt_that_is_not_there_fails_draft_by_draft(tmp_path):
    rows = [{**compared("a", "b", "tie"), "prompt_id": "other"}]
    verdict = judged(tmp_path, rows, system_drafts("a", "b"))
    assert {(each.key, each.kind) for each in verdict.failures} == {("p/0", "empty"), ("p/1", "empty")}


def every_comparison(names, better):
    return [compared(a, b, "first" if better(a, b) else "second") for a in names for b in names if a != b]


@pytest.mark.parametrize(("scheme", "count"), [("round_robin", 56), ("anchor", 14), ("swiss", 24)])
def test_only_what_the_scheme_asks_for_is_looked_up(tmp_path, scheme, count):
    names = "abcdefgh"
    drafts = system_drafts(*names)
    verdict = judged(tmp_path, every_comparison(names, lambda a, b: a > b), drafts, scheme=scheme)
    assert (len(verdict.preferences), len(verdict.failures)) == (count, 0)
    if scheme != "anchor":
        found = scores(verdict, drafts)
        assert max(found, key=found.get) == "p/7"


def test_repeats_are_numbered_and_averaged(tmp_path):
    drafts = system_drafts("a", "b")
    rows = [compared("a", "b", "first"), compared("a", "b", "second"), compared("b", "a", "second")]
    verdict = judged(tmp_path, rows, drafts)
    assert [(each.first_id, each.repeat) for each in verdict.preferences] == [("p/0", 0), ("p/0", 1), ("p/1", 0)]
    assert scores(verdict, drafts) == {"p/0": 0.75, "p/1": 0.25}


def test_equal_texts_share_what_is_recorded_for_the_text_and_are_not_missed(tmp_path):
    drafts = system_drafts("a", "b", "c", texts={"a": "same", "b": "same ", "c": "other"})
    rows = [compared("same", "other", "first"), compared("other", "same", "second")]
    verdict = judged(tmp_path, rows, drafts)
    assert not verdict.failures
    assert {(each.first_id, each.second_id) for each in verdict.preferences} == {
        ("p/0", "p/2"), ("p/2", "p/0"), ("p/1", "p/2"), ("p/2", "p/1")
    }  # fmt: skip
    assert scores(verdict, drafts)["p/2"] < 0.5


def test_equal_texts_of_two_systems_keep_their_own_records(tmp_path):
    drafts = system_drafts("a", "b", texts={"a": "same", "b": "same"})
    verdict = judged(tmp_path, [compared("a", "b", "first"), compared("b", "a", "second")], drafts)
    assert scores(verdict, drafts) == {"p/0": 1.0, "p/1": 0.0}
    ranking = rank_drafts(PROMPT, drafts, verdict, RUBRIC, 1)
    assert pair_prompt(PROMPT, drafts, verdict, ranking, PairOptions(), 1)[0].reason == "identical"


def test_values_are_on_a_scale_of_their_own_or_the_rubrics(tmp_path):
    drafts = system_drafts("a", "b", "c")
    rows = [{"prompt_id": "p", "draft": name, "value": value} for name, value in (("a", 7), ("b", 0.5), ("c", None))]
    verdict = judged(tmp_path, rows, drafts)
    assert [(each.value, each.scale) for each in verdict.judgements] == [(7.0, "custom"), (0.5, "custom")]
    assert [(each.key, each.kind) for each in verdict.failures] == [("p/2", "parse")]
    verdict = judged(tmp_path, rows, drafts, scale="rubric")
    assert [(each.value, each.scale) for each in verdict.judgements] == [(0.5, "rubric")]
    assert {each.key for each in verdict.failures} == {"p/0", "p/2"}


def test_levels_are_scored_by_the_rubric_and_checks_applied_anew(tmp_path):
    rubric = make_rubric(ASKED, LENGTH, gates=[CLEAN])
    drafts = system_drafts("a", "b", "c", "d", texts={"a": "x" * 50, "b": "BAD"})
    said = (("a", "Mostly"), ("b", "yes"), ("c", "great"), ("d", "-"))
    rows = [{"prompt_id": "p", "draft": name, "criterion": "good", "level": level} for name, level in said]
    verdict = judged(tmp_path, rows, drafts, rubric)
    assert scores(verdict, drafts, rubric) == {"p/0": 0.625, "p/1": pytest.approx(0.515)}
    assert [(each.key, each.kind) for each in verdict.failures] == [("p/2", "parse"), ("p/3", "parse")]
    assert "`great`; expected one of no, hardly" in verdict.failures[0].message
    entries = rank_drafts(PROMPT, drafts, verdict, rubric, 1).entries
    assert [(each.draft_id, each.gates) for each in entries] == [("p/0", ()), ("p/1", ("clean",))]


def test_a_missing_level_is_a_failure(tmp_path):
    rubric = make_rubric(ASKED, {**ASKED, "name": "clear"})
    rows = [{"prompt_id": "p", "draft": "a", "criterion": "good", "level": "yes"}]
    verdict = judged(tmp_path, rows, system_drafts("a", "b"), rubric)
    assert [(each.key, each.kind, each.message) for each in verdict.failures] == [
        ("p/0", "empty", "no level of clear is recorded"),
        ("p/1", "empty", "no verdict on this draft is recorded"),
    ]


def test_beside_scores_comparisons_only_confirm(tmp_path):
    drafts = system_drafts("a", "b", "c")
    rows = [{"prompt_id": "p", "draft": name, "value": value} for name, value in (("a", 0.9), ("b", 0.5), ("c", 0.1))]
    confirmed = [compared("a", "c", "first"), compared("c", "a", "second")]
    split = [compared("a", "c", "first"), compared("c", "a", "first")]
    for more, outcome in ((confirmed, "by a"), (split, "orders_disagree")):
        verdict = judged(tmp_path, rows + more, drafts, scale="rubric")
        assert not verdict.failures
        ranking = rank_drafts(PROMPT, drafts, verdict, RUBRIC, 1)
        (row,) = pair_prompt(PROMPT, drafts, verdict, ranking, PairOptions(), 1)
        assert (row.chosen if isinstance(row, PreferencePair) else row.reason) == outcome


def test_a_checked_gate_holds_for_compared_drafts_too(tmp_path):
    rubric = make_rubric(ASKED, gates=[CLEAN])
    drafts = system_drafts("a", "b", texts={"a": "BAD"})
    verdict = judged(tmp_path, [compared("a", "b", "first"), compared("b", "a", "second")], drafts, rubric)
    assert [each.draft_id for each in rank_drafts(PROMPT, drafts, verdict, rubric, 1).entries] == ["p/1", "p/0"]


def test_a_runs_own_verdict_rows(tmp_path):
    drafts = make_drafts(["one", "two", "three"])
    rubric = make_rubric(ASKED)
    own = make_verdict([scored(drafts[0], 1.0), scored(drafts[1], 0.5)], both_orders(drafts[0], drafts[1]))
    verdict = judged(tmp_path, [own.model_dump_json()], drafts, rubric)
    assert verdict.judgements == own.judgements
    assert {each.model_dump_json() for each in verdict.preferences} == {
        each.model_dump_json() for each in own.preferences
    }
    assert [each.key for each in verdict.failures] == [drafts[2].id]
    assert verdict.usage.calls == 0


def test_only_one_judges_rows(tmp_path):
    rows = [compared("a", "b", "first", judge="x"), compared("b", "a", "second", judge="x")]
    rows.append(compared("a", "b", "second", judge="y"))
    verdict = judged(tmp_path, rows, system_drafts("a", "b"), only_judge="x")
    assert [each.judge for each in verdict.preferences] == ["x", "x"]
    with pytest.raises(JudgeError, match="no verdict by the judge `z` is recorded here"):
        opened(tmp_path, rows, only_judge="z")


@pytest.mark.parametrize(
    ("row", "told"),
    [
        ({"first": "a", "second": "b", "winner": "tie"}, "no prompt_id and no prompt"),
        (compared("a", "b", "frist"), "winner: found 'frist'"),
        ({"prompt_id": "p", "first": "a", "second": "b"}, "expected one of winner (first, second, tie, null)"),
        ({**compared("a", "b", "tie"), "probability": 0.5}, "expected one of winner"),
        ({"prompt_id": "p", "first": "a", "second": "b", "probability": 1.5}, "probability: found 1.5"),
        ({"prompt_id": "p", "first": "a", "winner": "tie"}, "second: missing"),
        ({"prompt_id": "p", "draft": "a"}, "expected one of value (a number or null) and criterion"),
        ({"prompt_id": "p", "draft": "a", "value": "high"}, "value: found 'high'"),
        ({"prompt_id": "p", "draft": "a", "value": 1, "levl": "x"}, "levl: unknown key; did you mean `level`?"),
        ({"prompt_id": "p"}, "expected a comparison (with `first` and `second`), a score"),
        ("nonsense", "not valid JSON"),
    ],
)
def test_a_bad_row_is_named_with_its_line(tmp_path, row, told):
    with pytest.raises(JudgeError) as problem:
        opened(tmp_path, [compared("a", "b", "tie"), row])
    assert "verdicts.jsonl:2: " in str(problem.value) and told in str(problem.value)


def test_a_file_that_is_empty_or_not_there(tmp_path):
    with pytest.raises(JudgeError, match="no rows; expected recorded verdicts"):
        opened(tmp_path, [])
    with pytest.raises(ValidationError, match=r"none\.jsonl does not exist; expected a JSONL file"):
        RecordedJudge.model_validate({"path": "none.jsonl"}, context={"directory": tmp_path})


def test_other_verdicts_are_another_judge(tmp_path):
    one = opened(tmp_path, [compared("a", "b", "tie")]).identity()
    assert one == opened(tmp_path, [compared("a", "b", "tie")]).identity()
    assert one != opened(tmp_path, [compared("a", "b", "first")]).identity()
