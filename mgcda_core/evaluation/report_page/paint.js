// Pixels of one picture: the colours of levels, and image, score, mask, ground truth and ignored pixels in one drawing.

const HIT = [56, 148, 255];
const FALSE_ALARM = [255, 122, 0];
const UNCOUNTED = [190, 190, 190];
const MASK_ALPHA = 0.62;

/** Hexadecimal RGB of 256 colours -> bytes. */
const parseColours = (hex) => Uint8Array.from(hex.match(/../g), (byte) => parseInt(byte, 16));

/** Ends of the colour scale as shown: 0 and 1 for sigmoids, else the outer edges. */
const scaleEnds = (result) => (result.logits ? [0, 1] : [result.edges[0], result.edges[result.edges.length - 1]]);

/** RGB of the 256 levels of a result: each level takes the colour of the score in its middle. */
function levelColours(result, colours) {
  const { edges } = result;
  const [low, high] = scaleEnds(result);
  const table = new Uint8Array(3 * 256);
  for (let level = 0; level < 256; level++) {
    const middle = (shown(result, edges[Math.max(level - 1, 0)]) + shown(result, edges[Math.min(level, 254)])) / 2;
    const share = Math.min(Math.max((middle - low) / (high - low), 0), 1);
    const entry = 3 * Math.round(255 * share);
    table.set(colours.subarray(entry, entry + 3), 3 * level);
  }
  return table;
}

/** Rings around the anomalies, which stay free: 1 = next to one, 2 = next to ring 1 (all 8 neighbours), else 0. */
function truthRings(labels, width) {
  const rings = new Uint8Array(labels.length);
  const height = labels.length / width;
  for (const ring of [1, 2]) {
    for (let y = 0; y < height; y++) {
      for (let x = 0; x < width; x++) {
        const i = y * width + x;
        if (ring === 1 ? labels[i] !== 1 : rings[i] !== 1) continue;
        for (let v = Math.max(y - 1, 0); v <= Math.min(y + 1, height - 1); v++) {
          for (let u = Math.max(x - 1, 0); u <= Math.min(x + 1, width - 1); u++) {
            const j = v * width + u;
            if (labels[j] !== 1 && rings[j] === 0) rings[j] = ring;
          }
        }
      }
    }
  }
  return rings;
}

/**
 * Draw into `out` (RGBA bytes).
 * pixels: {rgba, levels, labels | null, rings | null, width}; table: levelColours; index: slider position;
 * layers: {base: "image" | "score", mask, truth, ignored}, the last three booleans.
 */
function paint(out, pixels, table, index, layers) {
  const { rgba, levels, labels, rings, width } = pixels;
  for (let i = 0, o = 0; i < levels.length; i++, o += 4) {
    const level = levels[i];
    const label = labels === null ? 0 : labels[i];
    let [r, g, b] = layers.base === "score"
      ? [table[3 * level], table[3 * level + 1], table[3 * level + 2]]
      : [rgba[o], rgba[o + 1], rgba[o + 2]];
    if (layers.mask && level > index) {
      const colour = label === 1 ? HIT : label === 0 ? FALSE_ALARM : UNCOUNTED;
      r += MASK_ALPHA * (colour[0] - r);
      g += MASK_ALPHA * (colour[1] - g);
      b += MASK_ALPHA * (colour[2] - b);
    }
    if (layers.ignored && label !== 0 && label !== 1) {
      const line = ((i % width) + Math.floor(i / width)) % 10 < 2;
      r = line ? r + 0.6 * (255 - r) : 0.7 * r;
      g = line ? g + 0.6 * (255 - g) : 0.7 * g;
      b = line ? b + 0.6 * (255 - b) : 0.7 * b;
    }
    if (layers.truth && rings !== null && rings[i] > 0) r = g = b = rings[i] === 1 ? 255 : 0;
    out[o] = r;
    out[o + 1] = g;
    out[o + 2] = b;
    out[o + 3] = 255;
  }
}
