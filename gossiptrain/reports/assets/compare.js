// Runs over each other: a table, and a chart for each measure.

const data = JSON.parse(document.getElementById("data").textContent);
const $ = id => document.getElementById(id);
const COLOURS = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9"];
const DASHES = [[], [7, 4], [2, 3]]; // runs beyond the sixth have the colours again, dashed
const UNITS = { time: "seconds", step: "local steps", bytes: "MB sent by all peers" };
const LEFT = 58, RIGHT = 16;
const charts = [];
let pointer = null;

const colour = run => COLOURS[run % COLOURS.length];
const words = name => (name[0].toUpperCase() + name.slice(1)).replaceAll("_", " ");
const css = name => getComputedStyle(document.documentElement).getPropertyValue("--" + name).trim();

function make(name, attributes = {}, text = "") {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.textContent = text;
  return made;
}

function begin() {
  const head = make("tr");
  head.append(make("th"));
  data.labels.forEach((text, run) => {
    const name = make("span");
    name.append(make("i", { class: "dot", style: `--c:${colour(run)}` }), text);
    $("names").append(name);
    head.append(make("th", {}, text));
  });
  $("heads").append(head);
  for (const [name, ...values] of data.table) {
    const row = make("tr");
    row.append(make("td", {}, name), ...values.map(value => make("td", {}, typeof value === "string" ? value : number(value, 4))));
    $("rows").append(row);
  }
  for (const curve of data.curves) {
    const card = make("div", { class: "card chart" }), top = make("div", { class: "head" }), value = make("span", { class: "value" });
    const canvas = make("canvas", { role: "img", "aria-label": words(curve.name) });
    top.append(make("h2", {}, words(curve.name)), value);
    card.append(top, canvas);
    $("charts").append(card);
    const chart = { curve, canvas, value };
    canvas.addEventListener("pointermove", event => { pointer = (event.offsetX - LEFT) / (canvas.clientWidth - LEFT - RIGHT); drawAll(); });
    canvas.addEventListener("pointerleave", () => { pointer = null; drawAll(); });
    charts.push(chart);
  }
  $("axis").addEventListener("change", drawAll);
  $("theme").addEventListener("click", () => theme(document.documentElement.dataset.theme === "dark" ? "light" : "dark"));
  theme(new URLSearchParams(location.hash.slice(1)).get("theme") || (window.matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light"));
  new ResizeObserver(drawAll).observe(document.body);
}

function theme(name) {
  document.documentElement.dataset.theme = name;
  drawAll();
}

function drawAll() { charts.forEach(draw); }

function draw({ curve, canvas, value }) {
  const axis = $("axis").value, ratio = window.devicePixelRatio || 1, box = canvas.getBoundingClientRect();
  canvas.width = box.width * ratio;
  canvas.height = box.height * ratio;
  const c = canvas.getContext("2d"), top = 10, bottom = box.height - 36, right = box.width - RIGHT;
  c.scale(ratio, ratio);
  const xs = curve.runs.flatMap(run => run[axis]).filter(x => x !== null);
  const values = curve.runs.flatMap(run => [...run.mean, ...(run.low || []), ...(run.high || [])]).filter(y => y !== null && (!curve.log || y > 0)).sort((a, b) => a - b);
  if (!xs.length || !values.length) { value.textContent = "not known"; return; }
  const usual = values[Math.floor(0.04 * values.length)], logarithmic = curve.log && values.at(-1) / usual > 3;
  const low = logarithmic ? Math.max(values[0], usual / 2) : values[0] > 0 && values[0] < 0.4 * values.at(-1) ? 0 : values[0];
  const high = values.at(-1) + 0.05 * (values.at(-1) - low || 1), most = Math.max(...xs);
  const scale = logarithmic ? Math.log10 : y => y;
  const x = at => LEFT + at / (most || 1) * (right - LEFT);
  const y = v => bottom - (scale(Math.max(v, low)) - scale(low)) / (scale(high) - scale(low)) * (bottom - top);
  c.font = "11px system-ui, sans-serif";
  c.strokeStyle = css("grid");
  c.fillStyle = css("faint");
  c.textAlign = "right";
  c.textBaseline = "middle";
  for (const tick of ticksOf(low, high, 5, logarithmic)) {
    c.beginPath(); c.moveTo(LEFT, y(tick)); c.lineTo(right, y(tick)); c.stroke();
    c.fillText(number(tick), LEFT - 8, y(tick));
  }
  c.textAlign = "center";
  c.textBaseline = "top";
  for (const tick of ticksOf(0, most, 6)) c.fillText(number(tick), x(tick), bottom + 6);
  c.fillText(UNITS[axis], (LEFT + right) / 2, bottom + 20);
  for (const run of curve.runs) paint(c, run, axis, x, y);
  tell({ c, curve, value, axis, x, y, most, top, bottom });
}

function paint(c, run, axis, x, y) {
  const at = run[axis], some = at.map((_, i) => i).filter(i => at[i] !== null && run.mean[i] !== null);
  c.fillStyle = c.strokeStyle = colour(run.run);
  if (run.low) {
    const inside = some.filter(i => run.low[i] !== null);
    c.beginPath();
    inside.forEach(i => c.lineTo(x(at[i]), y(run.high[i])));
    inside.reverse().forEach(i => c.lineTo(x(at[i]), y(run.low[i])));
    c.globalAlpha = 0.14;
    c.fill();
    c.globalAlpha = 1;
  }
  c.beginPath();
  some.forEach(i => c.lineTo(x(at[i]), y(run.mean[i])));
  c.lineWidth = 2;
  c.lineJoin = "round";
  c.setLineDash(DASHES[Math.floor(run.run / COLOURS.length) % DASHES.length]);
  c.stroke();
  c.setLineDash([]);
  c.lineWidth = 1;
}

/** The values under the pointer. */
function tell({ c, curve, value, axis, x, y, most, top, bottom }) {
  value.replaceChildren();
  if (pointer === null || pointer < 0 || pointer > 1) return;
  c.strokeStyle = css("soft");
  c.beginPath(); c.moveTo(x(pointer * most), top); c.lineTo(x(pointer * most), bottom); c.stroke();
  value.append(make("small", {}, `${number(pointer * most)} ${UNITS[axis].split(" ")[0]}`));
  for (const run of curve.runs) {
    const known = run[axis].map((at, i) => [at, run.mean[i]]).filter(([at, v]) => at !== null && v !== null);
    const place = lastAt(known.map(pair => pair[0]), pointer * most);
    if (place < 0) continue;
    value.append(make("small", { style: `color:${colour(run.run)}` }, number(known[place][1])));
    c.fillStyle = colour(run.run);
    c.beginPath(); c.arc(x(pointer * most), y(known[place][1]), 3.5, 0, 7); c.fill();
  }
}

begin();
