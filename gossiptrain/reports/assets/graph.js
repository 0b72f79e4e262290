// The graph: peers where the layout put them, edges as the peers' own notices tell, exchanges as sparks along them.

const graph = { canvas: $("graph"), places: [], radius: 6 };

function placePeers(width, height) {
  const n = run.peers.length, top = 42, margin = n <= 20 ? 64 : 26;
  const size = Math.min(width - 2 * margin, height - top - margin - (n <= 20 ? 44 : 20));
  // A layout of many peers may be wider than it is tall, and so may the card.
  const stretch = n <= 20 ? Math.min(1.35, (width - 2 * margin) / size) : Math.min(1.5, (width - 2 * margin) / size);
  const x0 = width / 2, y0 = top + (height - top) / 2;
  graph.places = run.peers.map(peer => [x0 + (peer.x - 0.5) * size * stretch, y0 + (peer.y - 0.5) * size]);
  graph.radius = n <= 8 ? 17 : n <= 20 ? 13 : Math.max(2.6, Math.min(10, 0.24 * size * Math.sqrt(stretch / n)));
}

function drawGraph() {
  const { context: c, width, height } = fit(graph.canvas), colours = view.colours, t = view.t;
  placePeers(width, height);
  const moment = Math.max(END / 160, 0.45 * view.speed / run.tick_s * (view.playing ? 1 : 0));
  const states = run.peers.map(peer => stateAt(peer, t));
  graph.living = states.filter(lives).length;
  const shown = view.hovered >= 0 ? view.hovered : view.chosen;
  c.lineCap = "round";
  drawEdges(c, states, moment, shown);
  drawSparks(c, moment);
  for (let i = 0; i < run.peers.length; i++) drawPeer(c, i, states[i], moment, i === shown);
}

function drawEdges(c, states, moment, shown) {
  const colours = view.colours, t = view.t, rows = run.edges, n = run.peers.length, places = graph.places;
  const calm = new Path2D(), loose = new Path2D(), broken = new Path2D(), own = new Path2D(), shunned = new Path2D();
  const fresh = [], lost = [], doubted = shunnedAt(run, t);
  const line = (path, i) => {
    path.moveTo(...places[rows[i]]);
    path.lineTo(...places[rows[i + 1]]);
  };
  let count = 0;
  for (let i = 0; i < rows.length; i += ROW.edge) {
    if (rows[i + 2] > t) break;
    const a = rows[i], b = rows[i + 1], age = t - rows[i + 2], over = t - rows[i + 3];
    if (over >= 0) {
      if (over < moment && !stillThere(i)) lost.push([i, 1 - over / moment]);
      continue;
    }
    count += 1;
    const hurt = states[a] === "down" || states[b] === "down" || states[a] === "gone" || states[b] === "gone";
    if (hurt) line(broken, i);
    else if (doubted.has(`${a}-${b}`)) line(shunned, i);
    else if (a === shown || b === shown) line(own, i);
    else line(rows[i + 4] ? calm : loose, i);
    if (age < moment && rows[i + 2] > 0 && !wasThere(i)) fresh.push([i, 1 - age / moment]);
  }
  const dense = Math.max(0.17, Math.min(0.85, 240 / Math.max(1, count)));
  const thin = n <= 20 ? 1.8 : n <= 100 ? 1.2 : 0.8, dimmed = shown >= 0 ? 0.45 : 1;
  stroke(c, calm, colours.edge, thin, dense * dimmed);
  stroke(c, loose, colours.edge, thin, dense * 0.75 * dimmed, [thin * 3, thin * 3]);
  stroke(c, broken, colours.down, thin, Math.max(0.4, dense) * 0.7, [thin * 1.2, thin * 3.2]);
  stroke(c, shunned, colours.suspected, thin, Math.max(0.3, dense), [thin * 1.2, thin * 3.2]);
  stroke(c, own, colours.accent, thin + 0.9, 0.9);
  for (const [group, colour] of [[fresh, colours.new], [lost, colours.down]]) {
    const faint = Math.max(0.25, Math.min(1, 120 / Math.max(1, group.length)));
    for (const [i, strength] of group) {
      const path = new Path2D();
      line(path, i);
      stroke(c, path, colour, thin + 0.8 * strength, strength * 0.8 * faint);
    }
  }
}

/** Whether the same pair goes on as another row, as when the second end agrees: nothing is new or lost then. */
function stillThere(i) { return edgeKeys.has(pairKey(i) + run.edges[i + 3]); }
function wasThere(i) { return edgeEnds.has(pairKey(i) + run.edges[i + 2]); }
const pairKey = i => (run.edges[i] * 4096 + run.edges[i + 1]) * 32768;
const edgeKeys = new Set(), edgeEnds = new Set();
for (let i = 0; i < run.edges.length; i += ROW.edge) {
  edgeKeys.add(pairKey(i) + run.edges[i + 2]);
  edgeEnds.add(pairKey(i) + run.edges[i + 3]);
}

function stroke(c, path, colour, width, alpha, dash = []) {
  c.globalAlpha = alpha;
  c.strokeStyle = colour;
  c.lineWidth = width;
  c.setLineDash(dash);
  c.stroke(path);
  c.setLineDash([]);
  c.globalAlpha = 1;
}

/** An exchange is a spark from the partner to the peer that mixes, for long enough to be seen. */
function drawSparks(c, moment) {
  const rows = run.exchanges, t = view.t, lasts = Math.min(moment * 0.8, END / 200), found = exchangesAt(run, t, lasts);
  const size = Math.max(1.1, graph.radius * 0.2), every = Math.ceil(found.length / 900);
  c.fillStyle = view.colours.accent;
  for (let k = 0; k < found.length; k += every) {
    const i = found[k], began = Math.min(rows[i + 2], rows[i + 3] - lasts), share = (t - began) / (rows[i + 3] - began);
    if (share < 0 || share > 1) continue;
    const from = graph.places[rows[i + 1]], to = graph.places[rows[i]];
    c.globalAlpha = 0.25 + 0.65 * Math.sin(Math.PI * share);
    c.beginPath();
    c.arc(from[0] + (to[0] - from[0]) * share, from[1] + (to[1] - from[1]) * share, size, 0, 7);
    c.fill();
  }
  c.globalAlpha = 1;
}

function drawPeer(c, place, state, moment, shown) {
  const colours = view.colours, peer = run.peers[place], t = view.t, n = run.peers.length, [x, y] = graph.places[place];
  let r = graph.radius;
  if (state === "absent") {
    if (n <= 300) disc(c, x, y, Math.min(3, r * 0.25), colours.line);
    return;
  }
  const life = lifeAt(peer, t), age = t - life[0], after = t - life[2];
  if (age < moment) {
    ring(c, x, y, r * (1 + 1.8 * age / moment), colours.new, 2, 0.7 * (1 - age / moment));
    if (life[0] > 0) r *= 0.4 + 0.6 * Math.min(1, 2 * age / moment);
  }
  if (after >= 0) {
    const sad = state === "down" ? colours.down : colours.gone;
    if (after < moment) ring(c, x, y, r * (1 + 2.6 * after / moment), sad, 2.5, 0.8 * (1 - after / moment));
    disc(c, x, y, r * 0.86, colours.card);
    ring(c, x, y, r * 0.86, sad, Math.max(1, r * 0.16), state === "down" ? 0.9 : 0.55);
    if (state === "down" && r > 3.5) cross(c, x, y, r * 0.36, sad);
  } else {
    if (state === "suspected") {
      ring(c, x, y, r + Math.max(1.5, r * 0.28), colours.suspected, Math.max(1, r * 0.16), 0.9, [r * 0.42, r * 0.34]);
    }
    disc(c, x, y, r + (n <= 60 ? 1.5 : 0.6), colours.card);
    // Whom most suspect is filled with the colour of that; a ring says that some do.
    const byMost = state === "suspected" && suspectedBy(peer, t) > 0.5 * (graph.living - 1);
    disc(c, x, y, r, state === "joining" ? colours.card : byMost ? colours.suspected : colours.mixing);
    if (state === "joining") ring(c, x, y, r - 1, colours.joining, Math.max(1.2, r * 0.2), 1);
  }
  if (shown) ring(c, x, y, r + 5, colours.ink, 2, 0.9);
  if (n <= 40 || shown) nameOf(c, place, x, y, r, state);
}

function nameOf(c, place, x, y, r, state) {
  const few = run.peers.length <= 20;
  c.font = `${few ? 12.5 : 11}px system-ui, sans-serif`;
  c.textAlign = "center";
  c.textBaseline = "middle";
  c.globalAlpha = state === "down" || state === "gone" ? 0.6 : 1;
  const below = few ? y + r + 14 : y - r - 8, text = run.peers[place].name;
  c.lineWidth = 3;
  c.strokeStyle = view.colours.card;
  c.strokeText(text, x, below);
  c.fillStyle = view.colours.ink;
  c.fillText(text, x, below);
  c.globalAlpha = 1;
}

function disc(c, x, y, r, colour) {
  c.fillStyle = colour;
  c.beginPath();
  c.arc(x, y, r, 0, 7);
  c.fill();
}

function ring(c, x, y, r, colour, width, alpha, dash = []) {
  const path = new Path2D();
  path.arc(x, y, r, 0, 7);
  stroke(c, path, colour, width, alpha, dash);
}

function cross(c, x, y, r, colour) {
  const path = new Path2D();
  path.moveTo(x - r, y - r);
  path.lineTo(x + r, y + r);
  path.moveTo(x + r, y - r);
  path.lineTo(x - r, y + r);
  stroke(c, path, colour, Math.max(1.2, r * 0.35), 0.9);
}

function peerUnder(x, y) {
  let found = -1, best = Math.max(12, graph.radius + 5) ** 2;
  graph.places.forEach(([px, py], place) => {
    const distance = (px - x) ** 2 + (py - y) ** 2;
    if (distance < best && stateAt(run.peers[place], view.t) !== "absent") { best = distance; found = place; }
  });
  return found;
}

function showHint() {
  const hint = $("hint"), place = view.hovered;
  hint.style.opacity = place < 0 ? 0 : 1;
  if (place < 0) return;
  const peer = run.peers[place], life = lifeAt(peer, view.t), state = stateAt(peer, view.t), by = suspectedBy(peer, view.t);
  const steps = valueAt(run.steps.time_s, run.steps.own[place], seconds(view.t));
  const around = neighboursAt(run, place, view.t).map(other => run.peers[other].name);
  hint.replaceChildren(element("b", {}, peer.name),
    element("span", {}, state === "suspected" ? `suspected by ${by}` : WORDS[state] + (state === "down" && life[4] ? `: ${life[4]}` : "")),
    element("span", {}, `step ${number(steps)}`),
    element("span", {}, around.length > 6 ? `${around.length} neighbours` : around.length ? `with ${around.join(", ")}` : "no neighbours"));
  const [x, y] = graph.places[place], box = graph.canvas.getBoundingClientRect();
  hint.style.left = `${Math.min(x + 16, box.width - hint.offsetWidth - 8)}px`;
  hint.style.top = `${Math.max(8, Math.min(y - 20, box.height - hint.offsetHeight - 8))}px`;
}

graph.canvas.addEventListener("pointermove", event => {
  const place = peerUnder(event.offsetX, event.offsetY);
  graph.canvas.style.cursor = place >= 0 ? "pointer" : "default";
  if (place !== view.hovered) { view.hovered = place; view.dirty = true; }
});
graph.canvas.addEventListener("pointerleave", () => { view.hovered = -1; view.dirty = true; });
graph.canvas.addEventListener("click", event => choose(peerUnder(event.offsetX, event.offsetY)));
