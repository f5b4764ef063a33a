"""The pairs that a policy was trained on, as a data set in TRL's format."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from prefdistill.errors import RunError
from prefdistill.export.card import read_base, render_data_card
from prefdistill.export.source import Source
from prefdistill.records import PreferencePair
from prefdistill.run import write_text

ROWS = "train.jsonl"
CARD = "README.md"


def trained_pairs(source: Source) -> list[PreferencePair]:
    """Return the pairs of all rounds that led to the policy, forgotten prompts left out.

    Raises:
        RunError: there is none.
    """
    trained: set[str] = set()
    pairs: dict[str, PreferencePair] = {}
    for number in range(1, source.policy.round + 1):
        folder = source.run.round(number)
        names = folder / "5-policy" / "pair_ids.txt"
        if names.is_file():
            trained.update(names.read_text(encoding="utf-8").split())
        pairs |= source.run.rows(folder, "4-pairs.jsonl", PreferencePair).read()
    found = [pair for key, pair in sorted(pairs.items()) if key in trained and pair.prompt_id in source.prompts]
    if not found and source.learned_from == {"answers"}:
        raise RunError(
            f"{source.run.path}: the policy was trained on the teacher's answers, so there are no pairs to export; they are "
            "in 4-answers.jsonl of each round; export without --with-pairs"
        )
    if not found:
        raise RunError(
            f"{source.run.path}: no pairs of rounds 1 to {source.policy.round} are left (4-pairs.jsonl); "
            "export without --with-pairs"
        )
    return sorted(found, key=lambda pair: (pair.round, pair.id))


def to_row(pair: PreferencePair) -> dict[str, Any]:
    """Return a pair as a row for TRL's DPOTrainer, conversational."""
    return {
        "prompt": [message.model_dump(mode="json") for message in pair.prompt],
        "chosen": [{"role": "assistant", "content": pair.written[0]}],
        "rejected": [{"role": "assistant", "content": pair.written[1]}],
        "id": pair.id,
        "prompt_id": pair.prompt_id,
        "round": pair.round,
        "chosen_id": pair.chosen_id,
        "rejected_id": pair.rejected_id,
        "chosen_score": pair.chosen_score,
        "rejected_score": pair.rejected_score,
        "margin": pair.margin,
    }


def write_pairs(source: Source, folder: Path, base_name: str | None) -> list[PreferencePair]:
    """Write the pairs and their card into `folder`, and return them."""
    pairs = trained_pairs(source)
    write_text(folder / ROWS, "".join(json.dumps(to_row(pair), ensure_ascii=False) + "\n" for pair in pairs))
    write_text(folder / CARD, render_data_card(source, pairs, read_base(source, base_name).name))
    return pairs
