// Pairs (or the teacher's answers) of each round: what was trained on and why, and the prompts that gave none and why not.
class Pairs {
  constructor(head) {
    Object.assign(this, { head, name: "pair", label: "Training prompts", noun: "prompt" });
    this.searched = head.texts ? "prompt and drafts" : "prompt id";
    this.what = head.trainsOn === "answers" ? "answer" : "pair";
    this.item = (row) => this.option(row);
  }

  fields(changed) {
    const dropped = this.head.reasons.reduce((sum, each) => sum + each.count, 0);
    const kept = this.head.pairs - dropped;
    this.round = choice("Round", [["", "all"], ...this.head.rounds.map((each) => [each, each])], changed);
    this.kept = choice(this.what === "pair" ? "Pair" : "Answer", [
      ["", "kept or not"], ["kept", `kept (${count(kept)})`], ["none", `no ${this.what} (${count(dropped)})`],
      ...this.head.reasons.map((each) => [each.name, `no ${this.what}: ${words(each.name)} (${count(each.count)})`]),
    ], changed);
    this.kind = choice("Kind", [["", "all"], ...this.head.kinds.map((each) => [each, each])], changed);
    const margins = this.what === "pair" ? [["wide", "margin, widest first"], ["narrow", "margin, narrowest first"]] : [];
    this.sorting = choice("Sort by", [["round", "round"], ...margins], changed);
    this.choices = [this.round, this.kept, this.kind];
    return [this.round, this.kept, this.kind, this.sorting];
  }

  below() {
    return [];
  }

  clear() {
    for (const each of this.choices) each.value = "";
  }

  matches(row) {
    if (this.round.value && row.round !== Number(this.round.value)) return false;
    if (this.kind.value && row.kind !== this.kind.value) return false;
    const wanted = this.kept.value;
    if (!wanted) return true;
    return wanted === "kept" ? !row.reason : row.reason && (wanted === "none" || row.reason === wanted);
  }

  margin(row) {
    return row.pairs.length ? Math.max(...row.pairs.map((each) => each.margin)) : null;
  }

  order(rows) {
    const sign = { wide: -1, narrow: 1 }[this.sorting.value];
    if (!sign) return rows.slice();
    const keyed = rows.map((row, index) => [this.margin(row), index, row]);
    keyed.sort((a, b) => (a[0] === null) - (b[0] === null) || sign * (a[0] - b[0]) || a[1] - b[1]);
    return keyed.map((each) => each[2]);
  }

  tally(rows) {
    const without = rows.filter((row) => row.reason).length;
    const found = this.what === "pair" ? rows.reduce((sum, row) => sum + row.pairs.length, 0) : rows.length - without;
    return rows.length ? `: ${plural(found, this.what)}${without ? `, ${count(without)} without one` : ""}` : "";
  }

  option(row) {
    const state = row.reason
      ? make("span", { class: "chip loss" }, words(row.reason))
      : [
        make("span", { class: "chip win" }, row.pairs.length > 1 ? plural(row.pairs.length, "pair") : "kept"),
        row.pairs.length ? make("span", { class: "gain" }, `margin ${number(this.margin(row))}`) : null,
      ];
    return [
      make("div", { class: "above" }, state, make("span", { class: "quiet" }, `round ${row.round}`)),
      make("div", { class: "excerpt", dir: "auto" }, excerpt(row)),
    ];
  }

  address(row) {
    return `pair-${row.round}-${encodeURIComponent(row.id)}`;
  }

  text(row) {
    return textOf(row, [row.reason, row.detail]);
  }

  detail(row) {
    const used = new Set(row.pairs.flatMap((each) => [each.chosen, each.rejected]));
    const rest = row.drafts.map((_, index) => index).filter((index) => !used.has(index));
    const reason = this.head.reasons.find((each) => each.name === row.reason);
    const others = rest.length ? this.cards(row, rest) : null;
    return make("article", {},
      titleOf(row, this.address(row), make("span", { class: "tag" }, `round ${row.round}`)),
      promptOf(row),
      row.pairs.map((pair) => this.pair(row, pair)),
      !row.reason ? null : make("p", { class: "why" }, make("b", {}, `No ${this.what}: `), `${reason ? reason.words : words(row.reason)}${row.detail ? ` (${row.detail})` : ""}.`),
      row.pairs.length && others
        ? make("details", {}, make("summary", {}, plural(rest.length, "other draft")), others)
        : others);
  }

  pair(row, pair) {
    const [chosen, rejected] = [row.drafts[pair.chosen], row.drafts[pair.rejected]];
    const [old, young] = this.head.texts ? markDifferences(rejected.text, chosen.text) : [[], []];
    const title = (name, draft, score) => [`${name} ${number(score)}`, draft.writer ? make("span", { class: "quiet" }, ` ${draft.writer}`) : null];
    return make("div", { class: "pair" },
      make("p", { class: "why" }, make("b", {}, "Kept: "), `${pair.why.join("; ")}.`),
      make("div", { class: "drafts" },
        draftCard(this.head, title("Chosen", chosen, pair.scores[0]), chosen, young, "ins", make("span", { class: "gain" }, `margin ${number(pair.margin)}`)),
        draftCard(this.head, title("Rejected", rejected, pair.scores[1]), rejected, old, "del", null)),
      criteriaTable(this.head, [["Chosen", chosen], ["Rejected", rejected]]));
  }

  named(row, index) {
    const { writer } = row.drafts[index];
    if (this.what === "answer" && row.drafts.length === 1) return row.reason ? "Answer" : "Answer, trained on";
    return `Draft ${index + 1}${writer ? `, ${writer}` : ""}`;
  }

  cards(row, indexes) {
    return [
      make("div", { class: "drafts" }, indexes.map((index) => {
        const draft = row.drafts[index];
        return draftCard(this.head, this.named(row, index), draft, whole(draft), "span", null);
      })),
      criteriaTable(this.head, indexes.map((index) => [this.named(row, index), row.drafts[index]])),
    ];
  }
}
