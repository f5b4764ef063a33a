"""Remedies: a round that a stop rule condemned is trained once more with a changed trainer, and so are later ones.

Place in the flow: between the guard's decision and the second training. What was made first is set aside under
`replaced/`; `remedy.json` in the round's folder says what was changed and why, so a killed run goes on the same way.
"""

from __future__ import annotations

from typing import Any

from prefdistill.artefacts import REMEDY, made_after
from prefdistill.assembly import Workshop
from prefdistill.errors import TrainError
from prefdistill.records import Finding, Remedy
from prefdistill.run import Fingerprints, read_json, write_json

WORDS: dict[Remedy, str] = {
    "halve_learning_rate": "with half the learning rate",
    "add_sft": "with the likelihood of the chosen text added to the loss",
    "length_normalise": "with a length-normalised loss",
}


def remedy_of(shop: Workshop, number: int) -> Remedy | None:
    """Return the remedy with which a round is trained once more, None where it is trained as the recipe says."""
    path = shop.run.round(number) / REMEDY
    return read_json(path)["remedy"] if path.exists() else None


def trainer_for(shop: Workshop, number: int) -> Any:
    """Return the recipe's trainer with the remedies of this round and of all rounds before."""
    trainer: Any = shop.trainer_of(number)
    first = shop.recipe.first_round
    for each in range(first if number >= first else number, number + 1):  # a warm start's remedy is its own
        remedy = remedy_of(shop, each)
        if remedy is None:
            continue
        remedied = trainer.remedied(remedy) if hasattr(trainer, "remedied") else None
        if remedied is None:
            raise TrainError(
                f"{shop.run.round(each) / REMEDY}: the round was trained {WORDS[remedy]}, and train's options do not admit "
                f"that any more; undo the change of train, or pass --round {each} --redo-from train, which sets it aside"
            )
        trainer = remedied
    return trainer


def applicable(shop: Workshop, number: int) -> list[Remedy]:
    """Return the remedies that the round's trainer can take."""
    trainer = trainer_for(shop, number)
    if not hasattr(trainer, "remedied"):
        return []
    return [remedy for remedy in WORDS if trainer.remedied(remedy) is not None]


def condemn(shop: Workshop, number: int, finding: Finding) -> str:
    """Note a round's remedy, set aside what was made without it, later rounds included, and say what is done."""
    assert finding.remedy is not None, "the guard retries what a remedy is named for"
    folder = shop.run.round(number)
    note = {
        "schema": 1,
        "remedy": finding.remedy,
        "finding": finding.model_dump(mode="json"),
        "condemned": Fingerprints(folder).of("policy"),
    }
    write_json(folder / REMEDY, note)
    finish_condemning(shop, number)
    return f"{WORDS[finding.remedy]} (loop.remedy: auto; loop.stop.{finding.check} condemned its training)"


def finish_condemning(shop: Workshop, number: int) -> None:
    """Set aside a condemned training that is still there, because a kill came between the note and the moving."""
    folder = shop.run.round(number)
    marks = Fingerprints(folder)
    if not (folder / REMEDY).exists() or marks.of("policy") != read_json(folder / REMEDY)["condemned"]:
        return
    shop.run.set_aside(made_after(shop.run, number))
    shop.run.set_aside([*sorted(folder.glob("6-*")), folder / "round.json", folder / "5-policy"])
    marks.forget(["policy", *(name for name in list(marks.entries) if name.startswith("6-"))])
