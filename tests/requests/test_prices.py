"""What models cost: the shipped table, the user's own, dated snapshots, and broken tables."""

from datetime import date
from pathlib import Path

import pytest

from prefdistill.requests import prices
from prefdistill.requests.prices import PriceError, own_table, price_of


@pytest.fixture(autouse=True)
def own(tmp_path, monkeypatch) -> Path:
    """Where the user's table is: nowhere yet."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    path = tmp_path / "prefdistill" / "prices.yaml"
    path.parent.mkdir()
    return path


def test_the_shipped_table_is_dated_and_names_its_sources():
    rows = list(prices.all_prices())
    assert 4 <= len(rows) <= 20
    for model, price, path in rows:
        assert path == prices.SHIPPED
        assert price.as_of is not None, model
        assert price.as_of >= date(2026, 1, 1), model
        assert price.source.startswith("https://"), model
        assert 0 < price.input <= price.output, model


def test_tokens_cost_what_the_table_says():
    price = price_of("gpt-4.1")
    assert price is not None
    assert price.usd(1_000_000, 0) == pytest.approx(price.input)
    assert price.usd(500_000, 250_000) == pytest.approx(price.input / 2 + price.output / 4)


@pytest.mark.parametrize("model", ["gpt-4.1-2025-04-14", "claude-haiku-4-5-20251001", "claude-haiku-4-5@20251001"])
def test_a_dated_snapshot_has_its_models_price(model):
    assert price_of(model) == price_of(model.split("-20")[0].split("@")[0]) is not None


@pytest.mark.parametrize(
    "model", ["gpt-4.1-nano", "gpt-4", "GPT-4.1", "openai/gpt-4.1", "gpt-4.1-latest", "gpt-4.1-2025", ""]
)
def test_no_other_name_is_guessed(model):
    assert price_of(model) is None


def test_the_users_table_wins_row_by_row_and_is_read_anew_when_it_changes(own):
    shipped = price_of("gpt-4.1-mini")
    own.write_text("gpt-4.1: {input: 1, output: 3}\nmy-model: {input: 0, output: 0, as_of: 2026-02-03}\n")
    found = price_of("gpt-4.1")
    assert found is not None
    assert (found.input, found.output, found.as_of) == (1.0, 3.0, None)
    assert price_of("gpt-4.1-2025-04-14") == found
    assert price_of("gpt-4.1-mini") == shipped
    mine = price_of("my-model")
    assert mine is not None
    assert mine.as_of == date(2026, 2, 3)
    own.write_text("gpt-4.1: {input: 1.25, output: 3}   \n")
    assert price_of("gpt-4.1").input == 1.25
    own.write_text("# nothing yet\n\n")
    assert price_of("gpt-4.1").input == 2.0


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ("a: {input: -1, output: 2}", 1, "a.input: found -1"),
        ("a: {input: 1, output: 2}\nb: {inputt: 1, output: 2}", 2, "did you mean `input`?"),
        ("a: {input: 1}", 1, "a.output: missing"),
        ("# mine\na: 3", 2, "expected `{input: …, output: …}`"),
        ("a:\n  input: 1\n  input: 2\n  output: 1", 3, "duplicate key"),
        ("- a", 1, "found a list"),
        ("a: {input: 1, output: cheap}", 1, "found 'cheap'"),
        ("a: {input: .inf, output: 2}", 1, "finite"),
        ("a: {input: 1, output: 2, as_of: soon}", 1, "a.as_of"),
        ("a: {input: 1, output: 2", 1, "not valid YAML"),
    ],
)
def test_a_broken_table_is_named_with_its_line(own, text, line, words):
    own.write_text(text + "\n")
    with pytest.raises(PriceError) as caught:
        price_of("gpt-4.1")
    assert str(caught.value).startswith(f"{own}:{line}") or "not valid YAML" in words
    assert words in str(caught.value)


def test_the_command_lists_models_dates_and_where_to_edit(prefdistill, tmp_path, own):
    own.write_text("my-model: {input: 0.5, output: 1.5}\n")
    done = prefdistill("prices", XDG_CONFIG_HOME=str(tmp_path))
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert "my-model" in lines[1]
    assert "(your table)" in lines[1]
    assert any("gpt-4.1 " in line and "2.00" in line and "2026-" in line for line in lines)
    assert str(own_table()) in done.stdout
    own.write_text("my-model: cheap\n")
    done = prefdistill("prices", XDG_CONFIG_HOME=str(tmp_path))
    assert done.returncode == 2
    assert f"error: {own}:1: my-model" in done.stderr
    assert "Traceback" not in done.stderr
