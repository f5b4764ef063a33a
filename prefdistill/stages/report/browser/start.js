// Start: after the first paint, a block at a time.
const MOUNTS = { rows: document.getElementById("browse-drafts"), pairs: document.getElementById("browse-pairs") };

function say(message) {
  for (const mount of Object.values(MOUNTS)) {
    if (mount) mount.before(make("p", { class: "stopped", role: "alert" }, message));
  }
}

function openLinked(sections) {
  const address = location.hash.slice(1);
  const section = address.startsWith("prompt-") ? sections.rows : address.startsWith("pair-") ? sections.pairs : null;
  if (!section) return;
  section.openAddress(address);
  section.detail.scrollIntoView({ block: "start" });
}

async function start() {
  const sections = {};
  for await (const block of blocks()) {
    if (block.columns) {
      if (MOUNTS.rows) sections.rows = new Section(MOUNTS.rows, new Drafts(block), block.rows);
      if (MOUNTS.pairs) sections.pairs = new Section(MOUNTS.pairs, new Pairs(block), block.pairs);
      openLinked(sections);
      addEventListener("hashchange", () => openLinked(sections));
    }
    for (const name of ["rows", "pairs"]) if (Array.isArray(block[name]) && sections[name]) sections[name].add(block[name]);
    if (Array.isArray(block.rows)) performance.mark("browser-rows");
  }
  performance.mark("browser-ready");
  document.documentElement.dataset.browser = "ready";
}

if (typeof DecompressionStream === "undefined") {
  say("This browser is too old to open the drafts (it lacks DecompressionStream); any browser of 2023 or later can. Everything else on this page is complete.");
} else {
  requestAnimationFrame(() => setTimeout(() => start().catch((problem) => say(`The drafts could not be opened: ${problem.message}`)), 0));
}
