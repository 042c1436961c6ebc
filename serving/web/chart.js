// One series and its forecast as SVG: what was, what is expected, and the interval around it.

const WIDTH = 900, HEIGHT = 320, LEFT = 60, BOTTOM = 30, TICKS = 5;

export function chart(past, ahead) {
  const length = past.y.length + ahead.mean.length;
  const every = [...past.y, ...ahead.mean, ...ahead.low, ...ahead.high].filter((v) => v !== null);
  const low = Math.min(...every), high = Math.max(...every), span = high - low || 1;
  const x = (step) => LEFT + ((WIDTH - LEFT - 10) * step) / Math.max(1, length - 1);
  const y = (value) => 10 + ((HEIGHT - BOTTOM - 10) * (high - value)) / span;
  const svg = element("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img" });
  svg.append(element("title", {}, "The series and its forecast"));
  for (let tick = 0; tick < TICKS; tick += 1) {
    const value = low + (span * tick) / (TICKS - 1);
    svg.append(
      element("line", { class: "grid", x1: LEFT, x2: WIDTH - 10, y1: y(value), y2: y(value) }),
      element("text", { x: LEFT - 6, y: y(value) + 4, "text-anchor": "end" }, short(value)));
  }
  const stamps = [...past.ds, ...ahead.ds];
  const near = x(length - 1) - x(past.y.length) < 200;  // the last two would cover each other
  const told = [[0, "start"], [past.y.length, near ? "end" : "middle"]];
  for (const [step, anchor] of near ? told : [...told, [length - 1, "end"]]) {
    const text = `${stamps[step]}`.slice(0, 16).replace("T", " ");
    svg.append(element("text", { x: x(step), y: HEIGHT - 8, "text-anchor": anchor }, text));
  }
  const from = past.y.length, joint = from ? [[from - 1, past.y[from - 1]]] : [];
  const there = ahead.high.map((v, i) => [x(from + i), y(v)]);
  const back = ahead.low.map((v, i) => [x(from + i), y(v)]).reverse();
  svg.append(
    element("polygon", { class: "band", points: [...there, ...back].map((p) => p.join()).join(" ") }),
    element("path", { class: "past", d: line(past.y.map((v, i) => [i, v]), x, y) }),
    element("path", { class: "mean", d: line([...joint, ...ahead.mean.map((v, i) => [from + i, v])], x, y) }));
  return svg;
}

function line(points, x, y) {
  let pen = "M";
  return points.map(([step, value]) => {
    if (value === null) { pen = "M"; return ""; }
    const part = `${pen}${x(step).toFixed(1)},${y(value).toFixed(1)}`;
    pen = "L";
    return part;
  }).join("");
}

function short(value) {
  return Math.abs(value) >= 1e5 || (value !== 0 && Math.abs(value) < 1e-2)
    ? value.toExponential(1) : `${Number(value.toPrecision(4))}`;
}

function element(tag, attributes, text) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  if (text !== undefined) made.textContent = text;
  return made;
}
