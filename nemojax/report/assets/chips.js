// The chosen point on a chip: memory over time, time by operation, placement.
const chips = [...data.chips, ...data.placed];

function nearest(chip) {
  const spans = front.objectives.map((name) => {
    const values = column(name).values;
    return Math.max(...values) - Math.min(...values) || 1;
  });
  const distance = (row) => front.objectives.reduce((sum, name, j) => {
    const values = column(name).values;
    return sum + ((values[row] - values[state.chosen]) / spans[j]) ** 2;
  }, 0);
  return Object.keys(chip.points).map(Number).sort((a, b) => distance(a) - distance(b))[0];
}

function showChip() {
  const chip = chips[Number($("chip").value)];
  const found = chip.only || chip.points[state.chosen];
  const own = chip.only ? " Shown at its own bits, whichever point is chosen." : "";
  $("chip-about").textContent = `${chip.label}: ${chip.about}.${own}`;
  $("chip-warnings").textContent = chip.warnings.map((line) => `Of this chip: ${line}.`).join(" ");
  $("chip-panels").hidden = !found;
  $("chip-missing").hidden = Boolean(found);
  if (!found) return missing(chip);
  const total = found.time_s.reduce((sum, time) => sum + time, 0) || 1;
  const peaks = found.held_bytes.map((held) => Math.max(...held));
  facts($("chip-facts"), [
    ["latency", scaled(found.latency_s, "s")],
    ...(found.energy_j === null ? [] : [
      ["energy", `${number(found.energy_j)} J`]
    ]),
    ["everything fits", found.fits ? "yes" : "NO"],
    ...terms(chip).map((name, t) => [`time bound by ${name}`, share(found, t) / total]).filter(([,
      part]) => part > 0)
    .map(([name, part]) => [name, `${number(100 * part)} %`]),
    ...chip.levels.map((name, k) => [`${name}, at most`, peaks[k] ? scaled(peaks[k], "B") : "nothing"]),
  ]);
  drawMemory(chip, found);
  drawLatency(chip, found);
  drawPlacement(chip, found);
  fillOperations(chip, found);
}

const terms = (chip) => ["compute", ...chip.levels];
const share = (found, term) => found.time_s.reduce((sum, time, i) => sum + (found.binding[i] === term ?
  time : 0), 0);
const termColour = (term) => (term === 0 ? "#7A7A7A" : LEVELS[(term - 1) % LEVELS.length]);

function missing(chip) {
  const note = $("chip-missing");
  if (!chip.possible[state.chosen]) {
    note.textContent =
      `Point ${state.chosen}: the chip cannot compute or hold the network at these bit-widths.`;
    return;
  }
  const rows = Object.keys(chip.points);
  note.textContent =
    `These panels are in the file for ${rows.length} of ${front.bits.length} points, ` +
    `point ${state.chosen} is not among them. `;
  if (!rows.length) return;
  const other = nearest(chip);
  const button = element("button", `Choose point ${other}, the nearest that is`, { type: "button" });
  button.addEventListener("click", () => choose(other));
  note.append(button);
}

function drawMemory(chip, found) {
  const node = $("memory-plot"),
    names = chip.operations,
    count = names.length;
  const used = chip.levels.map((_, k) => k).filter((k) => Math.max(...found.held_bytes[k]) + chip.reserved[
    k] > 0).reverse();
  node.style.height = `${90 + 150 * Math.max(1, used.length)}px`;
  const steps = [...names.map((_, i) => i), count],
    last = (values) => [...values, values[count - 1]];
  const traces = [],
    layout = { annotations: [], xaxis: axis("operation, in execution order", { range: [0, count],
        showgrid: false }) };
  used.forEach((k, place) => {
    const yaxis = place ? `y${place + 1}` : "y",
      height = 1 / used.length;
    const held = found.held_bytes[k],
      top = Math.max(...held) + chip.reserved[k],
      limit = chip.capacity[k];
    const area = (name, values, opacity, shape) => traces.push({
      name: `${safe(chip.levels[k])}: ${name}`,
      x: steps,
      y: last(values),
      yaxis,
      stackgroup: `level ${k}`,
      mode: "lines",
      line: { shape: "hv", width: 0.5, color: termColour(k + 1) },
      fillcolor: tint(termColour(k + 1), opacity),
      fillpattern: { shape, size: 6, solidity: 0.2, fillmode: "overlay" },
      hoverinfo: "text",
      hovertext: steps.map((i) =>
        `${safe(names[Math.min(i, count - 1)])}<br>${safe(chip.levels[k])}: ${name} ` +
        scaled(last(values)[i], "B")
        ),
    });
    if (chip.reserved[k]) area("reserved", names.map(() => chip.reserved[k]), 0.2, "x");
    area("weights", names.map(() => found.weight_bytes[k]), 0.95, "");
    area("live outputs", held.map((bytes) => bytes - found.weight_bytes[k]), 0.45, "/");
    const near = limit !== null && limit <= 3 * top;
    if (near) traces.push({
      name: `${safe(chip.levels[k])}: capacity ${scaled(limit, "B")}`,
      x: [0, count],
      y: [limit, limit],
      yaxis,
      mode: "lines",
      line: { color: css("--ink"), width: 1.5, dash: "dash" },
      hoverinfo: "name",
    });
    const from = 1 - (place + 1) * height + (place + 1 < used.length ? 0.06 : 0.02),
      to = 1 - place * height - 0.05;
    layout[`yaxis${place ? place + 1 : ""}`] = axis("", {
      domain: [from, to],
      tickformat: "~s",
      ticksuffix: "B",
      range: [0, 1.12 * Math.max(top, near ? limit : 0)],
      nticks: 5,
      fixedrange: true,
    });
    const room = limit === null ? "unlimited" : `capacity ${scaled(limit, "B")}`;
    layout.annotations.push({
      text: `<b>${safe(chip.levels[k])}</b>, ${room}, at most ${scaled(Math.max(...held), "B")}`,
      showarrow: false,
      x: 0,
      xref: "paper",
      xanchor: "left",
      y: to,
      yref: "paper",
      yanchor: "bottom",
      font: { size: 12 },
    });
  });
  layout.xaxis.anchor = used.length > 1 ? `y${used.length}` : "y";
  draw(node, traces, { ...layout, showlegend: false, margin: { l: 54, r: 14, t: 18, b: 40 } });
}

function tint(colour, opacity) {
  const [r, g, b] = [1, 3, 5].map((i) => parseInt(colour.slice(i, i + 2), 16));
  return `rgba(${r},${g},${b},${opacity})`;
}

function drawLatency(chip, found) {
  const node = $("latency-plot"),
    names = chip.operations;
  const text = (i) => [
    `<b>${safe(names[i])}</b> ${safe(chip.kinds[i])}, ${scaled(found.time_s[i], "s")}`,
    `compute ${scaled(found.compute_s[i], "s")}`,
    ...chip.levels.map((name, k) => `${safe(name)} ${scaled(found.level_s[k][i], "s")}`),
    ...(found.move_s[i] ? [`copies ${scaled(found.move_s[i], "s")}`] : []),
    `binds: ${safe(terms(chip)[found.binding[i]])}`,
  ].join("<br>");
  const bars = terms(chip).map((name, term) => {
    const rows = names.map((_, i) => i).filter((i) => found.binding[i] === term);
    return {
      name: `${safe(name)} binds (${rows.length})`,
      type: "bar",
      x: rows,
      y: rows.map((i) => found.time_s[i]),
      hoverinfo: "text",
      hovertext: rows.map(text),
      marker: { color: termColour(term), pattern: { shape: PATTERNS[term % PATTERNS.length], size: 6,
          solidity: 0.25, fillmode: "overlay" } },
    };
  }).filter((bar) => bar.x.length);
  const alone = {
    name: "compute alone",
    mode: "lines",
    x: names.map((_, i) => i),
    y: found.compute_s,
    line: { shape: "hvh", width: 1, color: css("--ink") },
    hoverinfo: "skip",
  };
  draw(node, [...bars, alone], { barmode: "overlay", bargap: 0.15, xaxis: nameAxis(names, node),
    yaxis: timeAxis("time") });
}

function drawPlacement(chip, found) {
  const node = $("placement-plot"),
    names = chip.operations;
  const series = [
    ["weights", found.weight_level, "square", COLOURS[0], 0.14],
    ["output", found.output_level, "circle", COLOURS[1], -0.14]
  ];
  const traces = series.map(([what, levels, symbol, colour, shift]) => {
    const rows = names.map((_, i) => i).filter((i) => levels[i] >= 0);
    return {
      name: what,
      mode: "markers",
      x: rows,
      y: rows.map((i) => levels[i] + shift),
      marker: { symbol, size: narrow() ? 5 : 8, color: colour },
      customdata: rows.map((i) => levels[i]),
      hoverinfo: "text",
      hovertext: rows.map((i) => `${safe(names[i])}<br>${what} on ${safe(chip.levels[levels[i]])}`),
    };
  });
  node.style.height = `${170 + 34 * chip.levels.length}px`;
  draw(node, traces, {
    xaxis: nameAxis(names, node),
    yaxis: axis("", {
      tickvals: chip.levels.map((_, k) => k),
      ticktext: chip.levels.map((name) => safe(short(name, 12))),
      range: [-0.6, chip.levels.length - 0.4],
      fixedrange: true,
    }),
  });
}

function fillOperations(chip, found) {
  if (!$("operations-details").open) return;
  const line = element("tr");
  for (const name of ["operation", "kind", "weights on", "output on", "time", "compute", ...chip.levels,
      "binds"
    ]) line.append(element("th", name, { scope: "col" }));
  $("operations").tHead.replaceChildren(line);
  fill($("operations"), chip.operations.map((name, i) => [
    name, chip.kinds[i], found.weight_level[i] < 0 ? "–" : chip.levels[found.weight_level[i]], chip
    .levels[found.output_level[i]],
    scaled(found.time_s[i], "s"), scaled(found.compute_s[i], "s"), ...chip.levels.map((_, k) =>
      scaled(found.level_s[k][i], "s")), terms(chip)[found.binding[i]],
  ]));
}

function startChips() {
  if (!chips.length) return;
  $("chip-card").hidden = false;
  chips.forEach((chip, i) => $("chip").append(element("option", chip.label, { value: i })));
  $("chip").addEventListener("change", showChip);
  $("operations-details").addEventListener("toggle", showChip);
  onChosen.push(showChip);
  onRedraw.push(showChip);
  showChip();
}
