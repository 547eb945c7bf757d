// The page: header, table, and one choice of set, score and threshold that curves and gallery follow.

const DATA = JSON.parse(document.getElementById("data").textContent);
const GROUPS = groupedResults(DATA.results);
const COLOURS = parseColours(DATA.colours);
const PROTOCOLS = {
  fishyscapes: "Fishyscapes: native resolution, all pixels of the set pooled",
  smiyc: "SegmentMeIfYouCan: native resolution, all pixels pooled, objects as components",
  synboost: "SynBoost: scores at 256 × 512, all pixels pooled",
  dicnet: "DiCNet: metrics of each image, then their mean",
};
const CONVENTIONS = {
  first_ge: "the first threshold with a recall of at least 95 %",
  nearest: "the threshold with the recall nearest to 95 %",
  smiyc: "the first threshold with a recall of at least 95 %, 1 if there is none",
};
const byId = (id) => document.getElementById(id);
const count = (number) => number.toLocaleString("en");

const choice = { group: GROUPS[0], result: GROUPS[0][0], index: 0 };
const plots = { pr: createPlot(byId("pr")), roc: createPlot(byId("roc")), histogram: createPlot(byId("histogram")) };
const viewer = createViewer(byId("viewer"), neighbour);
const gallery = createGallery(byId("cards"), viewer.open);
const sliders = [byId("threshold"), byId("viewer").querySelector("[data-part=threshold]")];
const values = [byId("value"), byId("viewer").querySelector("[data-part=value]")];

/** The picture `step` places further in the gallery's order, around its ends. */
function neighbour(picture, step) {
  const order = sortedPictures(choice.result.pictures, byId("order").value);
  return order[(order.indexOf(picture) + step + order.length) % order.length];
}

const isLabelled = (result) => result.pixels > 0;

function fillHeader() {
  const versions = Object.entries(DATA.versions).map(([name, version]) => `${name} ${version}`);
  byId("made").textContent = `Made ${DATA.made} with ${versions.join(", ")}`;
  const used = usedMetrics(DATA.results);
  fillTable(used);
  for (const { text, good, means } of used) {
    byId("meanings").append(
      element("dt", { text: `${text} ${good > 0 ? "↑" : "↓"}` }),
      element("dd", { text: `${good > 0 ? "higher" : "lower"} is better: ${means}.` }));
  }
  byId("table-note").textContent = used.length === 0
    ? `No metrics: ${DATA.results[0].reason ?? "there is no ground truth"}.`
    : "Percent; in brackets the 95 % interval over the images (bootstrap). ★ marks the best of a set.";
}

function fillTable(used) {
  const head = ["Weights", "Score", ...used.map(({ text, good }) => `${text} ${good > 0 ? "↑" : "↓"}`)];
  const table = byId("results");
  table.append(element("thead", {}, element("tr", {}, ...head.map((text, i) =>
    element("th", { scope: "col", class: i > 1 ? "number" : null, text })))));
  for (const group of GROUPS) {
    const rows = group.map((result) => element("tr", { class: "result" },
      element("td", { class: "weights", text: result.weights }),
      element("td", {}, element("button", { type: "button", text: result.score,
        "aria-label": `Show ${resultName(result)} on ${result.set}`, onclick: () => choose(group, result) })),
      ...metricCells(used, result, group)));
    rows.forEach((row, i) => (group[i].row = row));
    const title = element("th", { colspan: head.length, scope: "rowgroup" },
      element("div", { class: "set-text" }, element("span", { class: "set-name", text: group[0].set }),
        element("span", { class: "quiet", text: setFacts(group[0]) })));
    table.append(element("tbody", {}, element("tr", { class: "set" }, title), ...rows));
  }
}

function setFacts(result) {
  const images = `${result.images} image${result.images === 1 ? "" : "s"}`;
  if (!isLabelled(result)) return `${images}, no ground truth`;
  const anomalous = percent(result.anomaly_fraction, 2);
  return `${images}, ${anomalous} of the counted pixels anomalous, protocol ${result.protocol}`;
}

function metricCells(used, result, group) {
  if (used.length > 0 && result.reason !== null && result.ap === null) {
    return [element("td", { colspan: used.length, class: "quiet", text: `n/a: ${result.reason}` })];
  }
  return used.map((metric) => {
    const value = metric.of(result);
    if (!Number.isFinite(value)) return element("td", { class: "number quiet", text: "–" });
    const best = isBest(metric, result, group);
    const interval = metric.interval?.(result);
    const ends = interval ? `[${interval.map((end) => (100 * end).toFixed(1)).join(", ")}]` : "";
    return element("td", { class: best ? "number best" : "number" },
      best ? element("span", { class: "star", role: "img", "aria-label": "best", text: "★" }) : "",
      (100 * value).toFixed(2),
      ends ? element("span", { class: "interval", text: ends }) : "");
  });
}

function fillOptions(select, texts, chosen) {
  select.replaceChildren(...texts.map((text, i) => element("option", { value: i, text, selected: i === chosen })));
}

/** Show a result: curves of its set, its gallery, its operating point. */
function choose(group, result) {
  Object.assign(choice, { group, result });
  const setName = ({ set, protocol }, labelled) => (labelled ? `${set} (${protocol})` : set);
  fillOptions(byId("set"), GROUPS.map(([first]) => setName(first, isLabelled(first))), GROUPS.indexOf(group));
  fillOptions(byId("score"), group.map(resultName), group.indexOf(result));
  for (const other of DATA.results) other.row.classList.toggle("current", other === result);
  fillDetail(result);
  byId("curves").hidden = result.curves === null;
  byId("reset").disabled = result.operating === null;
  fillLegend(group, result);
  fillKeys(result);
  const table = levelColours(result, COLOURS);
  viewer.use(result, table);
  byId("gallery-note").textContent = galleryNote(result);
  byId("gallery").hidden = result.pictures.length === 0;
  gallery.show(result, table, fillOrders(result));
  setIndex(result.operating ?? 127);
}

function fillDetail(result) {
  const labels = Object.entries(result.label_values).map(([name, list]) => `${name} ${list.join(", ") || "none"}`);
  const from = result.split ? `${result.dataset}, split ${result.split}` : result.dataset;
  const facts = [[`Data`, `${from}, ${result.images} images`]];
  if (isLabelled(result)) {
    facts.push(["Protocol", PROTOCOLS[result.protocol] ?? result.protocol]);
    facts.push(["FPR95 at", CONVENTIONS[result.fpr95_convention] ?? result.fpr95_convention]);
    facts.push(["Label values", labels.join("; ")]);
    facts.push(["Counted pixels", `${count(result.pixels)}, ${percent(result.anomaly_fraction, 2)} anomalous`]);
    const bound = Math.max(result.ap_bound ?? 0, result.fpr95_bound ?? 0);
    const within = `AP and FPR95 within ${(100 * bound).toPrecision(2)} percentage points`;
    facts.push(["Exactness", bound > 0 ? within : "exact"]);
  }
  if (result.left_out > 0) facts.push(["Left out", `${result.left_out} images without a figure of their own`]);
  facts.push(["Score", result.meaning]);
  if (result.operating !== null) {
    const source = result.threshold_source ? `: ${result.threshold_source}` : "";
    facts.push(["Operating point", `${formatScore(result, result.threshold)}${source}`]);
  }
  facts.push(["Weights", `${result.weights}, sha256 ${result.weights_sha256.slice(0, 12)}…`]);
  const [least, most] = [result.edges[0], result.edges[254]].map((edge) => formatScore(result, edge));
  const even = result.logits ? ", even in logits" : "";
  facts.push(["Slider", `255 steps from ${least} to ${most}${even}, between which 99.8 % of the pixels lie`]);
  facts.push(...result.details);
  if (result.reason !== null) facts.push(["Note", result.reason]);
  byId("detail").replaceChildren(element("dl", {}, ...facts.map(([name, text]) =>
    element("div", {}, element("dt", { text: name }), element("dd", { text })))));
}

function galleryNote(result) {
  const { pictures, images, operating } = result;
  const part = pictures.length < images ? `${pictures.length} of ${images} images. ` : "";
  const order = "Only the masks follow the slider: order and other figures are those of the operating point.";
  return part + (operating === null ? "" : order);
}

function fillLegend(group, chosen) {
  const lines = group.map((result, number) => ({ result, number })).filter(({ result }) => result.curves !== null);
  byId("legend").replaceChildren(...lines.map(({ result, number }) => element("li", {},
    element("button", {
      type: "button", "aria-pressed": String(result === chosen), onclick: () => choose(group, result),
    }, element("span", { class: "swatch" }, sample(lineClass(number))), resultName(result)))));
}

function sample(name) {
  const svg = element("svg", { viewBox: "0 0 32 8", width: 32, height: 8, "aria-hidden": "true" });
  svg.append(element("line", { class: name, x1: 1, x2: 31, y1: 4, y2: 4 }));
  return svg;
}

function fillOrders(result) {
  const orders = galleryOrders(result);
  const wanted = byId("order").value;
  const chosen = orders.some(([name]) => name === wanted) ? wanted : orders[0][0];
  byId("order").replaceChildren(...orders.map(([value, text]) =>
    element("option", { value, text, selected: value === chosen })));
  return chosen;
}

/** What the colours of masks and scores mean. */
function fillKeys(result) {
  const labels = result.pictures.filter((picture) => picture.label !== null);
  const keys = labels.length === 0 ? [["mask", "in the mask"]] : [
    ["hit", "anomaly in the mask"], ["alarm", "false alarm"], ["truth", "border of the ground truth"],
    ["ignored", "ignored, not counted"],
  ];
  byId("paint-key").replaceChildren(...keys.map(([name, text]) =>
    element("li", {}, element("span", { class: `key key-${name}` }), text)));
  const canvas = byId("scale").querySelector("canvas");
  const bar = canvas.getContext("2d").createImageData(256, 1);
  for (let i = 0; i < 256; i++) bar.data.set([...COLOURS.subarray(3 * i, 3 * i + 3), 255], 4 * i);
  canvas.getContext("2d").putImageData(bar, 0, 0);
  const [low, high] = scaleEnds(result);
  const text = (value) => (result.logits ? value.toFixed(1) : formatScore(result, value));
  const ends = [result.logits ? "" : "≤ ", "", result.logits ? "" : "≥ "];
  byId("scale").querySelector(".ends").replaceChildren(...[low, (low + high) / 2, high].map((value, i) =>
    element("span", { text: ends[i] + text(value) })));
  byId("scale").querySelector("figcaption").textContent = result.meaning;
}

/** Move the threshold to edge `index`: sliders, figures, marks on the curves, masks. */
function setIndex(index) {
  const { result, group } = choice;
  choice.index = index;
  const threshold = result.edges[index];
  const text = formatScore(result, threshold);
  for (const slider of sliders) {
    slider.value = index;
    slider.setAttribute("aria-valuetext", `score ${text}`);
  }
  for (const value of values) value.textContent = text;
  byId("at-threshold").textContent = thresholdFigures(result, threshold, index);
  if (result.curves !== null) {
    plots.pr(curveSpec("pr", group, result, threshold));
    plots.roc(curveSpec("roc", group, result, threshold));
    plots.histogram(histogramSpec(result, threshold));
  }
  gallery.draw(index);
  viewer.draw(index);
}

function thresholdFigures(result, threshold, index) {
  const place = index === result.operating ? "operating point" : "not the operating point";
  const where = result.operating === null ? "no operating point" : place;
  if (result.curves === null) return `Masks: score ≥ ${formatScore(result, threshold)} (${where})`;
  const { precision, recall, fallOut } = curveAt(result, threshold);
  return `Precision ${percent(precision)} · recall ${percent(recall)} · FPR ${percent(fallOut, 2)} (${where})`;
}

function listen() {
  let waiting = false;
  for (const slider of sliders) {
    slider.addEventListener("input", () => {
      choice.index = Number(slider.value);
      if (!waiting) requestAnimationFrame(() => { waiting = false; setIndex(choice.index); });
      waiting = true;
    });
  }
  byId("reset").addEventListener("click", () => setIndex(choice.result.operating));
  byId("set").addEventListener("change", (event) => {
    const group = GROUPS[Number(event.target.value)];
    choose(group, group.find((r) => resultName(r) === resultName(choice.result)) ?? group[0]);
  });
  byId("score").addEventListener("change", (event) => choose(choice.group, choice.group[Number(event.target.value)]));
  byId("order").addEventListener("change", (event) => gallery.sort(event.target.value));
}

fillHeader();
listen();
choose(GROUPS[0], GROUPS[0][0]);
