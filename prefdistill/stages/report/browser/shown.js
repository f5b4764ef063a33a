// What held-out drafts and pairs show alike: prompts, texts, scores, warnings, criteria.
function promptOf(row) {
  if (!row.messages.length) return null;
  const single = row.messages.length === 1;
  return make("div", { class: "prompt" }, row.messages.map(([role, text]) => [
    single ? null : make("p", { class: "role" }, role),
    make("div", { class: "text", dir: "auto" }, text),
  ]));
}

function excerpt(row) {
  const last = row.messages[row.messages.length - 1];
  return last ? last[1].slice(0, 160) : row.label || row.id;
}

function titleOf(row, address, chips) {
  return make("h3", {},
    make("a", { href: `#${address}`, title: "A link to this prompt" }, row.label || row.id), chips,
    row.kind ? make("span", { class: "tag" }, row.kind) : null);
}

function warningsOf(draft) {
  const found = [];
  if (draft.gates) found.push(`Failed ${draft.gates.map(words).join(", ")}`);
  if (draft.cut) found.push("Cut at the token limit");
  if (draft.addresses) found.push(`Addresses the judge: ${draft.addresses}`);
  if (draft.failure) found.push(`Not judged (${draft.failure})${draft.said ? `: ${draft.said}` : ""}`);
  return found;
}

// `parts` are pieces with differences, `tag` is what marks those, `beside` stands beside the title.
function draftCard(head, title, draft, parts, tag, beside) {
  const scores = [];
  if (draft.evaluation !== undefined) scores.push(`${head.selfJudged ? "judge" : "held-out"} ${number(draft.evaluation)}`);
  if (draft.judge !== undefined) scores.push(`judge ${number(draft.judge)}`);
  if (draft.gold !== undefined) scores.push(`gold ${number(draft.gold)}`);
  scores.push(plural(draft.words, "word"));
  const text = !head.texts ? null : make("div", { class: "text", dir: "auto" },
    parts.map((piece) => (piece.changed ? make(tag, {}, piece.text) : piece.text)),
    draft.text.trim() ? null : make("span", { class: "quiet" }, "(empty)"));
  return make("div", { class: "draft" },
    make("h4", {}, make("span", { class: "who" }, title), beside),
    make("p", { class: "scores" }, scores.join(" · ")),
    warningsOf(draft).map((words) => make("p", { class: "gates", dir: "auto" }, words)),
    text);
}

function gainOf(value) {
  if (value === null) return null;
  return make("span", { class: `gain ${value > 0 ? "up" : value < 0 ? "down" : ""}`, title: "against the base" }, signed(value));
}

function whole(draft) {
  return [{ text: draft.text || "", changed: false }];
}

function scoreOf(draft, criterion) {
  return draft && draft.scores ? draft.scores.find((each) => each[0] === criterion) : undefined;
}

// A table of criteria by draft; `drafts` are [title, draft] pairs.
function criteriaTable(head, drafts) {
  const shown = head.criteria.map((each, index) => [each, index])
    .filter(([, index]) => drafts.some(([, draft]) => scoreOf(draft, index)));
  if (!shown.length) return null;
  const both = new Set(shown.map(([each]) => each.judge)).size > 1;
  const cell = (found) => {
    if (!found) return [make("span", { class: "quiet" }, "–")];
    const [, score, level, reason] = found;
    const value = score === null ? [make("span", { class: "quiet" }, "does not apply")] : [number(score), level ? make("span", { class: "quiet" }, ` ${level}`) : null];
    return [...value, reason ? make("span", { class: "reason", dir: "auto" }, reason) : null];
  };
  const differs = (index) => new Set(drafts.map(([, draft]) => String((scoreOf(draft, index) || [])[1]))).size > 1;
  return make("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": "Criterion scores" },
    make("table", { class: "narrow criteria" },
      make("thead", {}, make("tr", {}, make("th", { class: "left" }, "Criterion"), drafts.map(([title]) => make("th", { class: "left" }, title)))),
      make("tbody", {}, shown.map(([each, index]) => make("tr", { class: differs(index) ? "differs" : null },
        make("th", { scope: "row", class: "left" }, each.name, both && each.judge === "evaluation" ? make("span", { class: "kinds" }, "evaluation judge") : null),
        drafts.map(([, draft]) => make("td", { class: "left" }, cell(scoreOf(draft, index)))))))));
}

function textOf(row, more = []) {
  const said = row.drafts.flatMap((draft) => (draft ? [draft.text || "", draft.said || ""] : []));
  return [row.id, row.label, ...row.messages.map((each) => each[1]), ...said, ...more].join("\n");
}
