"""What pairs look like, and the rules about length, starvation and labels that have come loose."""

import pytest

from prefdistill.diagnostics.labels import chosen_longer, label_agreement, measure_labels, pair_yield
from prefdistill.records import Verdict
from tests.diagnostics.rounds import by_id, drop, found, levels_found, pair_of, written
from tests.making import both_orders, make_prompt, scored, valued


def a_round(count, chosen="long long text", rejected="short", chosen_first=True, mark=valued, swapped=False):
    """One pair a prompt: the chosen draft is shown first or second and got the higher mark."""
    drafts, verdicts, pairs = {}, {}, []
    for number in range(count):
        name = f"p{number}"
        better, worse = (
            written(chosen, name, 0 if chosen_first else 1),
            written(rejected, name, 1 if chosen_first else 0),
        )
        drafts |= by_id([better, worse])
        verdicts[name] = Verdict(prompt_id=name, judgements=(mark(better, 0.9), mark(worse, 0.2)))
        pairs.append(pair_of(worse, better) if swapped else pair_of(better, worse))
    prompts = [make_prompt(f"p{number}") for number in range(count)]
    return prompts, drafts, verdicts, pairs, []


def test_lengths_are_those_of_the_drafts_in_tokens():
    prompts, drafts, verdicts, pairs, drops = a_round(2)
    longer = {key: each.model_copy(update={"tokens": 9}) for key, each in drafts.items() if each.index == 1}
    values = measure_labels(prompts, {**drafts, **longer}, verdicts, pairs, drops)
    assert (values["chosen_tokens_mean"], values["rejected_tokens_mean"]) == (3, 9)
    assert values["chosen_longer_share"] == 0
    without = measure_labels(prompts, {}, verdicts, pairs, drops)
    assert (without["chosen_tokens_mean"], without["chosen_longer_share"]) == (3, 1)


def test_equal_lengths_count_half():
    assert measure_labels(*a_round(4, "a b", "c d"))["chosen_longer_share"] == 0.5


def test_pairs_that_favour_length_are_found():
    finding = found(chosen_longer, {}, measure_labels(*a_round(20)))[0]
    assert (finding.level, finding.remedy, finding.value) == ("stop", "length_normalise", 1.0)
    assert "sigmoid_norm" in finding.message and "max_length_ratio" in finding.message
    assert not found(chosen_longer, {}, measure_labels(*a_round(20, "short", "long long text")))


@pytest.mark.parametrize(
    ("share", "pairs", "level"),
    [(0.65, 200, "warn"), (0.75, 200, "stop"), (0.55, 200, None), (0.65, 30, None), (1.0, 15, None)],
    ids=["warns", "stops", "within", "within chance", "too few"],
)
def test_the_share_of_longer_chosen_texts_must_be_beyond_chance(share, pairs, level):
    values = {"chosen_longer_share": share, "pairs": pairs, "chosen_tokens_mean": 50.0, "rejected_tokens_mean": 40.0}
    assert [each.level for each in found(chosen_longer, {}, values)] == ([level] if level else [])


def test_growing_towards_the_teachers_length_is_no_length_bias():
    values = {"chosen_longer_share": 0.9, "pairs": 64.0, "chosen_tokens_mean": 50.0, "rejected_tokens_mean": 30.0}
    assert not found(chosen_longer, {}, {**values, "teacher_tokens": 80.0})
    assert levels_found(chosen_longer, {}, {**values, "teacher_tokens": 40.0}) == [("stop", "chosen_longer")]


def test_starvation_is_found_from_sixteen_prompts_on():
    prompts, drafts, verdicts, pairs, _ = a_round(4)
    more = [make_prompt(f"q{number}") for number in range(16)]
    values = measure_labels([*prompts, *more], drafts, verdicts, pairs, [drop(each.id) for each in more])
    assert (values["pair_yield"], values["tie_share"]) == (0.2, 0.8)
    finding = found(pair_yield, {}, values)[0]
    assert finding.level == "stop" and "sample.drafts" in finding.message
    assert not found(pair_yield, {}, measure_labels(*a_round(16)))
    assert not found(pair_yield, {}, measure_labels(prompts + more[:8], drafts, verdicts, pairs, []))
    assert not found(pair_yield, {}, {"pair_yield": 0.0, "prompts": 8.0})


def test_few_pairs_of_a_student_that_has_learned_it_all_stop_nothing():
    base = {"rubric_score": 0.45}
    starved = {"pair_yield": 0.2, "prompts": 64.0, "score_gain_se": 0.02, "base_score_sd": 0.25, "drop/tie": 0.8}
    finding = found(pair_yield, base, {**starved, "rubric_score": 0.98})[0]
    assert finding.level == "warn" and "has learned" in finding.message
    assert levels_found(pair_yield, base, {**starved, "rubric_score": 0.6}) == [("stop", "pair_yield")]
    better = {"rubric_score": 0.98}
    assert levels_found(pair_yield, base, better, {**starved, "rubric_score": 0.8}) == [("stop", "pair_yield")]


@pytest.mark.parametrize(
    ("reason", "remedy"),
    [
        ("incomplete", "sample.max_new_tokens"),
        ("all_failed_gates", "gates"),
        ("orders_disagree", "judge.on_disagree"),
        ("judge_failed", "2-verdicts.jsonl"),
        ("identical", "sample.temperature"),
        ("fewer_than_two_drafts", "sample.drafts"),
    ],
)
def test_starvation_names_the_commonest_reason_and_its_remedy(reason, remedy):
    prompts = [make_prompt(f"p{number}") for number in range(20)]
    drops = [drop("p0"), *(drop(each.id, reason) for each in prompts[1:])]
    finding = found(pair_yield, {}, measure_labels(prompts, {}, {}, [], drops))[0]
    assert f"{reason} 95%" in finding.message and remedy in finding.message


def test_cut_drafts_are_no_sign_of_success():
    cut = {"pair_yield": 0.2, "prompts": 64.0, "score_gain_se": 0.02, "base_score_sd": 0.25, "drop/incomplete": 0.8}
    assert levels_found(pair_yield, {"rubric_score": 0.45}, {**cut, "rubric_score": 0.98}) == [("stop", "pair_yield")]


def test_several_pairs_of_a_prompt_are_one_prompt_with_a_pair():
    prompts, drafts, verdicts, pairs, drops = a_round(2)
    assert measure_labels(prompts, drafts, verdicts, [pairs[0], pairs[0]], drops)["pair_yield"] == 0.5


def test_the_place_of_the_chosen_draft_is_counted_where_a_judge_scored():
    assert measure_labels(*a_round(4))["first_place_share"] == 1
    assert measure_labels(*a_round(4, chosen_first=False))["first_place_share"] == 0
    prompts, drafts, _, pairs, drops = a_round(4)
    compared = [each.model_copy(update={"scale": "preference"}) for each in pairs]
    assert "first_place_share" not in measure_labels(prompts, drafts, {}, compared, drops)


def test_the_place_says_nothing_of_drafts_by_two_writers():
    prompts, drafts, verdicts, pairs, drops = a_round(4)
    mixed = {key: each.model_copy(update={"source": f"file:{each.index}"}) for key, each in drafts.items()}
    assert "first_place_share" not in measure_labels(prompts, mixed, verdicts, pairs, drops)


@pytest.mark.parametrize("mark", [valued, scored])
def test_labels_that_lie_as_the_verdicts_do(mark):
    values = measure_labels(*a_round(20, mark=mark))
    assert values["label_agreement"] == 1
    assert not found(label_agreement, {}, values)


@pytest.mark.parametrize("mark", [valued, scored])
def test_labels_that_have_changed_places_are_found(mark):
    values = measure_labels(*a_round(20, mark=mark, swapped=True))
    finding = found(label_agreement, {}, values)[0]
    assert finding.check == "label_signal" and "changed places" in finding.message
    assert not found(label_agreement, {}, measure_labels(*a_round(8, mark=mark, swapped=True)))


def test_texts_count_and_not_the_ids_beside_them():
    prompts, drafts, verdicts, pairs, drops = a_round(20)
    crossed = [each.model_copy(update={"chosen": each.rejected, "rejected": each.chosen}) for each in pairs]
    assert measure_labels(prompts, drafts, verdicts, crossed, drops)["label_agreement"] == 0


def test_half_random_labels_are_found_by_their_looseness():
    prompts, drafts, verdicts, pairs, drops = a_round(40)
    swapped = a_round(40, swapped=True)[3]
    loose = measure_labels(prompts, drafts, verdicts, [*pairs[:20], *swapped[20:]], drops)
    finding = found(label_agreement, {}, loose)[0]
    assert finding.value == 0.5 and "come loose" in finding.message


def test_comparisons_tell_where_there_are_no_scores():
    prompts, drafts, _, pairs, drops = a_round(4)
    verdicts = {
        pair.prompt_id: Verdict(
            prompt_id=pair.prompt_id, preferences=tuple(both_orders(drafts[pair.chosen_id], drafts[pair.rejected_id]))
        )
        for pair in pairs
    }
    assert measure_labels(prompts, drafts, verdicts, pairs, drops)["label_agreement"] == 1
