"use strict";
// COCO's compressed run lengths (maskApi.c, rleFrString): each number in groups of five bits, the lowest first, and from the
// third on as the difference to the last but one. Runs go down the columns, off and on by turns.

/** The run lengths that a string stands for. */
function runsOf(text) {
  const runs = [];
  let at = 0;
  while (at < text.length) {
    let value = 0, shift = 0, more = true;
    while (more) {
      const code = text.charCodeAt(at++) - 48;
      value += (code & 31) * 2 ** shift;  // not <<: a run may be longer than 31 bits say
      shift += 5;
      more = (code & 32) !== 0;
      if (!more && code & 16) value -= 2 ** shift;
    }
    if (runs.length > 2) value += runs[runs.length - 2];
    runs.push(value);
  }
  return runs;
}

/** Write `index` into `labels` (row by row) wherever the mask is set. */
function paintRle(rle, index, labels) {
  const [height, width] = rle.size;
  let at = 0, on = false;
  for (const run of runsOf(rle.counts)) {
    if (on) {
      for (let one = at; one < at + run; one++) labels[(one % height) * width + Math.floor(one / height)] = index;
    }
    at += run;
    on = !on;
  }
}
