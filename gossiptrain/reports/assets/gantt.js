// A strip for every peer: how much of its time it computed, when it was down, when others suspected it.

const FEW = 100;
const happened = peer => peer.suspected.length || peer.lives.length > 1 || peer.lives.some(life => life[0] > 0.02 * END || life[2] <= END);
// Of many peers those come first to whom something happened: of the others one is like another.
const order = run.peers.map((_, place) => place);
if (run.peers.length > FEW) order.sort((one, other) => !!happened(run.peers[other]) - !!happened(run.peers[one]) || one - other);
const gantt = { canvas: $("gantt"), gutter: 64, row: 16, rowOf: [] };
order.forEach((place, row) => { gantt.rowOf[place] = row; });

function drawGantt() {
  const n = run.peers.length, colours = view.colours;
  gantt.row = n <= 12 ? 18 : n <= 30 ? 11 : n <= 80 ? 6 : n <= 250 ? 4 : 3;
  const axis = 30, top = 7, gap = gantt.row > 8 ? 3 : gantt.row > 3 ? 1 : 0;
  gantt.canvas.style.height = `${n * gantt.row + axis}px`;
  const { context: c, width, height } = fit(gantt.canvas, n * gantt.row + axis);
  const wide = width - gantt.gutter - RIGHT, x = t => gantt.gutter + t / END * wide;
  gantt.width = width;
  c.font = `${gantt.row > 9 ? 12 : 11}px system-ui, sans-serif`;
  const every = Math.ceil(13 / gantt.row);
  order.forEach((place, row) => {
    const peer = run.peers[place], y = top + row * gantt.row, tall = gantt.row - gap;
    if (place === view.chosen) { c.globalAlpha = 0.16; c.fillStyle = colours.accent; c.fillRect(0, y, width, gantt.row); c.globalAlpha = 1; }
    if (row % every === 0 || place === view.chosen) {
      c.fillStyle = place === view.chosen ? colours.ink : colours.soft;
      c.textAlign = "right";
      c.textBaseline = "middle";
      c.fillText(peer.name.length > 9 ? peer.name.slice(0, 8) + "…" : peer.name, gantt.gutter - 8, y + tall / 2 + 0.5);
    }
    drawStrip(c, place, peer, x, y, tall, wide);
  });
  c.fillStyle = colours.faint;
  c.textAlign = "center";
  c.textBaseline = "top";
  c.font = "11px system-ui, sans-serif";
  for (const time of timesOf(run.until_s, Math.max(2, Math.round(wide / 110))))
    c.fillText(clock(time, run.until_s).replace(/\.0+ s/, " s"), Math.min(x(time / run.tick_s), width - 20), height - 16);
  $("now").style.height = `${height - axis + top}px`;
  moveNow();
}

function drawStrip(c, place, peer, x, y, tall, wide) {
  const colours = view.colours, digits = run.activity.rows[place], bin = END / run.activity.bins;
  for (let k = 0; k < digits.length;) {
    let until = k + 1;
    while (until < digits.length && digits[until] === digits[k]) until += 1;
    if (digits[k] !== "-") {
      // Waiting is pale, computing is full.
      c.globalAlpha = 0.16 + 0.74 * +digits[k] / 9;
      c.fillStyle = colours.mixing;
      c.fillRect(x(k * bin), y, x(until * bin) - x(k * bin) + 0.3, tall);
    }
    k = until;
  }
  c.globalAlpha = 1;
  const changes = peer.suspected;
  for (let k = 0; k < changes.length; k += 2) {
    if (!changes[k + 1]) continue;
    const until = k + 2 < changes.length ? changes[k + 2] : END;
    c.fillStyle = colours.suspected;
    c.fillRect(x(changes[k]), y + tall * 0.62, Math.max(1.5, x(until) - x(changes[k])), Math.max(1, tall * 0.38));
  }
  for (const [began, , over, how] of peer.lives) {
    if (began > 0) { c.fillStyle = colours.new; c.fillRect(x(began) - 1, y, 2, tall); }
    if (over <= END) { c.fillStyle = how === "finished" || how === "left" ? colours.gone : colours.down; c.fillRect(x(over) - 1, y, 2.5, tall); }
  }
}

function moveNow() {
  $("now").style.left = `${gantt.gutter + view.t / END * ((gantt.width || 0) - gantt.gutter - RIGHT)}px`;
}

function ganttKey() {
  if (run.peers.length > FEW) $("did").textContent += ", those to whom something happened first";
  const key = (colour, text, opacity = 1) => {
    const item = element("span"), dot = element("i", { class: "dot square", style: `--c:var(--${colour});opacity:${opacity}` });
    item.append(dot, text);
    return item;
  };
  $("key").append(key("mixing", "computing"), key("mixing", "waiting", 0.3), key("suspected", "suspected by others"), key("new", "starts"),
    key("down", "crashed"), key("gone", "left or finished"));
}

scrubs(gantt.canvas, x => (x - gantt.gutter) / (gantt.width - gantt.gutter - RIGHT) * END);
gantt.canvas.addEventListener("dblclick", event => {
  const row = Math.floor((event.offsetY - 7) / gantt.row);
  if (row >= 0 && row < order.length) choose(order[row]);
});
