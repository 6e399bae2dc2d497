// The table of points, the chosen point's bits, and files to take along.
const table = $("points");
const sorting = { by: null, down: false };

function valuesOf(row) {
  return [...front.columns.map((one) => one.values[row]), front.mean_bits[0][row], front.mean_bits[1][row]];
}

function startTable() {
  const heads = ["point", ...front.columns.map((one) => one.name), "weight bits", "activation bits"];
  const line = element("tr");
  heads.forEach((name, i) => {
    const head = element("th", null, { scope: "col" });
    const button = element("button", name, { type: "button" });
    button.addEventListener("click", () => sortBy(i, head));
    head.append(button);
    line.append(head);
  });
  table.tHead.append(line);
  front.bits.forEach((_, row) => {
    const knee = row === front.knee ? " ★ knee" : "";
    const cells = [`${row}${knee}`, ...front.columns.map((one) => shown(one, one.values[row]))];
    const made = element("tr", null, { tabindex: "0", "data-row": row });
    for (const cell of [...cells, number(front.mean_bits[0][row]), number(front.mean_bits[1][row])])
      made.append(element("td", cell));
    made.addEventListener("click", () => choose(row));
    made.addEventListener("keydown", (event) => onKey(event, row, made));
    table.tBodies[0].append(made);
  });
  onSelected.push(filterTable);
  onChosen.push(markRow);
  filterTable();
  markRow();
  $("clear").addEventListener("click", () => { select(null);
    drawFront(); });
}

function onKey(event, row, line) {
  if (event.key === "Enter" || event.key === " ") choose(row);
  else if (event.key === "ArrowDown" || event.key === "ArrowUp") {
    let other = line;
    do other = event.key === "ArrowDown" ? other.nextElementSibling : other.previousElementSibling; while (
      other && other.hidden);
    if (other) other.focus();
  } else return;
  event.preventDefault();
}

function sortBy(place, head) {
  sorting.down = sorting.by === place && !sorting.down;
  sorting.by = place;
  const key = (line) => (place === 0 ? Number(line.dataset.row) : valuesOf(Number(line.dataset.row))[place -
    1] ?? Infinity);
  const lines = [...table.tBodies[0].rows].sort((a, b) => (key(a) - key(b)) * (sorting.down ? -1 : 1));
  table.tBodies[0].append(...lines);
  for (const one of table.tHead.rows[0].cells) one.removeAttribute("aria-sort");
  head.setAttribute("aria-sort", sorting.down ? "descending" : "ascending");
}

function filterTable() {
  for (const line of table.tBodies[0].rows) line.hidden = state.selected !== null && !state.selected.has(
    Number(line.dataset.row));
  const all = front.bits.length;
  $("count").textContent = state.selected === null ? `${all}` : `${state.selected.size} of ${all}, brushed`;
  $("clear").hidden = state.selected === null;
}

function markRow() {
  for (const line of table.tBodies[0].rows) line.setAttribute("aria-current", Number(line.dataset.row) ===
    state.chosen);
}

// --- the chosen point

function showPoint() {
  const row = state.chosen,
    knee = row === front.knee ? ", the knee" : "";
  $("point-title").textContent = `Point ${row}${knee}`;
  const means = [
    ["mean weight bits", number(front.mean_bits[0][row])],
    ["mean activation bits", number(front.mean_bits[1][row])]
  ];
  facts($("point-facts"), [...front.columns.map((one) => [one.name, shown(one, one.values[row])]), ...
    means]);
  drawBits();
  fillBits();
}

function drawBits() {
  const names = front.operations,
    row = state.chosen,
    node = $("bits-plot");
  const series = [
    ["weights", front.weight_bits[row], COLOURS[0], "", "y", front.mean_bits[0][row]],
    ["activations", front.activation_bits[row], COLOURS[1], "/", "y2", front.mean_bits[1][row]],
  ];
  const highest = Math.max(...front.bits.flat());
  const ticks = highest > 16 ? [0, 8, 16, 24, 32] : highest > 8 ? [0, 4, 8, 12, 16] : [0, 2, 4, 6, 8];
  const traces = series.flatMap(([name, bits, colour, shape, yaxis, mean]) => [{
      name,
      type: "bar",
      x: names.map((_, i) => i),
      y: bits,
      yaxis,
      marker: { color: colour, pattern: { shape, size: 6, solidity: 0.25, fillmode: "overlay" } },
      hoverinfo: "text",
      hovertext: names.map((one, i) => `${safe(one)}<br>${name} ${number(bits[i])} bit`),
    },
    ...(mean === null ? [] : [{
      name: `mean of ${name}, ${number(mean)}`,
      type: "scatter",
      mode: "lines",
      x: [-0.7, names.length - 0.3],
      y: [mean, mean],
      yaxis,
      line: { color: css("--ink"), width: 1, dash: shape ? "dot" : "dash" },
      hoverinfo: "skip",
      showlegend: !narrow(),
    }]),
  ]);
  const bits = { tickvals: ticks, range: [0, Math.max(highest, 8) + 0.4], fixedrange: true };
  draw(node, traces, {
    xaxis: nameAxis(names, node, { anchor: "y2" }),
    yaxis: axis("weight bits", { ...bits, domain: [0.54, 1] }),
    yaxis2: axis("activation bits", { ...bits, domain: [0, 0.46] }),
    bargap: 0.15,
  });
}

function fillBits() {
  if (!$("bits-details").open) return;
  const row = state.chosen;
  fill($("bits-table"), front.operations.map((name, i) => [name, number(front.weight_bits[row][i]), number(
    front.activation_bits[row][i])]));
}

// --- files

// By hand, for an object would put a quantizer called "7" before all others. The file of nemojax.save_bits.
function bitsFile(row) {
  const object = (pairs) => (pairs.length ? "{\n" + pairs.map(([name, value]) =>
    ` ${JSON.stringify(name)}: ${value}`).join(",\n") + "\n}" : "{}");
  const costs = (kind) => front.columns.filter((one) => one.kind === kind).map((one) => [one.name, JSON
    .stringify(one.values[row])
  ]);
  const fields = [
    ["schema", JSON.stringify(front.bits_schema)],
    ["bits", object(front.names.map((name, i) => [name, front.bits[row][i]]))],
    ["costs", object(costs("objective"))],
    ["held_out", object(costs("held out"))],
    ["settings", front.settings],
  ];
  return "{\n" + fields.map(([name, value]) => `"${name}": ${value}`).join(",\n") + "\n}\n";
}

// The columns of Front.to_csv.
function frontFile() {
  const own = front.columns.filter((one) => one.kind !== "on the chip");
  const quoted = (cell) => (/[",\r\n]/.test(cell) ? `"${cell.replace(/"/g, '""')}"` : cell);
  const head = [...own.map((one) => one.name), "mean_weight_bits", "mean_activation_bits", ...front.names];
  const rows = front.bits.map((bits, row) => [...own.map((one) => one.values[row]), front.mean_bits[0][
    row] ?? "nan", front.mean_bits[1][row] ?? "nan", ...bits
  ]);
  return [head, ...rows].map((cells) => cells.map((cell) => quoted(String(cell))).join(",")).join("\n") +
    "\n";
}

function startPoints() {
  startTable();
  showPoint();
  onChosen.push(showPoint);
  onRedraw.push(drawBits);
  $("bits-details").addEventListener("toggle", fillBits);
  $("save-bits").addEventListener("click", () => save(`bits-${state.chosen}.json`, "application/json",
    bitsFile(state.chosen)));
  $("save-csv").addEventListener("click", () => save("front.csv", "text/csv", frontFile()));
  const step = (by) => choose((state.chosen + by + front.bits.length) % front.bits.length);
  $("previous").addEventListener("click", () => step(-1));
  $("next").addEventListener("click", () => step(1));
}
