// Runs the report page's arithmetic on a case from standard input and prints what it gives.
// node report_page_check.mjs core.js paint.js < case.json; see test_report.py for both sides.
import { readFileSync } from "node:fs";
import vm from "node:vm";

const page = vm.createContext({});
for (const path of process.argv.slice(2)) vm.runInContext(readFileSync(path, "utf8"), page, path);
page.given = JSON.parse(readFileSync(0, "utf8"));

const checks = `
(() => {
  const { data, levels, labels, width, orders, thresholds } = given;
  const [result] = data.results;
  const counts = countLevels(levels, labels);
  const rings = truthRings(labels, width);
  const table = levelColours(result, parseColours(data.colours));
  const rgba = new Uint8Array(4 * levels.length).fill(40);
  const drawn = (layers) => {
    const out = new Uint8ClampedArray(rgba.length);
    paint(out, { rgba, levels, labels, rings, width }, table, result.operating, layers);
    return Array.from(out.filter((_, i) => i % 4 < 3));
  };
  const names = (order) => sortedPictures(result.pictures, order).map((p) => p.name);
  const small = { logits: false, edges: Array.from({ length: 255 }, (_, i) => -1 + i / 127) };
  const ticks = [roundTicks(-0.3, 1.05, 6), roundTicks(0, 35, 6), scoreTicks(result, -6, 6)];
  const only = { base: "image", mask: false, truth: false, ignored: false };
  return JSON.stringify({
    masks: result.edges.map((_, index) => maskCounts(counts, index)),
    rings: Array.from(rings),
    score: drawn({ ...only, base: "score" }),
    mask: drawn({ ...only, mask: true }),
    truth: drawn({ ...only, truth: true }),
    ignored: drawn({ ...only, ignored: true }),
    orders: Object.fromEntries(orders.map((order) => [order, names(order)])),
    curve: thresholds.map((threshold) => curveAt(result, threshold)),
    best: METRICS.slice(0, 3).map((metric) => data.results.map((r) => isBest(metric, r, data.results))),
    groups: groupedResults(data.results).map((group) => group.map((r) => r.score)),
    texts: [...[0, 7, -7, 40].map((score) => formatScore(result, score)), formatScore(small, -0.123456),
      ...[0.45678, 0.00012345, null].map((share) => percent(share))],
    ticks: ticks.map((list) => list.map(([, text]) => text)),
  });
})()`;
console.log(vm.runInContext(checks, page));
