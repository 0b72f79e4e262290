// Time: the bar below, the keyboard, and one frame of everything.

const track = { canvas: $("track") };
const SPEEDS = [0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10000];
const ICONS = { play: "M4 2.5v13l11-6.5z", pause: "M4 3h3.6v12H4zM10.4 3H14v12h-3.6z" };

function drawTrack() {
  const { context: c, width, height } = fit(track.canvas), colours = view.colours, pad = 8, middle = height * 0.62;
  const x = t => pad + t / END * (width - 2 * pad);
  c.fillStyle = colours.line;
  c.beginPath();
  c.roundRect(pad, middle - 3, width - 2 * pad, 6, 3);
  c.fill();
  for (const [from, until, , ] of run.faults) {
    if (until <= from) continue;
    c.globalAlpha = 0.28;
    c.fillStyle = colours.down;
    c.fillRect(x(from), middle - 3, Math.max(2, x(until) - x(from)), 6);
    c.globalAlpha = 1;
  }
  c.fillStyle = colours.accent;
  c.beginPath();
  c.roundRect(pad, middle - 3, x(view.t) - pad, 6, 3);
  c.fill();
  for (const [kind, rank] of [["rewired", 0], ["suspected", 1], ["start", 1], ["joined", 1], ["dead", 2], ["fault", 2], ["crashed", 2], ["end", 2]]) {
    const path = new Path2D();
    for (const [t, what] of run.events) if (what === kind && t > 0) { path.moveTo(x(t), middle - 6); path.lineTo(x(t), middle - 9 - 3 * rank); }
    stroke(c, path, colours[KINDS[kind]], 1.6, run.events.length > 300 ? 0.5 : 0.95);
  }
  disc(c, x(view.t), middle, 8.5, colours.card);
  disc(c, x(view.t), middle, 6.5, colours.accent);
}

function drawCounts() {
  const counts = countsAt(run, view.t);
  const items = STATES.map(state => {
    const item = element("span", counts[state] ? {} : { class: "nobody" });
    item.append(element("i", { class: `dot${state === "joining" || state === "down" || state === "gone" ? " hollow" : ""}`, style: `--c:var(--${state})` }),
      element("b", {}, String(counts[state])), WORDS[state]);
    return item;
  });
  $("counts").replaceChildren(...items);
}

function draw() {
  drawGraph();
  charts.forEach(drawChart);
  drawTrack();
  drawCounts();
  drawLog();
  drawTable(false);
  moveNow();
  showHint();
  $("time").textContent = clock(seconds(view.t), run.until_s);
  $("slider").value = Math.round(1000 * view.t / END);
  $("slider").setAttribute("aria-valuetext", clock(seconds(view.t), run.until_s));
}

let last = 0;
function frame(now) {
  const passed = Math.min(0.1, (now - last) / 1000);
  last = now;
  if (view.playing) {
    goTo(view.t + passed * view.speed / run.tick_s);
    if (view.t >= END) play(false);
  }
  if (view.dirty) {
    view.dirty = false;
    draw();
    if (!view.playing) drawTable(true);
  }
  requestAnimationFrame(frame);
}

function play(on) {
  view.playing = on;
  if (on && view.t >= END) view.t = 0;
  $("play").innerHTML = `<svg viewBox="0 0 18 18"><path d="${ICONS[on ? "pause" : "play"]}"/></svg>`;
  view.dirty = true;
}

function setSpeed(place) {
  const chosen = Math.min(SPEEDS.length - 1, Math.max(0, place));
  view.speed = SPEEDS[chosen];
  $("speed").value = String(chosen);
}

function jump(direction) {
  const times = [...new Set(run.events.map(event => event[0]))];
  const next = direction > 0 ? times.find(t => t > view.t + 1) ?? END : times.reverse().find(t => t < view.t - 1) ?? 0;
  goTo(next + (next < END ? 0.5 : 0));
}

function onKey(event) {
  if (event.ctrlKey || event.metaKey || event.altKey || event.target.id === "filter") return;
  const acts = {
    " ": () => play(!view.playing),
    ArrowLeft: () => event.shiftKey ? jump(-1) : goTo(view.t - END / 100),
    ArrowRight: () => event.shiftKey ? jump(1) : goTo(view.t + END / 100),
    Home: () => goTo(0), End: () => goTo(END),
    "+": () => setSpeed(+$("speed").value + 1), "=": () => setSpeed(+$("speed").value + 1), "-": () => setSpeed(+$("speed").value - 1),
    d: () => setTheme(document.documentElement.dataset.theme === "dark" ? "light" : "dark"),
    Escape: () => { if (view.chosen >= 0) choose(-1); },
  };
  if (!acts[event.key]) return;
  event.preventDefault();
  acts[event.key]();
}

function setTheme(name) {
  document.documentElement.dataset.theme = name;
  readColours();
  drawGantt();
  view.dirty = true;
}

function begin() {
  document.title = `${run.title} · gossiptrain`;
  $("title").textContent = run.title;
  const n = run.peers.length, length = clock(run.until_s, run.until_s), facts = run.settings.filter(([name]) => name !== "trace");
  $("facts").textContent = [`${n.toLocaleString("en")} peer${n === 1 ? "" : "s"}`, `${length} ${run.origin === "simulated" ? "of virtual time" : ""}`.trim(),
    ...facts.map(([name, value]) => ["topology", "mixer", "workload"].includes(name) ? value : `${name.replaceAll("_", " ")} ${value}`)].join("  ·  ");
  for (const [name, value] of run.settings) $("settings").append(element("dt", {}, name.replaceAll("_", " ")), element("dd", {}, value));
  $("environment").textContent = Object.keys(run.environment).length ? JSON.stringify(run.environment, null, 2) : "";
  $("origin").textContent = run.origin + (run.going ? ", going on" : "");
  $("origin").classList.toggle("real", run.origin === "real");
  $("remarks").textContent = run.remarks.join(" ");
  $("remarks").hidden = !run.remarks.length;
  $("until").textContent = `of ${length}${run.origin === "simulated" ? " virtual" : ""}`;
  SPEEDS.forEach((speed, place) => $("speed").append(element("option", { value: place }, `${speed.toLocaleString("en")}×`)));
  const wish = run.until_s / 40; // the whole run in about 40 seconds
  setSpeed(SPEEDS.findIndex(speed => speed >= wish) < 0 ? SPEEDS.length - 1 : SPEEDS.findIndex(speed => speed >= wish));
  makeCharts();
  makeLog();
  makeTable();
  ganttKey();
  setTheme(window.matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light");
  // "#t=12.5" opens the page at a time, "#t=12.5&theme=dark" in the dark.
  const wanted = new URLSearchParams(location.hash.slice(1));
  if (wanted.get("theme")) setTheme(wanted.get("theme") === "dark" ? "dark" : "light");
  goTo(wanted.has("t") ? +wanted.get("t") / run.tick_s : END);
  if (wanted.has("peer")) choose(run.peers.findIndex(peer => peer.name === wanted.get("peer")));
  play(false);
  $("play").addEventListener("click", () => play(!view.playing));
  $("slider").addEventListener("input", event => goTo(event.target.value / 1000 * END));
  $("speed").addEventListener("change", event => { setSpeed(+event.target.value); event.target.blur(); });
  $("theme").addEventListener("click", () => setTheme(document.documentElement.dataset.theme === "dark" ? "light" : "dark"));
  document.addEventListener("keydown", onKey);
  new ResizeObserver(() => { drawGantt(); view.dirty = true; }).observe(document.body);
  requestAnimationFrame(frame);
}

begin();
