"""What attempts at one model cost: the most before they are made, the real cost after, both in the ledger."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import ceil
from typing import Literal

from prefdistill.errors import PluginError
from prefdistill.records import Usage
from prefdistill.requests.calls import Answer, Call
from prefdistill.requests.prices import own_table, price_of
from prefdistill.requests.spending import Budget, Ledger


class Till:
    """Reserves and settles attempts at one model's price."""

    def __init__(self, ledger: Ledger, price: Mapping[str, float], note: Callable[[str], None]) -> None:
        self.ledger = ledger
        self.price = dict(price)
        """US dollars per million tokens of `input` and `output`; empty where nobody knows."""
        self._note = note
        self._stretch = (1.0, 1.0)

    def reserve(self, call: Call, discount: float = 1.0, name: str | None = None) -> str:
        """Charge the most that one attempt of `call` can cost, and return the name to settle it by.

        `discount` is its share of the usual price. A `name` of one's own that is charged already, by an earlier
        process too, is not charged again; let `ledger.leave(name)` follow where nothing should wait for it.

        Raises:
            BudgetError: it does not fit into the budget.
            PluginError: there is a budget, and the call does not say what it can cost.
        """
        return self.ledger.reserve(self.most(call, discount), name)

    def most(self, call: Call, discount: float = 1.0) -> Usage:
        """Return the most that one attempt can cost; raises PluginError where a budget needs it and it is unknown."""
        budget = self.ledger.budget
        if budget is not None and not any(call.bound) and (budget.usd is not None or budget.tokens is not None):
            raise PluginError(
                f"budget: the call {call.key} does not say how many tokens it can cost at most; expected `Call.bound`, "
                "or a budget of calls alone"
            )
        prompt, completion = (ceil(n * by) for n, by in zip(call.bound, self._stretch, strict=True))
        return self._priced(prompt, completion, discount)

    def settle(self, name: str, answer: Answer, bound: tuple[int, int], discount: float = 1.0) -> None:
        """Replace a reservation by what the answer did cost; one that does not say stays charged at its bound."""
        if not answer.prompt_tokens + answer.completion_tokens:
            if self.ledger.budget is not None:
                self._note("gives no usage; each reply stays charged at the most that it can cost")
            self.ledger.leave(name)
            return
        self.check_bound(answer, bound)
        self.ledger.settle(name, self.usage_of(answer, discount))

    def check_bound(self, answer: Answer, bound: tuple[int, int]) -> None:
        """Give later calls more room where a server counts more than was thought possible, and say so."""
        used = (answer.prompt_tokens, answer.completion_tokens)
        needed = [n / most if most else 1.0 for n, most in zip(used, bound, strict=True)]
        if all(n <= by for n, by in zip(needed, self._stretch, strict=True)):
            return
        self._stretch = (max(self._stretch[0], needed[0]), max(self._stretch[1], needed[1]))
        self._note(
            f"counted {used[0]} prompt and {used[1]} completion tokens where at most {bound[0]} and {bound[1]} were "
            "thought possible; later calls are reserved with more room"
        )

    def usage_of(self, answer: Answer, discount: float = 1.0) -> Usage:
        """Return what one answered attempt cost; `discount` is its share of the usual price."""
        return self._priced(answer.prompt_tokens, answer.completion_tokens, discount)

    def _priced(self, prompt_tokens: int, completion_tokens: int, discount: float) -> Usage:
        usd = prompt_tokens * self.price.get("input", 0.0) + completion_tokens * self.price.get("output", 0.0)
        return Usage(
            calls=1, prompt_tokens=prompt_tokens, completion_tokens=completion_tokens, usd=usd * discount / 1e6
        )


def price_for(
    model: str, given: Mapping[Literal["input", "output"], float] | None, budget: Budget | None
) -> dict[str, float]:
    """Return US dollars per million tokens of input and of output, as given or by the table; nothing if unknown.

    Raises:
        PluginError: the budget is in US dollars, and the price is not known.
    """
    known = price_of(model) if given is None else None
    price = {str(name): usd for name, usd in (given or {}).items()}
    if known is not None:
        price = {"input": known.input, "output": known.output}
    if budget is not None and budget.usd is not None and len(price) < 2:
        found = f"has a price for {', '.join(price)} alone" if price else "has no price"
        raise PluginError(
            f"budget.usd: the model `{model}` {found}, so nobody can say when {budget.usd:g} dollars are spent; add "
            f"`{model}: {{input: …, output: …}}` (US dollars per million tokens) to {own_table()}, give both as "
            "usd_per_million beside the model's name, or set budget.tokens instead"
        )
    return price
