"""A round's records as numbers: every measurement of drafts, labels and judging under its flat name.

Place in the flow: `soundness.py` hands over the round's records and puts these numbers beside the trainer's own and the
scores; the rules of this package read them.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from prefdistill.diagnostics.drafts import measure_training_drafts, measure_validation_drafts
from prefdistill.diagnostics.judging import measure_judging
from prefdistill.diagnostics.labels import measure_answers, measure_labels
from prefdistill.diagnostics.phrases import Spread, spreading_phrase
from prefdistill.records import Answer, Draft, Drop, PreferencePair, Prompt, Verdict

NAMES: dict[str, str] = {
    "drafts": "training drafts that the start policy wrote",
    "draft_tokens": "their mean length, student tokens",
    "distinct_2": "different word pairs in samples of 500, share; the start policy's training drafts",
    "repeated_4grams": "runs of four words that stand earlier in the same draft, share; the same drafts",
    "draft_entropy": "minus their log-probability, nats a token (the token entropy at temperature 1)",
    "all_distinct_share": "prompts with several drafts, all of them different, share",
    "identical_share": "drafts equal to another of their prompt, share",
    "groups": "prompts with several drafts",
    "no_end_token_share": "training drafts cut at the token limit, share",
    "policy_tokens": "mean length of the new policy's validation drafts, student tokens",
    "base_tokens": "the same of the base's",
    "teacher_tokens": "the same of the teacher's, from their words where their tokens are not counted",
    "policy_distinct_2": "different word pairs in samples of 500, share; the new policy's validation drafts",
    "base_distinct_2": "the same of the base's",
    "teacher_distinct_2": "the same of the teacher's",
    "policy_repeated_4grams": "runs of four words that stand earlier in the same draft, share; the new policy's",
    "base_repeated_4grams": "the same of the base's",
    "teacher_repeated_4grams": "the same of the teacher's",
    "policy_entropy": "minus the log-probability of the new policy's validation drafts, nats a token",
    "base_entropy": "the same of the base's",
    "teacher_entropy": "the same of the teacher's, where its drafts have log-probabilities",
    "prompts": "train prompts of the round",
    "pairs": "pairs made from the round's drafts",
    "pair_yield": "prompts that gave a pair, share",
    "answers": "answers of the teacher's that were trained on, of this round",
    "answer_yield": "prompts that gave an answer to train on, share",
    "drop": "prompts that gave no pair, or no answer, share; one name a reason, such as drop/tie",
    "tie_share": "prompts whose drafts were tied, share",
    "mean_margin": "mean margin of the pairs, in the judge's unit",
    "chosen_tokens_mean": "mean length of the chosen texts, student tokens",
    "rejected_tokens_mean": "mean length of the rejected texts, student tokens",
    "chosen_longer_share": "pairs whose chosen text is the longer one, share; equal lengths count half",
    "first_place_share": "pairs whose chosen draft stood before the rejected one in what a scoring judge saw, share",
    "first_place_pairs": "pairs counted there",
    "label_agreement": "pairs that lie as the judge's own verdicts do, share; ties count half",
    "label_agreement_pairs": "pairs counted there",
    "flip_rate": "comparisons whose winner changed with the order shown, share",
    "compared": "comparisons asked in both orders",
    "compared_tie_share": "answers to comparisons that were a tie, share",
    "preferences": "answers to comparisons",
    "first_shown_wins": "comparisons asked in one order only that the draft shown first won, share; ties count half",
    "one_order_compared": "comparisons counted there",
    "first_shown_wins_both": "the same of comparisons asked in both orders",
    "both_orders_shown": "answers counted there",
    "repeat_agreement": "answers to a comparison asked again that agree with the first, share",
    "repeated": "answers counted there",
    "verdicts": "judgements, answers to comparisons, and failures of the training judge",
    "failure_share": "failures among them, share",
    "parse_failure_share": "replies among them that could not be read, share",
    "parse_failures": "replies that could not be read",
    "phrase_share": "validation drafts of the new policy with the phrase that spreads most, share",
    "base_phrase_share": "the base's drafts with that phrase, share",
    "teacher_phrase_share": "the teacher's drafts with that phrase, share",
}
"""What each name means: up to its first slash, and without `_se`, which makes it the standard error of the other."""


SCORE_NAMES: dict[str, str] = {
    "validation_prompts": "validation prompts with a draft of the policy",
    "base_score_sd": "standard deviation of the base drafts' scores by the training judge, validation",
    "base_held_out_sd": "the same by the held-out judge",
    "score_gain": "mean gain of the training judge's score over the base, paired by prompt",
    "held_out_gain": "the same by the held-out judge",
    "win_rate": "comparisons with the base on validation that were won, share; ties count half",
    "length_controlled_win_rate": "the same at equal length, by a logistic fit on the difference in words",
}
"""What the names mean that `soundness.py` adds."""


@dataclass(frozen=True)
class RoundData:
    """A round's records, as far as they are there; everything may be empty."""

    prompts: Sequence[Prompt] = ()
    """The round's train prompts."""
    drafts: Mapping[str, Draft] = field(default_factory=dict)
    """Training drafts by id."""
    verdicts: Mapping[str, Verdict] = field(default_factory=dict)
    """The training judge's verdicts on them, by prompt id."""
    pairs: Sequence[PreferencePair] = ()
    drops: Sequence[Drop] = ()
    answers: Sequence[Answer] | None = None
    """What the round learns from instead of pairs; None where it learns from pairs."""
    policy_drafts: Sequence[Draft] = ()
    """The new policy's validation drafts."""
    base_drafts: Sequence[Draft] = ()
    teacher_drafts: Sequence[Draft] = ()

    @cached_property
    def phrase(self) -> Spread | None:
        """The phrase that spreads most, None where none does."""
        return spreading_phrase(self.policy_drafts, self.base_drafts, self.pairs, self.teacher_drafts)

    def only(self, prompt_ids: Collection[str], validation_ids: Collection[str]) -> RoundData:
        """Return the part that belongs to some train and some validation prompts, such as those of one kind."""
        train, held = frozenset(prompt_ids), frozenset(validation_ids)
        return RoundData(
            prompts=[each for each in self.prompts if each.id in train],
            drafts={key: each for key, each in self.drafts.items() if each.prompt_id in train},
            verdicts={key: each for key, each in self.verdicts.items() if key in train},
            pairs=[each for each in self.pairs if each.prompt_id in train],
            drops=[each for each in self.drops if each.prompt_id in train],
            answers=None if self.answers is None else [each for each in self.answers if each.prompt_id in train],
            policy_drafts=[each for each in self.policy_drafts if each.prompt_id in held],
            base_drafts=[each for each in self.base_drafts if each.prompt_id in held],
            teacher_drafts=[each for each in self.teacher_drafts if each.prompt_id in held],
        )


def measure_round(data: RoundData) -> dict[str, float]:
    """Return everything that a round's records say, by name (see `NAMES`); what cannot be measured is left out."""
    if data.answers is not None:  # the training drafts are the teacher's: nothing in them is about the student
        return {
            **measure_validation_drafts(data.policy_drafts, data.base_drafts, data.teacher_drafts),
            **measure_answers(data.prompts, data.answers, data.drops),
            **measure_judging(data.verdicts),
        }
    return {
        **measure_training_drafts(data.drafts),
        **measure_validation_drafts(data.policy_drafts, data.base_drafts, data.teacher_drafts),
        **measure_labels(data.prompts, data.drafts, data.verdicts, data.pairs, data.drops),
        **measure_judging(data.verdicts),
        **_shares(data.phrase),
    }


def _shares(found: Spread | None) -> dict[str, float]:
    if found is None:
        return {}
    shares = {"phrase_share": found.share, "base_phrase_share": found.base_share}
    return shares if found.teacher_share is None else {**shares, "teacher_phrase_share": found.teacher_share}


def describe_round(data: RoundData) -> dict[str, str]:
    """Return what a round's records say in words: the phrase that spreads most, where there is one.

    It is the model's own text, so it is as little to be trusted as a draft.
    """
    return {"phrase": data.phrase.phrase} if data.phrase else {}
