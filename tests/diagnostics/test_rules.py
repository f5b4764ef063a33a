"""All rules together: stops first, and the phrase that spreads apart from the findings."""

from prefdistill.diagnostics.findings import Levels
from prefdistill.diagnostics.rules import find, phrase_line, start_checks

SEEN = [
    {"rubric_score": 0.5},
    {
        "chosen_longer_share": 0.9, "pairs": 64.0, "chosen_tokens_mean": 60.0, "rejected_tokens_mean": 40.0,
        "identical_share": 0.2, "drafts": 256.0, "phrase_share": 0.8, "base_phrase_share": 0.1, "teacher_phrase_share": 0.0,
    },
]  # fmt: skip
FACTS = {"phrase": "call ada on 555 0199"}


def test_stops_come_first_and_no_finding_holds_the_students_words():
    found = find(SEEN, Levels())
    assert found[0].level == "stop" and {"chosen_longer", "phrase"} <= {each.check for each in found}
    assert not any("555" in each.message for each in found)


def test_the_phrase_is_said_beside_findings_about_what_the_judge_rewards():
    found = find(SEEN, Levels())
    line = phrase_line(found, SEEN[1], FACTS)
    assert line is not None and "'call ada on 555 0199': in 80% of the drafts, 10% of the base's" in line
    assert phrase_line([each for each in found if each.check == "identical"], SEEN[1], FACTS) is None
    assert phrase_line(found, SEEN[1], {}) is None


def test_who_judges_is_one_of_the_checks():
    states = {alone: start_checks({"self_judged": alone}, {}, ())[-1].state for alone in (0.0, 1.0)}
    assert states == {0.0: "ok", 1.0: "warn"}
