// The front: axes to choose, a brush that filters, a click that chooses.
const CHAINS = [
  ["square", "#E69F00"],
  ["diamond", null]
]; // marks of baselines with one bit-width a point
const CLOUDS = [
  ["x", "#8C8C8C"],
  ["triangle-up", "#009E73"],
  ["triangle-down", "#CC79A7"],
  ["cross", "#56B4E9"]
];
const plot = $("front-plot");

function fillAxes() {
  const names = front.columns.map((one) => one.name);
  for (const id of ["axis-x", "axis-y", "axis-colour"]) {
    for (const one of front.columns) {
      const kind = one.kind === "objective" ? "" : ` (${one.kind})`;
      $(id).append(element("option", one.name + kind, { value: one.name }));
    }
    $(id).addEventListener("change", drawFront);
  }
  // An error on images that the search has not seen says more than the one that was searched by.
  const error = names.includes(`report_${names[0]}`) ? `report_${names[0]}` : names[0];
  const size = names.includes("model_ratio") ? "model_ratio" : names[Math.min(1, front.objectives.length -
    1)];
  const further = front.objectives.filter((name) => name !== size && name !== names[0]);
  $("axis-x").value = size;
  $("axis-y").value = error;
  $("axis-colour").value = further.length ? further[further.length - 1] : names[0];
}

// Over two decades an axis is logarithmic, unless it is a share.
function frontAxis(one, others) {
  const values = [...one.values, ...others].filter((value) => value !== null);
  const low = Math.min(...values),
    high = Math.max(...values);
  const title = safe(one.name) + (one.unit && one.unit !== "s" ?
    ` <span style="font-size:11px">[${safe(one.unit)}]</span>` : "");
  const units = one.unit === "s" ? { tickformat: "~s", ticksuffix: "s" } : {};
  const logarithmic = low > 0 && high >= 100 * low && !one.unit.startsWith("share");
  return axis(title, { ...units, type: logarithmic ? "log" : "linear", nticks: 7 });
}

function pointText(row) {
  const lines = front.columns.map((one) => `${safe(one.name)} ${shown(one, one.values[row])}`);
  const means = `mean bits ${number(front.mean_bits[0][row])} / ${number(front.mean_bits[1][row])}`;
  return [`<b>point ${row}</b>${row === front.knee ? ", the knee" : ""}`, ...lines, means].join("<br>");
}

function baselineTraces(x, y) {
  const used = { chain: 0, cloud: 0 };
  return data.baselines.map((one) => {
    const kind = one.widths ? "chain" : "cloud";
    const marks = one.widths ? CHAINS : CLOUDS;
    const [symbol, colour] = marks[used[kind]++ % marks.length];
    const there = one.values[x] && one.values[y];
    return {
      name: safe(one.name),
      x: there ? one.values[x] : [],
      y: there ? one.values[y] : [],
      mode: one.widths ? "lines+markers+text" : "markers",
      text: one.widths ? one.widths.map(String) : undefined,
      textposition: "top right",
      textfont: { size: 10 },
      line: { dash: "dot", width: 1, color: colour || css("--ink") },
      marker: { symbol, size: one.widths ? 9 : 6, color: colour || css("--ink") },
      cliponaxis: false,
      hoverinfo: "text",
      hovertext: (one.values[x] || []).map((_, i) =>
        `${safe(one.name)}${one.widths ? `, ${one.widths[i]} bit` : ""}<br>` +
        Object.entries(one.values).map(([name, values]) => `${safe(name)} ${number(values[i])}`).join(
          "<br>")),
      unselected: { marker: { opacity: 1 } },
    };
  });
}

function drawFront() {
  const [x, y, colour] = ["axis-x", "axis-y", "axis-colour"].map((id) => column($(id).value));
  const beside = baselineTraces(x.name, y.name);
  const small = narrow();
  const unit = colour.unit === "s" ? { tickformat: "~s", ticksuffix: "s" } : {};
  const bar = small ?
    { orientation: "h", y: -0.22, yanchor: "top", thickness: 10, len: 1, title: { text: safe(colour.name),
        side: "bottom" } } :
    { thickness: 12, outlinewidth: 0, title: { text: safe(colour.name), side: "right" } };
  const rows = x.values.map((_, row) => row);
  redrawing = true; // plotly tells of a brush that a new drawing takes away as if the reader had
  draw(plot, [{
      name: `front, ${rows.length} points`,
      x: x.values,
      y: y.values,
      mode: "markers",
      customdata: rows,
      hoverinfo: "text",
      hovertext: rows.map(pointText),
      marker: {
        size: 10,
        color: colour.values,
        colorscale: "Cividis",
        showscale: true,
        colorbar: { ...bar, ...unit, nticks: 6 },
        line: { width: 0.8, color: css("--soft") },
      },
      selectedpoints: state.selected === null ? undefined : [...state.selected],
      unselected: { marker: { opacity: 0.2 } },
    },
    ...beside, {
      name: "knee",
      x: [x.values[front.knee]],
      y: [y.values[front.knee]],
      mode: "markers",
      hoverinfo: "skip",
      marker: { symbol: "star", size: 15, color: "#D55E00", line: { width: 1, color: css("--card") } },
      unselected: { marker: { opacity: 1 } },
    }, {
      name: "chosen",
      x: [x.values[state.chosen]],
      y: [y.values[state.chosen]],
      mode: "markers",
      hoverinfo: "skip",
      marker: { symbol: "circle-open", size: 21, color: css("--ink"), line: { width: 2.5 } },
      unselected: { marker: { opacity: 1 } },
    },
  ], {
    xaxis: frontAxis(x, data.baselines.flatMap((one) => one.values[x.name] || [])),
    yaxis: frontAxis(y, data.baselines.flatMap((one) => one.values[y.name] || [])),
    dragmode: dragging,
    selections: [],
    margin: { l: 54, r: 14, t: 10, b: small ? 90 : 40 },
  }, false).then(() => { redrawing = false; });
}

let redrawing = false;
let dragging = touch() ? false : "select";

function startDragging() {
  const buttons = [...document.querySelectorAll("[data-drag]")];
  const mark = () => buttons.forEach((one) => one.setAttribute("aria-pressed", one.dataset.drag === (
    dragging || "")));
  for (const button of buttons) button.addEventListener("click", () => {
    dragging = button.dataset.drag || false;
    Plotly.relayout(plot, { dragmode: dragging });
    mark();
  });
  mark();
  $("reset").addEventListener("click", () => { select(null);
    drawFront(); });
}

function startFront() {
  fillAxes();
  startDragging();
  drawFront();
  plot.on("plotly_click", (event) => {
    const point = event.points.find((one) => one.curveNumber === 0);
    if (point) choose(point.pointNumber);
  });
  plot.on("plotly_selected", (event) => {
    if (event && !redrawing) select(event.points.filter((one) => one.curveNumber === 0).map((one) => one
      .pointNumber));
  });
  plot.on("plotly_deselect", () => { if (!redrawing) select(null); });
  onRedraw.push(drawFront);
  onChosen.push(() => {
    const [x, y] = ["axis-x", "axis-y"].map((id) => column($(id).value));
    const ring = plot.data.length - 1;
    Plotly.restyle(plot, { x: [
        [x.values[state.chosen]]
      ], y: [
        [y.values[state.chosen]]
      ] }, [ring]);
  });
}
