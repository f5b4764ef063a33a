// Held-out drafts: what everyone wrote on a test prompt, side by side.
const MUCH_LONGER = 1.5;
const WORDS_LONGER = 20;

class Drafts {
  constructor(head) {
    Object.assign(this, { head, name: "prompt", label: "Test prompts", noun: "prompt" });
    this.searched = head.texts ? "prompt and drafts" : "prompt id";
    this.base = head.columns.findIndex((each) => each.role === "base");
    this.others = head.columns.map((_, index) => index).filter((index) => index !== this.base);
    this.hidden = new Set();
    this.item = (row) => this.option(row);
  }

  get chosen() {
    return Number(this.column.value);
  }

  fields(changed) {
    this.column = choice("Compare with the base", this.others.map((index) => [index, this.head.columns[index].title]), changed);
    this.outcome = choice("Outcome", this.others.length ? [["", "any"], ...Object.entries(OUTCOMES)] : [["", "any"]], changed);
    this.kind = choice("Kind", [["", "all"], ...this.head.kinds.map((each) => [each, each])], changed);
    this.criterion = choice("Criterion", [["", "any"], ...this.head.criteria.map((each, index) => [index, each.judge === "judge" ? each.name : `${each.name} (evaluation judge)`])], () => {
      if (this.criterion.value && !this.state.value) this.state.value = this.others.length ? "worse" : "below";
      changed();
    });
    this.state = choice("is", [["", "any"], ...(this.others.length ? [["better", "better than the base"], ["worse", "worse than the base"]] : []), ["below", "below half"]], changed);
    this.warning = choice("Warning", [
      ["", "any or none"], ["some", "any warning"], ["gates", "failed a gate"], ["cut", "cut at the token limit"], ["failure", "not judged"],
      ["addresses", "addresses the judge"], ...(this.others.length ? [["longer", `much longer than the base (× ${MUCH_LONGER})`]] : []),
    ], changed);
    this.sorting = choice("Sort by", [
      ...(this.others.length ? [["gain", "gain, largest first"], ["loss", "loss, largest first"], ["length", "growth in words"]] : []),
      ["low", "score, lowest first"], ["id", "prompt id"],
    ], changed);
    this.choices = [this.outcome, this.kind, this.criterion, this.state, this.warning];
    return [this.column, this.outcome, this.criterion, this.state, this.warning, this.kind, this.sorting];
  }

  // Which columns are shown, where there are many.
  below(changed) {
    if (this.head.columns.length <= 3) return [];
    const box = (index) => make("label", {}, make("input", {
      type: "checkbox", checked: true,
      onchange: (event) => { this.hidden[event.target.checked ? "delete" : "add"](index); changed(); },
    }), this.head.columns[index].title);
    return make("fieldset", { class: "columns" }, make("legend", {}, "Show"), this.others.map(box));
  }

  clear() {
    for (const each of this.choices) each.value = "";
  }

  // The draft that filters look at: the chosen column's, or the base's where there is no other.
  of(row) {
    return this.others.length ? row.drafts[this.chosen] : row.drafts[this.base];
  }

  outcomeOf(row) {
    return this.others.length ? row.outcomes[this.chosen] : null;
  }

  gain(row, index = this.chosen) {
    const ours = row.drafts[index];
    const base = row.drafts[this.base];
    const known = ours && base && ours.evaluation !== undefined && base.evaluation !== undefined;
    return known ? ours.evaluation - base.evaluation : null;
  }

  growth(row) {
    const ours = this.of(row);
    const base = row.drafts[this.base];
    return ours && base ? ours.words / Math.max(1, base.words) : null;
  }

  isLonger(row) {
    const ours = this.of(row);
    const base = row.drafts[this.base];
    return Boolean(ours && base && ours !== base && ours.words > MUCH_LONGER * base.words && ours.words >= base.words + WORDS_LONGER);
  }

  matches(row) {
    const draft = this.of(row);
    if (!draft) return !this.choices.some((each) => each.value);
    if (this.outcome.value && this.outcomeOf(row) !== this.outcome.value) return false;
    if (this.kind.value && row.kind !== this.kind.value) return false;
    return this.matchesWarning(row, draft) && this.matchesCriterion(row, draft);
  }

  matchesWarning(row, draft) {
    const wanted = this.warning.value;
    if (!wanted) return true;
    if (wanted === "longer") return this.isLonger(row);
    if (wanted === "some") return warningsOf(draft).length > 0 || this.isLonger(row);
    if (wanted !== "failure") return Boolean(draft[wanted]);
    return Boolean(draft.failure) || (this.others.length ? this.outcomeOf(row) === "unknown" : draft.evaluation === undefined);
  }

  matchesCriterion(row, draft) {
    const [name, state] = [this.criterion.value, this.state.value];
    if (!name && !state) return true;
    const numbers = name ? [Number(name)] : this.head.criteria.map((_, index) => index);
    return numbers.some((index) => {
      const [, ours] = scoreOf(draft, index) || [];
      const [, base] = scoreOf(row.drafts[this.base], index) || [];
      if (typeof ours !== "number") return false;
      if (!state) return true;
      if (state === "below") return ours < 0.5;
      if (typeof base !== "number") return false;
      return state === "better" ? ours > base + 1e-9 : ours < base - 1e-9;
    });
  }

  order(rows) {
    const by = {
      gain: (row) => { const gain = this.gain(row); return gain === null ? null : -gain; },
      loss: (row) => this.gain(row),
      length: (row) => { const growth = this.growth(row); return growth === null ? null : -growth; },
      low: (row) => { const draft = this.of(row); return draft && draft.evaluation !== undefined ? draft.evaluation : null; },
    }[this.sorting.value];
    if (!by) return rows.slice();
    const keyed = rows.map((row, index) => [by(row), index, row]);
    keyed.sort((a, b) => (a[0] === null) - (b[0] === null) || a[0] - b[0] || a[1] - b[1]);
    return keyed.map((each) => each[2]);
  }

  tally(rows) {
    if (!this.others.length || !rows.length) return "";
    const counts = { win: 0, tie: 0, loss: 0, unknown: 0 };
    for (const row of rows) if (this.outcomeOf(row)) counts[this.outcomeOf(row)] += 1;
    const said = Object.entries(counts).filter(([, amount]) => amount).map(([name, amount]) => `${count(amount)} ${OUTCOMES[name]}`);
    return `: ${said.join(", ")}`;
  }

  option(row) {
    const gain = this.others.length ? this.gain(row) : null;
    const draft = this.of(row);
    const warned = draft && (warningsOf(draft).length || this.isLonger(row));
    const outcome = this.outcomeOf(row);
    return [
      make("div", { class: "above" }, outcome ? chip(outcome) : null, gain === null ? null : make("span", { class: "gain" }, signed(gain)),
        warned ? make("span", { class: "warned" }, "warning") : null, row.kind ? make("span", { class: "quiet" }, row.kind) : null),
      make("div", { class: "excerpt", dir: "auto" }, excerpt(row)),
    ];
  }

  address(row) {
    return `prompt-${encodeURIComponent(row.id)}`;
  }

  text(row) {
    return textOf(row);
  }

  detail(row) {
    const base = row.drafts[this.base];
    const shown = [this.base, ...this.others].filter((index) => !this.hidden.has(index) && row.drafts[index]);
    const outcome = this.outcomeOf(row);
    const cards = shown.map((index) => {
      const draft = row.drafts[index];
      const { title, note, role } = this.head.columns[index];
      const heading = [title, note ? make("span", { class: "quiet" }, ` ${note}`) : null];
      const chosen = row.drafts[this.others.length ? this.chosen : this.base];
      let parts = whole(draft);
      if (this.head.texts && base && index === this.base && chosen && chosen !== base) [parts] = markDifferences(base.text, chosen.text);
      else if (this.head.texts && base && index !== this.base && (role === "arm" || index === this.chosen)) [, parts] = markDifferences(base.text, draft.text);
      const card = draftCard(this.head, heading, draft, parts, index === this.base ? "del" : "ins", index === this.base ? null : gainOf(this.gain(row, index)));
      if (this.others.length > 1 && index === this.chosen) card.classList.add("compared");
      return card;
    });
    const missing = this.others.filter((index) => !row.drafts[index]).map((index) => this.head.columns[index].title);
    return make("article", {},
      titleOf(row, this.address(row), outcome ? chip(outcome) : null),
      promptOf(row),
      make("div", { class: "drafts" }, cards),
      this.isLonger(row) ? make("p", { class: "gates" }, `Much longer than the base’s draft: × ${number(this.growth(row))} in words`) : null,
      missing.length ? make("p", { class: "key" }, `No draft on this prompt: ${missing.join(", ")}.`) : null,
      criteriaTable(this.head, shown.map((index) => [this.head.columns[index].title, row.drafts[index]])));
  }
}
