// A windowed list: only the rows that can be seen are in the page, however many there are.
const ROW_HEIGHT = 64;
const ROWS_BEYOND = 6;

class WindowedList {
  constructor(name, label, fill, chosen) {
    Object.assign(this, { name, fill, chosen, items: [], selected: -1, waiting: false });
    this.space = make("div", { class: "space", role: "presentation" });
    this.box = make("div", {
      class: "rows", role: "listbox", tabindex: 0, "aria-label": label,
      onscroll: () => this.drawSoon(), onkeydown: (event) => this.onKey(event),
    }, this.space);
    this.empty = make("p", { class: "quiet nothing", hidden: true }, "Nothing matches.");
    this.element = make("div", { class: "list" }, this.box, this.empty);
    new ResizeObserver(() => this.drawSoon()).observe(this.box);
  }

  show(items, selected) {
    this.items = items;
    this.selected = items.indexOf(selected);
    this.space.style.height = `${items.length * ROW_HEIGHT}px`;
    this.empty.hidden = items.length > 0;
    this.drawSoon();
  }

  drawSoon() {
    if (this.waiting) return;
    this.waiting = true;
    requestAnimationFrame(() => { this.waiting = false; this.draw(); });
  }

  draw() {
    const first = Math.max(0, Math.floor(this.box.scrollTop / ROW_HEIGHT) - ROWS_BEYOND);
    const last = Math.min(this.items.length, first + Math.ceil(this.box.clientHeight / ROW_HEIGHT) + 2 * ROWS_BEYOND);
    const drawn = [];
    for (let index = first; index < last; index += 1) {
      const option = make("div", {
        class: "option", role: "option", id: `${this.name}-option-${index}`, "aria-selected": String(index === this.selected),
        "aria-setsize": this.items.length, "aria-posinset": index + 1,
        onclick: () => this.select(index, true),
      }, this.fill(this.items[index]));
      option.style.top = `${index * ROW_HEIGHT}px`;
      drawn.push(option);
    }
    this.space.replaceChildren(...drawn);
    const shown = this.selected >= first && this.selected < last;
    if (shown) this.box.setAttribute("aria-activedescendant", `${this.name}-option-${this.selected}`);
    else this.box.removeAttribute("aria-activedescendant");
  }

  select(index, byHand = false) {
    if (!this.items.length) return;
    this.selected = Math.max(0, Math.min(this.items.length - 1, index));
    this.reveal();
    this.drawSoon();
    this.chosen(this.items[this.selected], byHand);
  }

  reveal() {
    const top = this.selected * ROW_HEIGHT;
    if (this.selected < 0) this.box.scrollTop = 0;
    else if (top < this.box.scrollTop) this.box.scrollTop = top;
    else if (top + ROW_HEIGHT > this.box.scrollTop + this.box.clientHeight) {
      this.box.scrollTop = top + ROW_HEIGHT - this.box.clientHeight;
    }
  }

  onKey(event) {
    const page = Math.max(1, Math.floor(this.box.clientHeight / ROW_HEIGHT) - 1);
    const targets = {
      ArrowDown: this.selected + 1, ArrowUp: this.selected - 1, PageDown: this.selected + page,
      PageUp: this.selected - page, Home: 0, End: this.items.length - 1,
    };
    if (!(event.key in targets) || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    this.select(targets[event.key]);
  }
}

// A section: filters, how many match, the list, and what is open. `view` says what differs between drafts and pairs:
// name, label, noun, searched, fields(changed), clear(), matches(row), order(rows), tally(rows), below(changed), item(row), detail(row),
// text(row), address(row).
class Section {
  constructor(mount, view, expected) {
    Object.assign(this, { view, expected, rows: [], open: null, texts: new Map(), wanted: null, touched: false });
    this.status = make("p", { class: "status", role: "status" });
    this.search = make("input", { type: "search", placeholder: view.searched, oninput: () => this.searchSoon() });
    const search = make("label", { class: "field search" }, make("span", {}, "Search"), this.search);
    const fields = view.fields(() => this.filter()).map((each) => each && each.field);
    const clear = make("button", { type: "button", onclick: () => this.clear() }, "Clear filters");
    this.list = new WindowedList(view.name, view.label, view.item, (row, byHand) => this.choose(row, byHand));
    this.step = make("div", { class: "step" });
    this.shown = make("div", {});
    this.detail = make("div", { class: "detail" }, this.step, this.shown);
    mount.append(
      make("form", { class: "filters", onsubmit: (event) => event.preventDefault() }, search, fields, clear, view.below(() => this.filter())),
      this.status,
      make("div", { class: "panes" }, this.list.element, this.detail),
    );
    mount.hidden = false;
    this.refresh();
  }

  add(rows) {
    for (const row of rows) this.rows.push(row);
    this.refresh();
    const wanted = this.wanted && rows.find((row) => this.isAt(row, this.wanted));
    if (wanted) this.show(wanted);
    else if (!this.touched && !this.wanted) this.show(this.list.items[0]);
  }

  searchSoon() {
    clearTimeout(this.timer);
    this.timer = setTimeout(() => this.filter(), 120);
  }

  clear() {
    this.search.value = "";
    this.view.clear();
    this.filter();
    this.search.focus();
  }

  get sought() {
    return this.search.value.trim().toLowerCase();
  }

  says(row, sought) {
    if (!this.texts.has(row)) this.texts.set(row, this.view.text(row).toLowerCase());
    return this.texts.get(row).includes(sought);
  }

  // The reader has changed a filter: what is open stays open if it still matches.
  filter() {
    this.touched = true;
    this.refresh();
    if (this.list.items.includes(this.open) || !this.list.items.length) this.draw();
    else this.show(this.list.items[0]);
    this.list.reveal();
  }

  refresh() {
    const sought = this.sought;
    const found = this.rows.filter((row) => this.view.matches(row) && (!sought || this.says(row, sought)));
    this.list.show(this.view.order(found), this.open);
    const noun = this.view.noun;
    const all = found.length === this.rows.length;
    const matching = all ? plural(found.length, noun) : `${count(found.length)} of ${plural(this.rows.length, noun)}`;
    const reading = this.rows.length < this.expected ? ` Reading ${count(this.rows.length)} of ${count(this.expected)} …` : "";
    this.status.textContent = `${matching}${this.view.tally(found)}.${reading}`;
    this.drawStep();
  }

  choose(row, byHand) {
    this.touched = true;
    this.show(row);
    if (byHand && matchMedia("(max-width: 800px)").matches) this.detail.scrollIntoView({ block: "start" });
  }

  show(row) {
    if (!row || row === this.open && !this.wanted) return this.drawStep();
    this.open = row;
    this.wanted = null;
    this.list.selected = this.list.items.indexOf(row);
    this.list.reveal();
    this.list.drawSoon();
    return this.draw();
  }

  draw() {
    this.drawStep();
    if (this.open) this.shown.replaceChildren(this.view.detail(this.open));
    mark(this.detail, this.sought);
  }

  drawStep() {
    const { selected, items } = this.list;
    const focused = [...this.step.querySelectorAll("button")].indexOf(document.activeElement);
    const button = (by, said) => make("button", {
      type: "button", disabled: !items[selected + by], onclick: () => this.list.select(selected + by),
    }, said);
    const place = selected < 0 ? null : make("span", { class: "quiet" }, `${count(selected + 1)} of ${count(items.length)}`);
    this.step.replaceChildren(...[button(-1, "← Previous"), place, button(1, "Next →")].filter(Boolean));
    if (focused >= 0) this.step.querySelectorAll("button")[focused].focus({ preventScroll: true });
  }

  // A prompt is found by its id, and by the id that it has in the user's own file.
  isAt(row, address) {
    return [row.id, row.label].some((id) => this.view.address({ ...row, id }) === address);
  }

  openAddress(address) {
    const row = this.rows.find((each) => this.isAt(each, address));
    this.touched = true;
    if (row) this.show(row);
    else this.wanted = address;
  }
}

// Show where the sought words are, in browsers that can colour ranges of text without touching it.
function mark(element, sought) {
  if (!globalThis.Highlight || !CSS.highlights) return;
  const name = "sought";
  const others = [...(CSS.highlights.get(name) || [])].filter((range) => !element.contains(range.startContainer) && range.startContainer.isConnected);
  if (sought) {
    const walker = document.createTreeWalker(element, NodeFilter.SHOW_TEXT);
    for (let node = walker.nextNode(); node; node = walker.nextNode()) {
      const text = node.data.toLowerCase();
      if (text.length !== node.data.length) continue;
      for (let at = text.indexOf(sought); at >= 0; at = text.indexOf(sought, at + sought.length)) {
        const range = new Range();
        range.setStart(node, at);
        range.setEnd(node, at + sought.length);
        others.push(range);
      }
    }
  }
  CSS.highlights.set(name, new Highlight(...others));
}
