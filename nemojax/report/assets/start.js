// Everything once, and again where the reader's colours change.
function start() {
  const objectives = front.objectives.join(", "), count = front.bits.length;
  const again = front.held_out.length ? `, measured besides: ${front.held_out.join(", ")}` : "";
  $("summary").textContent =
    `${count} points, none worse than another in all of ${objectives}${again}. ${front.names.length} quantizers.`;
  startFront();
  startPoints();
  startChips();
  startHistory();
  startPlaced();
  startTables();
  onRedraw.push(...curves);
  for (const curve of curves) curve();
  const scheme = matchMedia("(prefers-color-scheme: dark)");
  scheme.addEventListener("change", () => onRedraw.forEach((redraw) => redraw()));
}
start();
