// The run over time, drawn by uPlot: one chart per figure, one cursor and one zoom for all.

import { LATENCIES, QUANTILES, axis, clock, colour, font, line as draw, milliseconds, number } from "./figures.js";

const HEIGHT = 220;

const line = (name, colour, of, text = number, width = 2) => ({ name, colour, of, text, width });
const whole = (value) => number(value, 0);
const quantiles = (title, key) => ({
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
  { title: "Output tokens/s", lines: [line("output tokens/s", "rate", (p) => p.output_tokens_per_s)] },
  { title: "Requests/min", lines: [line("requests/min", "rate", (p) => p.requests_per_min)] },
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

function options({ lines, scale = 1 }, width, stages) {
  return {
    width,
    height: HEIGHT,
    scales: {
      x: { time: false, range: (_, from, to) => [from ?? 0, Math.max(to ?? 0, (from ?? 0) + 10)] },
      y: { range: (_, from, to) => [0, to > 0 ? to * 1.1 : 1] },
    },
    axes: [axis(28, { time: true }), axis(56)],
    series: [{ label: "at", value: moment }, ...lines.map((each) => series(each, scale))],
    cursor: { sync: { key: "llm" }, drag: { x: true, y: false } },
    hooks: {
      draw: [(plot) => markStages(plot, stages())],
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
    this.plots = [...(openLoop ? ARRIVALS : USERS), ...CHARTS].map((chart) => {
      const figure = document.createElement("figure");
      const caption = document.createElement("figcaption");
      caption.textContent = chart.title;
      figure.append(caption);
      container.append(figure);
      const inner = () => figure.clientWidth - 32;
      const plot = new uPlot(options(chart, inner(), () => this.stages), columns(chart, []), figure);
      plot.over.addEventListener("dblclick", () => { zoomed = false; });
      new ResizeObserver(() => plot.setSize({ width: inner(), height: HEIGHT })).observe(figure);
      return { chart, plot };
    });
  }

  show(points, stages) {
    this.stages = stages;
    for (const { chart, plot } of this.plots) {
      plot.setData(columns(chart, points), !zoomed);
      if (zoomed) plot.redraw();
    }
  }

  recolour() {
    for (const { plot } of this.plots) plot.redraw();
  }
}
