"""`pair.labels: random`: the same pairs, and which of the two is chosen is drawn by lot."""

from prefdistill.records import PreferencePair, Verdict
from prefdistill.selection import PairOptions
from prefdistill.stages.pair import pair_prompts, with_drawn_labels
from prefdistill.stages.rank import rank_prompts
from tests.making import ASKED, make_draft, make_prompt, make_rubric, one_rubric, scored

RUBRICS = one_rubric(make_rubric(ASKED))


def pairs(count=400, round=1):
    """One judged pair a prompt, made by the pair stage itself: the text with the longer name has the higher score."""
    prompts = [make_prompt(f"p{n}", f"Write number {n}.") for n in range(count)]
    drafts = [make_draft(f"text {i} of {n}", i, f"p{n}") for n in range(count) for i in range(2)]
    verdicts = []
    for prompt in prompts:
        mine = [draft for draft in drafts if draft.prompt_id == prompt.id]
        better = int(prompt.id[1:]) % 2
        judgements = tuple(scored(draft, 1.0 if draft.index == better else 0.25) for draft in mine)
        verdicts.append(_verdict(prompt.id, judgements))
    rankings = list(rank_prompts(prompts, drafts, verdicts, RUBRICS, round))
    options = PairOptions(near_duplicate=None)
    return list(pair_prompts(prompts, drafts, verdicts, rankings, options, round))


def _verdict(prompt_id, judgements):
    return Verdict(prompt_id=prompt_id, judgements=judgements)


def test_about_half_are_exchanged_and_the_seed_alone_decides_which():
    judged = pairs()
    drawn = [with_drawn_labels(pair, 7) for pair in judged]
    exchanged = [a.chosen != b.chosen for a, b in zip(judged, drawn, strict=True)]
    assert 160 < sum(exchanged) < 240
    assert drawn == [with_drawn_labels(pair, 7) for pair in judged]
    other = [a.chosen != with_drawn_labels(a, 8).chosen for a in judged]
    assert 160 < sum(a != b for a, b in zip(exchanged, other, strict=True)) < 240, "another seed draws other lots"
    by_better = [sum(each for n, each in enumerate(exchanged) if n % 2 == parity) for parity in (0, 1)]
    assert all(70 < count < 130 for count in by_better), "whichever text the judge prefers"


def test_texts_ids_and_scores_go_together_and_the_margin_stays():
    for judged in pairs(40):
        drawn = with_drawn_labels(judged, 3)
        PreferencePair.model_validate(drawn.model_dump())
        two = {(judged.chosen, judged.chosen_id, judged.chosen_score)}
        two |= {(judged.rejected, judged.rejected_id, judged.rejected_score)}
        assert {
            (drawn.chosen, drawn.chosen_id, drawn.chosen_score),
            (drawn.rejected, drawn.rejected_id, drawn.rejected_score),
        } == two
        assert drawn.margin == judged.margin > 0
        assert drawn.id.rpartition("/")[0] == judged.id.rpartition("/")[0]
        assert (drawn.id == judged.id) == (drawn == judged)


def test_the_lot_does_not_depend_on_the_judges_label_or_the_round():
    """Two runs whose judges disagree draw the same label for the same two texts, and so does a later round."""
    for judged in pairs(60):
        turned = judged.model_copy(
            update={
                "chosen": judged.rejected,
                "rejected": judged.chosen,
                "chosen_id": judged.rejected_id,
                "rejected_id": judged.chosen_id,
                "round": 4,
            }
        )
        assert with_drawn_labels(judged, 5).chosen == with_drawn_labels(turned, 5).chosen
        again = with_drawn_labels(with_drawn_labels(judged, 5), 5)
        assert again == with_drawn_labels(judged, 5)
