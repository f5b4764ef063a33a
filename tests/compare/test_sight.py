"""The smallest effect that a comparison's sample can see, in figures and in words."""

import pytest

from prefdistill.compare.sight import Sight, Spread, sight_lines


def test_the_published_table():
    """783 prompts for 5 points of win rate; 0.05 in score with deviations of 0.2, 0.3 and 0.4: 126, 283 and 503."""
    sight = Sight(prompts=200, there=200, seeds=3)
    assert sight.win_rate == pytest.approx(0.598, abs=0.001)
    assert sight.gains == pytest.approx({0.2: 0.0396, 0.3: 0.0594, 0.4: 0.0792}, abs=1e-4)
    assert sight_lines(sight) == [
        "200 test prompts can show (two-sided 5 %, power 80 %): a win rate of 60 % or more, or 0.04 / 0.059 / 0.079 in "
        "score where differences vary by 0.2 / 0.3 / 0.4 from prompt to prompt",
        "you would need 783 for a win rate of 55 %, and 126 / 283 / 503 for 0.05 in score",
        "how much 3 seeds differ comes on top, and is known only afterwards",
    ]


def test_what_was_measured_replaces_the_usual_deviations():
    sight = Sight(200, 500, 2, Spread(sd=0.25, ties=0.3, source="offline against online, 200 prompts"))
    first, needed, limit, seeds = sight_lines(sight)
    assert "or 0.05 in score where differences vary by 0.25 from prompt to prompt" in first
    assert first.endswith("(measured: offline against online, 200 prompts)")
    assert "a win rate of 59 % or more" in first, "ties vary less than wins and losses"
    assert needed == "you would need 548 for a win rate of 55 %, and 197 for 0.05 in score"
    assert limit == "prompts.test_limit leaves out 300 of 500 test prompts"
    assert "3 or more tell it from chance" in seeds


def test_too_few_prompts_and_too_many_ties():
    assert "no win rate at all" in sight_lines(Sight(3, 3, 1))[0]
    assert sight_lines(Sight(4, 4, 1))[-1].startswith(
        "1 seed: what another training would have done is not seen at all"
    )
    assert sight_lines(Sight(0, 0, 3)) == ["there are no test prompts, so no effect can be seen"]
    tied = Sight(100, 100, 3, Spread(0.2, 0.95, "a against b, 100 prompts"))
    assert sight_lines(tied)[1] == "you would need 126 for 0.05 in score"
