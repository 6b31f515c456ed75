"use strict";

// Names and probe texts come from elsewhere: they get onto the page as text only.
const $ = id => document.getElementById(id);

function make(tag, name, ...inside) {
  const node = document.createElement(tag);
  if (name) node.className = name;
  node.append(...inside);
  return node;
}

// Nothing is touched that stays as it is: no flicker, and the browser lays out only what changed.
function put(node, text) {
  if (node.said !== text) node.textContent = node.said = text;
}
function style(node, name) {
  if (node.className !== name) node.className = name;
}
function hide(node, hidden) {
  if (node.hidden !== hidden) node.hidden = hidden;
}

// ---- Words and numbers, as `lbd status` has them ----

const MARKS = { up: "●", down: "✕", ejected: "▲", drain: "◐", maintenance: "■", slow_start: "◔", unchecked: "○" };
const tone = state => state === "up" ? "good" : state === "down" || state === "ejected" ? "bad" : "warn";
const takes = backend => backend.state === "up" || backend.state === "slow_start";
const ENDED_WELL = ["client_closed", "backend_closed"];

const count = number => String(number).replace(/\B(?=(\d{3})+$)/g, "\u202f");
const some = (number, one, many = one + "s") => `${count(number)} ${number === 1 ? one : many}`;
const limited = (number, max) => max ? `${count(number)}/${count(max)}` : count(number);

function bytes(value) {
  const units = ["B", "kB", "MB", "GB", "TB", "PB", "EB"];
  let unit = 0;
  while (value >= 999.5 && unit + 1 < units.length) { value /= 1000; unit++; }
  return (unit && value < 9.95 ? value.toFixed(1) : value.toFixed(0)) + "\u00a0" + units[unit];
}

function perSecond(rate) {
  if (rate === null) return "–";
  return rate > 0 && rate < 9.95 ? rate.toFixed(1) : count(Math.round(rate));
}

function ms(value) {
  return value < 9.95 ? value.toFixed(1) : count(Math.round(value));
}
const percentiles = two => two ? `${ms(two.p50_ms)} / ${ms(two.p99_ms)}` : "–";

function short(seconds) {
  const units = [[86400, "d"], [3600, "h"], [60, "m"], [1, "s"]];
  const first = units.findIndex(([of]) => seconds >= of);
  if (first < 0) return "0s";
  const said = [Math.floor(seconds / units[first][0]) + units[first][1]];
  const next = units[first + 1];
  if (next) {
    const rest = Math.floor(seconds % units[first][0] / next[0]);
    if (rest) said.push(rest + next[1]);
  }
  return said.join(" ");
}
const since = time => short(Math.max(0, (Date.now() - Date.parse(time)) / 1000));

// ---- Counters over the last two minutes ----

const KEPT = 121;
const RATE_OVER = 5;

class Track {
  times = [];
  values = [];

  add(time, value) {
    // A counter that goes back belongs to somebody new.
    if (value < this.values.at(-1)) { this.times = []; this.values = []; }
    this.times.push(time);
    this.values.push(value);
    if (this.times.length > KEPT) { this.times.shift(); this.values.shift(); }
  }

  rate() {
    const last = this.times.length - 1;
    if (last < 1) return null;
    const from = Math.max(0, last - RATE_OVER);
    return (this.values[last] - this.values[from]) / (this.times[last] - this.times[from]);
  }

  series() {
    const over = at => this.times[at] - this.times[at - 1];
    return this.values.slice(1).map((value, at) => (value - this.values[at]) / over(at + 1));
  }

  draw(svg) {
    const series = this.series();
    const top = Math.max(1, ...series) * 1.1;
    const left = KEPT - 1 - series.length;
    const line = series.map((value, at) => `${left + at} ${(23 - 22 * value / top).toFixed(1)}`).join("L");
    const [area, stroke] = svg.children;
    stroke.setAttribute("d", line && "M" + line);
    area.setAttribute("d", line && `M${left} 24L${line}V24Z`);
  }
}

// What goes up and down, such as open connections.
class Gauge extends Track {
  add(time, value) {
    this.times.push(time);
    this.values.push(value);
    if (this.times.length >= KEPT) { this.times.shift(); this.values.shift(); }
  }
  series() { return this.values; }
}

const spark = () => $("spark").content.firstElementChild.cloneNode(true);

let tracks = new Map();
let sampled = new Map();
function track(key, kind = Track) {
  const found = tracks.get(key) ?? new kind();
  sampled.set(key, found);
  return found;
}
const sum = (list, of) => list.reduce((all, one) => all + of(one), 0);
function rates(keys) {
  const known = keys.map(key => tracks.get(key)?.rate() ?? null).filter(rate => rate !== null);
  return known.length ? sum(known, rate => rate) : null;
}

const keyOf = (pool, backend) => JSON.stringify([pool.name, backend.name]);
let ends = [];

function sample(state) {
  const time = state.uptime_s;
  sampled = new Map();
  const add = (key, value) => track(key).add(time, value);
  track("active", Gauge).add(time, state.active);
  add("connections", sum(state.listeners, listener => listener.total));
  let [to, from] = [0, 0];
  for (const pool of state.pools) {
    for (const backend of pool.backends) {
      const key = keyOf(pool, backend);
      add("n" + key, backend.total);
      add("t" + key, backend.bytes_to_backend);
      add("f" + key, backend.bytes_to_client);
    }
    to += sum(pool.backends, backend => backend.bytes_to_backend);
    from += sum(pool.backends, backend => backend.bytes_to_client);
    add("p" + pool.name, sum(pool.backends, backend => backend.total));
  }
  add("to", to);
  add("from", from);
  for (const listener of state.listeners) add("l" + listener.name, listener.total);
  // What is no more is forgotten.
  tracks = sampled;
  ends.push({ time, of: new Map(state.listeners.map(listener => [listener.name, listener.ended])) });
  while (ends.length > 2 && ends[1].time <= time - 60) ends.shift();
}

// ---- Top of the page ----

let shownTroubles = false;
// Where a few more would be hidden, all are shown.
const TROUBLES_SHOWN = 6, TROUBLES_FEW = 8;

function summary(state) {
  const all = state.pools.flatMap(pool => pool.backends);
  const down = all.filter(backend => tone(backend.state) === "bad").length;
  const aside = all.filter(backend => ["drain", "maintenance"].includes(backend.state)).length;
  const unchecked = all.filter(backend => backend.state === "unchecked").length;
  const wrong = state.troubles.length;
  const dead = state.pools.some(pool => !pool.backends.some(takes));
  let text = down ? `${count(down)} of ${some(all.length, "backend")} down`
    : aside || unchecked ? `${count(all.length - aside - unchecked)} of ${some(all.length, "backend")} up`
    : all.length === 1 ? "The one backend is up"
    : all.length === 2 ? "Both backends up"
    : `All ${count(all.length)} backends up`;
  if (!all.length) text = "No backends";
  if (aside) text += `, ${count(aside)} taken out of service`;
  if (unchecked) text += `, ${count(unchecked)} not checked yet`;
  if (wrong && !down && !dead) text += `, but ${wrong === 1 ? "one thing needs" : count(wrong) + " things need"} attention`;
  if (state.draining) text = `Shutting down: ${some(state.active, "connection")} left`;
  const how = down || dead ? "bad" : wrong || aside || unchecked || state.draining ? "warn" : "good";
  put($("headline"), text);
  style($("summary"), how);
  const title = wrong ? `(${wrong}) lbd` : "lbd";
  if (document.title !== title) document.title = title;
  icon(how);

  const list = $("troubles");
  const isLong = wrong > TROUBLES_FEW;
  const shown = state.troubles.slice(0, isLong && !shownTroubles ? TROUBLES_SHOWN : undefined);
  while (list.children.length > shown.length) list.lastChild.remove();
  shown.forEach((trouble, at) => put(list.children[at] ?? list.appendChild(make("li")), trouble));
  hide(list, !wrong);
  hide($("troubles-more"), !isLong);
  put($("troubles-more"), shownTroubles ? "Show fewer" : `Show ${count(wrong - TROUBLES_SHOWN)} more`);
  put($("about"), `${state.version} · pid ${state.pid} · up ${short(state.uptime_s)} · ${some(state.workers, "worker")}`);
}

let iconShown = "";
function icon(how) {
  if (iconShown === how) return;
  iconShown = how;
  const canvas = make("canvas");
  canvas.width = canvas.height = 32;
  const pen = canvas.getContext("2d");
  pen.fillStyle = { good: "#1a8f4c", warn: "#d08700", bad: "#d62f22" }[how] ?? "#7a8694";
  pen.beginPath();
  if (how === "bad") pen.rect(3, 3, 26, 26);
  else if (how === "warn") { pen.moveTo(16, 2); pen.lineTo(31, 29); pen.lineTo(1, 29); }
  else pen.arc(16, 16, 13, 0, 7);
  pen.fill();
  $("icon").href = canvas.toDataURL();
}

const FIGURES = [["active", "Open connections"], ["connections", "New connections"], ["to", "To backends"], ["from", "To clients"]];
const figures = FIGURES.map(([key, name]) => {
  const [value, aside, svg] = [make("span"), make("small"), spark()];
  $("figures").append(make("div", "", make("dt", "", name), make("dd", "", value, " ", aside), make("dd", "", svg)));
  return { key, value, aside, svg };
});

function totals(state) {
  const [open, fresh, ...flows] = figures;
  put(open.value, count(state.active));
  put(open.aside, `of ${count(state.max_connections)}`);
  put(fresh.value, perSecond(rates(["connections"])));
  put(fresh.aside, "per second");
  tracks.get("active").draw(open.svg);
  tracks.get("connections").draw(fresh.svg);
  for (const { key, value, aside, svg } of flows) {
    const rate = rates([key]);
    put(value, rate === null ? "–" : bytes(rate));
    put(aside, "per second");
    tracks.get(key).draw(svg);
  }
}

// ---- Pools ----

const FEW = 20;
const ROWS_SHOWN = 50;
const COLUMNS = [["state", "State"], ["name", "Backend"], ["number", "Active"], ["number", "New/s"], ["", "Last 2 min"],
  ["number", "Connect ms"], ["number", "First byte ms"], ["number", "To / from"], ["probe", "Last probe"]];
const HINTS = { "Connect ms": "p50 / p99", "First byte ms": "p50 / p99", "To / from": "per second" };

const pools = new Map();
let writes = false;

const seen = new IntersectionObserver(entries => {
  for (const { target, isIntersecting } of entries) {
    target.row.isSeen = isIntersecting;
    if (isIntersecting) target.row.draw();
  }
}, { rootMargin: "200px" });

class Row {
  isSeen = true;

  constructor(pool, backend) {
    this.key = keyOf(pool, backend);
    this.path = `${pool.name}/${backend.name}`;
    const cell = (name, is, ...inside) => {
      const node = make("span", name, ...inside);
      node.setAttribute("role", "cell");
      if (is) node.dataset.is = is;
      return node;
    };
    this.state = make("span");
    this.place = make("small");
    [this.active, this.total] = [make("span"), make("small")];
    [this.rate, this.connect, this.first] = [make("span"), make("span"), make("span")];
    [this.flow, this.sums] = [make("span"), make("small")];
    this.probe = cell("probe", "");
    this.svg = spark();
    this.node = make("div", "row",
      cell("state", "", this.state), cell("name", "", make("b", "", backend.name), this.place),
      cell("number", "Active", this.active, this.total), cell("number", "New/s", this.rate), cell("", "Last 2 min", this.svg),
      cell("number", "Connect ms", this.connect), cell("number", "First byte ms", this.first),
      cell("number", "To / from", this.flow, this.sums), this.probe);
    this.node.setAttribute("role", "row");
    this.node.row = this;
    if (writes) {
      this.buttons = Object.entries(ACTIONS).map(([state, { label }]) => {
        const button = make("button", "", label);
        button.type = "button";
        button.dataset.state = state;
        button.setAttribute("aria-label", `${label}: ${this.path}`);
        button.onclick = () => askFor(state, pool.name, this.backend);
        return button;
      });
      this.node.append(cell("does", "", ...this.buttons));
    }
    seen.observe(this.node);
  }

  update(backend) {
    const changed = this.backend?.state !== backend.state;
    this.backend = backend;
    if (this.isSeen || changed) this.draw();
  }

  draw() {
    const { backend, key } = this;
    const how = tone(backend.state);
    style(this.node, `row ${how}`);
    style(this.state, how);
    put(this.state, `${MARKS[backend.state] ?? "?"} ${backend.state.replace("_", " ")}`);
    const place = [backend.address];
    if (backend.weight !== 1) place.push(`weight ${backend.weight}`);
    if (backend.priority) place.push(`priority ${backend.priority}`);
    put(this.place, place.join(" · "));
    put(this.active, limited(backend.active, backend.max_connections));
    put(this.total, backend.failures ? `${count(backend.failures)} failed` : "");
    put(this.rate, perSecond(rates(["n" + key])));
    put(this.connect, percentiles(backend.recent?.connect));
    put(this.first, percentiles(backend.recent?.first_byte));
    const [to, from] = [rates(["t" + key]), rates(["f" + key])];
    put(this.flow, to === null || from === null ? "–" : `${bytes(to)} / ${bytes(from)}`);
    put(this.sums, `${bytes(backend.bytes_to_backend)} / ${bytes(backend.bytes_to_client)} in all`);
    put(this.probe, remark(backend));
    if (this.probe.title !== this.probe.said) this.probe.title = this.probe.said;
    tracks.get("n" + key)?.draw(this.svg);
    for (const button of this.buttons ?? []) {
      const aside = backend.state === "drain" || backend.state === "maintenance";
      hide(button, button.dataset.state === "ready" ? !aside : backend.state === button.dataset.state);
    }
  }

  remove() {
    seen.unobserve(this.node);
    this.node.remove();
  }
}

function remark(backend) {
  const said = [];
  const probe = backend.last_probe;
  if (probe) said.push(probe.ok ? `ok, ${probe.ms.toFixed(1)} ms` : probe.detail || "failed");
  if (backend.state === "ejected") said.push("connections to it fail");
  if (backend.drain) said.push(progress(backend.drain));
  if (backend.change) said.push(signed(backend.change));
  return said.join("; ") || "not probed";
}
const progress = drain => `${count(drain.active)} of ${some(drain.initial, "session")} left, the last ends in ${short(drain.ends_in_s)}`;

function signed(change) {
  const what = [];
  if (change.added) what.push("added");
  if (change.state && change.state !== "ready") what.push(change.state);
  if (change.weight !== undefined) what.push(`weight ${change.weight}`);
  return `${what.join(", ")} by ${change.by}, ${since(change.at)} ago${change.reason && ": " + change.reason}`.trim();
}

class PoolCard {
  rows = new Map();
  isWhole = false;

  constructor(pool) {
    this.up = make("span", "up");
    this.bars = ["good", "warn", "bad"].map(name => make("i", name));
    this.meter = make("span", "meter", ...this.bars);
    this.meter.setAttribute("aria-hidden", "true");
    this.policy = make("span", "policy");
    [this.active, this.rate, this.waits] = [make("b"), make("b"), make("span", "waits")];
    this.svg = spark();
    const titles = make("div", "row titles", ...COLUMNS.map(([name, title]) => {
      const node = make("span", name === "number" ? name : "", title, ...(HINTS[title] ? [make("span", "tiny", HINTS[title])] : []));
      node.setAttribute("role", "columnheader");
      return node;
    }));
    titles.setAttribute("role", "row");
    if (writes) {
      const last = make("span");
      last.setAttribute("role", "columnheader");
      last.append(make("span", "unseen", "Change"));
      titles.append(last);
    }
    this.table = make("div", "", titles);
    this.table.setAttribute("role", "table");
    this.table.setAttribute("aria-label", `Backends of pool ${pool.name}`);
    this.notes = make("div");
    this.all = make("button", "plain");
    this.all.type = "button";
    this.all.onclick = () => { this.isWhole = !this.isWhole; draw(); };
    this.more = make("div", "more", this.all);
    this.node = make("section", writes ? "card pool writes" : "card pool",
      make("div", "head", make("h2", "", pool.name), this.meter, this.up, this.policy,
        make("span", "numbers", this.waits, this.active, " active · ", this.rate, " new/s"), this.svg),
      this.notes, this.table, this.more);
  }

  update(pool, matches) {
    const { backends } = pool;
    const tones = backends.map(backend => tone(backend.state));
    this.bars.forEach(bar => {
      const grow = String(tones.filter(one => one === bar.className).length);
      if (bar.style.flexGrow !== grow) bar.style.flexGrow = grow;
    });
    const up = backends.filter(takes).length;
    put(this.up, `${count(up)} of ${count(backends.length)} up`);
    style(this.up, tones.includes("bad") || !up ? "up bad" : up < backends.length ? "up warn" : "up");
    put(this.policy, pool.policy.replaceAll("_", " "));
    put(this.active, limited(pool.active, pool.max_connections));
    put(this.rate, perSecond(rates(["p" + pool.name])));
    put(this.waits, pool.queued ? `▲ ${some(pool.queued, "client waits", "clients wait")} for room · ` : "");
    tracks.get("p" + pool.name)?.draw(this.svg);
    this.note(pool);

    const fitting = backends.filter(backend => matches(pool, backend));
    if (backends.length > FEW) {
      // Among many, what is wrong stands first.
      const rank = backend => ["bad", "warn", "good"].indexOf(tone(backend.state));
      fitting.sort((one, other) => rank(one) - rank(other));
    }
    const shown = this.isWhole ? fitting : fitting.slice(0, ROWS_SHOWN);
    hide(this.node, !fitting.length && backends.length > 0);
    hide(this.more, fitting.length <= ROWS_SHOWN);
    put(this.all, this.isWhole ? `Show ${ROWS_SHOWN} only` : `Show all ${count(fitting.length)}`);
    const keep = new Set(shown.map(backend => backend.name));
    for (const [name, row] of this.rows) if (!keep.has(name)) { row.remove(); this.rows.delete(name); }
    let after = this.table.firstElementChild;
    for (const backend of shown) {
      let row = this.rows.get(backend.name);
      if (!row) this.rows.set(backend.name, row = new Row(pool, backend));
      if (after.nextElementSibling !== row.node) after.after(row.node);
      row.update(backend);
      after = row.node;
    }
  }

  note(pool) {
    const said = [];
    for (const source of pool.discovery) {
      const had = source.age_s === null ? "no good answer yet"
        : `${some(source.addresses, "address", "addresses")}, ${short(source.age_s)} ago`;
      said.push(source.error ? ["note bad", `✕ ${source.kind} ${source.name}: ${source.error} (last good answer: ${had})`]
        : ["note", `${source.kind} ${source.name}: ${had}`]);
    }
    for (const gone of pool.removed) said.push(["note", `${gone.name} is taken out ${signed(gone)}`]);
    for (const leaving of pool.leaving) said.push(["note", `${leaving.name} is leaving: ${progress(leaving)}`]);
    while (this.notes.children.length > said.length) this.notes.lastChild.remove();
    said.forEach(([name, text], at) => {
      const node = this.notes.children[at] ?? this.notes.appendChild(make("p"));
      style(node, name);
      put(node, text);
    });
  }
}

function drawPools(state) {
  const many = sum(state.pools, pool => pool.backends.length) > FEW;
  hide($("sift"), !many);
  const words = many ? $("filter").value.toLowerCase().split(/\s+/).filter(Boolean) : [];
  const only = many && $("only").checked;
  const matches = (pool, backend) => {
    if (only && backend.state === "up") return false;
    const text = `${pool.name}/${backend.name} ${backend.address} ${backend.state}`.toLowerCase();
    return words.every(word => text.includes(word));
  };
  arrange($("pools"), null, pools, state.pools, pool => new PoolCard(pool), (card, pool) => card.update(pool, matches));
}

// Children of `parent` for each of the list in its order, behind `first`; those that stay are kept.
function arrange(parent, first, known, list, create, update) {
  const names = new Set(list.map(one => one.name));
  for (const [name, one] of known) if (!names.has(name)) { one.node.remove(); known.delete(name); }
  let after = first;
  for (const one of list) {
    let shown = known.get(one.name);
    if (!shown) known.set(one.name, shown = create(one));
    const next = after ? after.nextElementSibling : parent.firstElementChild;
    if (next !== shown.node) after ? after.after(shown.node) : parent.prepend(shown.node);
    update(shown, one);
    after = shown.node;
  }
}

// ---- Listeners ----

const listeners = new Map();

class ListenerRow {
  constructor(listener) {
    const cells = [["name", ""], ["bind", "Bind"], ["number", "Active"], ["number", "New/s"], ["number", "Total"],
      ["number", "Ended well"], ["ends", "Ended otherwise"]].map(([name, is]) => {
      const node = make("span", name);
      node.setAttribute("role", "cell");
      if (is) node.dataset.is = is;
      return node;
    });
    [this.name, this.bind, this.active, this.rate, this.total, this.well, this.ends] = cells;
    this.certificates = make("small");
    this.name.append(make("b", "", listener.name), this.certificates);
    this.node = make("div", "row", ...cells);
    this.node.setAttribute("role", "row");
  }

  update(listener) {
    const before = ends[0].of.get(listener.name) ?? {};
    const fresh = Object.entries(listener.ended).map(([word, total]) => [word, total - (before[word] ?? 0)]);
    const ended = fresh.filter(([, number]) => number > 0);
    const otherwise = ended.filter(([word]) => !ENDED_WELL.includes(word)).sort((one, other) => other[1] - one[1]);
    put(this.bind, listener.bind.join(" "));
    put(this.active, limited(listener.active, listener.max_connections));
    put(this.rate, perSecond(rates(["l" + listener.name])));
    put(this.total, count(listener.total));
    put(this.well, count(sum(ended, ([word, number]) => ENDED_WELL.includes(word) ? number : 0)));
    const first = listener.certificates.map(one => one.not_after).sort()[0];
    put(this.certificates, first ? `certificate until ${first.slice(0, 10)}` : "");
    const said = otherwise.length ? otherwise.map(([word, number]) => `${word} ${count(number)}`) : ["none"];
    while (this.ends.children.length > said.length) this.ends.lastChild.remove();
    said.forEach((text, at) => {
      const node = this.ends.children[at] ?? this.ends.appendChild(make("span"));
      style(node, otherwise.length ? "" : "none");
      put(node, text);
    });
    style(this.node, otherwise.length ? "row warn" : "row");
  }
}

function drawListeners(state) {
  hide($("listeners"), !state.listeners.length);
  const over = ends.at(-1).time - ends[0].time;
  put($("window"), over < 2 ? "ends from now on" : `ends of the last ${over < 55 ? short(over) : "minute"}`);
  const table = $("listeners").querySelector("[role=table]");
  arrange(table, table.firstElementChild, listeners, state.listeners, one => new ListenerRow(one), (row, one) => row.update(one));
}

// ---- Live ----

let latest = null;
let heard = performance.now();
let source = null;
let process = "";
const LOST_AFTER = 3500;
const OPEN_AGAIN_AFTER = 8000;

function draw() {
  if (!latest || document.hidden) return;
  summary(latest);
  totals(latest);
  drawPools(latest);
  drawListeners(latest);
}

function hear(event) {
  const state = JSON.parse(event.data);
  heard = performance.now();
  lost(false);
  put($("link"), "live");
  const one = `${state.pid} ${state.version}`;
  if (one !== process || latest && state.uptime_s < latest.uptime_s) {
    process = one;
    tracks = new Map();
    ends = [];
  }
  if (!ends.length || state.uptime_s > ends.at(-1).time) sample(state);
  latest = state;
  draw();
}

let opened = 0;
function listen() {
  source?.close();
  opened = performance.now();
  source = new EventSource("api/v1/events");
  source.addEventListener("state", hear);
  source.onopen = whoami;
}

let lostAt = null;
function lost(is) {
  if (is === (lostAt !== null)) return;
  lostAt = is ? new Date() : null;
  document.body.classList.toggle("lost", is);
  hide($("lost"), !is);
  if (is) {
    const at = lostAt.toLocaleTimeString();
    $("lost").textContent = latest
      ? `No answer from lbd since ${at}: what is shown is old. Trying again …`
      : "No answer from lbd. Trying again …";
    document.title = "(lost) lbd";
    put($("link"), "no connection");
    icon("lost");
    // Nobody may take an old "all up" for news.
    put($("headline"), "Unknown: lbd does not answer");
    style($("summary"), "");
  }
}

setInterval(() => {
  const now = performance.now();
  lost(now - heard > LOST_AFTER);
  // What hangs, or was refused, is not tried again by the browser.
  if (Math.min(now - heard, now - opened) > OPEN_AGAIN_AFTER || source.readyState === EventSource.CLOSED && now - opened > 1000) listen();
}, 500);

document.addEventListener("visibilitychange", draw);
$("filter").oninput = $("only").onchange = draw;
$("troubles-more").onclick = () => { shownTroubles = !shownTroubles; draw(); };

// ---- Changes ----

const ACTIONS = {
  ready: { label: "Ready", text: "It gets new connections again." },
  drain: { label: "Drain", text: "It gets no new connections; those it has go on." },
  maintenance: { label: "Maintenance", text: "It gets no new connections, and it is not probed." },
};

// For this tab only: it ends with it.
const KEY = "lbd-token";
let me = { may_change: false, token_configured: false };

function headers() {
  const token = sessionStorage.getItem(KEY);
  return token ? { authorization: `Bearer ${token}` } : {};
}

async function whoami() {
  try {
    const answer = await fetch("api/v1/whoami", { headers: headers(), cache: "no-store" });
    if (!answer.ok) return;
    me = await answer.json();
  } catch {
    return;
  }
  if (!me.may_change) sessionStorage.removeItem(KEY);
  const isKey = me.token_configured && !(me.may_change && !sessionStorage.getItem(KEY));
  hide($("key"), !isKey);
  put($("key"), me.may_change ? "Lock" : "Unlock changes");
  put($("right"), me.may_change ? "changes allowed" : "read only");
  $("right").title = me.may_change || me.token_configured ? "" : "admin.token_file names the token that allows changes here; the admin socket always does";
  if (writes === me.may_change) return;
  writes = me.may_change;
  for (const card of pools.values()) card.node.remove();
  pools.clear();
  draw();
}

// Asks in the dialog; what `send` throws stands there, and the dialog stays.
function ask({ title, text, label, kind, yes, send }) {
  put($("ask-title"), title);
  put($("ask-text"), text);
  put($("ask-label"), label);
  put($("ask-yes"), yes);
  hide($("ask-failed"), true);
  const input = $("ask-input");
  input.type = kind;
  input.value = "";
  $("ask-yes").disabled = false;
  $("ask").onsubmit = async event => {
    event.preventDefault();
    $("ask-yes").disabled = true;
    try {
      await send(input.value.trim());
      $("dialog").close();
    } catch (wrong) {
      put($("ask-failed"), wrong.message);
      hide($("ask-failed"), false);
    }
    $("ask-yes").disabled = false;
  };
  $("dialog").showModal();
}
$("ask-no").onclick = () => $("dialog").close();
$("dialog").onclose = () => { $("ask-input").value = ""; };

function askFor(state, pool, backend) {
  const { label, text } = ACTIONS[state];
  ask({
    title: `${label}: ${pool}/${backend.name}?`,
    text: `${text} Now: ${backend.state.replace("_", " ")}, ${some(backend.active, "connection")}.`,
    label: "Reason (optional)",
    kind: "text",
    yes: label,
    send: async reason => {
      const answer = await fetch(`api/v1/pools/${encodeURIComponent(pool)}/backends/${encodeURIComponent(backend.name)}`, {
        method: "POST",
        headers: { "content-type": "application/json", ...headers() },
        body: JSON.stringify({ state, reason }),
      });
      if (answer.ok) return;
      const said = await answer.json().catch(() => null);
      if (answer.status === 401 || answer.status === 403) whoami();
      throw new Error(said?.error?.message ?? `lbd answered ${answer.status}`);
    },
  });
}

$("key").onclick = () => {
  if (me.may_change) {
    sessionStorage.removeItem(KEY);
    whoami();
    return;
  }
  ask({
    title: "Unlock changes",
    text: "The token that admin.token_file holds. It is kept in this tab only and ends with it.",
    label: "Token",
    kind: "password",
    yes: "Unlock",
    send: async token => {
      sessionStorage.setItem(KEY, token);
      me.may_change = false;
      await whoami();
      if (!me.may_change) throw new Error("this is not the token");
    },
  });
};

listen();
