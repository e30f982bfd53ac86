"use strict";
const BASE = {
  font: { family: "system-ui, sans-serif", size: 13, color: "#1c2128" },
  margin: { l: 12, r: 16, t: 10, b: 12 },
  paper_bgcolor: "#fff", plot_bgcolor: "#fff", hovermode: "closest",
  legend: { orientation: "h", yref: "container", y: 0, yanchor: "bottom", x: 0, xanchor: "left" },
  hoverlabel: { align: "left", namelength: -1 },
};
const AXIS = { gridcolor: "#e6e9ed", zeroline: false, linecolor: "#9aa1aa", ticks: "outside", tickcolor: "#c6cbd2" };
const titled = (axis) => ({ ...AXIS, ...axis, title: { ...axis.title, font: { size: 13 }, standoff: 8 } });
const CONFIG = { responsive: true, displaylogo: false, modeBarButtonsToRemove: ["select2d", "lasso2d", "autoScale2d"] };

function draw(figure) {
  const canvas = figure.querySelector(".canvas");
  if (canvas.dataset.drawn) return;
  canvas.dataset.drawn = "1";
  const spec = JSON.parse(figure.querySelector("script").textContent);
  const layout = { ...BASE, ...spec.layout, xaxis: titled(spec.layout.xaxis), yaxis: titled(spec.layout.yaxis) };
  Plotly.newPlot(canvas, spec.data, layout, CONFIG);
}

const figures = [...document.querySelectorAll("figure.plot")];
const seen = new IntersectionObserver((entries) => {
  for (const entry of entries) if (entry.isIntersecting) { seen.unobserve(entry.target); draw(entry.target); }
}, { rootMargin: "400px" });
figures.forEach((figure) => seen.observe(figure));

window.addEventListener("beforeprint", () => {
  document.querySelectorAll("details").forEach((part) => { part.open = true; });
  figures.forEach((figure) => {
    draw(figure);
    Plotly.relayout(figure.querySelector(".canvas"), { width: figure.classList.contains("wide") ? 680 : 340 });
  });
});
window.addEventListener("afterprint", () => figures.forEach((figure) => {
  Plotly.relayout(figure.querySelector(".canvas"), { width: null, autosize: true });
}));

function value(row, column) {
  const cell = row.cells[column];
  const text = cell.dataset.sort ?? cell.textContent.trim(); // a row's name has no number
  const number = Number(text);
  return text === "" || Number.isNaN(number) ? text : number;
}

function order(a, b) {
  if (typeof a === typeof b) return typeof a === "number" ? a - b : a.localeCompare(b, undefined, { numeric: true });
  return typeof a === "number" ? -1 : 1;
}

document.querySelectorAll("table.sortable").forEach((table) => {
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => head.querySelector("button").addEventListener("click", () => {
    const up = head.getAttribute("aria-sort") !== "ascending";
    heads.forEach((other) => other.removeAttribute("aria-sort"));
    head.setAttribute("aria-sort", up ? "ascending" : "descending");
    const missing = (row) => column > 0 && row.cells[column].dataset.sort === undefined;
    const rows = [...table.tBodies[0].rows];
    rows.sort((a, b) => missing(a) - missing(b) || (up ? 1 : -1) * order(value(a, column), value(b, column)));
    table.tBodies[0].append(...rows);
  }));
});
