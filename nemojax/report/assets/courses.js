// Learning curves, and the tables that have a column to draw.
const curves = []; // drawn once all of them have their place, for each takes room from the others

function courseNode(heading, text) {
  const box = element("div"),
    node = element("div", null, { class: "plot", role: "img", "aria-label": heading });
  box.append(element("h3", heading), node);
  if (text) box.append(element("pre", text));
  $("courses").append(box);
  $("course-card").hidden = false;
  return node;
}

function startHistory() {
  if (!data.history || !data.history.evaluations.length) return;
  const { evaluations, hypervolume, species } = data.history;
  const marks = evaluations.length < 2 ? "markers" : "lines";
  const volume = courseNode("Hypervolume of the front so far");
  const drawVolume = () => draw(volume, [{
    name: "front so far",
    x: evaluations,
    y: hypervolume,
    mode: marks,
    line: { shape: "hv", color: COLOURS[0], width: 2.5 },
  }], { xaxis: axis("evaluations"), yaxis: axis("hypervolume") });
  curves.push(drawVolume);
  if (species.length < 2) return;
  const sizes = courseNode("Members of each species");
  const drawSizes = () => draw(sizes, species.map((one, s) => ({
    name: safe(one.name),
    x: evaluations,
    y: one.members,
    mode: "lines+markers",
    line: { color: COLOURS[s % COLOURS.length], width: 1.5, shape: "hv" },
    marker: { symbol: MARKS[s % MARKS.length], size: 7 },
  })), { xaxis: axis("evaluations"), yaxis: axis("members", { rangemode: "tozero" }) });
  curves.push(drawSizes);
}

function startPlaced() {
  for (const placed of data.placed) {
    const node = courseNode(`Placement of ${placed.label}`, placed.text);
    if (!placed.course && !placed.bound && !Object.keys(placed.rules).length) continue;
    const x = placed.course ? placed.course.evaluations : [0, 1];
    const ends = [x[0], x[x.length - 1]];
    const flat = (name, seconds, dash, colour) => ({
      name: safe(name),
      x: ends,
      y: [seconds, seconds],
      mode: "lines",
      line: { dash, color: colour, width: 1.5 },
    });
    const drawCourse = () => draw(node, [
      ...(placed.course ? [{ name: "best measured so far", x, y: placed.course.best, mode: "lines",
          line: { shape: "hv", color: COLOURS[0], width: 2.5 } }] :
        [flat("this placement", placed.only.latency_s, "solid", COLOURS[0])]),
      ...Object.entries(placed.rules).map(([name, seconds], i) => flat(name, seconds, ["dash", "dot",
        "dashdot", "longdash"
      ][i % 4], COLOURS[1 + i % 4])),
      ...(placed.bound === null ? [] : [flat("proven bound", placed.bound, "solid", css("--ink"))]),
    ], { xaxis: axis("maps measured", { showticklabels: Boolean(placed.course) }), yaxis: timeAxis(
        "latency", { rangemode: "normal" }) });
    curves.push(drawCourse);
  }
}

function startTables() {
  data.tables.forEach((one, place) => {
    const node = $(`table-plot-${place}`);
    if (!node) return;
    const rows = one.rows.filter((row) => row[one.value] !== null);
    const groups = one.group < 0 ? [null] : [...new Set(rows.map((row) => row[one.group]))];
    const names = [...new Set(rows.map((row) => String(row[0])))].reverse();
    node.style.height = `${90 + 34 * names.length}px`;
    const drawTable = () => draw(node, groups.map((group, g) => {
      const own = rows.filter((row) => group === null || row[one.group] === group);
      const shift = groups.length > 1 ? 0.3 * (g / (groups.length - 1) - 0.5) : 0;
      const gap = (row, end, sign) => (row[end] === null ? 0 : sign * (row[end] - row[one
      .value]));
      return {
        name: group === null ? safe(one.columns[one.value]) :
          `${safe(one.columns[one.group])} ${safe(group)}`,
        mode: "markers",
        x: own.map((row) => row[one.value]),
        y: own.map((row) => names.indexOf(String(row[0])) - shift),
        marker: { symbol: MARKS[g % MARKS.length], size: 9, color: COLOURS[g % COLOURS.length] },
        error_x: one.low < 0 ? undefined : {
          type: "data",
          symmetric: false,
          array: own.map((row) => gap(row, one.high, 1)),
          arrayminus: own.map((row) => gap(row, one.low, -1)),
          thickness: 1.5,
          width: 4,
        },
        hoverinfo: "text",
        hovertext: own.map((row) => one.columns.map((name, i) =>
          `${safe(name)} ${typeof row[i] === "number" ? number(row[i]) : safe(row[i] ?? "–")}`
          ).join("<br>")),
      };
    }), {
      xaxis: axis(safe(one.columns[one.value])),
      showlegend: groups.length > 1,
      yaxis: axis("", { tickvals: names.map((_, i) => i), ticktext: names.map((name) => safe(short(
          name, narrow() ? 16 : 40))), range: [-0.6, names.length - 0.4], fixedrange: true }),
    });
    curves.push(drawTable);
  });
}
