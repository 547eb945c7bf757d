// Curves and histograms in SVG: axes, lines, a readout for pointer and keyboard.

/** A new element; `text` sets its text, `class` its class, on* its listeners, everything else an attribute. */
function element(tag, attributes = {}, ...children) {
  const svg = ["svg", "g", "path", "line", "circle", "text", "rect"].includes(tag);
  const node = svg ? document.createElementNS("http://www.w3.org/2000/svg", tag) : document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name === "text") node.textContent = value;
    else if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (value !== null && value !== false) node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children);
  return node;
}

const MARGIN = { left: 52, right: 14, top: 10, bottom: 42 };

/**
 * A plot in `figure` that keeps its width; returns draw(spec).
 * spec: {label, x, y: {text, low, high, ticks: [[value, text]]}, shapes(px, py) -> nodes,
 * points: [{x, y, text, chosen}] for the readout, nearest by "x" or by "xy" (spec.by), hint: text without a point}.
 */
function createPlot(figure) {
  const svg = element("svg", { class: "plot", tabindex: 0, role: "img" });
  const readout = element("p", { class: "readout", "aria-live": "polite" });
  figure.append(svg, readout);
  let spec = null;
  let scale = null;
  let current = null;

  function show(point) {
    current = point;
    readout.textContent = point === null ? spec.hint : point.text;
    svg.querySelector(".cursor")?.remove();
    if (point !== null) {
      svg.append(element("circle", { class: "cursor", r: 5, cx: scale.px(point.x), cy: scale.py(point.y) }));
    }
  }

  function nearest(event) {
    const box = svg.getBoundingClientRect();
    const [x, y] = [event.clientX - box.left, event.clientY - box.top];
    let [best, least] = [null, Infinity];
    for (const point of spec.points) {
      const distance = Math.abs(scale.px(point.x) - x) + (spec.by === "x" ? 0 : Math.abs(scale.py(point.y) - y));
      if (distance < least) [best, least] = [point, distance];
    }
    return best;
  }

  function step(event) {
    const move = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (move === undefined || spec === null) return;
    event.preventDefault();
    const line = spec.points.filter((point) => point.chosen).sort((a, b) => a.x - b.x);
    if (line.length === 0) return;
    const at = line.indexOf(current);
    const jump = move * (event.shiftKey ? 10 : 1);
    show(line[at < 0 ? 0 : Math.min(Math.max(at + jump, 0), line.length - 1)]);
  }

  function redraw() {
    const width = figure.clientWidth;
    if (spec === null || width === 0) return;
    const height = Math.round(Math.min(Math.max(0.75 * width, 230), 330));
    const between = (axis, from, to) => (value) =>
      from + ((Math.min(Math.max(value, axis.low), axis.high) - axis.low) / (axis.high - axis.low)) * (to - from);
    scale = {
      px: between(spec.x, MARGIN.left, width - MARGIN.right),
      py: between(spec.y, height - MARGIN.bottom, MARGIN.top),
    };
    svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
    svg.setAttribute("width", width);
    svg.setAttribute("height", height);
    svg.setAttribute("aria-label", `${spec.label}. Arrow keys read the values.`);
    svg.replaceChildren(...axes(spec, scale, width, height), ...spec.shapes(scale.px, scale.py));
    show(spec.points.includes(current) ? current : null);
  }

  svg.addEventListener("pointermove", (event) => show(nearest(event)));
  svg.addEventListener("pointerdown", (event) => show(nearest(event)));
  svg.addEventListener("pointerleave", () => show(null));
  svg.addEventListener("keydown", step);
  new ResizeObserver(redraw).observe(figure);
  return (next) => {
    spec = next;
    redraw();
  };
}

function axes(spec, { px, py }, width, height) {
  const [bottom, left] = [height - MARGIN.bottom, MARGIN.left];
  const nodes = [];
  for (const [value, text] of spec.x.ticks) {
    nodes.push(element("line", { class: "grid", x1: px(value), x2: px(value), y1: MARGIN.top, y2: bottom }));
    nodes.push(element("text", { class: "tick", x: px(value), y: bottom + 16, "text-anchor": "middle", text }));
  }
  for (const [value, text] of spec.y.ticks) {
    nodes.push(element("line", { class: "grid", x1: left, x2: width - MARGIN.right, y1: py(value), y2: py(value) }));
    nodes.push(element("text", { class: "tick", x: left - 6, y: py(value) + 4, "text-anchor": "end", text }));
  }
  const middle = (MARGIN.top + bottom) / 2;
  const turned = `rotate(-90 12 ${middle})`;
  const across = (left + width - MARGIN.right) / 2;
  nodes.push(element("text", { class: "axis", x: across, y: height - 6, "text-anchor": "middle", text: spec.x.text }));
  nodes.push(
    element("text", { class: "axis", x: 12, y: middle, "text-anchor": "middle", transform: turned, text: spec.y.text }),
  );
  return nodes;
}

const PERCENT_TICKS = [0, 0.2, 0.4, 0.6, 0.8, 1].map((share) => [share, String(Math.round(100 * share))]);
const percentAxis = (text) => ({ text, low: 0, high: 1, ticks: PERCENT_TICKS });
const toPath = (points) => points.map(([x, y], i) => `${i ? "L" : "M"}${x.toFixed(1)} ${y.toFixed(1)}`).join("");
const lineClass = (number) => `line line-${number % 10}`;

/** Name of a result among those of its set. */
const resultName = (result) => `${result.weights} · ${result.score}`;

/**
 * Spec of the curves of a set. kind: "pr" or "roc"; threshold: slider of the chosen result.
 * Filled dots are operating points, the ring is the slider.
 */
function curveSpec(kind, group, chosen, threshold) {
  const roc = kind === "roc";
  const x = roc ? "false_positive_rate" : "recall";
  const y = roc ? "recall" : "precision";
  const place = (at) => (roc ? [at.fallOut, at.recall] : [at.recall, at.precision]);
  const lines = group.map((result, number) => ({ result, number })).filter(({ result }) => result.curves !== null);
  lines.sort((a, b) => (a.result === chosen) - (b.result === chosen)); // the chosen one on top
  const points = lines.flatMap(({ result }) => result.curves.threshold.map((at, i) => ({
    x: result.curves[x][i], y: result.curves[y][i], chosen: result === chosen,
    text: `${resultName(result)}: ${roc ? "" : `precision ${percent(result.curves.precision[i])}, `}recall ` +
      `${percent(result.curves.recall[i])}${roc ? `, FPR ${percent(result.curves.false_positive_rate[i])}` : ""} ` +
      `at score ≥ ${formatScore(result, at)}`,
  })));

  function shapes(px, py) {
    const [chanceLeft, chanceRight] = roc ? [0, 1] : [chosen.anomaly_fraction, chosen.anomaly_fraction];
    const nodes = [reference(px, py, 0, chanceLeft, 1, chanceRight)];
    if (roc) nodes.push(reference(px, py, 0, 0.95, 1, 0.95));
    for (const { result, number } of lines) {
      const path = result.curves[x].map((value, i) => [px(value), py(result.curves[y][i])]);
      const name = lineClass(number) + (result === chosen ? " chosen" : "");
      nodes.push(element("path", { class: name, d: toPath(path) }));
      if (result.operating !== null) nodes.push(mark(place(curveAt(result, result.threshold)), 4, `dot ${name}`));
    }
    if (chosen.curves !== null) nodes.push(mark(place(curveAt(chosen, threshold)), 7, "ring"));
    return nodes;

    function mark([u, v], r, name) {
      return u === null || v === null ? element("g") : element("circle", { class: name, r, cx: px(u), cy: py(v) });
    }
  }

  return {
    label: roc ? "ROC curves" : "Precision-recall curves", by: "xy", points, shapes,
    hint: "Point at a curve to read it. Dots: operating points; ring: threshold; dashed: chance" +
      (roc ? " and 95 % recall." : "."),
    x: percentAxis(roc ? "False positive rate (%)" : "Recall (%)"),
    y: percentAxis(roc ? "Recall (%)" : "Precision (%)"),
  };
}

const reference = (px, py, x1, y1, x2, y2) =>
  element("line", { class: "reference", x1: px(x1), y1: py(y1), x2: px(x2), y2: py(y2) });

const LEAST_SHARE = 1e-5;

/** Spec of the score histograms of a result with the threshold as a line. */
function histogramSpec(result, threshold) {
  const { edges, normal, anomalous } = result.curves;
  const height = (share) => Math.log10(Math.max(share, LEAST_SHARE));
  const [low, high] = [edges[0], edges[edges.length - 1]];
  const span = (i) => `${formatScore(result, edges[i])} to ${formatScore(result, edges[i + 1])}`;
  const points = normal.map((share, i) => ({
    x: (edges[i] + edges[i + 1]) / 2, y: height(Math.max(share, anomalous[i])), chosen: true,
    text: `Score ${span(i)}: ${percent(share)} of the normal pixels, ${percent(anomalous[i])} of the anomalous`,
  }));

  function bars(px, py, shares, name) {
    const steps = shares.flatMap((share, i) => [edges[i], edges[i + 1]].map((x) => [px(x), py(height(share))]));
    const floor = py(Math.log10(LEAST_SHARE));
    return element("path", { class: name, d: `${toPath([[px(low), floor], ...steps, [px(high), floor]])}Z` });
  }

  return {
    label: "Histograms of the scores of normal and of anomalous pixels", by: "x", points,
    hint: "Blue: anomalous pixels. Orange: normal pixels. Line: threshold.",
    x: { text: result.logits ? "Score (even in logits)" : "Score", low, high, ticks: scoreTicks(result, low, high) },
    y: { text: "Share of pixels (%, logarithmic)", low: Math.log10(LEAST_SHARE), high: 0,
      ticks: [[0, "100"], [-1, "10"], [-2, "1"], [-3, "0.1"], [-4, "0.01"], [-5, "0"]] },
    shapes: (px, py) => [
      bars(px, py, normal, "bars normal"),
      bars(px, py, anomalous, "bars anomalous"),
      element("line", { class: "threshold-line", x1: px(threshold), x2: px(threshold), y1: py(-5), y2: py(0) }),
    ],
  };
}
