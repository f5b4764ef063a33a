// Differences: the words that one of two texts has and the other lacks, by the longest common sequence of tokens.
const MOST_WORDS_COMPARED = 800;
const TOKEN = /\s+|[\p{L}\p{N}\p{M}_]+|[^\s\p{L}\p{N}\p{M}_]/gu;
const WORD = /^[\p{L}\p{N}]/u;

function markDifferences(before, after) {
  const old = before.match(TOKEN) || [];
  const young = after.match(TOKEN) || [];
  if (Math.max(old.length, young.length) > 2 * MOST_WORDS_COMPARED) {
    return [[{ text: before, changed: false }], [{ text: after, changed: false }]];
  }
  const oldMarks = new Array(old.length).fill(true);
  const youngMarks = new Array(young.length).fill(true);
  for (const { a, b, size } of commonBlocks(old, young)) {
    let found = 0;
    for (let index = a; index < a + size; index += 1) found += WORD.test(old[index]) ? 1 : 0;
    const atStart = a === 0 && b === 0;
    const atEnd = a + size === old.length && b + size === young.length;
    if (found >= 2 || atStart || atEnd) {
      oldMarks.fill(false, a, a + size);
      youngMarks.fill(false, b, b + size);
    }
  }
  return [pieces(old, oldMarks), pieces(young, youngMarks)];
}

// Stretches that both token lists have in the same order, longest common sequence first found from the start.
function commonBlocks(old, young) {
  let start = 0;
  while (start < old.length && start < young.length && old[start] === young[start]) start += 1;
  let end = 0;
  while (
    end < old.length - start && end < young.length - start &&
    old[old.length - 1 - end] === young[young.length - 1 - end]
  ) end += 1;
  const height = old.length - start - end;
  const width = young.length - start - end;
  const longest = new Uint16Array((height + 1) * (width + 1));
  for (let i = height - 1; i >= 0; i -= 1) {
    for (let j = width - 1; j >= 0; j -= 1) {
      const here = i * (width + 1) + j;
      longest[here] = old[start + i] === young[start + j]
        ? longest[here + width + 2] + 1
        : Math.max(longest[here + width + 1], longest[here + 1]);
    }
  }
  const found = start ? [{ a: 0, b: 0, size: start }] : [];
  const add = (a, b) => {
    const last = found[found.length - 1];
    if (last && last.a + last.size === a && last.b + last.size === b) last.size += 1;
    else found.push({ a, b, size: 1 });
  };
  for (let i = 0, j = 0; i < height && j < width;) {
    const here = i * (width + 1) + j;
    if (old[start + i] === young[start + j]) add(start + i++, start + j++);
    else if (longest[here + width + 1] >= longest[here + 1]) i += 1;
    else j += 1;
  }
  for (let index = 0; index < end; index += 1) add(old.length - end + index, young.length - end + index);
  return found;
}

// Neighbours with one mark, joined; white space at the end of a marked stretch is not marked.
function pieces(tokens, marks) {
  const found = [];
  tokens.forEach((token, index) => {
    const inside = index > 0 && index < tokens.length - 1 && marks[index - 1] && marks[index + 1];
    const changed = marks[index] && (inside || token.trim() !== "");
    const last = found[found.length - 1];
    if (last && last.changed === changed) last.text += token;
    else found.push({ text: token, changed });
  });
  return found;
}
