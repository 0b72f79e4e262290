// The log of events and the table of peers.

const log = { items: [], times: run.events.map(event => event[0]), at: -2 };

function makeLog() {
  for (const [t, kind, text, peers] of run.events) {
    const item = element("li"), hollow = kind === "start" ? " hollow" : "";
    item.append(element("time", {}, clock(seconds(t), run.until_s)), element("i", { class: "dot" + hollow, style: `--c:var(--${KINDS[kind] || "gone"})` }), element("span", {}, text));
    item.addEventListener("click", () => {
      goTo(t + 0.5);
      if (peers.length && view.chosen !== peers[0]) choose(peers[0]);
    });
    log.items.push(item);
  }
  $("log").append(...log.items);
  $("told").textContent = run.events.length ? `${run.events.length.toLocaleString("en")} of them; a click goes there` : "nothing happened";
}

function drawLog() {
  const at = lastAt(log.times, view.t);
  if (at === log.at) return;
  log.items.forEach((item, place) => {
    item.classList.toggle("future", place > at);
    item.classList.toggle("now", place === at);
  });
  log.at = at;
  const list = $("log"), item = log.items[Math.max(at, 0)];
  if (item && !list.matches(":hover")) list.scrollTop = item.offsetTop - list.offsetTop - list.clientHeight * 0.6;
}

const COLUMNS = [["peer", "name"], ["state", "state"], ["step", "steps"], ["suspected by", "by"], ["neighbours", "around"]];
const table = { rows: [], sort: "name", down: false, drawn: 0 };
const ownCurve = run.curves.find(curve => curve.own);
if (ownCurve) COLUMNS.splice(3, 0, [label(ownCurve.name).toLowerCase(), "own"]);

function makeTable() {
  const heads = element("tr");
  for (const [text, key] of COLUMNS) {
    const head = element("th", { scope: "col", title: "sort" }, text);
    head.addEventListener("click", () => {
      table.down = table.sort === key ? !table.down : key !== "name" && key !== "state";
      table.sort = key;
      drawTable(true);
    });
    heads.append(head);
  }
  $("heads").append(heads);
  run.peers.forEach((peer, place) => {
    const row = element("tr"), cells = COLUMNS.map(() => element("td"));
    cells[0].textContent = peer.name;
    const dot = element("i", { class: "dot" }), word = element("span");
    cells[1].append(dot, word);
    row.append(...cells);
    row.addEventListener("click", () => { choose(place); drawTable(true); });
    table.rows.push({ place, row, cells, dot, word, said: "" });
    $("rows").append(row);
  });
  $("filter").addEventListener("input", () => drawTable(true));
}

function drawTable(atOnce) {
  const now = performance.now();
  if (!atOnce && now - table.drawn < 200) return;
  table.drawn = now;
  const degrees = new Int32Array(run.peers.length);
  for (const i of edgesAt(run, view.t)) { degrees[run.edges[i]] += 1; degrees[run.edges[i + 1]] += 1; }
  const wanted = $("filter").value.trim().toLowerCase();
  for (const item of table.rows) {
    const peer = run.peers[item.place], state = stateAt(peer, view.t), by = suspectedBy(peer, view.t);
    item.values = { name: item.place, state: STATES.indexOf(state), around: lives(state) ? degrees[item.place] : 0, by,
      steps: valueAt(run.steps.time_s, run.steps.own[item.place], seconds(view.t)) || 0,
      own: ownCurve ? valueAt(ownCurve.own_time_s, ownCurve.own[item.place] || [], seconds(view.t)) : null };
    const texts = COLUMNS.map(([, key]) => key === "state" ? WORDS[state] : key === "name" ? peer.name : key === "own" ? number(item.values.own) :
      item.values[key] ? item.values[key].toLocaleString("en") : "");
    const said = texts.join("|") + (item.place === view.chosen);
    if (said !== item.said) {
      item.said = said;
      item.word.textContent = WORDS[state];
      item.dot.className = `dot${state === "joining" || state === "down" ? " hollow" : ""}`;
      item.dot.style.setProperty("--c", `var(--${state === "absent" ? "line" : state})`);
      texts.forEach((text, k) => { if (k > 1) item.cells[k].textContent = text; });
      item.row.classList.toggle("chosen", item.place === view.chosen);
    }
    item.row.hidden = wanted !== "" && !`${peer.name} ${WORDS[state]}`.includes(wanted);
  }
  if (atOnce) sortTable();
}

function sortTable() {
  const sign = table.down ? -1 : 1, key = table.sort;
  table.rows.sort((one, other) => sign * ((one.values[key] ?? 1e99) - (other.values[key] ?? 1e99)) || one.place - other.place);
  $("rows").append(...table.rows.map(item => item.row));
}
