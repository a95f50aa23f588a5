// Draws the charts that the page's data describes. The page makes no request: it contains this text, the data and
// figures.js, which precedes this text in the same module.

const HEIGHT = 210;
const PRINT_WIDTH = 300;
const DARK = matchMedia("(prefers-color-scheme: dark)");
const plots = [];
let printing = false;

const element = (tag, className, text = "") => Object.assign(document.createElement(tag), { className, textContent: text });

function figure(value) {
  if (value === null || value === undefined) return "";
  if (Number.isInteger(value)) return number(value, 0);
  return number(value, Math.abs(value) >= 100 ? 0 : Math.abs(value) >= 10 ? 1 : 2);
}

// Axes

function axes(chart) {
  const label = chart.xLabel ? { label: chart.xLabel, labelSize: 18, labelGap: 0 } : {};
  const log = (scale) => (scale === "log" ? LADDER : {});
  return [
    axis(26, { time: chart.x === "time", space: 56, ...label, ...log(chart.x) }),
    axis(48, log(chart.y)),
  ];
}

// Marks of a log axis: 1, 2, 5 of each decade, or 1 alone over many decades.
function ladder(_, __, from, to) {
  const decades = Math.log10(to / from);
  const feet = decades > 3.5 ? [1] : decades > 0.7 ? [1, 2, 5] : [1, 1.5, 2, 3, 4, 5, 6, 7, 8, 9];
  const found = [];
  for (let power = Math.floor(Math.log10(from)); 10 ** power <= to; power++) {
    for (const foot of feet) {
      const at = Number((foot * 10 ** power).toPrecision(3));
      if (at >= from && at <= to) found.push(at);
    }
  }
  return found;
}

const LADDER = { splits: ladder, filter: (_, splits) => splits };

function scales(chart) {
  const all = chart.series.flatMap((each) => each.x);
  const [first, last] = [Math.min(...all), Math.max(...all)];
  const x = { time: false, distr: chart.x === "log" ? 3 : 1 };
  if (chart.x === "time") {
    const end = Math.max(last, ...chart.bands.map((band) => band.to));
    x.range = (_, from, to) => (to - from < end * 0.999 && from > first ? [from, to] : [Math.min(0, first), end]);
  } else if (chart.x === "linear") {
    const room = (last - first) * 0.06 || last * 0.1 || 1;
    x.range = (plot, from, to) => (from > first || to < last ? [from, to] : [Math.max(0, first - room), last + room]);
  } else x.range = (_, from, to) => [from ?? first, to ?? last];
  const values = [...chart.series.flatMap((each) => [...each.y, ...each.high]), ...chart.dots[1]].filter((value) => value !== null);
  const marks = chart.marks.filter((mark) => mark.axis === "y").map((mark) => mark.at);
  const most = Math.max(...values, ...marks, 0);
  const y = { distr: chart.y === "log" ? 3 : 1 };
  if (chart.y === "share") y.range = [0, 102];
  else if (chart.y === "log") y.range = [Math.min(...values.filter((value) => value > 0)) * 0.9, most * 1.15];
  else y.range = [0, most > 0 ? most * 1.12 : 1];
  return { x, y };
}

// Behind the curves

function backdrop(plot, chart) {
  const { ctx, bbox } = plot;
  const ratio = devicePixelRatio;
  const toX = (value) => plot.valToPos(value, "x", true);
  ctx.save();
  ctx.beginPath();
  ctx.rect(bbox.left, bbox.top, bbox.width, bbox.height);
  ctx.clip();
  ctx.font = font(11 * ratio);
  ctx.textBaseline = "top";
  for (const band of chart.bands.filter(({ kind }) => kind === "outside")) {
    ctx.fillStyle = colour("shade");
    ctx.fillRect(toX(band.from), bbox.top, toX(band.to) - toX(band.from), bbox.height);
  }
  const size = 1.6 * ratio;
  ctx.fillStyle = colour("dot");
  const [xs, ys] = chart.dots;
  for (let at = 0; at < xs.length; at++) {
    ctx.fillRect(toX(xs[at]) - size / 2, plot.valToPos(ys[at], "y", true) - size / 2, size, size);
  }
  ctx.restore();
}

// Lines and labels on top of the curves; a label without room is left out.

function foreground(plot, chart) {
  const { ctx, bbox } = plot;
  const ratio = devicePixelRatio;
  const toPixel = (value, axis) => Math.round(plot.valToPos(value, axis, true)) + 0.5;
  ctx.save();
  ctx.font = font(11 * ratio);
  ctx.textBaseline = "top";
  ctx.textAlign = "left";
  ctx.fillStyle = ctx.strokeStyle = colour("mark");
  ctx.lineWidth = ratio;
  const taken = [];
  const say = (text, x, y, room = Infinity) => {
    const width = ctx.measureText(text).width;
    const right = bbox.left + bbox.width;
    const from = x + width > right ? x - width - 6 * ratio : x;
    const box = [from, y, from + width, y + 12 * ratio];
    const meets = ([left, top, end, bottom]) => box[0] < end && box[2] > left && box[1] < bottom && box[3] > top;
    if (!text || width > room || from < bbox.left || taken.some(meets)) return;
    taken.push(box);
    ctx.fillText(text, from, y);
  };
  for (const band of chart.bands) {
    const [from, to] = [Math.max(bbox.left, toPixel(band.from, "x")), Math.min(bbox.left + bbox.width, toPixel(band.to, "x"))];
    if (to <= bbox.left || from >= bbox.left + bbox.width) continue;
    if (band.kind === "stage" && from > bbox.left) {
      ctx.setLineDash([3 * ratio, 3 * ratio]);
      line(ctx, from, bbox.top, from, bbox.top + bbox.height);
    }
    const low = band.kind === "stage" ? 0 : 13 * ratio * chart.bands.some(({ kind }) => kind === "stage");
    say(band.label, from + 3 * ratio, bbox.top + 2 * ratio + low, to - from - 4 * ratio);
  }
  // those of a front before those of the points that it beats
  for (const each of [...chart.series].sort((one, other) => (other.style === "front") - (one.style === "front"))) {
    each.labels.forEach((label, at) => {
      const [x, y] = [plot.valToPos(each.x[at], "x", true), plot.valToPos(each.y[at], "y", true)];
      say(label, x + 6 * ratio, y - 15 * ratio);
    });
  }
  ctx.setLineDash([2 * ratio, 3 * ratio]);
  for (const mark of chart.marks) {
    const at = toPixel(mark.at, mark.axis);
    if (mark.axis === "x") {
      if (at < bbox.left || at > bbox.left + bbox.width) continue;
      line(ctx, at, bbox.top, at, bbox.top + bbox.height);
      const rows = [0.3, 0.46, 0.62, 0.78].map((share) => bbox.top + bbox.height * share);
      say(mark.label, at + 3 * ratio, rows[["p50", "p95", "p99"].indexOf(mark.label) + 1]);
    } else {
      if (at < bbox.top || at > bbox.top + bbox.height) continue;
      line(ctx, bbox.left, at, bbox.left + bbox.width, at);
      say(mark.label, bbox.left + 4 * ratio, Math.max(bbox.top, at - 14 * ratio));
    }
  }
  ctx.restore();
}

// Points of an x-y curve are joined in the order given: past its knee a curve of throughput turns back. A front is a step:
// left of a point, down to the next slower one, its own throughput is what is available.
function trails(plot, chart) {
  const { ctx } = plot;
  ctx.save();
  for (const each of chart.series.filter(({ style }) => style === "front")) {
    ctx.strokeStyle = colour(each.colour);
    ctx.lineWidth = each.width * devicePixelRatio;
    ctx.beginPath();
    each.x.forEach((x, at) => {
      const [toX, toY] = [plot.valToPos(x, "x", true), plot.valToPos(each.y[at], "y", true)];
      if (at > 0) ctx.lineTo(plot.valToPos(each.x[at - 1], "x", true), toY);
      ctx.lineTo(toX, toY);
    });
    ctx.stroke();
  }
  for (const each of chart.series) {
    ctx.strokeStyle = colour(each.colour);
    ctx.lineWidth = devicePixelRatio;
    each.low.forEach((low, at) => {
      if (low === null || each.high[at] === null) return;
      const x = Math.round(plot.valToPos(each.x[at], "x", true)) + 0.5;
      const [from, to] = [low, each.high[at]].map((value) => plot.valToPos(value, "y", true));
      const reach = 3 * devicePixelRatio;
      line(ctx, x, from, x, to);
      line(ctx, x - reach, from, x + reach, from);
      line(ctx, x - reach, to, x + reach, to);
    });
  }
  for (const each of chart.series.filter(({ style, width }) => style === "points" && width)) {
    ctx.strokeStyle = colour(each.colour);
    ctx.lineWidth = each.width * devicePixelRatio;
    ctx.beginPath();
    each.x.forEach((x, at) => ctx.lineTo(plot.valToPos(x, "x", true), plot.valToPos(each.y[at], "y", true)));
    ctx.stroke();
  }
  ctx.restore();
}

// Curves

function curve(each) {
  const own = { label: each.name, stroke: () => colour(lineOf(each)), width: each.width, points: { show: false }, spanGaps: false };
  if (each.dash) own.dash = [6, 4];
  if (each.style === "step") own.paths = uPlot.paths.stepped({ align: 1 });
  if (each.style === "area") own.fill = () => colour("fill");
  if (each.style === "bars") {
    Object.assign(own, { paths: uPlot.paths.bars({ size: [0.86, 60] }), width: 0, fill: () => colour(each.colour) });
  }
  if (each.style === "points" || each.style === "front") {
    const fill = () => (each.hollow ? "transparent" : colour(each.colour));
    own.points = { show: true, size: each.hollow ? 15 : 7, width: 1.5, stroke: () => colour(each.colour), fill };
    own.paths = () => null; // `trails` joins them, in the order in which the load rose
  }
  if (each.style === "line" && each.x.length < 3) own.points = { show: true, size: 5 };
  return own;
}

const lineOf = (each) => (each.colour === "quiet" ? "quiet-line" : each.colour);

// A value of the joined table, or the curve's nearest: the x values of other curves are not gaps of this one.
function valueAt(plot, index, at) {
  const values = plot.data[index];
  for (let off = 0; off < values.length; off++) {
    for (const near of [at - off, at + off]) if (values[near] !== undefined) return values[near];
  }
  return null;
}

function swatchOf(each) {
  if (each.style === "points" && !each.width) return each.hollow ? "ring" : "dot";
  return each.dash ? "dash" : each.style === "bars" ? "block" : "";
}

function legend(chart) {
  const entries = element("div", "legend");
  const where = element("span", "");
  const values = chart.series.map((each, index) => {
    const entry = element("span", "");
    const swatch = element("i", swatchOf(each));
    swatch.style.setProperty("--line", `var(--${swatch.className === "dot" ? each.colour : lineOf(each)})`);
    const value = element("b", "");
    entry.append(swatch, `${each.name} `, value);
    if (!chart.series.slice(0, index).some(({ name, colour }) => name === each.name && colour === each.colour)) entries.append(entry);
    return value;
  });
  entries.append(where);
  const unit = chart.unit.startsWith("%") ? " %" : "";
  const shown = (at) => (chart.x === "time" ? clock(at) : `${figure(at)}${chart.xLabel.endsWith(", ms") ? " ms" : ""}`);
  const stacked = (plot, index, at) => {
    const below = plot.data[index + 2];
    return (valueAt(plot, index + 1, at) ?? 0) - (below ? below[at] ?? 0 : 0);
  };
  const bars = chart.series.length > 1 && chart.series.every(({ style }) => style === "bars");
  return [entries, (plot) => {
    const at = plot.cursor.idx;
    const hovered = at !== null && at !== undefined && plot.cursor.left >= 0;
    values.forEach((value, index) => {
      const found = !hovered ? null : bars ? stacked(plot, index, at) : valueAt(plot, index + 1, at);
      value.textContent = hovered ? (found === null ? "–" : figure(found) + unit) : "";
    });
    where.textContent = hovered ? `at ${pointName(chart, plot.data[0][at]) ?? shown(plot.data[0][at])}` : "";
  }];
}

function pointName(chart, x) {
  return chart.pointNames[chart.series[0].x.indexOf(x)];
}

function table(chart) {
  const tables = chart.series.map((each) => {
    const order = each.x.map((_, at) => at).sort((one, other) => each.x[one] - each.x[other]);
    return [order.map((at) => each.x[at]), order.map((at) => each.y[at])];
  });
  return tables.length === 1 ? tables[0] : uPlot.join(tables);
}

function draw(container, chart) {
  const [words, tell] = legend(chart);
  container.querySelector("figcaption").after(words);
  const inner = () => (printing ? PRINT_WIDTH : Math.max(160, Math.floor(words.getBoundingClientRect().width)));
  const options = {
    width: inner(),
    height: HEIGHT,
    padding: [8, 10, 0, 0],
    legend: { show: false },
    scales: scales(chart),
    axes: axes(chart),
    series: [{}, ...chart.series.map(curve)],
    cursor: {
      y: false,
      points: { show: chart.series.every(({ style }) => style !== "bars"), size: 6 },
      drag: { x: true, y: false },
      ...(chart.x === "time" ? { sync: { key: "time", setSeries: false } } : {}),
    },
    hooks: {
      drawAxes: [(plot) => backdrop(plot, chart), (plot) => trails(plot, chart)],
      draw: [(plot) => foreground(plot, chart)],
      setCursor: [tell],
    },
  };
  const plot = new uPlot(options, table(chart), container);
  const fit = () => plot.setSize({ width: inner(), height: HEIGHT });
  new ResizeObserver(() => { if (!printing && inner() !== plot.width) fit(); }).observe(container);
  plots.push({ plot, fit });
}

// Light, dark, print

function stored() {
  try {
    return localStorage.getItem("llmload-theme") ?? "auto";
  } catch {
    return "auto"; // a file may be opened where nothing can be stored
  }
}

let chosen = stored();

function show() {
  const dark = !printing && (chosen === "dark" || (chosen === "auto" && DARK.matches));
  document.documentElement.dataset.theme = dark ? "dark" : "light";
  for (const button of document.querySelectorAll("[data-theme-choice]")) {
    button.ariaPressed = String(button.dataset.themeChoice === chosen);
  }
  for (const { plot } of plots) plot.redraw(false);
}

function choose(theme) {
  chosen = theme;
  try {
    localStorage.setItem("llmload-theme", theme);
  } catch {
    // it then lasts until the page is closed
  }
  show();
}

function print(now) {
  printing = now;
  show();
  for (const { fit } of plots) fit();
}

document.querySelector(".switch").hidden = false;
for (const button of document.querySelectorAll("[data-theme-choice]")) {
  button.addEventListener("click", () => choose(button.dataset.themeChoice));
}
show();
const charts = JSON.parse(document.getElementById("data").textContent);
for (const container of document.querySelectorAll("figure[data-chart]")) {
  const chart = charts[container.dataset.chart];
  if (chart) draw(container, chart);
}
DARK.addEventListener("change", show);
addEventListener("beforeprint", () => print(true));
addEventListener("afterprint", () => print(false));
