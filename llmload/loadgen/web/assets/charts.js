// The run over time, drawn by uPlot: one chart per figure, one cursor and one zoom for all.

import { LATENCIES, QUANTILES, axis, clock, colour, font, line as draw, milliseconds, number } from "./figures.js";

const HEIGHT = 220;

const line = (name, colour, of, text = number, width = 2) => ({ name, colour, of, text, width });
const whole = (value) => number(value, 0);
const quantiles = (title, key) => ({
  key,
  title: `${title}, ms`,
  lines: QUANTILES.map((q) => line(q, q, (p) => p[key]?.[q], milliseconds)),
  scale: 1000,
});
const ARRIVALS = [
  {
    title: "Arrivals: requests/s",
    lines: [
      line("target", "level", (p) => p.target_per_s, number, 5), // if all is well, "sent" lies on top of it
      line("sent", "second", (p) => p.sent_per_s),
      line("dropped", "fault", (p) => p.dropped_per_s),
    ],
  },
  quantiles("Schedule lag", "schedule_lag_s"),
  { title: "Requests in flight", lines: [line("in flight", "second", (p) => p.in_flight, whole)] },
];
const USERS = [
  {
    title: "Users and requests in flight",
    lines: [
      line("users", "level", (p) => p.users, whole, 5), // a closed loop has as many in flight: drawn on top of it
      line("in flight", "second", (p) => p.in_flight, whole),
    ],
  },
];
const CHARTS = [
  { key: "output_tokens_per_s", title: "Output tokens/s", lines: [line("output tokens/s", "rate", (p) => p.output_tokens_per_s)] },
  { key: "requests_per_min", title: "Requests/min", lines: [line("requests/min", "rate", (p) => p.requests_per_min)] },
  { title: "Failed requests/min", lines: [line("failed/min", "fault", (p) => p.failed_per_min)] },
  ...Object.entries(LATENCIES).map(([name, key]) => quantiles(name, key)),
];

let zoomed = false;

function series({ name, colour: of, text, width }, scale) {
  const legend = (plot, value, index) => {
    const shown = value ?? plot.data[index].at(-1);
    return text(shown === null || shown === undefined ? null : shown / scale);
  };
  return { label: name, stroke: () => colour(of), width, value: legend, points: { show: false } };
}

function moment(plot, value) {
  const seconds = value ?? plot.data[0].at(-1);
  return seconds === undefined ? "n/a" : clock(Math.round(seconds));
}

// A thin line at the start of each stage after the first, with its name.
function markStages(plot, stages) {
  const { ctx, bbox } = plot;
  const [from, to] = [plot.scales.x.min, plot.scales.x.max];
  ctx.save();
  ctx.strokeStyle = ctx.fillStyle = colour("quiet");
  ctx.font = font(11 * devicePixelRatio);
  [ctx.textAlign, ctx.textBaseline] = ["left", "top"];
  for (const { name, begin_s: begin } of stages) {
    if (begin < from || begin > to) continue;
    const x = Math.round(plot.valToPos(begin, "x", true)) + 0.5;
    ctx.setLineDash([4 * devicePixelRatio, 4 * devicePixelRatio]);
    if (begin > 0) draw(ctx, x, bbox.top, x, bbox.top + bbox.height);
    ctx.fillText(name, x + 4 * devicePixelRatio, bbox.top + 2);
  }
  ctx.restore();
}

// A dotted line at each limit of the chart's figure, with whose limit it is.
function markLimits(plot, limits) {
  const { ctx, bbox } = plot;
  ctx.save();
  ctx.strokeStyle = ctx.fillStyle = colour("mark");
  ctx.font = font(11 * devicePixelRatio);
  [ctx.textAlign, ctx.textBaseline] = ["left", "bottom"];
  ctx.setLineDash([2 * devicePixelRatio, 3 * devicePixelRatio]);
  for (const { at, text } of limits) {
    if (at > plot.scales.y.max) continue;
    const y = Math.round(plot.valToPos(at, "y", true)) + 0.5;
    draw(ctx, bbox.left, y, bbox.left + bbox.width, y);
    ctx.fillText(text, bbox.left + 4 * devicePixelRatio, y - 2);
  }
  ctx.restore();
}

// A limit that is far above the curve would press it flat: then only the caption has it.
const top = (most, limits) => Math.max(most, ...limits.map(({ at }) => at).filter((at) => at <= 3 * most));

function options({ lines, scale = 1 }, width, stages, limits) {
  return {
    width,
    height: HEIGHT,
    scales: {
      x: { time: false, range: (_, from, to) => [from ?? 0, Math.max(to ?? 0, (from ?? 0) + 10)] },
      y: { range: (_, from, to) => [0, to > 0 ? top(to, limits()) * 1.1 : 1] },
    },
    axes: [axis(28, { time: true }), axis(56)],
    series: [{ label: "at", value: moment }, ...lines.map((each) => series(each, scale))],
    cursor: { sync: { key: "llm" }, drag: { x: true, y: false } },
    hooks: {
      draw: [(plot) => markStages(plot, stages()), (plot) => markLimits(plot, limits())],
      setSelect: [(plot) => { zoomed ||= plot.select.width > 0; }],
    },
  };
}

function columns({ lines, scale = 1 }, points) {
  const value = (found) => (found === null || found === undefined ? null : found * scale);
  return [points.map((point) => point.t_s), ...lines.map(({ of }) => points.map((point) => value(of(point))))];
}

export class Charts {
  constructor(container, openLoop) {
    this.openLoop = openLoop;
    this.stages = [];
    this.limits = [];
    this.plots = [...(openLoop ? ARRIVALS : USERS), ...CHARTS].map((chart) => {
      const figure = document.createElement("figure");
      const caption = document.createElement("figcaption");
      caption.textContent = chart.title;
      figure.append(caption);
      container.append(figure);
      const inner = () => figure.clientWidth - 32;
      const limits = () => this.limits.filter(({ figure: key }) => key === chart.key)
        .map(({ limit, text }) => ({ at: limit * (chart.scale ?? 1), text }));
      const plot = new uPlot(options(chart, inner(), () => this.stages, limits), columns(chart, []), figure);
      plot.over.addEventListener("dblclick", () => { zoomed = false; });
      new ResizeObserver(() => plot.setSize({ width: inner(), height: HEIGHT })).observe(figure);
      return { chart, plot, caption, limits };
    });
  }

  show(points, stages, limits) {
    [this.stages, this.limits] = [stages, limits];
    for (const { chart, plot, caption, limits: own } of this.plots) {
      const words = own().map(({ at, text }) => `${text}: ${number(at, 0)}`);
      caption.textContent = [chart.title, ...words].join("; ");
      plot.setData(columns(chart, points), !zoomed);
      if (zoomed) plot.redraw();
    }
  }

  recolour() {
    for (const { plot } of this.plots) plot.redraw();
  }
}
