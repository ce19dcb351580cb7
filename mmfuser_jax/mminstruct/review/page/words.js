// What has changed between two texts, word by word; of Chinese, character by character.

const PARTS = /[\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff]|[\p{L}\p{N}]+|\s+|[^\s]/gu;
const MOST = 3000; // parts of both texts: beyond that, a text is shown as replaced as a whole

// Lists of [kind, text], kind being "same", "gone" or "new", in order.
export function changes(before, after) {
  const old = before.match(PARTS) ?? [];
  const now = after.match(PARTS) ?? [];
  if (old.length + now.length > MOST) return [["gone", before], ["new", after]];
  const common = commonParts(old, now);
  const found = [];
  let i = 0;
  let j = 0;
  while (i < old.length || j < now.length) {
    if (i < old.length && j < now.length && old[i] === now[j]) {
      add(found, "same", old[i++]);
      j++;
    } else if (j === now.length || (i < old.length && common[i + 1][j] >= common[i][j + 1])) {
      add(found, "gone", old[i++]);
    } else {
      add(found, "new", now[j++]);
    }
  }
  return found;
}

function add(found, kind, text) {
  const last = found.at(-1);
  if (last?.[0] === kind) last[1] += text;
  else found.push([kind, text]);
}

// common[i][j]: length of the longest common subsequence of old from i and now from j.
function commonParts(old, now) {
  const common = Array.from({ length: old.length + 1 }, () => new Uint16Array(now.length + 1));
  for (let i = old.length - 1; i >= 0; i--) {
    for (let j = now.length - 1; j >= 0; j--) {
      common[i][j] = old[i] === now[j] ? common[i + 1][j + 1] + 1 : Math.max(common[i + 1][j], common[i][j + 1]);
    }
  }
  return common;
}
