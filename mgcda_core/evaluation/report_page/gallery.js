// The gallery: cards that decode and draw themselves when they come into view, and the enlarged picture.

/** RGBA bytes of an image blob: {rgba, width, height}. */
async function decodeBlob(id) {
  const image = new Image();
  image.src = document.getElementById(`blob-${id}`).textContent;
  await image.decode();
  const canvas = element("canvas", { width: image.naturalWidth, height: image.naturalHeight });
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.drawImage(image, 0, 0);
  return context.getImageData(0, 0, canvas.width, canvas.height).data;
}

/** First channel of a grey image blob; null for none. */
async function decodeGrey(id) {
  if (id === null) return null;
  const rgba = await decodeBlob(id);
  return rgba.filter((_, i) => i % 4 === 0);
}

/** What `paint` needs of a picture, and its pixel counts by level. */
async function decodePicture(picture) {
  const [rgba, levels, labels] = await Promise.all([
    decodeBlob(picture.image), decodeGrey(picture.levels), decodeGrey(picture.label),
  ]);
  const { width, height } = picture;
  const rings = labels === null ? null : truthRings(labels, width);
  return { rgba, levels, labels, rings, width, height, counts: countLevels(levels, labels) };
}

function paintCanvas(canvas, pixels, table, index, layers) {
  if (canvas.width !== pixels.width) canvas.width = pixels.width;
  if (canvas.height !== pixels.height) canvas.height = pixels.height;
  const context = canvas.getContext("2d");
  const drawing = context.createImageData(pixels.width, pixels.height);
  paint(drawing.data, pixels, table, index, layers);
  context.putImageData(drawing, 0, 0);
}

const PANELS = [
  { name: "Input", layers: { base: "image", mask: false, truth: true, ignored: true } },
  { name: "Score", layers: { base: "score", mask: false, truth: true, ignored: true } },
  { name: "Mask", layers: { base: "image", mask: true, truth: true, ignored: true } },
];

/** What is written under a picture: its figures at full size and at the operating point. */
function pictureFigures(picture) {
  const { row } = picture;
  if (picture.label === null) return "";
  const parts = [row.ap === null ? "AP – (only one kind of pixel)" : `AP ${percent(row.ap)}`];
  if (row.objects > 0) {
    const missed = `${row.missed_objects} of ${row.objects} object${row.objects > 1 ? "s" : ""} missed`;
    const largest = `, the largest ${row.largest_missed_pixels.toLocaleString("en")} pixels`;
    parts.push(missed + (row.missed_objects > 0 ? largest : ""));
  }
  parts.push(`false alarms on ${percent(falseAlarmShare(row))} of the pixels`);
  return parts.join(" · ");
}

/** One card; draw(index) shows slider position `index`, release() gives its memory back. */
function createCard(picture, table, enlarge) {
  const canvases = PANELS.map(({ name }) => element("canvas", { width: 1, height: 1, "data-panel": name }));
  const panels = PANELS.map(({ name, layers }, i) => element("button", {
    type: "button", class: `panel panel-${name.toLowerCase()}`, "aria-label": `Enlarge ${picture.name}, ${name}`,
    onclick: () => enlarge(picture, layers),
  }, canvases[i], element("span", { class: "caption", text: name })));
  for (const canvas of canvases) canvas.style.aspectRatio = `${picture.width} / ${picture.height}`;
  const masked = element("span", { class: "masked" });
  const figures = pictureFigures(picture);
  const node = element("li", { class: "card" },
    element("h3", { text: picture.name }),
    picture.note ? element("p", { class: "note", text: picture.note }) : "",
    element("div", { class: "panels" }, ...panels),
    element("p", { class: "figures", text: figures }, figures ? " · " : "", masked));
  let decoding = null;
  let drawn = null;

  async function draw(index) {
    const mine = (decoding ??= decodePicture(picture));
    const pixels = await mine;
    if (decoding !== mine || drawn === index) return;
    PANELS.forEach(({ layers }, i) => {
      if (drawn === null || layers.mask) paintCanvas(canvases[i], pixels, table, index, layers);
    });
    drawn = index;
    const mask = maskCounts(pixels.counts, index);
    masked.textContent = `mask ${percent(mask.share)} of this picture`;
    node.dataset.index = index;
    node.dataset.maskPixels = mask.pixels;
  }

  function release() {
    decoding = drawn = null;
    for (const canvas of canvases) canvas.width = canvas.height = 1;
  }

  return { node, picture, draw, release };
}

/** The gallery in `list`: show(result, table, order) builds it, draw(index) follows the slider. */
function createGallery(list, enlarge) {
  let cards = [];
  let position = 0;
  const inView = new Set();
  const observer = new IntersectionObserver((entries) => {
    for (const entry of entries) {
      const card = cards.find(({ node }) => node === entry.target);
      if (card === undefined) continue;
      if (entry.isIntersecting) {
        inView.add(card);
        card.draw(position);
      } else if (inView.delete(card)) card.release();
    }
  }, { rootMargin: "300px 0px" });

  function sort(order) {
    const rank = new Map(sortedPictures(cards.map(({ picture }) => picture), order).map((picture, i) => [picture, i]));
    list.append(...[...cards].sort((a, b) => rank.get(a.picture) - rank.get(b.picture)).map(({ node }) => node));
  }

  function show(result, table, order) {
    observer.disconnect();
    inView.clear();
    cards = result.pictures.map((picture) => createCard(picture, table, enlarge));
    list.replaceChildren();
    sort(order);
    for (const { node } of cards) observer.observe(node);
  }

  function draw(index) {
    position = index;
    for (const card of inView) card.draw(index);
  }

  return { show, sort, draw };
}

/** The dialog with one large picture: open(picture, layers), draw(index), use(result, table). */
function createViewer(dialog, neighbour) {
  const part = (name) => dialog.querySelector(`[data-part="${name}"]`);
  const canvas = part("canvas");
  const layers = { base: "image", mask: true, truth: true, ignored: true };
  let [result, table, picture, pixels, position] = [null, null, null, null, 0];

  function redraw() {
    if (pixels !== null) paintCanvas(canvas, pixels, table, position, layers);
  }

  async function open(next, wanted) {
    picture = next;
    if (wanted) Object.assign(layers, wanted);
    part("name").textContent = picture.name;
    part("note").textContent = picture.note;
    part("figures").textContent = pictureFigures(picture);
    part("readout").textContent = "Point at the picture to read its score.";
    part(layers.base).checked = true;
    for (const name of ["mask", "truth", "ignored"]) part(name).checked = layers[name];
    for (const name of ["truth", "ignored"]) part(name).parentElement.hidden = picture.label === null;
    if (!dialog.open) dialog.showModal();
    pixels = null;
    const decoded = await decodePicture(next);
    if (picture !== next) return;
    pixels = decoded;
    canvas.style.setProperty("--ratio", picture.width / picture.height);
    redraw();
  }

  function read(event) {
    if (pixels === null) return;
    const box = canvas.getBoundingClientRect();
    const cell = (share, cells) => Math.min(Math.max(Math.floor(share * cells), 0), cells - 1);
    const x = cell((event.clientX - box.left) / box.width, pixels.width);
    const y = cell((event.clientY - box.top) / box.height, pixels.height);
    const i = y * pixels.width + x;
    const label = pixels.labels === null ? "" : `, ${["normal", "anomalous"][pixels.labels[i]] ?? "ignored"}`;
    part("readout").textContent = `x ${x}, y ${y}: score ${levelText(result, pixels.levels[i])}${label}`;
  }

  const move = (step) => open(neighbour(picture, step));
  canvas.addEventListener("pointermove", read);
  canvas.addEventListener("pointerdown", read);
  part("close").addEventListener("click", () => dialog.close());
  part("previous").addEventListener("click", () => move(-1));
  part("next").addEventListener("click", () => move(1));
  dialog.addEventListener("close", () => (picture = pixels = null));
  dialog.addEventListener("click", (event) => event.target === dialog && dialog.close());
  dialog.addEventListener("keydown", (event) => {
    const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (step && event.target.tagName !== "INPUT") move(step);
  });
  for (const base of ["image", "score"]) part(base).addEventListener("change", () => { layers.base = base; redraw(); });
  for (const name of ["mask", "truth", "ignored"]) {
    part(name).addEventListener("change", (event) => { layers[name] = event.target.checked; redraw(); });
  }
  return {
    open,
    use: (next, colours) => ([result, table] = [next, colours]),
    draw: (index) => { position = index; if (dialog.open) redraw(); },
  };
}

/** The scores a level stands for. */
function levelText(result, level) {
  const at = (i) => formatScore(result, result.edges[i]);
  if (level === 0) return `below ${at(0)}`;
  return level === 255 ? `${at(254)} or more` : `${at(level - 1)} to ${at(level)}`;
}
