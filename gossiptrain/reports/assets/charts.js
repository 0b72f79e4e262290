// Curves over time: mean, band over the peers, the chosen peer's own, and marks where the graph was laid anew.

const LEFT = 54, RIGHT = 14, CHARTS_WITHOUT_SCROLLING = 4;
const charts = [];
const rewired = run.events.filter(event => event[1] === "rewired").map(event => event[0]);
const ended = run.peers.flatMap(peer => peer.lives).filter(life => life[3] === "crashed" || life[3] === "failed").map(life => life[2]);

function makeCharts() {
  const curves = run.curves;
  $("charts").classList.toggle("scrolls", curves.length > CHARTS_WITHOUT_SCROLLING);
  for (const curve of curves) {
    const card = element("div", { class: "card chart" }), head = element("div", { class: "head" }), value = element("span", { class: "value" });
    const canvas = element("canvas", { role: "img", "aria-label": label(curve.name) });
    head.append(element("h2", {}, label(curve.name) + (curve.low ? " · mean and 10–90 % of the peers" : "")), value);
    card.append(head, canvas);
    $("charts").append(card);
    const chart = { curve, canvas, value, ...range(curve) };
    scrubs(canvas, x => (x - LEFT) / (chart.width - LEFT - RIGHT) * END);
    charts.push(chart);
  }
}

/** From the smallest to the greatest value; outliers of the first tenth, as losses of fresh models, are kept in. */
function range(curve) {
  const values = [...curve.mean, ...(curve.low || []), ...(curve.high || [])].filter(value => value !== null && (!curve.log || value > 0));
  let low = Math.min(...values), high = Math.max(...values);
  if (curve.log && high / low > 3) {
    // A first value of next to nothing, before peers differed, would squeeze all others together.
    const usual = values.sort((a, b) => a - b)[Math.floor(values.length * 0.04)];
    return { log: true, low: Math.max(low, usual / 2), high: high * 1.1 };
  }
  if (curve.name === "spectral_gap") return { log: false, low: 0, high: Math.max(0.1, high * 1.08) };
  if (low > 0 && low < 0.4 * high) low = 0;
  const room = 0.06 * (high - low || Math.abs(high) || 1);
  return { log: false, low: low === 0 ? 0 : low - room, high: high + room };
}

function drawChart(chart) {
  const { context: c, width, height } = fit(chart.canvas), { curve } = chart, colours = view.colours;
  chart.width = width;
  const top = 8, bottom = height - 20, right = width - RIGHT, now = seconds(view.t);
  const x = time => LEFT + time / run.until_s * (right - LEFT);
  const scale = chart.log ? Math.log10 : value => value;
  const y = value => bottom - (scale(Math.max(value, chart.log ? chart.low : -Infinity)) - scale(chart.low)) / (scale(chart.high) - scale(chart.low)) * (bottom - top);
  drawAxes(c, chart, x, y, { top, bottom, right });
  const paint = alpha => {
    if (curve.low) band(c, curve, x, y, colours.accent, 0.2 * alpha);
    polyline(c, curve.time_s, curve.mean, x, y, colours.accent, 2, alpha, curve.steps);
    if (view.chosen >= 0 && curve.own) polyline(c, curve.own_time_s, curve.own[view.chosen] || [], x, y, colours.curve2, 1.8, alpha);
  };
  paint(0.3); // what is yet to come
  c.save();
  c.beginPath();
  c.rect(0, 0, x(now), height);
  c.clip();
  paint(1);
  c.restore();
  const value = valueAt(curve.time_s, curve.mean, now);
  stroke(c, new Path2D(`M${x(now)} ${top - 4}V${bottom}`), colours.ink, 1.2, 0.5);
  if (value !== null) { disc(c, x(now), y(value), 5, colours.card); disc(c, x(now), y(value), 3.6, colours.accent); }
  const own = view.chosen >= 0 && curve.own ? valueAt(curve.own_time_s, curve.own[view.chosen] || [], now) : null;
  chart.value.replaceChildren(number(value), ...(own !== null ? [element("small", { style: `color:${colours.curve2}` }, `${run.peers[view.chosen].name} ${number(own)}`)] : []));
}

function drawAxes(c, chart, x, y, { top, bottom, right }) {
  const colours = view.colours;
  c.font = "11px system-ui, sans-serif";
  c.fillStyle = colours.faint;
  c.textBaseline = "middle";
  c.textAlign = "right";
  for (const value of ticksOf(chart.low, chart.high, Math.max(2, Math.round((bottom - top) / 34)), chart.log)) {
    stroke(c, new Path2D(`M${LEFT} ${y(value)}H${right}`), colours.grid, 1, 1);
    c.fillText(number(value), LEFT - 7, y(value));
  }
  c.textBaseline = "top";
  c.textAlign = "center";
  const times = timesOf(run.until_s, Math.max(2, Math.round((right - LEFT) / 95)));
  times.forEach((time, place) => {
    const text = clock(time, run.until_s).replace(/\.0+ s/, " s");
    if (x(time) < right - 12 || place < times.length - 1) c.fillText(text, x(time), bottom + 6);
  });
  const marks = (ticks, colour, size) => {
    const path = new Path2D();
    for (const t of ticks) { path.moveTo(x(seconds(t)), bottom); path.lineTo(x(seconds(t)), bottom - size); }
    stroke(c, path, colour, 1.4, ticks.length > 80 ? 0.4 : 0.9);
  };
  marks(rewired, colours.curve2, 5);
  marks(ended, colours.down, 9);
}

function polyline(c, times, values, x, y, colour, width, alpha, steps) {
  const path = new Path2D();
  let open = false, last = 0;
  for (let i = 0; i < values.length; i++) {
    if (values[i] === null) { open = false; continue; }
    const px = x(times[i]), py = y(values[i]);
    if (!open) path.moveTo(px, py);
    else { if (steps) path.lineTo(px, last); path.lineTo(px, py); }
    open = true;
    last = py;
  }
  if (steps && open) path.lineTo(x(run.until_s), last);
  c.lineJoin = "round";
  stroke(c, path, colour, width, alpha);
}

function band(c, curve, x, y, colour, alpha) {
  const some = curve.time_s.map((_, i) => i).filter(i => curve.low[i] !== null && curve.high[i] !== null);
  if (!some.length) return;
  c.beginPath();
  some.forEach((i, k) => c[k ? "lineTo" : "moveTo"](x(curve.time_s[i]), y(curve.high[i])));
  some.reverse().forEach(i => c.lineTo(x(curve.time_s[i]), y(curve.low[i])));
  c.closePath();
  c.globalAlpha = alpha;
  c.fillStyle = colour;
  c.fill();
  c.globalAlpha = 1;
}
