"""What a run's terminal says of a warm start: a round like the others, with a name, and what it learned from."""

import io

from rich.console import Console

from prefdistill.console import TerminalDisplay, summary
from prefdistill.log import round_lines
from prefdistill.records import RoundResult, rounds_text


def made(number, learned_from="pairs", **values):
    diagnostics = {"answers": 24.0} if learned_from == "answers" else {}
    return RoundResult(round=number, drafts=32, judged=32, failed=0, pairs=24, diagnostics=diagnostics, **values)


BASE = RoundResult(round=0, drafts=0, judged=0, failed=0, pairs=0)
WARM = made(1, "answers", warm_start=True)


def shown(*rounds, width=140):
    """Return the table of a run with these rounds as rows of cells."""
    console = Console(file=io.StringIO(), width=width)
    display = TerminalDisplay(console)
    display.rounds += rounds
    console.print(display.table())
    return [
        [cell.strip() for cell in line.split("  ") if cell.strip()] for line in console.file.getvalue().splitlines()
    ]


def test_answers_have_a_column_of_their_own_where_a_round_learned_from_them():
    head, base, warm, second = shown(BASE, WARM, made(2))
    assert head[:5] == ["round", "drafts", "failed", "answers", "pairs"]
    assert base[:5] == ["base", "–", "0", "–", "–"]
    assert warm[:5] == ["1 warm start", "32", "0", "24", "–"]
    assert second[:5] == ["2", "32", "0", "–", "24"]
    assert "answers" not in shown(BASE, made(1))[0]
    assert "pairs" not in shown(BASE, WARM)[0]
    assert "pairs" in shown(BASE)[0]


def test_a_narrow_terminal_leaves_out_the_interval_and_not_the_answers():
    assert shown(BASE, WARM, made(2), width=80)[0][:4] == ["round", "answers", "pairs", "win rate vs base"]


def test_lines_name_the_warm_start_and_what_it_learned_from():
    printed = io.StringIO()
    display = TerminalDisplay(Console(file=printed, width=140))
    display.round_done(WARM)
    display.round_done(made(2))
    first, second = printed.getvalue().splitlines()
    assert first.startswith("round 1 (warm start): drafts 32, failed 0, answers 24, seconds")
    assert second.startswith("round 2: drafts 32, failed 0, pairs 24, seconds")
    assert round_lines(WARM)[-1] == "round 1 (warm start): 32 drafts, 24 answers, no scores"
    assert round_lines(made(2))[-1] == "round 2: 32 drafts, 24 pairs, no scores"


def test_rounds_are_counted_the_same_way_everywhere():
    assert [rounds_text(count, False) for count in (0, 1, 2)] == ["0 rounds", "1 round", "2 rounds"]
    assert [rounds_text(count, True) for count in (0, 1, 2)] == [
        "warm start alone", "warm start + 1 round", "warm start + 2 rounds",
    ]  # fmt: skip


def test_a_kept_warm_start_is_named_at_the_end(tmp_path):
    test = {"judge": "checks", "self_judged": True, "win_rate": None, "gold": None}
    cost = {"calls": 0, "cached": 0, "charged_calls": 0, "tokens_per_kept_pair": None}
    cost |= {"usd_per_pair": None, "usd_per_kept_pair": None}
    rounds = [{"round": number, "warm_start": number == 1} for number in range(3)]
    result = {"test": test, "cost": cost, "rounds": rounds, "pgr": None}
    assert "kept policy: round 1 (warm start)" in summary({**result, "best_round": 1}, tmp_path)
    assert "kept policy: round 2" in summary({**result, "best_round": 2}, tmp_path)
