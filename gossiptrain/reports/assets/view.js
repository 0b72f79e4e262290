// Shared by everything that draws: the run, the time, what is chosen, colours, sizes.

const run = JSON.parse(document.getElementById("run").textContent);
const END = Math.round(run.until_s / run.tick_s);
const $ = id => document.getElementById(id);
const view = { t: 0, playing: false, speed: 1, chosen: -1, hovered: -1, dirty: true, colours: {} };
const STATES = ["mixing", "joining", "suspected", "down", "gone"];
const WORDS = { mixing: "mixing", joining: "joining", suspected: "suspected", down: "crashed", gone: "left or finished", absent: "not yet there" };
const KINDS = { fault: "down", crashed: "down", end: "gone", dead: "down", start: "joining", joined: "new", suspected: "suspected", recovered: "new",
  rewired: "curve2", refused: "suspected", failed: "down" };
const LABELS = { consensus_distance: "Consensus distance", spectral_gap: "Spectral gap of the graph", steps_per_s: "Steps per second" };
const label = name => LABELS[name] || (name[0].toUpperCase() + name.slice(1)).replaceAll("_", " ");
const seconds = t => t * run.tick_s;

function readColours() {
  const style = getComputedStyle(document.documentElement);
  for (const name of ["bg", "card", "ink", "soft", "faint", "line", "grid", "mixing", "joining", "suspected", "down", "gone", "new", "edge", "accent", "curve2"])
    view.colours[name] = style.getPropertyValue("--" + name).trim();
}

/** Fits a canvas to its box and the screen's pixels; returns its context and size in CSS pixels. */
function fit(canvas, height) {
  const ratio = window.devicePixelRatio || 1, box = canvas.getBoundingClientRect();
  const width = Math.max(1, box.width), tall = Math.max(1, height || box.height);
  if (canvas.width !== Math.round(width * ratio) || canvas.height !== Math.round(tall * ratio)) {
    canvas.width = Math.round(width * ratio);
    canvas.height = Math.round(tall * ratio);
  }
  const context = canvas.getContext("2d");
  context.setTransform(ratio, 0, 0, ratio, 0, 0);
  context.clearRect(0, 0, width, tall);
  return { context, width, height: tall };
}

function element(name, attributes = {}, text = "") {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  if (text) made.textContent = text;
  return made;
}

function goTo(t) {
  view.t = Math.min(END, Math.max(0, t));
  view.dirty = true;
}

function choose(place) {
  view.chosen = view.chosen === place ? -1 : place;
  view.dirty = true;
  drawGantt();
}

/** Dragging on something whose horizontal axis is time moves the time. */
function scrubs(canvas, toTicks) {
  const move = event => goTo(toTicks(event.offsetX));
  canvas.addEventListener("pointerdown", event => {
    if (event.button) return;
    canvas.setPointerCapture(event.pointerId);
    move(event);
    canvas.onpointermove = move;
  });
  const stop = () => { canvas.onpointermove = null; };
  canvas.addEventListener("pointerup", stop);
  canvas.addEventListener("pointercancel", stop);
}
