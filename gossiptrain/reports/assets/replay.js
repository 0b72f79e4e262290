"use strict";
// What was the case at a time: pure functions of a run's data, with no page around them. Times are in ticks.

const ROW = { edge: 5, exchange: 4, shunned: 4 };

/** The last place whose value is not above `t`, of a sorted list; -1 before the first. */
function lastAt(values, t) {
  let low = 0, high = values.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (values[middle] <= t) low = middle + 1; else high = middle;
  }
  return low - 1;
}

/** How many living peers suspected this one. */
function suspectedBy(peer, t) {
  const changes = peer.suspected;
  let low = 0, high = changes.length / 2;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (changes[2 * middle] <= t) low = middle + 1; else high = middle;
  }
  return low ? changes[2 * low - 1] : 0;
}

/** The latest process that had begun: [began, joined, ended, how, why]; null before the first. */
function lifeAt(peer, t) {
  let found = null;
  for (const life of peer.lives) if (life[0] <= t) found = life;
  return found;
}

/** "absent" (not begun yet), "joining", "mixing", "suspected", "down" or "gone" (ended as it should). */
function stateAt(peer, t) {
  const life = lifeAt(peer, t);
  if (!life) return "absent";
  if (t >= life[2]) return life[3] === "finished" || life[3] === "left" ? "gone" : "down";
  if (t < life[1]) return "joining";
  return suspectedBy(peer, t) > 0 ? "suspected" : "mixing";
}

/** Whether a process of the peer lives in this state. */
const lives = state => state === "mixing" || state === "suspected" || state === "joining";

/** How many peers were in each state. */
function countsAt(run, t) {
  const counts = { mixing: 0, joining: 0, suspected: 0, down: 0, gone: 0, absent: 0 };
  for (const peer of run.peers) counts[stateAt(peer, t)] += 1;
  return counts;
}

/** The places of the edges' rows that held at a time. */
function edgesAt(run, t) {
  const rows = run.edges, found = [];
  for (let i = 0; i < rows.length; i += ROW.edge) {
    if (rows[i + 2] > t) break; // sorted by their beginning
    if (rows[i + 3] > t) found.push(i);
  }
  return found;
}

/** The places of the exchanges' rows that were open at a time, or closed less than `after` ticks ago. */
function exchangesAt(run, t, after) {
  const rows = run.exchanges, count = rows.length / ROW.exchange, found = [];
  let low = 0, high = count;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (rows[ROW.exchange * middle + 3] < t - after) low = middle + 1; else high = middle;
  }
  // Sorted by their ends: of those that end much later, only slow ones have begun, and few are that slow.
  for (let k = low; k < count && rows[ROW.exchange * k + 3] <= t + 4 * after; k++) {
    if (rows[ROW.exchange * k + 2] <= t) found.push(ROW.exchange * k);
  }
  return found;
}

/** The pairs of neighbours of which one suspected the other at a time, as "a-b". */
function shunnedAt(run, t) {
  const rows = run.shunned, found = new Set();
  for (let i = 0; i < rows.length; i += ROW.shunned) if (rows[i + 2] <= t && t < rows[i + 3]) found.add(`${rows[i]}-${rows[i + 1]}`);
  return found;
}

/** Neighbours of a peer at a time, as places. */
function neighboursAt(run, place, t) {
  const found = new Set();
  for (const i of edgesAt(run, t)) {
    if (run.edges[i] === place) found.add(run.edges[i + 1]);
    else if (run.edges[i + 1] === place) found.add(run.edges[i]);
  }
  return [...found].sort((a, b) => a - b);
}

/** A curve's value at a time in seconds: the latest that was measured; null before the first. */
function valueAt(times, values, seconds) {
  const place = lastAt(times, seconds);
  return place < 0 ? null : values[place];
}

/** Round numbers within a range, about `count` of them; powers of ten on a logarithmic axis. */
function ticksOf(low, high, count, logarithmic) {
  if (!(high > low)) return [low];
  if (logarithmic) {
    const first = Math.ceil(Math.log10(low) - 1e-9), last = Math.floor(Math.log10(high) + 1e-9);
    const every = Math.max(1, Math.ceil((last - first + 1) / count)), found = [];
    for (let power = first; power <= last; power += every) found.push(10 ** power);
    return found.length > 1 ? found : ticksOf(low, high, count, false).filter(value => value > 0);
  }
  const rough = (high - low) / count, size = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map(factor => factor * size).find(candidate => candidate >= rough - 1e-12);
  const found = [];
  for (let k = Math.ceil(low / step - 1e-9); k * step <= high + 1e-9 * step; k++) found.push(+(k * step).toPrecision(12));
  return found;
}

/** Round times within a run of so many seconds. */
function timesOf(length, count) {
  const steps = [5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14400, 21600, 43200, 86400, 172800, 604800];
  const step = steps.find(candidate => length / candidate <= count);
  if (length < 30 || !step) return ticksOf(0, length, count);
  return Array.from({ length: Math.floor(length / step + 1e-9) + 1 }, (_, k) => k * step);
}

/** A number for people. */
function number(value, digits = 3) {
  if (value === null || value === undefined || !isFinite(value)) return "–";
  const size = Math.abs(value);
  if (size !== 0 && (size < 1e-3 || size >= 1e6)) return value.toExponential(Math.max(0, digits - 2)).replace("e+", "e");
  if (size >= 1000) return Math.round(value).toLocaleString("en");
  return String(+value.toPrecision(digits));
}

/** A time for people, as exact as the run's length asks for. */
function clock(seconds, length) {
  if (length < 120) return `${seconds.toFixed(length < 10 ? 2 : 1)} s`;
  const hours = Math.floor(seconds / 3600), minutes = Math.floor(seconds / 60) % 60;
  const rest = Math.floor(seconds % 60).toString().padStart(2, "0");
  return length < 3600 ? `${minutes}:${rest}` : `${hours}:${minutes.toString().padStart(2, "0")}:${rest}`;
}

if (typeof module !== "undefined") {
  module.exports = {
    clock, countsAt, edgesAt, exchangesAt, lastAt, lifeAt, neighboursAt, number, shunnedAt, stateAt, suspectedBy, ticksOf, timesOf, valueAt,
  };
}
