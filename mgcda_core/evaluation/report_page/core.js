"use strict";
// The report's arithmetic: no page in here, so that the tests can run it with node.

const sigmoid = (x) => 1 / (1 + Math.exp(-x));

/** The score as people know it: the chain's logits as their sigmoid, every other score as it is. */
const shown = (result, score) => (result.logits ? sigmoid(score) : score);

/** Text of a score with as many digits as tell it from its neighbours on the slider. */
function formatScore(result, score) {
  const value = shown(result, score);
  if (result.logits) {
    const rest = Math.min(value, 1 - value);
    if (rest >= 0.001) return value.toFixed(3);
    if (rest < 1e-9) return value < 0.5 ? "0" : "1";
    return value < 0.5 ? value.toPrecision(2) : value.toFixed(Math.ceil(-Math.log10(rest)) + 1);
  }
  const { edges } = result;
  const step = (edges[edges.length - 1] - edges[0]) / (edges.length - 1);
  return value.toFixed(Math.min(12, Math.max(0, Math.ceil(-Math.log10(step)))));
}

/** 0.4567 -> "45.7 %"; small shares keep two digits; null is a dash. */
function percent(share, digits = 1) {
  if (share === null || share === undefined) return "–";
  const value = 100 * share;
  return (value > 0 && value < 0.1 ? value.toPrecision(2) : value.toFixed(digits)) + " %";
}

/** Pixels at or above each level, by label: entry i + 1 is what `score >= edges[i]` gives; labels may be null. */
function countLevels(levels, labels) {
  const counts = { normal: new Uint32Array(257), anomalous: new Uint32Array(257), ignored: new Uint32Array(257) };
  for (let i = 0; i < levels.length; i++) {
    const label = labels === null ? 0 : labels[i];
    (label === 0 ? counts.normal : label === 1 ? counts.anomalous : counts.ignored)[levels[i]]++;
  }
  for (const sums of Object.values(counts)) for (let i = 254; i >= 0; i--) sums[i] += sums[i + 1];
  return counts;
}

/** Pixels of the mask at slider position `index` by label, and the share of all pixels. */
function maskCounts(counts, index) {
  const [normal, anomalous, ignored] = [counts.normal, counts.anomalous, counts.ignored].map((sums) => sums[index + 1]);
  const pixels = normal + anomalous + ignored;
  const all = counts.normal[0] + counts.anomalous[0] + counts.ignored[0];
  return { normal, anomalous, ignored, pixels, share: pixels / all };
}

/** Precision, recall and false positive rate at a threshold, between the points of the curve (thresholds descend). */
function curveAt(result, threshold) {
  const { threshold: at, recall, false_positive_rate: fallOut } = result.curves;
  if (threshold > at[0]) return { precision: null, recall: 0, fallOut: 0 };
  let after = at.findIndex((value) => value <= threshold);
  if (after < 0) after = at.length - 1;
  const before = Math.max(after - 1, 0);
  const gap = at[before] - at[after];
  const share = gap > 0 ? Math.min((at[before] - threshold) / gap, 1) : 1;
  const between = (values) => values[before] + share * (values[after] - values[before]);
  const [r, f] = [between(recall), between(fallOut)];
  const [hits, alarms] = [r * result.anomaly_fraction, f * (1 - result.anomaly_fraction)];
  return { precision: hits + alarms > 0 ? hits / (hits + alarms) : null, recall: r, fallOut: f };
}

const falseAlarmShare = (row) => row.false_positive_pixels / Math.max(row.pixels, 1);

/** Orders of the gallery: the smallest key comes first, equal keys stay in the order of the set. */
const ORDERS = {
  alarms: { text: "Largest false alarm area", labelled: true, key: (p) => -falseAlarmShare(p.row) },
  missed: { text: "Largest missed object", labelled: true, key: (p) => -p.row.largest_missed_pixels },
  ap: { text: "Lowest AP", labelled: true, key: (p) => p.row.ap ?? Infinity },
  masked: { text: "Largest share masked", labelled: false, key: (p) => -(p.masked ?? 0) },
  set: { text: "Order of the set", labelled: false, key: () => 0 },
  name: { text: "Name", labelled: false, key: null },
};

/** Names and texts of a result's orders, the default first: a recording's pictures come by rank of suspicion. */
function galleryOrders(result) {
  const labelled = result.pictures.some((picture) => picture.label !== null);
  const orders = Object.entries(ORDERS).filter(([, order]) => labelled || !order.labelled);
  const texts = orders.map(([name, { text }]) => [name, text]);
  if (result.dataset !== "recording") return texts;
  return [["set", "Most suspicious"], ...texts.filter(([name]) => name !== "set")];
}

function sortedPictures(pictures, order) {
  const { key } = ORDERS[order];
  const byName = (a, b) => a.name.localeCompare(b.name, "en", { numeric: true });
  const difference = (a, b) => (key(a) === key(b) ? 0 : key(a) - key(b)); // Infinity - Infinity is NaN
  return [...pictures].sort(key === null ? byName : difference);
}

/** Results that may be compared, in order of appearance: lists of results of one set under one protocol. */
function groupedResults(results) {
  const groups = new Map();
  for (const result of results) {
    const { set, dataset, split, protocol, fpr95_convention, images, pixels } = result;
    const key = JSON.stringify([set, dataset, split, protocol, fpr95_convention, images, pixels]);
    if (!groups.has(key)) groups.set(key, []);
    groups.get(key).push(result);
  }
  return [...groups.values()];
}

/** The figures of the table: text, what it means, how to read it from a result, and which way is good. */
const METRICS = [
  { text: "AP", good: 1, of: (r) => r.ap, interval: (r) => r.ap_interval,
    means: "average precision: how many of the pixels called anomalous are so, averaged over all recalls" },
  { text: "FPR95", good: -1, of: (r) => r.fpr95, interval: (r) => r.fpr95_interval,
    means: "share of normal pixels falsely called anomalous when 95 % of the anomalous ones are found" },
  { text: "AUROC", good: 1, of: (r) => r.auroc, interval: (r) => r.auroc_interval,
    means: "chance that an anomalous pixel scores higher than a normal one; 50 % is guessing" },
  { text: "mean F1", good: 1, of: (r) => r.components?.mean_f1,
    means: "objects found and not invented, averaged over how well they have to be covered (25 to 75 %)" },
  { text: "sIoU", good: 1, of: (r) => r.components?.siou,
    means: "how well the mask covers each anomalous object, averaged over the objects" },
  { text: "PPV", good: 1, of: (r) => r.components?.ppv,
    means: "share of each found region that is anomalous, averaged over the regions" },
  { text: "mIoU", good: 1, of: (r) => r.segmentation?.miou,
    means: "quality of the segmentation on the classes it knows" },
  { text: "open mIoU", good: 1, of: (r) => r.segmentation?.open_miou,
    means: "the same when missed anomalies and false alarms count against it" },
];

/** Metrics that at least one result has. */
const usedMetrics = (results) => METRICS.filter((metric) => results.some((r) => Number.isFinite(metric.of(r))));

/** Whether a result has the best value among its group, which must hold another value. */
function isBest(metric, result, group) {
  const values = group.map(metric.of).filter(Number.isFinite);
  if (new Set(values).size < 2) return false;
  return metric.of(result) === (metric.good > 0 ? Math.max(...values) : Math.min(...values));
}

/** About `count` round numbers within [low, high]. */
function roundTicks(low, high, count) {
  const rough = (high - low) / count;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((m) => m * power).find((s) => s >= rough);
  const digits = Math.max(0, -Math.floor(Math.log10(step) + 1e-9));
  const ticks = [];
  for (let i = Math.ceil(low / step); i * step <= high + 1e-9 * step; i++) {
    ticks.push([i * step, (i * step).toFixed(digits).replace(/^-(0(\.0*)?)$/, "$1")]);
  }
  return ticks;
}

/** Ticks of a score axis [low, high] in raw units; an axis of logits gets round values of their sigmoid. */
function scoreTicks(result, low, high) {
  if (!result.logits) return roundTicks(low, high, 6);
  const ticks = [];
  for (const p of [0.5, 0.01, 0.99, 0.1, 0.9, 0.001, 0.999, 1e-4, 0.9999, 1e-6, 0.999999]) {
    const x = Math.log(p / (1 - p));
    const free = ticks.every(([other]) => Math.abs(x - other) > (high - low) / 9);
    if (x >= low && x <= high && free) ticks.push([x, String(p)]);
  }
  return ticks;
}
