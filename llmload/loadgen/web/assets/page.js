// Polls the run's state and its new points once a second, and shows them.

import { Charts } from "./charts.js";
import { LATENCIES, OF_REASONING, QUANTILES, milliseconds, number } from "./figures.js";

const RUNNING_MS = 1000;
const IDLE_MS = 3000;
const dark = matchMedia("(prefers-color-scheme: dark)");
const at = (id) => document.getElementById(id);
let run = null;
let points = [];
let charts = null;

function element(tag, text, children = []) {
  const made = document.createElement(tag);
  made.textContent = text;
  made.append(...children);
  return made;
}

const row = (name, values) => element("tr", "", [element("th", name), ...values.map((value) => element("td", value))]);

// The mark of tables and report behind a figure that may be off.
function marked(text, doubts, key, q) {
  const of = (doubt) => doubt.figure === key && [null, q].includes(doubt.statistic);
  return text !== "n/a" && doubts?.some(of) ? `${text}~` : text;
}

function showTheme() {
  const chosen = localStorage.getItem("theme"); // Locust's own switch
  document.documentElement.dataset.theme = chosen ?? (dark.matches ? "dark" : "light");
}

function showVerdict(state) {
  const { verdict, stage } = state;
  const ended = stage === "ended";
  at("verdict").dataset.level = verdict?.level ?? "";
  at("level").textContent = verdict ? verdict.level + (ended ? "" : " so far") : "No verdict yet";
  at("simulated").hidden = !state.simulated;
  const window = state.window_s === null ? "nothing measured yet" : `${number(state.window_s)} s measured`;
  at("conclusion").textContent = state.conclusion ?? "";
  const now = ended ? `ended, ${window}` : `${stage}, ${number(state.elapsed_s, 0)} s, ${window}`;
  at("stage").textContent = state.edited ? `${now}; ${state.edited}` : now;
  const reasons = (verdict?.reasons ?? []).map(({ level, text, figures }) =>
    element("li", `${figures.includes("all") ? "" : "~ "}${level}: ${text}`),
  );
  at("reasons").replaceChildren(...reasons);
  at("doubts").replaceChildren(...state.footnotes.map((line) => element("p", line)));
}

function arrivals(state) {
  return {
    "requests/s target": number(state.target_per_s),
    "requests/s sent": number(state.stage === "ended" ? null : points.at(-1)?.sent_per_s),
    "schedule lag p99, ms": milliseconds(state.schedule_lag_s?.p99),
    dropped: number(state.dropped, 0),
  };
}

// Columns of rows by stage and by name: each latency's name, key and quantile.
const ROW_LATENCIES = [["TTFT", "p50"], ["TTFT", "p95"], ["TPOT", "p50"], ["e2e latency", "p50"], ["e2e latency", "p95"]]
  .map(([name, q]) => [name, LATENCIES[name], q]);

function showNames(names) {
  const columns = ["", "completed", "failed", "requests/min", "output tok/s", ...ROW_LATENCIES.map(([name, , q]) => `${name} ${q}, ms`)];
  const rows = names.map((each) =>
    row(each.name, [
      number(each.completed, 0),
      number(each.failed, 0),
      number(each.requests_per_min),
      number(each.output_tokens_per_s),
      ...ROW_LATENCIES.map(([, key, q]) => marked(milliseconds(each[key]?.[q]), each.doubts, key, q)),
    ]),
  );
  at("names").hidden = !names.length;
  at("name-rows").replaceChildren(element("tr", "", columns.map((name) => element("th", name))), ...rows);
}

function showStages(stages) {
  const head = ["", "load", "window, s", "requests/min", "output tok/s"];
  const latencies = ROW_LATENCIES;
  const columns = [...head, ...latencies.map(([name, , q]) => `${name} ${q}, ms`), "failed"];
  const rows = stages.map((stage) =>
    row(stage.name, [
      stage.users === null ? `${stage.rate_per_s} req/s` : `${stage.users} users`,
      number(stage.measured_s),
      number(stage.requests_per_min),
      number(stage.output_tokens_per_s),
      ...latencies.map(([, key, q]) => marked(milliseconds(stage[key]?.[q]), stage.doubts, key, q)),
      number(stage.failed, 0),
    ]),
  );
  at("stages").hidden = !stages.length;
  at("stage-rows").replaceChildren(element("tr", "", columns.map((name) => element("th", name))), ...rows);
}

function showFailures(failures) {
  const head = ["", "count", "share", "in the engine's or system's words"].map((name) => element("th", name));
  const rows = failures.map(({ type, http_status: status, words, count, share }) =>
    row(status === null ? type : `${type} (${status})`, [
      number(count, 0),
      `${number(share * 100)}%`,
      words || "without words",
    ]),
  );
  at("failures").hidden = !failures.length;
  at("failure-rows").replaceChildren(element("tr", "", head), ...rows);
}

function showFigures(state) {
  const ttft = (q) => marked(milliseconds(state.ttft_s?.[q]), state.verdict?.doubts, "ttft_s", q);
  const tiles = {
    "requests/min": number(state.requests_per_min),
    "output tokens/s": number(state.output_tokens_per_s),
    "tokens/s of a request": number(state.request_tokens_per_s),
    "TTFT p50, ms": ttft("p50"),
    "TTFT p95, ms": ttft("p95"),
    ...(state.open_loop || state.stage === "ended" ? {} : { users: number(state.users, 0) }), // in an open loop they are idle
    ...(state.stage === "ended" ? {} : { "in flight": number(state.in_flight, 0) }),
    ...(state.open_loop ? arrivals(state) : {}),
  };
  const known = ([, value]) => value !== "n/a";
  const tile = ([name, value]) => element("div", "", [element("b", value), element("span", name)]);
  at("figures").replaceChildren(...Object.entries(tiles).filter(known).map(tile));
  const head = element("tr", "", ["", ...QUANTILES].map((name) => element("th", name)));
  const doubts = state.verdict?.doubts;
  const latency = ([name, key]) =>
    row(name, QUANTILES.map((q) => marked(milliseconds(state[key]?.[q]), doubts, key, q)));
  const reasoning = Object.entries(OF_REASONING).filter(([, key]) => state[key]); // of a model that reasons
  at("latencies").replaceChildren(head, ...[...Object.entries(LATENCIES), ...reasoning].map(latency));
  const counts = ["started", "completed", "failed", "censored"].map((name) => [name, state[name]]);
  const errors = Object.entries(state.errors).map(([type, count]) => [`failed: ${type.replaceAll("_", " ")}`, count]);
  at("requests").replaceChildren(...[...counts, ...errors].map(([name, count]) => row(name, [number(count, 0)])));
}

// Stop and edit, as Locust's own buttons do it; embedded in Locust's page, these are above.

const TARGETS = { users: ["users", "user_count"], rate_per_s: ["requests/s", "rate"] };
let target = null;

function showActions({ stage, editable, users, target_per_s: rate }) {
  at("edit").hidden = stage === "ended" || stage === "draining";
  for (const field of at("edit").querySelectorAll("label, button:not([type])")) field.hidden = !TARGETS[editable];
  if (target === editable) return;
  target = editable;
  at("target-name").textContent = TARGETS[editable]?.[0] ?? "";
  at("target").value = editable === "users" ? users : rate ?? "";
}

async function post(path, fields) {
  const answer = await fetch(path, { method: "POST", body: new URLSearchParams(fields) });
  const { success, message } = await answer.json();
  at("refused").textContent = success ? "" : `Nothing was changed: ${message}`;
  at("refused").hidden = success;
}

async function edit(event) {
  event.preventDefault();
  const { user_count, spawn_rate } = await fetchJson("./llm/options");
  await post("./swarm", { user_count, spawn_rate, [TARGETS[target][1]]: at("target").value });
}

function show(state) {
  if (!state.run_id) return;
  for (const id of ["figures", "tables", "charts", "note"]) at(id).hidden = false;
  for (const id of ["summary", "report"]) at(id).hidden = state.stage !== "ended";
  at("name").textContent = `${state.scenario}: ${state.model} on ${state.engine}`;
  showVerdict(state);
  showFailures(state.failures);
  showFigures(state);
  showNames(state.by_name);
  showStages(state.stages);
  showActions(state);
  if (charts?.openLoop !== state.open_loop) {
    at("charts").replaceChildren();
    charts = new Charts(at("charts"), state.open_loop); // not before there is a run: a hidden element has no width
  }
  charts.show(points, state.stages, state.limits);
}

async function fetchJson(path) {
  const answer = await fetch(path);
  if (answer.redirected || !answer.headers.get("content-type")?.includes("json")) throw new Error("logged out");
  return answer.json();
}

async function update() {
  const state = await fetchJson("./llm/state");
  if (state.run_id !== run) [run, points] = [state.run_id, []];
  const added = await fetchJson(`./llm/points?after=${points.at(-1)?.t_s ?? -1}`);
  if (added.run_id === run) points.push(...added.points);
  show(state);
  return state.run_id && state.stage !== "ended" ? RUNNING_MS : IDLE_MS;
}

async function poll() {
  let pause = IDLE_MS;
  try {
    pause = await update();
    at("trouble").hidden = true;
  } catch (error) {
    const out = error.message === "logged out";
    at("trouble").textContent = out ? "Logged out: log in to Locust again." : "Locust does not answer; trying again.";
    at("trouble").hidden = false;
  }
  setTimeout(poll, pause);
}

at("edit").addEventListener("submit", edit);
at("stop").addEventListener("click", () => post("./stop", {}));
showTheme();
document.documentElement.classList.toggle("embedded", location.search === "?embedded");
const retheme = () => {
  showTheme();
  charts?.recolour();
};
dark.addEventListener("change", retheme);
addEventListener("storage", retheme);
poll();
