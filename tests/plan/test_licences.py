"""The licence review: what cards and tables say is shown as it is, and what nobody reviewed is called unreviewed."""

from __future__ import annotations

from datetime import date
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest

from prefdistill.plan.blocks import Bullets, Entries, Paragraph, Steps
from prefdistill.plan.cards import read_card, read_chain
from prefdistill.plan.document import Plan, PlanError
from prefdistill.plan.licence_chapter import licence_chapter
from prefdistill.plan.licences import review_licences
from prefdistill.plan.terms import ASKS, SHIPPED, load_terms, state_of
from prefdistill.stages.report.tables import Table

TODAY = date(2026, 11, 22)


def model(folder: Path, front: str | None = "license: apache-2.0", name: str = "student") -> str:
    """A model's folder with a card; returns its name."""
    (folder / name).mkdir(parents=True)
    if front is not None:
        (folder / name / "README.md").write_text(f"---\n{front}\n---\n# A model\n")
    return name


def planned(folder: Path, ways: tuple[str, ...] = ("preferences",), **sections: Any) -> Plan:
    given = {"student": {"model": "student"}, "teacher": {"model": "gpt-4.1"}, "method": {"ways": ways}}
    plan = Plan.model_validate({"name": "p", **given, **sections})
    plan._directory = folder
    return plan


def table_of(plan: Plan, today: date = TODAY) -> list[tuple[Any, ...]]:
    chapter = licence_chapter(plan, review_licences(plan, today))
    return list(next(block for block in chapter.blocks if isinstance(block, Table)).rows)


def own_terms(folder: Path, text: str) -> dict[str, str]:
    (folder / "terms.yaml").write_text(text)
    return {"terms": "terms.yaml"}


REVIEWED = """
teachers:
  openai:
    clause: ours, read by us
    where: contract 7
    outputs: {outputs}
    labels: {labels}
    reviewer: Jane Roe
    reviewed: {day}
"""


def test_every_shipped_row_is_unreviewed_dated_and_worded() -> None:
    table = load_terms().table
    assert {"openai", "anthropic", "google"} <= set(table.teachers)
    assert {"apache-2.0", "mit", "gemma", "qwen", "llama3.*", "cc-by-nc-4.0"} <= set(table.licences)
    for key, row in {**table.teachers, **table.licences}.items():
        assert row.reviewer is None and row.reviewed is None, key
        assert row.looked_at is not None, key
        assert row.clause and row.where, key
    assert all(set(row.asks) <= set(ASKS) for row in table.licences.values())
    assert not [key for key, row in table.licences.items() if row.permissive and set(row.asks) - {"notice"}]


def test_unreviewed_is_said_in_the_verdict_the_table_and_the_open_points(tmp_path: Path) -> None:
    model(tmp_path)
    plan = planned(tmp_path)
    review = review_licences(plan, TODAY)
    chapter = licence_chapter(plan, review)
    first = chapter.blocks[0]
    assert isinstance(first, Paragraph) and first.warns and first.text.startswith("UNREVIEWED")
    assert "gpt-4.1" in first.text and "student" in first.text
    assert [row[-1] for row in table_of(plan)] == ["UNREVIEWED", "UNREVIEWED"]
    assert len(chapter.open) == 2
    assert not review.blockers


def test_outputs_and_labels_are_told_apart_by_the_way(tmp_path: Path) -> None:
    model(tmp_path)
    uses = {
        way: [
            each.use for each in review_licences(planned(tmp_path, (way,)), TODAY).permissions if each.role == "teacher"
        ]
        for way in ("outputs", "traces", "logits", "preferences")
    }
    assert uses == {"outputs": ["outputs"], "traces": ["outputs"], "logits": ["outputs"], "preferences": ["labels"]}
    both = review_licences(planned(tmp_path, ("outputs", "preferences")), TODAY)
    assert [each.use for each in both.permissions] == ["use", "outputs", "labels"]


def test_what_is_not_decided_is_reviewed_and_does_not_block(tmp_path: Path) -> None:
    model(tmp_path)
    own = own_terms(tmp_path, REVIEWED.format(outputs='"no"', labels='"no"', day="2026-11-01"))
    review = review_licences(planned(tmp_path, (), licences=own), TODAY)
    assert [each.use for each in review.permissions] == ["use", "outputs", "labels"]
    assert not review.blockers


def test_nothing_of_the_teacher_is_reviewed_where_nothing_of_it_is_trained_on(tmp_path: Path) -> None:
    model(tmp_path)
    review = review_licences(planned(tmp_path, licences={"trained_on": []}), TODAY)
    assert [each.role for each in review.permissions] == ["base"]


def test_a_reviewed_row_that_forbids_the_planned_use_blocks_and_another_does_not(tmp_path: Path) -> None:
    model(tmp_path)
    own = own_terms(tmp_path, REVIEWED.format(outputs='"no"', labels='"yes"', day="2026-11-01"))
    labels = review_licences(planned(tmp_path, licences=own), TODAY)
    assert not labels.blockers
    outputs = review_licences(planned(tmp_path, ("outputs",), licences=own), TODAY)
    assert len(outputs.blockers) == 1
    assert "Jane Roe" in outputs.blockers[0] and "ours, read by us" in outputs.blockers[0]
    assert outputs.summary.startswith("BLOCKED")
    chapter = licence_chapter(planned(tmp_path, ("outputs",), licences=own), outputs)
    assert isinstance(chapter.blocks[0], Paragraph) and chapter.blocks[0].warns
    assert outputs.blockers[0] in [point.what for point in chapter.open]


def test_a_stale_row_is_said_to_be_and_still_blocks(tmp_path: Path) -> None:
    model(tmp_path)
    own = own_terms(tmp_path, REVIEWED.format(outputs='"yes"', labels='"no"', day="2026-05-25"))
    fresh = review_licences(planned(tmp_path, licences=own), date(2026, 11, 21))  # 180 days later
    assert not fresh.stale
    stale = review_licences(planned(tmp_path, licences=own), TODAY)
    assert [each.model for each in stale.stale] == ["gpt-4.1"]
    assert len(stale.blockers) == 1
    assert table_of(planned(tmp_path, licences=own))[1][-1] == "STALE: Jane Roe, 2026-05-25"
    assert not review_licences(planned(tmp_path, licences={**own, "stale_after_days": 181}), TODAY).stale


def test_a_review_from_the_future_is_none() -> None:
    assert state_of(date(2026, 11, 23), TODAY, 180) == "unreviewed"
    assert state_of(TODAY, TODAY, 180) == "reviewed"
    assert state_of(None, TODAY, 180) == "unreviewed"


def test_why_a_review_from_the_future_does_not_count_is_said(tmp_path: Path) -> None:
    model(tmp_path)
    own = own_terms(tmp_path, REVIEWED.format(outputs='"yes"', labels='"no"', day="2027-11-01"))
    plan = planned(tmp_path, licences=own)
    review = review_licences(plan, TODAY)
    assert not review.blockers
    assert "UNREVIEWED: " in review.summary
    assert "a review whose date lies in the future counts as none (OpenAI API, dated 2027-11-01)" in review.summary
    assert table_of(plan)[1][-1] == "UNREVIEWED: the review is dated 2027-11-01, which lies in the future"
    teachers = [point.what for point in licence_chapter(plan, review).open if "gpt-4.1" in point.what]
    assert teachers == [
        "the review is dated 2027-11-01, which lies in the future, so that it counts as none: teacher gpt-4.1, train on "
        "how it judges (OpenAI API)"
    ]
    signed = {"base_model_reviewed_by": "Jane Roe", "base_model_reviewed_on": date(2027, 1, 2)}
    base = table_of(planned(tmp_path, licences=signed))[0]
    assert base[-1] == "UNREVIEWED: the review is dated 2027-01-02, which lies in the future"
    assert (
        "nobody has reviewed"
        in licence_chapter(planned(tmp_path), review_licences(planned(tmp_path), TODAY)).open[0].what
    )


def test_an_own_row_replaces_the_shipped_one_and_keeps_whom_it_is_about(tmp_path: Path) -> None:
    own = own_terms(tmp_path, REVIEWED.format(outputs="conditions", labels='"yes"', day="2026-11-01"))
    terms = load_terms(tmp_path / own["terms"])
    assert terms.own == {"openai"}
    row = terms.of_provider("openai")
    assert row.clause == "ours, read by us" and "gpt-[0-9]*" in row.models and row.title == "OpenAI API"
    assert row.looked_at is None  # a review vouches for what the row says, so nothing else of it is taken over
    assert "anthropic" in terms.table.teachers


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            "teachers:\n  openai: {clause: x, where: y, outputs: maybe, labels: conditions}\n",
            "terms.yaml:2: teachers.openai.outputs",
        ),
        ("teachers:\n  openai: {clause: x, where: y, labels: conditions}\n", "teachers.openai.outputs: missing"),
        ("teachers:\n  new: {clause: x, where: y, outputs: unknown, labels: unknown}\n", "teachers.new.title: missing"),
        (
            "teachers:\n  openai: {clause: x, where: y, outputs: unknown, labels: unknown, reviewer: me}\n",
            "`reviewed` is missing: a review has a person and a date",
        ),
        ("teacher:\n  openai: {}\n", "did you mean `teachers`"),
        (
            "licences:\n  x: {title: x, clause: x, where: y, outputs: unknown, labels: unknown, use: unknown, ask: []}\n",
            "asks",
        ),
        ("licences:\n  x: 3\n", "licences.x"),
    ],
)
def test_a_broken_table_is_an_error_with_its_place(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "terms.yaml").write_text(text)
    with pytest.raises(PlanError) as problem:
        load_terms(tmp_path / "terms.yaml")
    assert said in str(problem.value)


def test_the_servers_terms_and_the_makers_both_apply() -> None:
    terms = load_terms()
    assert set(terms.about("gpt-4.1")) == {"openai"}
    assert set(terms.about("claude-x-1", "https://bedrock-runtime.eu-west-1.amazonaws.com/v1")) == {
        "aws-bedrock",
        "anthropic",
    }
    assert set(terms.about("anthropic/claude-x", "https://openrouter.ai/api/v1")) == {"openrouter", "anthropic"}
    assert not terms.about("gpt-oss-20b", "http://localhost:8000/v1")  # open weights: their licence counts
    assert not terms.about("teacher-large", "http://10.0.0.7:8000/v1")
    assert not terms.about("x", "https://api.openai.com.evil.example/v1")


def test_a_named_provider_wins_and_an_unknown_one_is_an_error(tmp_path: Path) -> None:
    model(tmp_path)
    plan = planned(tmp_path, teacher={"model": "teacher-large"}, licences={"provider": "openai"})
    assert table_of(plan)[1][3] == "OpenAI API"
    two = planned(tmp_path, licences={"provider": ["aws-bedrock", "anthropic"]})
    assert [row[3] for row in table_of(two)[1:]] == ["Amazon Bedrock", "Claude API"]
    with pytest.raises(PlanError, match=r"licences.provider: `opnai` is no row.*did you mean `openai`"):
        review_licences(planned(tmp_path, licences={"provider": "opnai"}), TODAY)


def test_another_models_judgements_are_reviewed_too(tmp_path: Path) -> None:
    model(tmp_path)
    rows = table_of(planned(tmp_path, licences={"judges": ["claude-x"]}))
    assert [(row[0], row[3]) for row in rows[1:]] == [
        ("teacher gpt-4.1", "OpenAI API"),
        ("judge claude-x", "Claude API"),
    ]


def test_a_local_teacher_goes_by_its_cards_licence(tmp_path: Path) -> None:
    model(tmp_path)
    model(tmp_path, "license: llama2", "big")
    rows = table_of(planned(tmp_path, ("outputs",), teacher={"model": "big", "local": True}))
    assert (rows[1][0], rows[1][2], rows[1][3]) == ("teacher big", "NO", "Llama 2 Community License")
    review = review_licences(planned(tmp_path, ("outputs",), teacher={"model": "big", "local": True}), TODAY)
    assert not review.blockers  # nobody has reviewed the row
    own = own_terms(
        tmp_path,
        "licences:\n  llama2: {clause: c, where: w, outputs: 'no', labels: 'yes', use: 'yes', reviewer: J, "
        "reviewed: 2026-11-01}\n",
    )
    plan = planned(tmp_path, ("outputs",), teacher={"model": "big", "local": True}, licences=own)
    assert len(review_licences(plan, TODAY).blockers) == 1


def test_the_bases_review_stands_in_the_plan(tmp_path: Path) -> None:
    model(tmp_path, "license: gemma")
    signed = {"base_model_reviewed_by": "Jane", "base_model_reviewed_on": "2026-11-01"}
    plan = planned(tmp_path, licences={**signed, "trained_on": []})
    review = review_licences(plan, TODAY)
    assert [(each.answer, each.looked) for each in review.permissions] == [("yes", "Jane, 2026-11-01")]
    assert not licence_chapter(plan, review).open
    half = planned(tmp_path, licences={"base_model_reviewed_by": "Jane", "trained_on": []})
    assert review_licences(half, TODAY).unreviewed
    assert any("a person and a date" in note for note in review_licences(half, TODAY).notes)


def test_a_base_that_a_reviewed_row_forbids_blocks(tmp_path: Path) -> None:
    model(tmp_path, "license: cc-by-nc-4.0")
    own = own_terms(
        tmp_path,
        "licences:\n  cc-by-nc-4.0: {clause: no product, where: w, outputs: unknown, labels: unknown, use: 'no', "
        "reviewer: J, reviewed: 2026-11-01}\n",
    )
    review = review_licences(planned(tmp_path, licences={**own, "trained_on": []}), TODAY)
    assert len(review.blockers) == 1 and "no product" in review.blockers[0]


def test_a_plan_that_says_another_licence_than_the_card_is_told(tmp_path: Path) -> None:
    model(tmp_path, "license: gemma")
    review = review_licences(planned(tmp_path, licences={"base_model": "mit"}), TODAY)
    assert any("mit" in note and "gemma" in note for note in review.notes)
    assert review.permissions[0].title == "MIT License"
    same = review_licences(planned(tmp_path, licences={"base_model": "Gemma"}), TODAY)
    assert not same.notes


def test_the_rights_to_the_prompts_are_shown(tmp_path: Path) -> None:
    model(tmp_path)
    plan = planned(tmp_path, data={"rights": "ours", "retention": "90 days"})
    entries = [
        block for block in licence_chapter(plan, review_licences(plan, TODAY)).blocks if isinstance(block, Entries)
    ]
    assert [(each.label, each.value) for each in entries[-1].entries] == [
        ("whose texts the prompts are", "ours"),
        ("personal data", None),
        ("how long they are kept", "90 days"),
    ]


def test_clauses_are_shown_with_where_they_are_found(tmp_path: Path) -> None:
    model(tmp_path)
    plan = planned(tmp_path)
    bullets = [
        block for block in licence_chapter(plan, review_licences(plan, TODAY)).blocks if isinstance(block, Bullets)
    ]
    row = load_terms().of_provider("openai")
    assert any(row.clause in item and row.where in item for item in bullets[0].items)


# Cards.


def test_a_card_names_licence_link_and_what_the_model_was_made_from(tmp_path: Path) -> None:
    model(tmp_path, "license: other\nlicense_name: qwen\nlicense_link: LICENSE\nbase_model:\n- parent\n- org/grand")
    model(tmp_path, "license: gemma\nbase_model: student", "parent")  # a circle, which must end
    chain = read_chain("student", tmp_path)
    assert [(card.model, card.licence) for card in chain] == [
        ("student", "qwen"),
        ("parent", "gemma"),
        ("org/grand", None),
    ]
    assert chain[0].link == "LICENSE"
    assert "hf download org/grand README.md" in chain[2].advice


@pytest.mark.parametrize(
    ("front", "said"),
    [
        (None, "its folder has no model card"),
        ("language: en", "its README.md names no licence"),
        ("license: [", "its README.md names no licence"),
        ("- a\n- b", "its README.md names no licence"),
        ("license: {a: b}", "its README.md names no licence"),
        ("license: !!python/object/apply:os.system ['true']", "its README.md names no licence"),
    ],
)
def test_a_card_without_a_licence_says_what_to_do(tmp_path: Path, front: str | None, said: str) -> None:
    model(tmp_path, front)
    card = read_card("student", tmp_path, None)
    assert card.licence is None
    assert said in card.source and "license: …" in card.advice
    plan = planned(tmp_path)
    review = review_licences(plan, TODAY)
    assert review.permissions[0].answer == "unknown" and review.permissions[0].title == "licence not found"
    entries = next(block for block in licence_chapter(plan, review).blocks if isinstance(block, Entries))
    assert entries.entries[0].value is None and said in entries.entries[0].note


def test_an_unknown_licence_is_shown_as_it_is_named(tmp_path: Path) -> None:
    model(tmp_path, "license: our-own-1.0\nlicense_link: https://example.org/l")
    first = review_licences(planned(tmp_path), TODAY).permissions[0]
    assert first.title == "our-own-1.0: not in the table of terms" and first.where == "https://example.org/l"


def test_patterns_of_licences_give_way_to_exact_ids() -> None:
    terms = load_terms()
    for name, key in {
        "llama3.3": "llama3.*",
        "llama3": "llama3",
        "Apache-2.0": "apache-2.0",
        "openrail++": "openrail*",
    }.items():
        found = terms.of_licence(name)
        assert found is not None and found[0] == key
    assert terms.of_licence("llama") is None


def test_a_hostile_card_is_cut_and_made_one_printable_line(tmp_path: Path) -> None:
    text = "a\\e[31m" + "b" * 5000
    model(tmp_path, f'license: "{text}"')
    card = read_card("student", tmp_path, None)
    assert card.licence is not None and len(card.licence) <= 100 and "\x1b" not in card.licence


def test_the_configurations_licence_counts_where_the_card_has_none(tmp_path: Path) -> None:
    model(tmp_path, None)
    (tmp_path / "student" / "config.json").write_text('{"license": "mit"}')
    card = read_card("student", tmp_path, None)
    assert (card.licence, card.source) == ("mit", "its config.json")


def test_a_model_in_a_package_has_the_packages_licence(tmp_path: Path) -> None:
    card = read_card("prefdistill.sandbox:student", tmp_path, None)
    assert card.licence == "Apache-2.0" and "package prefdistill" in card.source
    assert read_card("no_such_package_x:student", tmp_path, None).licence is None


def test_a_hub_model_is_read_from_the_cache_and_never_from_the_network(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("the network was asked")

    monkeypatch.setattr("socket.socket.connect", refuse)
    missing = read_card("org/name", tmp_path, "v1")
    assert missing.licence is None and "hf download org/name README.md --revision v1" in missing.advice
    card = tmp_path / "card.md"
    card.write_text("---\nlicense: mit\n---\n")
    monkeypatch.setattr(
        huggingface_hub, "try_to_load_from_cache", lambda repo, name, **_: str(card) if name == "README.md" else None
    )
    assert read_card("org/name", tmp_path, None).licence == "mit"


@pytest.mark.parametrize("name", ["./gone", "/gone/model", "a/b/c", "not an id!"])
def test_a_name_that_is_no_model_is_not_found(tmp_path: Path, name: str) -> None:
    card = read_card(name, tmp_path, None)
    assert card.licence is None and card.source


def test_the_shipped_table_says_how_to_review_it() -> None:
    text = SHIPPED.read_text(encoding="utf-8")
    assert "NO LEGAL ADVICE" in text and "licences: {terms: my-terms.yaml}" in text


def test_whoever_vouches_for_the_base_has_looked_at_what_it_was_made_from(tmp_path: Path) -> None:
    model(tmp_path, "license: gemma\nbase_model: org/parent")
    signed = {"base_model_reviewed_by": "Jane", "base_model_reviewed_on": "2026-11-01"}
    assert [
        each.role for each in review_licences(planned(tmp_path, licences={"trained_on": []}), TODAY).permissions
    ] == [
        "base",
        "base of the base",
    ]
    plan = planned(tmp_path, licences={**signed, "trained_on": []})
    review = review_licences(plan, TODAY)
    assert [each.role for each in review.permissions] == ["base"]
    entries = next(block for block in licence_chapter(plan, review).blocks if isinstance(block, Entries))
    assert [each.label for each in entries.entries] == ["student", "made from org/parent"]


def test_a_row_of_ones_own_settles_a_local_teacher_without_a_card(tmp_path: Path) -> None:
    model(tmp_path)
    own = own_terms(
        tmp_path,
        "teachers:\n  ours: {title: Ours, models: [our-*], clause: c, where: w, outputs: 'yes', labels: 'yes', "
        "reviewer: J, reviewed: 2026-11-01}\n",
    )
    local = {"model": "our-big", "local": True}
    assert [row[3] for row in table_of(planned(tmp_path, ("outputs",), teacher=local, licences=own))[1:]] == ["Ours"]
    shipped = {"model": "gpt-4.1", "local": True}  # shipped rows are about a provider's service
    assert [row[2] for row in table_of(planned(tmp_path, ("outputs",), teacher=shipped, licences=own))[1:]] == [
        "unknown"
    ]


def test_the_rows_to_review_can_be_copied_into_a_table_of_ones_own(tmp_path: Path) -> None:
    model(tmp_path, "license: gemma\nbase_model: parent")
    model(tmp_path, "license: qwen", "parent")
    plan = planned(tmp_path, licences={"judges": ["nobody-knows: it"]})
    chapter = licence_chapter(plan, review_licences(plan, TODAY))
    lines = next(block for block in chapter.blocks if isinstance(block, Steps)).lines
    (tmp_path / "terms.yaml").write_text("\n".join(lines))
    terms = load_terms(tmp_path / "terms.yaml")
    assert terms.own == {"openai", "nobody-knows: it", "qwen"}
    assert terms.of_provider("openai").clause == load_terms().of_provider("openai").clause
    signed = "\n".join(lines).replace("reviewer:", "reviewer: Jane").replace("reviewed:", "reviewed: 2026-11-20")
    (tmp_path / "terms.yaml").write_text(signed.replace("labels: unknown", "labels: 'yes'"))
    own = {"terms": "terms.yaml", "judges": ["nobody-knows: it"]}
    review = review_licences(planned(tmp_path, licences=own), TODAY)
    assert [each.role for each in review.unreviewed] == ["base"]
    assert not any(
        isinstance(block, Steps) for block in licence_chapter(planned(tmp_path, licences=own), review).blocks
    )
