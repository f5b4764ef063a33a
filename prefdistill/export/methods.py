"""How an exported policy was made, in words and tags of its model card: each round's trainer, and whom it learned from."""

from __future__ import annotations

from pathlib import Path

from prefdistill.export.source import Source
from prefdistill.protocols import learns_from
from prefdistill.sections import StudentSection


def methods_of(source: Source) -> list[str]:
    """Return how the policy was made, in the order of its rounds, as what stands after "trained by"."""
    by_default = {
        "answers": "distillation (on a teacher's answers)",
        "pairs": "preference distillation (on pairs that a judge ranked against a rubric)",
    }
    found = (str(getattr(each, "method", None) or by_default[learns_from(each)]) for each in source.trainers)
    return list(dict.fromkeys(found))


def method_tags(source: Source) -> list[str]:
    """Return the methods as tags of the hub."""
    soft = [getattr(each, "soft_share", 0.0) for each in source.trainers if learns_from(each) == "answers"]
    found = ["sft"] if any(share < 1.0 for share in soft) else []
    found += ["distillation"] if soft else []
    found += ["knowledge-distillation"] if any(soft) else []
    return [*found, *(["dpo", "preference-distillation"] if "pairs" in source.learned_from else [])]


def trained_on(source: Source) -> str:
    """Return what the last round before the policy trained on."""
    result, trainer = source.round, source.trainers[-1]
    count = result.train.pairs if result.train else result.pairs
    if learns_from(trainer) == "pairs":
        return f"{result.drafts} drafts were judged" + (f" and {count} pairs trained on" if result.train else "")
    if getattr(trainer, "on", "texts") == "own":
        return f"the student wrote to the prompts of {count} answers of the teacher, and its own texts were trained on"
    return f"{count} answers of the teacher were trained on"


def distributions_of(source: Source) -> list[str]:
    """Return the models whose token distribution was learned."""
    found = [getattr(each, "source", None) for each in source.trainers if getattr(each, "soft_share", 0)]
    return list(dict.fromkeys(model_name(each) for each in found if each is not None))


def model_name(student: StudentSection) -> str:
    """Return a hub id, or the name of a local model's folder."""
    return Path(student.source).name if Path(student.source).is_dir() else str(student.model)
