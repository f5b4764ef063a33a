"""What an edited rubric changes on stored drafts: computed where it can be, priced where it cannot, asked with --judge."""

import json
import re

import pytest

from prefdistill.assembly import opened_judge
from prefdistill.errors import RunError
from prefdistill.recipe import load_recipe
from prefdistill.records import Draft, Prompt, Verdict
from prefdistill.rubric import load_rubric
from prefdistill.rubric_diff import diff_rubrics, render_diff
from prefdistill.run import RunDirectory
from prefdistill.stages.judge import judge_group
from tests.conftest import ROOT, TINY
from tests.loopback import Loopback, fenced, menus
from tests.making import make_drafts, make_prompt

RUBRIC = """
name: mail
purpose: A short e-mail.
gates:
  - {name: clean, check: phrases, none_of: [BAD]}
criteria:
  - {name: brevity, question: Is it short?, levels: [long, medium, short], weight: 3}
  - {name: warmth, question: Is it warm?, levels: [cold, cool, warm], weight: 1}
"""
SHORT = "Thursday."
WARM = "Dear friend, it would be lovely to see you on Thursday, if you can make it! " * 2
NASTY = "```\n# not a heading\n| a | b |\n" + "x" * 400 + " BAD"
TEXTS = (SHORT, WARM, NASTY)


def by_rule(body):
    """Short texts are short, texts with `lovely` are warm; compared, the one the purpose asks for wins."""
    draft = fenced(body, "draft")
    if draft is None:
        first, second = fenced(body, "first"), fenced(body, "second")
        return json.dumps({"reason": "r", "winner": "first" if len(first) < len(second) else "second"})
    answers = {"brevity": len(draft) < 50, "warmth": "lovely" in draft, "thanks": "!" in draft, "rude": True}
    return json.dumps(
        {name: {"reason": "r", "level": menu[-1 if answers[name] else 0]} for name, menu in menus(body).items()}
    )


@pytest.fixture
def stored(tmp_path):
    """A run of three prompts, judged by a server that follows a rule, and files of its rubric."""
    run = RunDirectory(tmp_path / "run")
    run.path.mkdir()
    (run.path / "rubric.yaml").write_text(RUBRIC)
    with Loopback(by_rule) as server:
        text = TINY.format(root=ROOT, cache=tmp_path / "cache").replace("judge: {use: checks}", "judge: {use: rubric}")
        text = text.replace(f"{ROOT}/rubrics/sandbox-email.yaml", "rubric.yaml")
        teacher = {
            "use": "openai",
            "model": "m",
            "base_url": server.url,
            "usd_per_million": {"input": 100, "output": 100},
        }
        run.recipe.write_text(text.replace("teacher: {use: sandbox}", f"teacher: {json.dumps(teacher)}"))
        prompts = [make_prompt(f"p{number}", f"Write | mail {number}.") for number in range(3)]
        run.rows(run.path, "prompts.jsonl", Prompt).rewrite(prompts)
        drafts = {prompt.id: make_drafts(TEXTS, prompt.id) for prompt in prompts}
        run.rows(run.round(1), "1-drafts.jsonl", Draft).rewrite(each for group in drafts.values() for each in group)
        rubric = load_rubric(run.path / "rubric.yaml")
        with opened_judge(load_recipe(run.recipe)) as (judge, _):
            verdicts = [judge_group(judge, prompt, drafts[prompt.id], rubric) for prompt in prompts]
        run.rows(run.round(1), "2-verdicts.jsonl", Verdict).rewrite(verdicts)
        yield run, server


def edited(tmp_path, *changes):
    text = RUBRIC
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    path = tmp_path / "new.yaml"
    path.write_text(text)
    return load_rubric(path)


def test_the_same_rubric_changes_nothing_and_needs_no_call(stored, tmp_path):
    run, server = stored
    asked = len(server.requests)
    diff = diff_rubrics(load_rubric(run.path / "rubric.yaml"), edited(tmp_path), run.path)
    assert diff.before.count == diff.after.count == 3
    text = render_diff(diff)
    assert "Nothing that changes a verdict" in text
    assert "3 stay as they are" in text
    assert "None: everything is computed" in text
    assert len(server.requests) == asked


def test_an_edited_weight_turns_pairs_round_without_a_call_and_prices_their_confirmation(stored, tmp_path):
    run, server = stored
    asked, before = len(server.requests), {path: path.read_bytes() for path in run.path.rglob("*.jsonl")}
    new = edited(tmp_path, ("none_of: [BAD]", "none_of: [Thursday.]"), ("short], weight: 3", "short], weight: 1"))
    old = load_rubric(run.path / "rubric.yaml")
    diff = diff_rubrics(old, new, run.path)
    text = render_diff(diff)
    assert "weight: 3.0 → 1.0" in text
    assert "\\[Thursday.\\]" in text or "Thursday" in text
    assert diff.unknown == ()
    assert len(server.requests) == asked, "nothing was sent"
    assert {path: path.read_bytes() for path in run.path.rglob("*.jsonl")} == before, "nothing was written"


def test_a_checks_change_flips_pairs(stored, tmp_path):
    run, _ = stored
    old = load_rubric(run.path / "rubric.yaml")
    new = edited(tmp_path, ("none_of: [BAD]", "none_of: [Thursday.]"))
    diff = diff_rubrics(old, new, run.path)
    pairs = [pair for several in diff.after.pairs.values() for pair in several]
    assert all(pair.chosen != SHORT for pair in pairs)
    assert [pair.chosen for several in diff.before.pairs.values() for pair in several] == [SHORT] * 3
    assert diff.owed.drafts == 3, "the draft that failed the gate has never been asked about"
    assert diff.owed.calls == 3
    assert diff.owed.usd > 0


def test_pairs_that_turn_round_are_named_and_their_confirmation_is_counted(stored, tmp_path):
    run, _ = stored
    drafts = run.rows(run.round(1), "1-drafts.jsonl", Draft)
    drafts.rewrite(draft for draft in drafts.read().values() if draft.index < 2)
    verdicts = run.rows(run.round(1), "2-verdicts.jsonl", Verdict)
    kept = [
        verdict.model_copy(update={"judgements": tuple(j for j in verdict.judgements if not j.draft_id.endswith("/2"))})
        for verdict in verdicts.read().values()
    ]
    verdicts.rewrite(kept)
    new = edited(tmp_path, ("short], weight: 3", "short], weight: 1"), ("warm], weight: 1", "warm], weight: 3"))
    diff = diff_rubrics(load_rubric(run.path / "rubric.yaml"), new, run.path)
    assert "### Turned round: 3" in render_diff(diff)
    assert (diff.owed.drafts, diff.owed.confirmations, diff.owed.calls) == (0, 3, 6)


def test_a_changed_question_is_priced_and_asked_with_judge(stored, tmp_path):
    run, server = stored
    old = load_rubric(run.path / "rubric.yaml")
    new = edited(
        tmp_path,
        (
            "levels: [cold, cool, warm], weight: 1}",
            "levels: [cold, cool, warm], weight: 1}\n"
            "  - {name: thanks, question: Is it glad?, levels: [sad, glad], weight: 20}",
        ),
    )
    asked = len(server.requests)
    diff = diff_rubrics(old, new, run.path)
    assert diff.unknown == ("thanks",)
    assert len(server.requests) == asked
    text = render_diff(diff)
    assert "**After is without `thanks`**" in text
    assert re.search(r"\d+ calls would tell the rest .*about \$0\.\d+", text, re.S)
    judged = diff_rubrics(old, new, run.path, ask=True)
    assert judged.unknown == ()
    assert judged.judged.calls == len(server.requests) - asked > 0
    assert [pair.chosen for several in judged.after.pairs.values() for pair in several] == [WARM] * 3
    assert "### Other drafts: 3" in render_diff(judged)
    again = diff_rubrics(old, new, run.path, ask=True)
    assert again.judged.calls == 0
    assert again.judged.cached > 0


WARMTH = "levels: [cold, cool, warm], weight: 1}"
EDITS = {
    "a gate's check": [("none_of: [BAD]", "none_of: [Thursday.]")],
    "a looser gate": [("none_of: [BAD]", "none_of: [NOPE]")],
    "weights": [("short], weight: 3", "short], weight: 1"), ("warm], weight: 1", "warm], weight: 3")],
    "weights and a gate": [("none_of: [BAD]", "none_of: [NOPE]"), ("short], weight: 3", "short], weight: 1")],
    "a question more": [(WARMTH, f"{WARMTH}\n  - {{name: thanks, question: Is it glad?, levels: [sad, glad]}}")],
    "a check more": [(WARMTH, f"{WARMTH}\n  - {{name: n, check: length, unit: words, between: [1, 5], weight: 20}}")],
    "the purpose": [("A short e-mail.", "A warm e-mail.")],
    "a question less": [(f"  - {{name: warmth, question: Is it warm?, {WARMTH}\n", "")],
    "a question's gate": [("[BAD]}", "[BAD]}\n  - {name: rude, question: Is it rude?, pass_when: 'no'}")],
    "its name": [("name: mail", "name: post")],
}


FEW = ("weights and a gate", "a check more")


@pytest.mark.parametrize(
    ("edit", "confirm"),
    [*((edit, "best_worst") for edit in EDITS), *((edit, how) for edit in FEW for how in ("none", "round_robin"))],
)
def test_as_many_calls_are_announced_as_are_made(stored, tmp_path, edit, confirm):
    run, server = stored
    run.recipe.write_text(
        run.recipe.read_text().replace("judge: {use: rubric}", f"judge: {{use: rubric, confirm: {confirm}}}")
    )
    old, new, asked = load_rubric(run.path / "rubric.yaml"), edited(tmp_path, *EDITS[edit]), len(server.requests)
    diff = diff_rubrics(old, new, run.path)
    assert len(server.requests) == asked, "counting sends nothing"
    made = diff_rubrics(old, new, run.path, ask=True)
    assert made.judged.calls == len(server.requests) - asked
    assert diff.owed.calls <= made.judged.calls <= diff.owed.calls + diff.owed.further
    assert not (diff.owed.further and confirm == "none")
    text = render_diff(diff)
    if diff.owed.calls:
        assert f"{diff.owed.calls} calls would tell the rest" in text
        assert (f"up to {diff.owed.further} further calls" in text) == bool(diff.owed.further)
    else:
        assert made.judged.calls == 0
    again = diff_rubrics(old, new, run.path)
    assert again.owed.calls == again.owed.further == 0, "what was asked is in the cache"
    assert diff_rubrics(old, new, run.path, ask=True).judged.calls == 0


def test_model_text_cannot_leave_its_fence(stored, tmp_path):
    run, _ = stored
    diff = diff_rubrics(
        load_rubric(run.path / "rubric.yaml"), edited(tmp_path, ("none_of: [BAD]", "none_of: [Thursday.]")), run.path
    )
    lines = render_diff(diff, limit=3).splitlines()
    fence, outside = None, []
    for line in lines:
        marks = re.match(r"`{3,}", line)
        if fence is None and marks:
            fence = marks.group()
        elif fence is not None and line == fence:
            fence = None
        elif fence is None:
            outside.append(line)
    assert fence is None, "every fence is closed"
    assert not any("not a heading" in line or "| a | b |" in line for line in outside)
    assert any("not a heading" in line for line in lines)
    assert max(map(len, lines)) < 1000


def test_the_command_prints_markdown(stored, prefdistill, tmp_path):
    run, _ = stored
    edited(tmp_path, ("weight: 3", "weight: 2"))
    found = prefdistill("rubric", "diff", run.path / "rubric.yaml", "new.yaml", "--run", run.path)
    assert found.returncode == 0, found.stderr
    assert found.stdout.startswith("# Rubric mail")
    assert "| pairs | 3 | 3 |" in found.stdout
    wrong = prefdistill("rubric", "diff", run.path / "rubric.yaml", "new.yaml", "--run", "./nowhere")
    assert wrong.returncode == 2
    assert "expected a run folder" in wrong.stderr


def test_a_run_that_has_judged_nothing_is_an_error(stored, tmp_path):
    run, _ = stored
    (run.round(1) / "2-verdicts.jsonl").unlink()
    with pytest.raises(RunError, match="no judged drafts"):
        diff_rubrics(load_rubric(run.path / "rubric.yaml"), edited(tmp_path), run.path)
