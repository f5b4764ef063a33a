"""Plans as people write them: what is read, what is refused and how, and what counts as open."""

import json
from pathlib import Path

import pytest

from prefdistill.documents import render_yaml
from prefdistill.errors import RecipeError
from prefdistill.plan.document import Plan, PlanError, keys_of, load_plan, plan_schema
from prefdistill.plan.quantities import Range
from prefdistill.recipe import load_recipe
from tests.conftest import ROOT


def read(tmp_path: Path, text: str) -> Plan:
    path = tmp_path / "plan.yaml"
    path.write_text(f"name: p\n{text}\n")
    return load_plan(path)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (
            "fallback: {share: 10}",
            "plan.yaml:2: fallback.share: found 10; expected a share from 0 to 1; 10 % is written 0.1",
        ),
        ("fallback: {share: 10 %}", "fallback.share: found '10 %'; expected a share"),
        ("costs: {hosting_usd_a_month: -600}", "costs.hosting_usd_a_month: found -600; expected US dollars, 0 or more"),
        ("costs: {hosting_usd_a_month: $600}", "costs.hosting_usd_a_month: found '$600'; expected US dollars"),
        ("costs: {hosting_usd_a_month: .nan}", "found nan; expected US dollars"),
        ("costs: {hosting_usd_a_month: .inf}", "found inf; expected US dollars"),
        ("costs: {hosting_usd_a_month: true}", "found True; expected US dollars"),
        ("costs: {months: 0}", "costs.months: found 0; expected months, more than 0"),
        ("costs: {one_off: 3000}", "expected a list of what is paid: `[{what: …, usd: 3000}]`"),
        (
            "costs: {one_off: [{what: a, usd: {low: 2, central: 1, high: 3}}]}",
            "costs.one_off.0.usd: found low 2, central 1",
        ),
        (
            "traffic: {requests_a_month: 0}",
            "traffic.requests_a_month: found 0; expected requests a month, 1 or more; write the number alone",
        ),
        (
            "traffic: {requests_a_month: 1.0e+30}",
            "found 1e+30; expected requests a month, 1 or more, and at most 1,000,000,000,000; is the unit right?",
        ),
        (
            "traffic: {tokens_in: 1.0e+300}",
            "traffic.tokens_in: found 1e+300; expected tokens a request, more than 0, and",
        ),
        ("costs: {hosting_usd_a_month: 1.0e+300}", "found 1e+300; expected US dollars, 0 or more, and at most"),
        (
            "costs: {months: {low: 1, central: 2, high: 5000}}",
            "high: found 5,000; expected months, more than 0, and at",
        ),
        (
            "teacher: {usd_per_million: {input: -3, output: 1}}",
            "input: found -3; expected US dollars per million tokens",
        ),
        ("teacher: {usd_per_million: {input: 1.0e+7, output: 1}}", "and at most 1,000,000; is the unit right?"),
        ("costs: {months: {low: 1, high: 3}}", "costs.months: no central; expected one number, or `{low: …"),
        ("costs: {months: {low: 1, central: 2, high: -3}}", "costs.months: high: found -3; expected months"),
        ("costs: {months: {low: 1, central: 2, high: 3, mean: 2}}", "costs.months: unknown mean; expected"),
        ("traffic: {tokens_in: 800 tokens}", "traffic.tokens_in: found '800 tokens'; expected tokens a request"),
        ("teacher: {usd_per_million: 3}", "expected `{input: …, output: …}` in US dollars per million tokens"),
        ("teacher: {usd_per_million: {input: 3}}", "teacher.usd_per_million.output: missing"),
        ("goal: {target_score: 85}", "goal.target_score: found 85; expected a share from 0 to 1"),
        ("sizes: {win_rate: 0.5}", "sizes.win_rate: found 0.5; expected a win rate over 0.5"),
        ("sizes: {score_sd: 0}", "sizes.score_sd: found 0; expected a difference of scores over 0"),
        ("sizes: {ties: 1}", "sizes.ties: found 1; expected a share from 0 up to, not including, 1"),
        ("traffic: {requests_a_mnth: 3}", "requests_a_mnth: unknown key; did you mean `requests_a_month`?"),
        ("stop: {levels: {flip_rat: 1}}", "stop.levels.flip_rat: unknown key; did you mean `flip_rate`?"),
        ("method: {ways: [outputs, outputs]}", "`outputs` is named twice"),
        ("method: {ways: [dpo]}", "method.ways.0: found 'dpo'"),
        ("alternatives: [{name: a}, {name: a}]", "two alternatives are called `a`"),
        (
            "sources: {traffic.tokens_im: x}",
            "`traffic.tokens_im` is no key of a plan; did you mean `traffic.tokens_in`?",
        ),
        ("rubric: {files: [gone.yaml]}", "rubric.files.0: no such file"),
        ("name: q", "duplicate key"),
        ("criteria: []", "this is a rubric; expected a plan"),
    ],
)
def test_what_cannot_be_meant_is_refused_with_its_place(tmp_path, line, message):
    with pytest.raises(PlanError) as found:
        read(tmp_path, line)
    assert message in str(found.value)
    assert "plan.yaml" in str(found.value)


def test_a_recipe_is_no_plan_and_a_plan_is_no_recipe():
    with pytest.raises(PlanError, match="this is a recipe; expected a plan"):
        load_plan(ROOT / "recipes" / "quickstart.yaml")
    with pytest.raises(RecipeError, match="this is a plan; expected a recipe: `prefdistill plan"):
        load_recipe(ROOT / "recipes" / "plan.yaml")


def test_an_empty_key_is_left_out_and_an_empty_list_of_costs_is_decided(tmp_path):
    plan = read(tmp_path, "task:\ncosts:\n  one_off:\nsizes: {win_rate: }\nalternatives:\n")
    assert plan.sizes.win_rate == 0.55 and plan.costs.one_off is None
    assert "one_off" in dict(plan.costs.open_keys())
    assert "one_off" not in dict(read(tmp_path, "costs: {one_off: []}").costs.open_keys())


def test_judging_live_requests_needs_a_price(tmp_path):
    assert "judged_usd_a_request" in dict(read(tmp_path, "costs: {judged_share: 0.05}").costs.open_keys())
    assert "judged_usd_a_request" not in dict(read(tmp_path, "costs: {judged_share: 0}").costs.open_keys())


def test_the_tokenizer_matters_only_where_the_teacher_runs_here(tmp_path):
    assert "same_tokenizer" in dict(read(tmp_path, "teacher: {local: true}").teacher.open_keys())
    assert "same_tokenizer" not in dict(read(tmp_path, "teacher: {local: false}").teacher.open_keys())


def test_every_needed_key_is_a_key(tmp_path):
    plan = read(tmp_path, "")
    known = set(keys_of(Plan))
    for name in Plan.model_fields:
        section = getattr(plan, name)
        for key in getattr(section, "needed", {}):
            assert f"{name}.{key}" in known


def test_a_plan_written_back_is_the_same_plan(tmp_path):
    plan = load_plan(ROOT / "recipes" / "plan.yaml")
    copy = tmp_path / "copy.yaml"
    data = plan.model_dump(mode="json", exclude_none=True)
    data["rubric"]["files"] = []
    copy.write_text(render_yaml(data))
    again = load_plan(copy)
    assert again.costs == plan.costs and again.traffic == plan.traffic and again.stop == plan.stop
    assert data["traffic"]["tokens_in"] == 800
    assert data["fallback"]["share"] == {"low": 0.05, "central": 0.1, "high": 0.2}


def test_ranges_add_end_by_end():
    assert Range(low=1, central=2, high=5) + Range.of(1) == Range(low=2, central=3, high=6)


def test_the_schema_takes_a_number_and_a_range(prefdistill):
    schema = plan_schema()
    share = schema["$defs"]["FallbackPlan"]["properties"]["share"]["anyOf"]
    assert share[0] == {"type": "number", "minimum": 0.0, "maximum": 1.0}
    assert set(share[1]["required"]) == {"low", "central", "high"}
    assert json.loads(prefdistill("schema", "plan").stdout)["properties"]["fallback"]
