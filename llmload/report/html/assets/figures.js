// Figures as text, colours and axes, for the live page (which imports this file) and for the report (which contains it).

export const LATENCIES = { TTFT: "ttft_s", ITL: "itl_s", TPOT: "tpot_s", "e2e latency": "e2e_s" };
export const OF_REASONING = {
  "time to first answer": "ttfa_s",
  "thinking time": "thinking_s",
  "TPOT of the answer": "answer_tpot_s",
};
export const QUANTILES = ["p50", "p95", "p99"];

const TIME_STEPS_S = [0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14400, 28800, 86400];
const FONT_FAMILY = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Noto Sans', sans-serif";
const compact = new Intl.NumberFormat("en-US", { notation: "compact", maximumSignificantDigits: 4 });
const missing = (value) => value === null || value === undefined;

// What is unknown is n/a, never 0.
export function number(value, digits = 1) {
  if (missing(value)) return "n/a";
  return value.toLocaleString("en-US", { minimumFractionDigits: digits, maximumFractionDigits: digits });
}

export function milliseconds(seconds) {
  if (missing(seconds)) return "n/a";
  const ms = seconds * 1000;
  return number(ms, ms >= 1000 ? 0 : ms >= 100 ? 1 : 2);
}

// Seconds as h:mm:ss or m:ss, with tenths where they are not 0.
export function clock(seconds) {
  const tenths = Math.round(seconds * 10);
  const whole = Math.floor(tenths / 10);
  const two = (part) => String(part).padStart(2, "0");
  const [hours, minutes] = [Math.floor(whole / 3600), Math.floor(whole / 60) % 60];
  const text = hours ? `${hours}:${two(minutes)}:${two(whole % 60)}` : `${minutes}:${two(whole % 60)}`;
  return tenths % 10 ? `${text}.${tenths % 10}` : text;
}

// A colour of theme.css by its name, as it is now: light or dark.
export const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`);

export const font = (px) => `${px}px ${FONT_FAMILY}`;

// uPlot's options of an axis; `time` labels it by the clock.
export function axis(size, { time = false, ...more } = {}) {
  const values = time
    ? { incrs: TIME_STEPS_S, values: (_, at) => at.map(clock) }
    : { values: (_, at) => at.map((value) => (value === null ? "" : compact.format(value))) };
  const grid = { stroke: () => colour("grid"), width: 1 };
  return { stroke: () => colour("quiet"), grid, ticks: { show: false }, font: font(12), labelFont: font(12), size, ...values, ...more };
}

export function line(ctx, fromX, fromY, toX, toY) {
  ctx.beginPath();
  ctx.moveTo(fromX, fromY);
  ctx.lineTo(toX, toY);
  ctx.stroke();
}
