// Panels of a dashboard's JSON, drawn with uPlot: the part of Grafana that these panels need.

const { note, about, panels, runs } = JSON.parse(document.getElementById("content").textContent);
const COLOURS = ["#73bf69", "#f2cc0c", "#8ab8ff", "#ff780a", "#f2495c", "#b877d9", "#5794f2", "#ffa6b0", "#37872d"];
const ROW = 30;
const GAP = 8;
const QUIET = "#8e8e9a";
const GRID = "#24272d";

const prefixed = (value, base, steps) => {
  if (value === 0) return "0";
  let step = 0;
  let left = value;
  while (Math.abs(left) >= base && step < steps.length - 1) { left /= base; step += 1; }
  return `${Number(left.toPrecision(3))}${steps[step]}`;
};
const seconds = (value) => {
  if (Math.abs(value) >= 1 || value === 0) return `${Number(value.toPrecision(3))} s`;
  return Math.abs(value) >= 1e-3 ? `${Number((value * 1e3).toPrecision(3))} ms` : `${Number((value * 1e6).toPrecision(3))} µs`;
};
const UNITS = {
  s: seconds,
  percentunit: (value) => `${Number((value * 100).toPrecision(3))}%`,
  reqps: (value) => `${Number(value.toPrecision(3))} req/s`,
  Bps: (value) => prefixed(value, 1000, [" B/s", " kB/s", " MB/s", " GB/s"]),
  bytes: (value) => prefixed(value, 1024, [" B", " KiB", " MiB", " GiB", " TiB"]),
  watt: (value) => `${Number(value.toPrecision(3))} W`,
  none: String,
  short: (value) => prefixed(value, 1000, ["", " K", " Mil"]),
};

const moments = [...new Set(panels.flatMap(({ series }) => series.flatMap(({ values }) => values.map(([at]) => at))))];
moments.sort((one, other) => one - other);
const indexOf = new Map(moments.map((at, index) => [at, index]));
const column = ({ values }) => {
  const found = new Array(moments.length).fill(null);
  for (const [at, value] of values) found[indexOf.get(at)] = value;
  return found;
};
const last = (values) => values.filter((value) => value !== null).at(-1);

function element(name, className, text) {
  const made = document.createElement(name);
  made.className = className;
  if (text !== undefined) made.textContent = text;
  return made;
}

function shadeRuns(plot) {
  const { ctx, bbox } = plot;
  ctx.save();
  ctx.fillStyle = "rgba(87, 148, 242, 0.07)";
  for (const run of runs) {
    const from = plot.valToPos(run[0], "x", true);
    ctx.fillRect(from, bbox.top, plot.valToPos(run.at(-1), "x", true) - from, bbox.height);
  }
  ctx.restore();
}

function axes(unit) {
  const common = { stroke: QUIET, font: "11px sans-serif", grid: { stroke: GRID, width: 1 }, ticks: { show: false } };
  return [
    { ...common, size: 22, space: 80, values: (_, at) => at.map((each) => new Date(each * 1e3).toISOString().slice(11, 19)) },
    { ...common, size: 66, values: (_, at) => at.map((each) => (each === null ? "" : UNITS[unit](each))) },
  ];
}

function lines(panel, where, width, height) {
  const columns = panel.series.map(column);
  const shown = panel.series.map(({ name }, index) => ({
    label: name, stroke: COLOURS[index % COLOURS.length], width: 1.5, points: { show: false }, spanGaps: true,
    fill: `${COLOURS[index % COLOURS.length]}0d`,
  }));
  new uPlot({
    width, height: height - 18, legend: { show: false }, cursor: { show: false },
    scales: { y: { range: (_, from, to) => [Math.min(0, from), to > 0 ? to * 1.1 : 1] } },
    axes: axes(panel.unit), series: [{}, ...shown], hooks: { drawAxes: [shadeRuns] },
  }, [moments, ...columns], where);
  const legend = element("div", "legend");
  shown.forEach(({ label, stroke }, index) => {
    const value = last(columns[index]);
    const entry = element("span", "", value === undefined ? label : `${label} ${UNITS[panel.unit](value)}`);
    const mark = element("i", "");
    mark.style.background = stroke;
    entry.prepend(mark);
    legend.append(entry);
  });
  where.append(legend);
}

// A series for each bound, cumulative: the count between two bounds is their difference.
function heatmap(panel, where, width, height) {
  const bounds = panel.series.map((series) => ({ bound: Number(series.name.replace("+Inf", "Infinity")), counts: column(series) }));
  bounds.sort((one, other) => one.bound - other.bound);
  const cells = [];
  bounds.forEach(({ bound, counts }, row) => counts.forEach((count, at) => {
    const within = (count ?? 0) - (row ? bounds[row - 1].counts[at] ?? 0 : 0);
    if (row && within > 0.01 && bound < Infinity) cells.push({ at, low: bounds[row - 1].bound, high: bound, within });
  }));
  const most = Math.max(...cells.map(({ within }) => within));
  const low = Math.min(...cells.map((cell) => cell.low));
  const high = Math.max(...cells.map((cell) => cell.high));
  const draw = (plot) => {
    for (const { at, low: from, high: to, within } of cells) {
      const left = plot.valToPos(moments[Math.max(0, at - 1)], "x", true);
      const top = plot.valToPos(to, "y", true);
      plot.ctx.fillStyle = `hsl(${50 - 45 * Math.sqrt(within / most)} 95% ${25 + 40 * Math.sqrt(within / most)}%)`;
      plot.ctx.fillRect(left, top, plot.valToPos(moments[at], "x", true) - left, plot.valToPos(from, "y", true) - top);
    }
  };
  new uPlot({
    width, height, legend: { show: false }, cursor: { show: false },
    scales: { y: { distr: 3, range: () => [low / 1.2, high * 1.2] } },
    axes: axes(panel.unit), series: [{}, { show: true, stroke: "transparent", points: { show: false } }],
    hooks: { drawAxes: [shadeRuns], draw: [draw] },
  }, [moments, moments.map(() => high)], where);
}

function stat(panel, where) {
  const known = panel.series.map((series) => ({ name: series.name, value: last(column(series)) }));
  const live = known.filter(({ value }) => value !== undefined).at(-1);
  const rounded = (value) => (panel.decimals === null ? UNITS[panel.unit](value) : value.toLocaleString("en", { maximumFractionDigits: panel.decimals }));
  where.append(element("div", "stat", live === undefined ? "No data" : panel.names ? live.name : rounded(live.value)));
}

document.getElementById("note").textContent = note;
document.getElementById("about").textContent = about;
const grid = document.getElementById("grid");
for (const panel of panels) {
  const { x, y, w, h } = panel.grid;
  const box = element("div", "panel");
  box.style.gridArea = `${y + 1} / ${x + 1} / span ${h} / span ${w}`;
  box.style.height = `${h * ROW - GAP}px`;
  box.title = panel.text;
  box.append(element("h2", "", panel.title));
  grid.append(box);
  const [width, height] = [box.clientWidth - 16, h * ROW - GAP - 34];
  if (panel.type === "stat") stat(panel, box);
  else if (!panel.series.length) box.append(element("div", "none", "No data: nothing of this kind was watched"));
  else (panel.type === "heatmap" ? heatmap : lines)(panel, box, width, height);
}
grid.style.gridAutoRows = `${ROW - GAP}px`;
document.body.dataset.drawn = String(document.querySelectorAll("canvas").length);
