// Figures as people read them; what is unknown is n/a, never 0.

export const LATENCIES = { TTFT: "ttft_s", ITL: "itl_s", TPOT: "tpot_s", "e2e latency": "e2e_s" };
export const QUANTILES = ["p50", "p95", "p99"];

export function number(value, digits = 1) {
  if (value === null || value === undefined) return "n/a";
  return value.toLocaleString("en-US", { minimumFractionDigits: digits, maximumFractionDigits: digits });
}

export function milliseconds(seconds) {
  if (seconds === null || seconds === undefined) return "n/a";
  const ms = seconds * 1000;
  return number(ms, ms >= 1000 ? 0 : ms >= 100 ? 1 : 2);
}

export function clock(seconds) {
  const whole = Math.round(seconds);
  const [hours, minutes] = [Math.floor(whole / 3600), Math.floor(whole / 60) % 60];
  const two = (part) => String(part).padStart(2, "0");
  return hours ? `${hours}:${two(minutes)}:${two(whole % 60)}` : `${minutes}:${two(whole % 60)}`;
}
