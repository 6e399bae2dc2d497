"use strict";
// The numbers, what is chosen, and what all parts of the page share.
const data = JSON.parse(document.getElementById("report-data").textContent);
const front = data.front;
const COLOURS = ["#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442",
"#8C8C8C"]; // Okabe & Ito
const LEVELS = ["#D55E00", "#E69F00", "#0072B2", "#009E73", "#CC79A7", "#56B4E9",
"#F0E442"]; // as hwmodel's pictures
const MARKS = ["circle", "square", "diamond", "triangle-up", "x", "cross", "triangle-down", "star"];
const PATTERNS = ["", "/", "\\", "x", "-", "|", "+", "."];
const state = { chosen: front.chosen, selected: null }; // selected: rows that were brushed, or null for all
const onChosen = [],
  onSelected = [],
  onRedraw = []; // what follows a choice, a brush, a change of colours

const $ = (id) => document.getElementById(id);
const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
const narrow = () => window.innerWidth < 700;

function element(tag, text, attributes = {}) {
  const made = document.createElement(tag);
  if (text !== undefined && text !== null) made.textContent = text;
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  return made;
}

// Text for plotly, which would read "<b>" and "&amp;" in it.
const safe = (text) => String(text).replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;");
const short = (text, most = 22) => (text.length <= most ? text : "…" + text.slice(1 - most));

function number(value) {
  if (value === null || value === undefined) return "–";
  return Number.isInteger(value) ? String(value) : String(Number(value.toPrecision(4)));
}

function scaled(value, unit) {
  if (value === null || value === undefined) return "–";
  const steps = unit === "s" ?
    [
      [1, "s"],
      [1e-3, "ms"],
      [1e-6, "µs"],
      [1e-9, "ns"]
    ] :
    [
      [1e9, "GB"],
      [1e6, "MB"],
      [1e3, "kB"],
      [1, "B"]
    ];
  const [factor, name] = steps.find(([size]) => Math.abs(value) >= size) || steps[steps.length - 1];
  return `${number(value / factor)} ${name}`;
}

const shown = (column, value) => (column.unit === "s" ? scaled(value, "s") : number(value));
const column = (name) => front.columns.find((one) => one.name === name);

function choose(row) {
  state.chosen = row;
  for (const follow of onChosen) follow();
}

function select(rows) {
  state.selected = rows === null ? null : new Set(rows);
  for (const follow of onSelected) follow();
}

function axis(title, more = {}) {
  return {
    title: { text: title, standoff: 8 },
    gridcolor: css("--line"),
    linecolor: css("--line"),
    zeroline: false,
    automargin: true,
    ...more,
  };
}

// Names below bars, as many as there is room for.
function nameAxis(names, node, more = {}) {
  const step = Math.ceil(names.length / Math.max(4, Math.floor(node.clientWidth / 16)));
  const places = names.map((_, i) => i).filter((i) => i % step === 0);
  return axis("", {
    tickvals: places,
    ticktext: places.map((i) => safe(short(names[i]))),
    tickangle: -90,
    tickfont: { size: 10 },
    range: [-0.7, names.length - 0.3],
    showgrid: false,
    ...more,
  });
}

const timeAxis = (title, more = {}) => axis(title, { tickformat: "~s", ticksuffix: "s", rangemode: "tozero",
  ...more });

const touch = () => matchMedia("(pointer: coarse)")
.matches; // there a finger scrolls the page, not the plot

function draw(node, traces, layout, buttons = true) {
  return Plotly.react(node, traces, {
    font: { family: "system-ui, sans-serif", size: 12, color: css("--ink") },
    paper_bgcolor: "rgba(0,0,0,0)",
    plot_bgcolor: "rgba(0,0,0,0)",
    margin: { l: 54, r: 14, t: 10, b: 40 },
    hoverlabel: { bgcolor: css("--card"), bordercolor: css("--line"), font: { color: css("--ink") },
      align: "left" },
    legend: { orientation: "h", x: 0, y: 1.02, yanchor: "bottom", bgcolor: "rgba(0,0,0,0)" },
    dragmode: touch() ? false : "zoom",
    hovermode: "closest",
    modebar: { bgcolor: "rgba(0,0,0,0)", color: css("--soft"), activecolor: css("--accent") },
    ...layout,
  }, {
    responsive: true,
    displaylogo: false,
    displayModeBar: buttons && !touch() ? "hover" : false,
    modeBarButtons: [
      ["resetScale2d", "toImage"]
    ],
  });
}

function save(name, type, text) {
  const link = element("a", null, { download: name, href: URL.createObjectURL(new Blob([
    text], { type })) });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
}

function facts(list, pairs) {
  list.replaceChildren(...pairs.map(([name, value]) => {
    const pair = element("div");
    pair.append(element("dt", name), element("dd", value));
    return pair;
  }));
}

function fill(table, rows) {
  table.tBodies[0].replaceChildren(...rows.map((cells) => {
    const line = element("tr");
    line.append(...cells.map((cell) => element("td", cell)));
    return line;
  }));
}
