"""Labels taken apart: which drafts are judged together, and who said what about which two."""

import pytest

from prefdistill.agreement.labelled import take_apart
from prefdistill.labels import CriterionLabel, LabelError, PairLabel, RankingLabel, labels_of
from tests.making import make_draft, make_prompt


def pair(first, second, winner="first", by="ann", prompt="p", **more):
    return PairLabel(prompt=prompt, first=first, second=second, winner=winner, by=by, **more)


def texts(labelled):
    return [sorted(draft.completion for draft in case.drafts) for case in labelled.cases]


def said(labelled):
    """Each vote as (who, better text, worse text), or as a tie in a set."""
    drafts = {draft_id: draft.completion for draft_id, draft in labelled.drafts.items()}
    found = []
    for vote in labelled.votes:
        a, b = (drafts[each] for each in vote.pair)
        found.append((vote.by, *((a, b) if vote.says > 0 else (b, a))) if vote.says else (vote.by, {a, b}))
    return found


def test_the_side_on_which_a_draft_was_shown_does_not_matter():
    labelled = take_apart(labels_of([pair("a", "b"), pair("b ", "a", "second", "bob"), pair("b", "a", "tie", "cem")]))
    assert texts(labelled) == [["a", "b"]]
    assert said(labelled) == [("ann", "a", "b"), ("bob", "a", "b"), ("cem", {"a", "b"})]


def test_a_pair_that_is_part_of_a_ranking_is_judged_with_it():
    ranking = RankingLabel(prompt="p", drafts=("a", "b", "c"), ranking=((2,), (0, 1)), by="ann")
    labelled = take_apart(labels_of([pair("a", "c", by="bob"), ranking, pair("c", "d")]))
    assert texts(labelled) == [["a", "b", "c"], ["c", "d"]]
    assert ("bob", "a", "c") in said(labelled) and ("ann", "c", "a") in said(labelled)
    assert ("ann", {"a", "b"}) in said(labelled)
    assert len(labelled.votes) == 5


def test_drafts_of_which_only_criteria_are_labelled_are_judged_once():
    level = lambda draft, by: CriterionLabel(prompt="p", draft=draft, criterion="tone", level="good", by=by)
    labelled = take_apart(
        labels_of([level("a", "ann"), level("a", "bob"), level("x", "ann"), level("y", "ann"), pair("a", "b")])
    )
    assert texts(labelled) == [["a", "b"], ["x", "y"]]
    assert len(labelled.levels) == 4 and labelled.levels[0].draft_id == labelled.levels[1].draft_id


def test_a_draft_goes_by_its_id_and_a_text_finds_it():
    with_ids = pair("a", "b", by="bob", prompt_id="id1", first_id="d/1", second_id="d/2")
    labelled = take_apart(labels_of([pair("b", "a"), with_ids]))
    assert texts(labelled) == [["a", "b"]]
    assert {vote.pair for vote in labelled.votes} == {("d/1", "d/2")}
    assert {vote.prompt_id for vote in labelled.votes} == {"id1"}


def test_two_prompts_with_one_text_stay_apart():
    rows = [pair("a", "b", prompt_id="x"), pair("a", "b", prompt_id="y"), pair("a", "b", "second", "bob")]
    assert {vote.prompt_id for vote in take_apart(labels_of(rows)).votes} >= {"x", "y"}
    assert len(take_apart(labels_of(rows)).cases) == 3


def test_equal_texts_are_one_draft_unless_ids_tell_them_apart():
    assert take_apart(labels_of([pair("a", "a", "tie")])).cases == ()
    labelled = take_apart(labels_of([pair("a", "a", first_id="d/1", second_id="d/2")]))
    assert (texts(labelled), labelled.votes[0].says) == ([["a", "a"]], 1)


def test_a_runs_own_prompts_and_drafts_are_used():
    prompt = make_prompt("p1", "p", day="Friday")
    draft = make_draft("a", prompt_id="p1", cut=True)
    label = pair("a", "b", first_id=draft.id, second_id="d/2")
    (case,) = take_apart(labels_of([label]), {"p1": prompt}, {draft.id: draft}).cases
    assert case.prompt is prompt
    assert draft in case.drafts


def test_one_id_for_two_things_is_an_error():
    with pytest.raises(LabelError, match="prompt_id `x` stands for two different prompts"):
        take_apart(labels_of([pair("a", "b", prompt_id="x"), pair("a", "b", prompt="q", prompt_id="x")]))
    with pytest.raises(LabelError, match="draft id `d` stands for two different texts"):
        take_apart(labels_of([pair("a", "b", first_id="d"), pair("c", "b", first_id="d")]))
