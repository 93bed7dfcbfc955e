// Live figures: what /metrics tells once a second, and what this page measured of its own answers.

const HISTORY = 60;
const POLL_MS = 1000;

let limits = null; // what /info tells; null until it was read

/** A number with its recent past drawn under it. `ceiling` is the top of the drawing, grown as needed. */
class Figure {
  #past = [];

  constructor(name, ceiling) {
    this.ceiling = ceiling;
    const tile = document.querySelector(`[data-figure="${name}"]`);
    tile.append(document.getElementById("sparkline-template").content.cloneNode(true));
    this.number = tile.querySelector("dd");
    this.line = tile.querySelector("polyline");
    this.area = tile.querySelector("polygon");
  }

  show(text) {
    this.number.textContent = text;
  }

  push(value) {
    this.#past = [...this.#past, value].slice(-HISTORY);
    const top = Math.max(this.ceiling, ...this.#past);
    const start = HISTORY - this.#past.length;
    const points = this.#past.map((past, index) => `${start + index},${(19 - (18 * past) / top).toFixed(2)}`);
    this.line.setAttribute("points", points.join(" "));
    this.area.setAttribute("points", [`${start},20`, ...points, `${HISTORY - 1},20`].join(" "));
  }
}

const figures = {
  running: new Figure("running", 1),
  queue: new Figure("queue", 1),
  cache: new Figure("cache", 0.01),
  speed: new Figure("speed", 1),
  first: new Figure("first", 0.1),
};

/** A series is absent before its first update. */
function gauge(text, name) {
  return Number(new RegExp(`^${name} (\\S+)$`, "m").exec(text)?.[1] ?? 0);
}

async function readLimits() {
  limits = await (await fetch("info")).json();
  const model = document.getElementById("model");
  model.textContent = limits.model_id;
  document.title = `${limits.model_id} – tgi_server`;
}

async function readMetrics() {
  const text = await (await fetch("metrics")).text();
  const running = gauge(text, "tgi_batch_current_size");
  const queue = gauge(text, "tgi_queue_size");
  const cache = gauge(text, "tgi_batch_current_max_tokens") / limits.max_batch_total_tokens;
  figures.running.show(limits.max_batch_size ? `${running} / ${limits.max_batch_size}` : running);
  figures.queue.show(queue);
  figures.cache.show(percent(cache));
  figures.running.push(running);
  figures.queue.push(queue);
  figures.cache.push(cache);
}

async function pollFigures() {
  if (!document.hidden) {
    try {
      if (limits === null) await readLimits();
      await readMetrics();
      document.body.classList.remove("offline");
    } catch {
      document.body.classList.add("offline");
      limits = null; // another server may come back at this address
    }
    figures.speed.push(stopwatch.takeRecent() / (POLL_MS / 1000));
    figures.first.push(stopwatch.latency);
  }
  setTimeout(pollFigures, POLL_MS);
}

/** Times one answer after the other, as they reach this page. */
class Stopwatch {
  latency = 0; // of the first token, in seconds
  #tokens = 0;
  #recent = 0;
  #started = 0;
  #first = 0;

  start() {
    this.#tokens = 0;
    this.#started = performance.now();
  }

  token() {
    const now = performance.now();
    if (this.#tokens === 0) {
      this.#first = now;
      this.latency = (now - this.#started) / 1000;
      figures.first.show(this.latency < 1 ? `${(1000 * this.latency).toFixed(0)} ms` : `${this.latency.toFixed(1)} s`);
    } else {
      figures.speed.show(this.speed(now).toFixed(1));
    }
    this.#tokens += 1;
    this.#recent += 1;
  }

  /** Tokens a second since the first one. */
  speed(now) {
    return this.#tokens / Math.max((now - this.#first) / 1000, 0.001);
  }

  /** Tokens since it was last asked. */
  takeRecent() {
    const recent = this.#recent;
    this.#recent = 0;
    return recent;
  }

  get tokens() {
    return this.#tokens;
  }
}

const stopwatch = new Stopwatch();
