"use strict";
// Shows the slices of one scan. Its geometry and findings are the JSON of #scan; each slice, and its labels if it has
// any, are compressed text in an element of their own, which is decoded when it is needed.

const scan = JSON.parse(document.getElementById("scan").textContent);
const [sliceCount, rows, cols] = scan.shape;
const [colMm, rowMm] = scan.spacing;
const KEPT_SLICES = 64; // decoded, a megabyte each
const AHEAD = 4; // slices that are decoded before they are asked for
const NOTCH = 40; // pixels of scrolling for a slice: a wheel's notch has more, a touchpad sends fewer at a time
const MAX_ZOOM = 16;
const find = (id) => document.getElementById(id);
const [canvas, slider, status, place] = ["picture", "slice", "status", "place"].map(find);
const [windowButtons, findingButtons] = ["windows", "findings"].map((id) => [...find(id).querySelectorAll("button")]);
const context = canvas.getContext("2d");
const image = new OffscreenCanvas(cols, rows); // the slice in its own pixels
const imageData = new ImageData(cols, rows);
const MIDDLE = [rows / 2, cols / 2];

const state = {
  slice: scan.first,
  drawn: null, // the decoded slice in the picture
  window: windowButtons[0].value,
  mask: true,
  finding: null,
  zoom: 1,
  center: MIDDLE, // row and col in the middle of the picture
  pointed: null, // row and col whose position and HU are shown
  cross: false, // whether these are marked, since keys chose them
  scrolled: 0, // pixels that were not yet enough for a slice
};

async function inflate(text) {
  const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

// Reverses `encode_slice` of viewer.py: each value is predicted from those above and to the left, plus a residual.
function restore(bytes) {
  const count = rows * cols;
  const values = new Int32Array(count);
  for (let row = 0, at = 0; row < rows; row++) {
    for (let col = 0; col < cols; col++, at++) {
      const left = col ? values[at - 1] : row ? values[at - cols] : 0;
      const up = row ? values[at - cols] : left;
      const corner = row && col ? values[at - cols - 1] : up;
      const [low, high] = left < up ? [left, up] : [up, left];
      const folded = bytes[at] | (bytes[at + count] << 8);
      values[at] = Math.min(Math.max(left + up - corner, low), high) + ((folded >>> 1) ^ -(folded & 1));
    }
  }
  return values;
}

// Finding's number -> its outline in a slice, along the edges of pixels.
function outline(labels) {
  const paths = new Map();
  const at = (row, col) => (row < 0 || col < 0 || row >= rows || col >= cols ? 0 : labels[row * cols + col]);
  labels.forEach((label, ndx) => {
    if (!label) return;
    const [row, col] = [Math.floor(ndx / cols), ndx % cols];
    if (!paths.has(label)) paths.set(label, new Path2D());
    const path = paths.get(label);
    if (at(row - 1, col) !== label) path.rect(col, row, 1, 0); // a flat rectangle is a line
    if (at(row + 1, col) !== label) path.rect(col, row + 1, 1, 0);
    if (at(row, col - 1) !== label) path.rect(col, row, 0, 1);
    if (at(row, col + 1) !== label) path.rect(col + 1, row, 0, 1);
  });
  return paths;
}

const decoded = new Map(); // slice -> promise; the one that was used last is at the end

async function decode(ndx) {
  const [values, labels] = await Promise.all(["hu", "labels"].map(async (kind) => {
    const element = find(`${kind}-${ndx}`);
    return element && restore(await inflate(element.textContent));
  }));
  return { ndx, values, outlines: labels ? outline(labels) : new Map() };
}

function load(ndx) {
  const loading = decoded.get(ndx) ?? decode(ndx);
  decoded.delete(ndx);
  decoded.set(ndx, loading);
  if (decoded.size > KEPT_SLICES) decoded.delete(decoded.keys().next().value);
  return loading;
}

// The picture

// Where row and col 0 lie in the picture, and how large a pixel of the slice is, both in pixels of the screen.
function layout() {
  const fit = Math.min(canvas.width / (cols * colMm), canvas.height / (rows * rowMm));
  const [height, width] = [rowMm, colMm].map((mm) => mm * fit * state.zoom);
  const [row, col] = state.center;
  return { height, width, top: canvas.height / 2 - row * height, left: canvas.width / 2 - col * width };
}

function draw() {
  if (!state.drawn) return;
  const [black, white] = scan.windows[state.window];
  const grays = Uint8ClampedArray.from({ length: scan.levels }, (_, level) =>
    ((scan.low + level * scan.step - black) * 255) / (white - black));
  const pixels = new Uint32Array(imageData.data.buffer);
  state.drawn.values.forEach((level, at) => (pixels[at] = 0xff000000 | (grays[level] * 0x010101)));
  image.getContext("2d").putImageData(imageData, 0, 0);

  canvas.width = Math.max(1, Math.round(canvas.clientWidth * devicePixelRatio)); // also clears it
  canvas.height = Math.max(1, Math.round(canvas.clientHeight * devicePixelRatio));
  const { top, left, height, width } = layout();
  context.setTransform(width, 0, 0, height, left, top);
  context.drawImage(image, 0, 0);
  context.strokeStyle = scan.color;
  context.lineWidth = (2 * devicePixelRatio) / width;
  if (state.mask) state.drawn.outlines.forEach((path) => context.stroke(path));
  context.resetTransform();
  drawNotes((row, col) => [left + (col + 0.5) * width, top + (row + 0.5) * height], width / colMm);
  canvas.dataset.slice = state.drawn.ndx;
  canvas.ariaLabel = `Axial slice ${state.drawn.ndx}, ${state.window} window, mask ${state.mask ? "on" : "off"}`;
}

function write(text, x, y, color = "white") {
  const font = `${14 * devicePixelRatio}px system-ui, sans-serif`;
  Object.assign(context, { font, textAlign: "center", textBaseline: "middle", lineJoin: "round" });
  Object.assign(context, { strokeStyle: "black", fillStyle: color, lineWidth: 3 * devicePixelRatio });
  context.strokeText(text, x, y);
  context.fillText(text, x, y);
}

// The patient's sides, a scale, the findings' numbers, the chosen one's ring, and the cross.
function drawNotes(toScreen, pixelsPerMm) {
  const unit = devicePixelRatio;
  const { width, height } = canvas;
  write("R", 12 * unit, height / 2);
  write("L", width - 12 * unit, height / 2);
  write("A", width / 2, 12 * unit);
  write("P", width / 2, height - 12 * unit);

  const scaleMm = [100, 50, 20, 10, 5, 2, 1].find((mm) => mm * pixelsPerMm <= width / 4) ?? 1;
  context.fillRect(24 * unit, height - 20 * unit, scaleMm * pixelsPerMm, 3 * unit);
  write(`${scaleMm} mm`, 50 * unit, height - 34 * unit);

  for (const finding of scan.findings) {
    if (!state.mask || !state.drawn.outlines.has(finding.number)) continue;
    const [x, y] = toScreen(...finding.center);
    const radius = Math.max(16 * unit, 0.8 * finding.long_mm * pixelsPerMm);
    write(finding.number, x + 0.71 * radius + 9 * unit, y - 0.71 * radius - 9 * unit, scan.color);
    if (finding !== state.finding) continue;
    Object.assign(context, { strokeStyle: scan.color, lineWidth: 2 * unit });
    context.beginPath();
    context.arc(x, y, radius, 0, 2 * Math.PI);
    context.stroke();
  }
  if (state.cross) write("+", ...toScreen(...state.pointed));
}

// What is shown

async function show(ndx) {
  state.slice = Math.min(Math.max(ndx, 0), sliceCount - 1);
  slider.value = state.slice;
  slider.ariaValueText = status.textContent = describeSlice();
  try {
    const slice = await load(state.slice);
    if (slice.ndx !== state.slice) return; // another one was asked for meanwhile
    state.drawn = slice;
    draw();
    describePlace();
  } catch (error) {
    status.textContent = `Slice ${ndx} cannot be shown (${error.message}): an old browser, or a damaged file?`;
  }
  for (let next = state.slice - AHEAD; next <= state.slice + AHEAD; next++) {
    if (next >= 0 && next < sliceCount) load(next).catch(() => {}); // reported if it is shown
  }
}

function describeSlice() {
  const here = scan.findings.filter(({ slices }) => slices[0] <= state.slice && state.slice <= slices[1]);
  const names = here.length ? `, finding ${here.map(({ number }) => number).join(", ")}` : "";
  const z = toXyz(state.slice, (rows - 1) / 2, (cols - 1) / 2)[2];
  return `Slice ${state.slice} (0 to ${sliceCount - 1}, from the feet), z ${z} mm${names}`;
}

// Millimeters, LPS.
function toXyz(slice, row, col) {
  return scan.origin.map((start, axis) => {
    const [byCol, byRow, bySlice] = scan.steps[axis];
    return (start + col * byCol + row * byRow + slice * bySlice).toFixed(1);
  });
}

function describePlace() {
  if (!state.pointed || !state.drawn) return; // the hint stays
  const [row, col] = state.pointed;
  place.textContent = "";
  if (row < 0 || col < 0 || row >= rows || col >= cols) return;
  const [x, y, z] = toXyz(state.drawn.ndx, row, col);
  const hu = scan.low + state.drawn.values[row * cols + col] * scan.step;
  place.textContent = `x ${x}, y ${y}, z ${z} mm (LPS); row ${row}, column ${col}: ${hu} HU`;
}

function choose(finding) {
  state.finding = finding;
  if (state.zoom > 1) state.center = finding.center.map((at) => at + 0.5);
  findingButtons.forEach((button, ndx) => (button.ariaCurrent = scan.findings[ndx] === finding));
  show(finding.slice);
}

function chooseNext(count) {
  const [now, all] = [scan.findings.indexOf(state.finding), scan.findings.length];
  if (all) choose(scan.findings[now < 0 ? 0 : (now + count + all) % all]);
}

function setWindow(name) {
  state.window = name;
  windowButtons.forEach((button) => (button.ariaPressed = button.value === name));
  draw();
}

function toggleMask() {
  find("mask").ariaPressed = state.mask = !state.mask;
  draw();
}

function setZoom(zoom) {
  const isFirst = state.zoom === 1;
  state.zoom = Math.min(Math.max(zoom, 1), MAX_ZOOM);
  if (state.zoom === 1) state.center = MIDDLE;
  else if (isFirst && state.finding) state.center = state.finding.center.map((at) => at + 0.5);
  draw();
}

function moveCross(down, right) {
  const [row, col] = state.cross ? state.pointed : (state.finding?.center ?? MIDDLE).map(Math.floor);
  state.pointed = [Math.min(Math.max(row + down, 0), rows - 1), Math.min(Math.max(col + right, 0), cols - 1)];
  state.cross = true;
  place.ariaLive = "polite";
  draw();
  describePlace();
}

// Keys and mouse

const by = (count) => () => show(state.slice + count);
const KEYS = {
  ArrowUp: by(1), ArrowRight: by(1), ArrowDown: by(-1), ArrowLeft: by(-1),
  PageUp: by(10), PageDown: by(-10), Home: () => show(0), End: () => show(sliceCount - 1),
  m: toggleMask, n: () => chooseNext(1), p: () => chooseNext(-1),
  "+": () => setZoom(state.zoom * 1.5), "-": () => setZoom(state.zoom / 1.5), 0: () => setZoom(1),
};
KEYS["="] = KEYS["+"]; // without Shift
windowButtons.forEach(({ value }, ndx) => (KEYS[ndx + 1] = () => setWindow(value)));
const CROSS_KEYS = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] };

addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.altKey || event.metaKey) return;
  const key = event.key.length === 1 ? event.key.toLowerCase() : event.key;
  if (event.shiftKey && key in CROSS_KEYS) moveCross(...CROSS_KEYS[key]);
  else if (Object.hasOwn(KEYS, key)) KEYS[key]();
  else return;
  event.preventDefault(); // neither the page nor the slider moves as well
});

canvas.addEventListener("wheel", (event) => {
  if (event.ctrlKey) return; // the browser's own zoom
  event.preventDefault();
  state.scrolled += event.deltaY * [1, NOTCH, 10 * NOTCH][event.deltaMode];
  if (Math.abs(state.scrolled) < NOTCH) return;
  show(state.slice - Math.sign(state.scrolled));
  state.scrolled = 0;
}, { passive: false });

canvas.addEventListener("pointermove", (event) => {
  const { top, left, height, width } = layout();
  if (event.buttons && state.zoom > 1) {
    const moved = [event.movementY / height, event.movementX / width];
    state.center = state.center.map((at, axis) => at - moved[axis] * devicePixelRatio);
  }
  const [x, y] = [event.offsetX, event.offsetY].map((at) => at * devicePixelRatio);
  state.pointed = [Math.floor((y - top) / height), Math.floor((x - left) / width)];
  place.ariaLive = "off"; // while the mouse moves
  describePlace();
  if (state.cross || event.buttons) {
    state.cross = false;
    draw();
  }
});

slider.addEventListener("input", () => show(Number(slider.value)));
find("mask").addEventListener("click", toggleMask);
find("closer").addEventListener("click", KEYS["+"]);
find("farther").addEventListener("click", KEYS["-"]);
windowButtons.forEach((button, ndx) => button.addEventListener("click", KEYS[ndx + 1]));
findingButtons.forEach((button, ndx) => button.addEventListener("click", () => choose(scan.findings[ndx])));
setWindow(state.window);
new ResizeObserver(draw).observe(canvas);
if (scan.findings.length) chooseNext(1);
else show(state.slice);
