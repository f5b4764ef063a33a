// The labelling page. All text from a model or a prompt goes in as text nodes, never as markup.
"use strict";

const SETTLE_MS = 250; // after a new text appears, a key that bounced must not answer it
const BEAT_MS = 4000; // how often an idle page looks whether the server is there and whether another tab moved on
const MOST_CELLS = 4_000_000; // size of the table that finds the differences; above it, words are compared as sets
const WINNERS = [
  ["first", "First", " is better", "1"],
  ["tie", "Tie", "", "T"],
  ["second", "Second", " is better", "2"],
];

const at = (id) => document.getElementById(id);
let state = null;
let shown = null; // what is on the screen: the task's id and its texts
let busy = false; // an answer is on its way
let settled = 0; // when the text on the screen may be answered
let clock = 0; // when it was shown, moved on by the time the page was hidden
let hiddenAt = null;
let wake = null; // ends the wait before the next try
let differences = false;

function element(name, text, kind) {
  const made = document.createElement(name);
  if (text !== undefined) made.textContent = text;
  if (kind) made.className = kind;
  return made;
}

const clean = (text) => text.replace(/\r\n?/g, "\n");
const pause = (ms) => new Promise((done) => { wake = done; setTimeout(done, ms); });

// ---- talking to the server

async function call(path, body) {
  const options = { cache: "no-store", signal: AbortSignal.timeout(10_000) };
  if (body !== undefined) {
    Object.assign(options, { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body) });
  }
  const response = await fetch(path, options);
  const found = await response.json();
  if (response.ok || response.status === 409) return found;
  const problem = new Error(found.error || `status ${response.status}`);
  problem.status = response.status;
  throw problem;
}

function explain(problem, kept) {
  if (problem.status === 404 || problem.status === 421) {
    return "prefdistill label was started again: open the address that it printed."
      + (kept ? ` Your last answer (${kept}) was not saved; its text comes first there.` : "");
  }
  const held = kept ? ` Your answer (${kept}) is kept here and sent as soon as it can be.` : "";
  if (problem.status) return `Nothing was saved: ${problem.message}.${held}`;
  if (state && !state.task && !kept) return "prefdistill label has ended. Everything is saved; this page can be closed.";
  return `prefdistill label is not answering.${held} If it was ended, start the same command again and open the new`
    + ` address: everything answered before is saved${kept ? ", and this text comes first" : ""}.`;
}

function trouble(text) {
  if (at("problem").textContent !== text) at("problem").textContent = text;
  at("trouble").hidden = !text;
}

async function send(path, body, kept) {
  if (busy) return;
  busy = true;
  document.body.dataset.ready = "";
  for (let wait = 500; ; wait = Math.min(wait * 1.6, 5000)) {
    try {
      const found = await call(path, body);
      trouble("");
      busy = false;
      show(found);
      return;
    } catch (problem) {
      if (problem.status === 400) {
        trouble(`The server did not take this: ${problem.message}`);
        busy = false;
        show(state);
        return;
      }
      trouble(explain(problem, kept));
      await pause(wait);
    }
  }
}

async function look() {
  if (busy || document.visibilityState === "hidden") return;
  try {
    const found = await call("state");
    if (busy) return;
    trouble("");
    if (!state || (found.task && found.task.id) !== (state.task && state.task.id) || found.done !== state.done) show(found);
  } catch (problem) {
    if (!busy) trouble(explain(problem, ""));
  }
}

// ---- showing

function words(answer) {
  if (answer === "skip") return "Skipped";
  const known = WINNERS.find(([name]) => name === answer);
  return state.kind === "pair" && known ? known[1] + known[2] : `“${answer}”`;
}

function show(found) {
  state = found;
  const task = state.task;
  at("progress").max = state.total;
  at("progress").value = state.done + state.skipped;
  at("count").textContent = `${state.done} of ${state.total} labelled`;
  const left = state.total - state.done - state.skipped;
  at("pace").textContent = state.seconds && left ? about(left * state.seconds) : "";
  const said = state.notice || (state.last ? `${words(state.last)}${state.last === "skip" ? "" : ", saved"}` : `labels by ${state.by}`);
  at("saved").textContent = said;
  at("undo").disabled = !state.undo;
  at("skip").disabled = !task;
  at("work").hidden = !task;
  at("finished").hidden = Boolean(task);
  at("answers").replaceChildren();
  at("question").replaceChildren();
  for (const side of document.querySelectorAll(".picked")) side.classList.remove("picked");
  if (!task) return finish(said);
  if (!shown || shown.id !== task.id) {
    const same = shown && task.draft !== undefined && shown.draft === task.draft;
    shown = task;
    clock = performance.now();
    settled = clock + SETTLE_MS;
    hiddenAt = document.visibilityState === "hidden" ? clock : null;
    if (!same) scrollTo(0, 0);
  }
  document.body.dataset.ready = "";
  setTimeout(() => { if (!busy && shown === task) document.body.dataset.ready = task.id; }, Math.max(0, settled - performance.now()));
  showPrompt(task);
  at("pair").hidden = state.kind !== "pair";
  at("single").hidden = state.kind === "pair";
  at("diff").hidden = state.kind !== "pair";
  if (state.kind === "pair") showPair(task);
  else showCriterion(task);
  const number = state.done + state.skipped + 1;
  at("live").textContent = `${said}. ${number} of ${state.total}.`;
  document.title = `${number} of ${state.total} · Label`;
}

function about(seconds) {
  return seconds < 90 ? "· about a minute left" : `· about ${Math.round(seconds / 60)} minutes left`;
}

function showPrompt(task) {
  const box = at("prompt");
  const parts = [];
  const several = task.messages.length > 1;
  task.messages.forEach((message, index) => {
    const last = index === task.messages.length - 1;
    const text = element("div", clean(message.content), last ? "text last" : "text");
    text.dir = "auto";
    if (message.role === "system") {
      const folded = element("details");
      folded.append(element("summary", "System prompt"), text);
      parts.push(folded);
    } else {
      if (several) parts.push(element("p", message.role === "user" ? "User" : "Assistant", "role"));
      parts.push(text);
    }
  });
  const before = box.dataset.task;
  box.replaceChildren(...parts);
  if (before !== task.id) box.scrollTop = 0;
  box.dataset.task = task.id;
  fitPrompt();
}

function fitPrompt() {
  const box = at("prompt");
  const cut = box.scrollHeight > box.clientHeight + 1;
  at("whole").hidden = !cut && at("whole").getAttribute("aria-pressed") !== "true";
  if (cut) box.tabIndex = 0;
  else box.removeAttribute("tabindex");
}

function toggleWhole() {
  document.body.classList.toggle("whole", toggle(at("whole")));
  fitPrompt();
}

function fillText(box, text) {
  if (text.trim()) box.textContent = clean(text);
  else box.replaceChildren(element("span", text ? "(only white space)" : "(empty)", "none"));
}

function showPair(task) {
  at("ask").textContent = "Which one is better?";
  showTexts(task);
  at("answers").className = "";
  for (const [name, label, more, key] of WINNERS) addAnswer(name, label, more, key);
}

function showCriterion(task) {
  at("ask").textContent = "";
  fillText(at("text-draft"), task.draft);
  at("question").append(element("span", `${task.step} of ${task.steps} · ${task.criterion.replaceAll("_", " ")}`, "soft"), task.question);
  at("answers").className = task.levels.length > 3 ? "many" : "";
  task.levels.forEach((level, index) => addAnswer(level, level, "", String(index + 1)));
}

function addAnswer(name, label, more, key) {
  const button = element("button", label);
  button.type = "button";
  button.dataset.answer = name;
  button.append(element("span", more, "more"), " ", element("kbd", key));
  button.addEventListener("click", () => answer(name));
  at("answers").append(button);
}

function finish(said) {
  shown = null;
  document.body.dataset.ready = "finished";
  const title = state.skipped ? `${state.done} labelled, ${state.skipped} skipped` : `All ${state.done} labelled. Thank you.`;
  at("finished-title").textContent = title;
  const given = state.kind === "pair"
    ? WINNERS.map(([name, label, more]) => `${label}${more}: ${state.answers[name] || 0}`)
    : Object.entries(state.answers).map(([level, count]) => `${level}: ${count}`);
  at("finished-answers").textContent = given.join(" · ");
  const { same, asked } = state.repeated;
  at("finished-repeated").textContent = asked
    ? `${asked} ${asked === 1 ? "pair" : "pairs"} came twice, sides exchanged; the answer was the same for ${same}.` : "";
  at("finished-file").textContent = state.file;
  at("skipped").hidden = !state.skipped;
  at("live").textContent = `${said}. ${title}`;
  document.title = "Done · Label";
}

// ---- differences

function split(text) {
  if (self.Intl && Intl.Segmenter) {
    return Array.from(new Intl.Segmenter(undefined, { granularity: "word" }).segment(text), (part) => part.segment);
  }
  return text.match(/\s+|[\p{L}\p{N}_]+|./gsu) || [];
}

// Return for each token of both lists whether it has no counterpart in the other (longest common subsequence).
function unmatched(a, b) {
  let start = 0;
  while (start < a.length && start < b.length && a[start] === b[start]) start += 1;
  let end = 0;
  while (end < a.length - start && end < b.length - start && a[a.length - 1 - end] === b[b.length - 1 - end]) end += 1;
  const one = a.slice(start, a.length - end);
  const other = b.slice(start, b.length - end);
  const odd = [new Array(a.length).fill(false), new Array(b.length).fill(false)];
  if (one.length * other.length > MOST_CELLS) {
    const [inA, inB] = [new Set(one), new Set(other)];
    one.forEach((token, index) => { odd[0][start + index] = !inB.has(token); });
    other.forEach((token, index) => { odd[1][start + index] = !inA.has(token); });
    return odd;
  }
  const width = other.length + 1;
  const table = new Uint16Array((one.length + 1) * width); // at most 2000 by 2000, so a length fits
  for (let i = one.length - 1; i >= 0; i -= 1) {
    for (let j = other.length - 1; j >= 0; j -= 1) {
      table[i * width + j] = one[i] === other[j]
        ? table[(i + 1) * width + j + 1] + 1
        : Math.max(table[(i + 1) * width + j], table[i * width + j + 1]);
    }
  }
  let i = 0;
  let j = 0;
  while (i < one.length || j < other.length) {
    if (i < one.length && j < other.length && one[i] === other[j]) { i += 1; j += 1; }
    else if (j === other.length || (i < one.length && table[(i + 1) * width + j] >= table[i * width + j + 1])) { odd[0][start + i] = true; i += 1; }
    else { odd[1][start + j] = true; j += 1; }
  }
  return odd;
}

function markedUp(tokens, odd) {
  const blank = (index) => index >= 0 && index < tokens.length && !tokens[index].trim();
  const lit = tokens.map((token, index) => (blank(index) ? odd[index - 1] && odd[index + 1] : odd[index]));
  const parts = [];
  for (let index = 0; index < tokens.length;) {
    let until = index;
    while (until < tokens.length && Boolean(lit[until]) === Boolean(lit[index])) until += 1;
    const text = tokens.slice(index, until).join("");
    parts.push(lit[index] ? element("mark", text) : document.createTextNode(text));
    index = until;
  }
  return parts;
}

function markDifferences(task) {
  const [a, b] = [split(clean(task.first)), split(clean(task.second))];
  const [oddA, oddB] = unmatched(a, b);
  at("text-first").replaceChildren(...markedUp(a, oddA));
  at("text-second").replaceChildren(...markedUp(b, oddB));
}

// ---- acting

function answer(name) {
  if (busy || !state || !state.task || performance.now() < settled) return;
  const away = hiddenAt === null ? 0 : performance.now() - hiddenAt;
  const seconds = Math.min((performance.now() - clock - away) / 1000, 86_000);
  const side = at(`side-${name}`);
  if (side && state.kind === "pair") side.classList.add("picked");
  for (const button of at("answers").children) if (button.dataset.answer === name) button.classList.add("picked");
  send("answer", { task: state.task.id, answer: name, seconds }, words(name));
}

function skip() {
  if (state && state.task && performance.now() >= settled) send("skip", { task: state.task.id }, "skip");
}

function undo() {
  if (state && state.undo) send("undo", { task: state.undo }, "undo");
}

function toggle(button) {
  const on = button.getAttribute("aria-pressed") !== "true";
  button.setAttribute("aria-pressed", String(on));
  return on;
}

function toggleDifferences() {
  differences = toggle(at("diff"));
  at("live").textContent = differences ? "Differences marked" : "Differences not marked";
  if (state && state.task && state.kind === "pair") showTexts(state.task);
}

function showTexts(task) {
  if (differences) markDifferences(task);
  else {
    fillText(at("text-first"), task.first);
    fillText(at("text-second"), task.second);
  }
}

function help() {
  at("keys-pair").hidden = !state || state.kind !== "pair";
  at("keys-criterion").hidden = !state || state.kind === "pair";
  if (at("keys").open) at("keys").close();
  else at("keys").showModal();
}

const wholeInView = () => document.documentElement.scrollHeight <= window.innerHeight + 1;

function pressed(event) {
  if (event.ctrlKey || event.metaKey || event.altKey || event.isComposing) return;
  const key = event.key.length === 1 ? event.key.toLowerCase() : event.key;
  if (key === "?") { event.preventDefault(); if (!event.repeat) help(); return; }
  if (at("keys").open) return;
  const action = actionOf(key);
  if (!action) return;
  event.preventDefault();
  if (!event.repeat) action();
}

function actionOf(key) {
  if (key === "u" || key === "Backspace") return undo;
  if (key === "m") return () => document.body.classList.toggle("mono", toggle(at("mono")));
  if (!state || !state.task) return null;
  if (key === "s") return skip;
  if (key === "p" && !at("whole").hidden) return toggleWhole;
  if (state.kind !== "pair") {
    const level = /^[1-9]$/.test(key) ? state.task.levels[Number(key) - 1] : undefined;
    return level === undefined ? null : () => answer(level);
  }
  if (key === "d") return toggleDifferences;
  if (key === "1" || key === "ArrowLeft") return () => answer("first");
  if (key === "2" || key === "ArrowRight") return () => answer("second");
  if (key === "t" || key === "0" || (key === "ArrowDown" && wholeInView())) return () => answer("tie");
  return null;
}

document.addEventListener("keydown", pressed);
at("diff").addEventListener("click", toggleDifferences);
at("mono").addEventListener("click", () => document.body.classList.toggle("mono", toggle(at("mono"))));
at("whole").addEventListener("click", toggleWhole);
at("help").addEventListener("click", help);
at("skip").addEventListener("click", skip);
at("undo").addEventListener("click", undo);
at("skipped").addEventListener("click", () => send("skipped", {}, ""));
at("again").addEventListener("click", () => { if (wake) wake(); look(); });
document.addEventListener("visibilitychange", () => {
  if (document.visibilityState === "hidden") hiddenAt = performance.now();
  else {
    if (hiddenAt !== null) clock += performance.now() - hiddenAt;
    hiddenAt = null;
    look();
  }
});
window.addEventListener("resize", () => { if (shown) fitPrompt(); });
window.addEventListener("beforeunload", (event) => { if (busy) event.preventDefault(); });
setInterval(look, BEAT_MS);
look();
