// A forecast from a table by hand. Only the public interface; everything is set as text, so no name of a
// model or a series can become markup. The key stays in this page.

import { chart } from "/assets/chart.js";
import { numbers, parse, written } from "/assets/table.js";

const SHOWN = 200;  // last rows of the history in the chart
const STEPS = { "15min": 9e5, "30min": 18e5, h: 36e5, D: 864e5, W: 6048e5 };  // of examples, in ms
const GUESSES = {
  id: ["unique_id", "id", "series", "item_id"],
  time: ["ds", "time", "timestamp", "date", "datetime"],
  target: ["y", "value", "target"],
};
const at = (id) => document.getElementById(id);
let key = "", card = null, last = null;

async function ask(path, body) {
  const headers = { Accept: "application/json" };
  if (key) headers.Authorization = `Bearer ${key}`;
  if (body) headers["Content-Type"] = "application/json";
  const sent = { headers, method: body ? "POST" : "GET", body: body && JSON.stringify(body) };
  const reply = await fetch(path, sent);
  const found = await reply.json();
  if (reply.ok) return found;
  at("key-form").hidden &&= reply.status !== 401;
  const places = (found.errors ?? []).map((one) => `\n${one.pointer ?? ""} ${one.message}`);
  throw new Error(`${found.title}: ${found.detail}${places.join("")}`);
}

function element(tag, text) {
  const made = document.createElement(tag);
  made.textContent = text;
  return made;
}

function fill(select, names, chosen) {
  select.replaceChildren(...names.map((name) => element("option", name)));
  if (chosen) select.value = chosen;
}

async function guarded(work) {
  at("problem").hidden = true;
  try {
    await work();
  } catch (error) {
    at("problem").textContent = error.message;
    at("problem").hidden = false;
  }
}

// --- models ---------------------------------------------------------------------------------------

async function readModels() {
  const ready = await fetch("/health/ready");
  at("state").textContent = ready.ok ? "Ready." : (await ready.json()).detail;
  const names = [];
  let query = "";
  do {
    const page = await ask(`/v1/models${query}`);
    names.push(...page.items);
    query = page.next === null ? null : `?cursor=${encodeURIComponent(page.next)}`;
  } while (query);
  const own = names.filter((model) => !model.built_in), built = names.filter((model) => model.built_in);
  fill(at("model"), [...own, ...built].map((model) => model.name));
  at("key-form").hidden = true;
  await readCard(names);
  at("model").onchange = () => guarded(() => readCard(names));
}

async function readCard(names) {
  const model = names.find((one) => one.name === at("model").value);
  const version = model?.aliases.champion?.version ?? model?.versions[0]?.version;
  card = version ? await ask(`/v1/models/${model.name}/versions/${version}`) : null;
  const told = card
    ? { kind: card.kind, version, step: card.freq, reads: `${card.context} steps`,
        forecasts: `${card.horizon} steps`, ...scores(card.metrics) }
    : { about: model?.description ?? "" };
  at("card").replaceChildren(...Object.entries(told).map(([name, value]) => {
    const pair = document.createElement("div");
    pair.append(element("dt", name), element("dd", `${value}`));
    return pair;
  }));
  at("steps").value = card?.horizon ?? 24;
}

function scores(metrics) {
  const known = Object.entries(metrics ?? {}).filter(([name]) => ["mase", "wql"].includes(name));
  return Object.fromEntries(known.map(([name, value]) => [name.toUpperCase(), value.toPrecision(3)]));
}

// --- the table ------------------------------------------------------------------------------------

function readNames() {
  const names = Object.keys(parse(at("csv").value));
  const guess = (use) => GUESSES[use].find((name) => names.includes(name));
  fill(at("id"), ["(one series)", ...names], guess("id"));
  fill(at("time"), names, guess("time"));
  fill(at("target"), names, guess("target") ?? names.at(-1));
}

function example() {
  const step = STEPS[card?.freq] ?? STEPS.h, rows = Math.max(200, card?.context ?? 0);
  const day = step >= STEPS.D ? 7 : STEPS.D / step, begin = Date.UTC(2026, 0, 5);
  const lines = Array.from({ length: rows }, (_, row) => {
    const stamp = new Date(begin + row * step).toISOString().slice(0, 19);
    const value = 50 + 20 * Math.sin((2 * Math.PI * row) / day) + 5 * Math.sin(row * row);
    return `example,${stamp},${value.toFixed(2)}`;
  });
  at("csv").value = ["unique_id,ds,y", ...lines].join("\n");
  readNames();
}

function request() {
  const table = parse(at("csv").value);
  const columns = { time: at("time").value, target: at("target").value };
  if (at("id").selectedIndex > 0) columns.id = at("id").value;
  const data = Object.fromEntries(Object.values(columns).map((name) => [name, table[name]]));
  data[columns.target] = numbers(table[columns.target], columns.target);
  return { model: at("model").value, h: at("steps").valueAsNumber, quantiles: [0.1, 0.9], columns, data };
}

// --- the answer -----------------------------------------------------------------------------------

async function forecast() {
  if (!at("time").value) readNames();
  const body = request();
  const found = await ask("/v1/forecasts", body);
  last = { body, found };
  fill(at("shown"), found.series.map((one) => one.unique_id));
  const warnings = found.warnings.map((one) => element("li", one.message));
  at("warnings").replaceChildren(...warnings);
  URL.revokeObjectURL(at("download").href);  // else the browser keeps every table
  at("download").href = URL.createObjectURL(new Blob([written(found.forecast)], { type: "text/csv" }));
  at("curl").textContent = `curl -s ${location.origin}/v1/forecasts -H 'Content-Type: application/json'`
    + `${key ? " -H \"Authorization: Bearer $KEY\"" : ""} -d '${JSON.stringify({ ...body, data: "..." })}'`;
  show();
  at("answer").hidden = false;
}

function show() {
  const { body, found } = last, { columns, data } = body;
  const entry = found.series[at("shown").selectedIndex], id = entry.unique_id;
  const mine = (table, name) => table[name].filter((_, row) =>
    !columns.id || `${table[columns.id][row]}` === `${id}`);
  const past = { ds: mine(data, columns.time).slice(-SHOWN), y: mine(data, columns.target).slice(-SHOWN) };
  const ahead = found.forecast, name = columns.id ?? "unique_id";
  const of = (column) => ahead[column].filter((_, row) => `${ahead[name][row]}` === `${id}`);
  const stood = entry.fallback ? `, answered by ${entry.fallback.model} (${entry.fallback.reason})` : "";
  at("how").textContent =
    `${found.model.name} version ${found.model.version}, ${entry.method}${stood}; band: 10 % to 90 %`;
  at("chart").replaceChildren(
    chart(past, { ds: of(columns.time), mean: of("mean"), low: of("q0.1"), high: of("q0.9") }));
}

at("key-form").onsubmit = (event) => {
  event.preventDefault();
  key = at("key").value.trim();
  guarded(readModels);
};
at("ask").onsubmit = (event) => { event.preventDefault(); guarded(forecast); };
at("sample").onclick = () => guarded(example);
at("csv").onchange = () => guarded(readNames);
at("file").onchange = () => guarded(async () => {
  at("csv").value = await at("file").files[0].text();
  readNames();
});
at("shown").onchange = show;
await guarded(readModels);
