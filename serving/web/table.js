// A CSV text as columns: quoted cells, commas or semicolons, numbers as numbers, nothing as null.

export function parse(text) {
  const rows = cells(text.trim());
  if (rows.length < 2) throw new Error("The table needs a line of names and a line for each step.");
  const [names, ...lines] = rows;
  const ragged = lines.findIndex((line) => line.length !== names.length);
  if (ragged >= 0) {
    throw new Error(
      `Line ${ragged + 2} has ${lines[ragged].length} cells; the names are ${names.length}.`);
  }
  return Object.fromEntries(names.map((name, at) => [name.trim(), lines.map((line) => line[at])]));
}

export function numbers(column, name) {
  return column.map((cell, row) => {
    const text = cell.trim();
    if (["", "nan", "null", "na"].includes(text.toLowerCase())) return null;
    const value = Number(text);
    if (!Number.isFinite(value)) throw new Error(`Line ${row + 2} of ${name} is no number.`);
    return value;
  });
}

export function written(columns) {
  const quoted = (cell) => /[",\n]/.test(`${cell}`) ? `"${`${cell}`.replaceAll('"', '""')}"` : cell;
  const names = Object.keys(columns);
  const rows = columns[names[0]].map((_, row) => names.map((name) => quoted(columns[name][row])));
  return [names.map(quoted), ...rows].map((row) => row.join(",")).join("\n");
}

function cells(text) {
  const head = text.slice(0, text.indexOf("\n"));
  const comma = head.split(";").length > head.split(",").length ? ";" : ",";
  const rows = [[]];
  let cell = "", quoted = false;
  for (let at = 0; at < text.length; at += 1) {
    const sign = text[at];
    if (quoted && sign === '"' && text[at + 1] === '"') { cell += '"'; at += 1; }
    else if (sign === '"') quoted = !quoted;
    else if (!quoted && sign === comma) { rows.at(-1).push(cell); cell = ""; }
    else if (!quoted && sign === "\n") { rows.at(-1).push(cell); cell = ""; rows.push([]); }
    else if (sign !== "\r") cell += sign;
  }
  rows.at(-1).push(cell);
  return rows;
}
