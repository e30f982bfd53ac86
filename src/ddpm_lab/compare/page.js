"use strict";
const ROOT = document.documentElement;
const CONFIG = { responsive: true, displaylogo: false, modeBarButtonsToRemove: ["select2d", "lasso2d", "autoScale2d"] };

// Colours are the style sheet's: they follow the light or dark scheme.
const css = (name) => getComputedStyle(ROOT).getPropertyValue(`--${name}`).trim();
const colour = (entry) => css(entry.hollow ? "neutral" : `c${entry.colour}`);
const translucent = (hex) => `rgba(${[1, 3, 5].map((i) => parseInt(hex.slice(i, i + 2), 16))},0.16)`;
const hover = (...lines) => `${lines.join("<br>")}<extra></extra>`;

function errorBar(estimate, color) {
  if (estimate.low === null) return undefined;
  const ends = { array: [estimate.high - estimate.value], arrayminus: [estimate.value - estimate.low] };
  return { type: "data", symmetric: false, color, thickness: 2, width: 5, ...ends };
}

function marked(entry, symbol) {
  const color = colour(entry);
  return { mode: "markers", name: entry.name, marker: { size: 9, symbol, color, line: { width: 2, color } } };
}

// A long label on two lines, broken behind the dot or comma nearest to its middle.
function broken(label) {
  const ends = [...label.matchAll(/( ·|,) /g)].map((match) => match.index + match[1].length);
  if (label.length <= 22 || !ends.length) return label;
  const off = (i) => Math.abs(i - label.length / 2);
  const place = ends.reduce((best, i) => off(i) < off(best) ? i : best);
  return `${label.slice(0, place)}<br>${label.slice(place + 1)}`;
}

// A row for each choice: its mean with the interval, and a tick for each seed.
function rows(figure) {
  const traces = figure.data.flatMap((entry) => {
    const { name, mean, seeds } = entry;
    const mark = { symbol: "line-ns-open", size: 11, color: colour(entry), opacity: 0.9, line: { width: 1.5 } };
    const ticks = (values, texts) => ({
      x: values, y: values.map(() => name), mode: "markers", marker: mark, hovertemplate: texts.map((text) => hover(name, text)),
    });
    return [
      ...seeds ? [ticks(seeds.values, seeds.texts)] : [],
      {
        ...marked(entry, entry.hollow ? "circle-open" : "circle"), x: [mean.value], y: [name],
        error_x: errorBar(mean, colour(entry)), hovertemplate: hover(name, entry.text),
      },
    ];
  });
  const names = figure.data.map((entry) => entry.name).reverse();
  const places = { categoryorder: "array", categoryarray: names, range: [-0.6, names.length - 0.4] };
  const shown = figure.height / names.length < 30 ? names : names.map(broken); // rows of many are too low for two lines
  return { traces, yaxis: { ...places, tickmode: "array", tickvals: names, ticktext: shown } };
}

// A line for each choice, and a band from the lowest to the highest seed.
function lines(figure) {
  const traces = figure.data.flatMap((entry) => {
    const { name, x, y, low, high } = entry;
    const common = { x, name, legendgroup: name };
    const edge = { ...common, mode: "lines", line: { width: 0 }, hoverinfo: "skip", showlegend: false };
    const band = low ? [{ ...edge, y: low }, { ...edge, y: high, fill: "tonexty", fillcolor: translucent(colour(entry)) }] : [];
    const line = { color: colour(entry), dash: entry.dash, width: 2 };
    const head = entry.text ? `${name}, ${entry.text}` : name;
    const mode = x.length <= 12 ? "lines+markers" : "lines";
    return [...band, { ...common, y, mode, line, marker: { size: 5 }, hovertemplate: hover(head, "%{x}: %{y:.4g}") }];
  });
  return { traces };
}

// A point for each choice, with the steps of those that no other beats.
function plane(figure) {
  const [x, y] = [0, 1].map((i) => figure.front.map((point) => point[i]));
  const front = { x, y, mode: "lines", line: { color: css("neutral"), dash: "dot", shape: "hv" }, name: "Pareto front", hoverinfo: "skip" };
  const points = figure.data.map((entry) => ({
    ...marked(entry, entry.symbol), x: [entry.x.value], y: [entry.y.value], hovertemplate: hover(entry.name, entry.text),
    error_x: errorBar(entry.x, colour(entry)), error_y: errorBar(entry.y, colour(entry)),
  }));
  return { traces: [front, ...points] };
}

function titled({ title, ...settings }) {
  const lines = { gridcolor: css("line"), linecolor: css("neutral"), tickcolor: css("line"), zeroline: false, zerolinecolor: css("ink") };
  return { ...lines, ticks: "outside", automargin: true, nticks: settings.type === "log" ? 6 : 0, ...settings, title: { text: title, font: { size: 13 }, standoff: 8 } };
}

// A line across all rows, with what it is.
function marks(x, text) {
  const line = { color: css("ink"), dash: "dash", width: 1.5 };
  const label = { text, font: { color: css("ink") }, textposition: "end", textangle: 0, xanchor: "right", yanchor: "top" };
  return { shapes: [{ type: "line", x0: x, x1: x, y0: 0, y1: 1, yref: "paper", line, label }] };
}

function drawn(figure) {
  const { traces, yaxis = {} } = { rows, lines, plane }[figure.kind](figure);
  const [paper, ink] = [css("paper"), css("ink")];
  const layout = {
    font: { family: "system-ui, sans-serif", size: 13, color: ink },
    margin: { l: 12, r: 16, t: 10, b: 12 }, height: figure.height, paper_bgcolor: paper, plot_bgcolor: paper, hovermode: "closest",
    showlegend: figure.legend,
    legend: { orientation: "h", yref: "container", y: 0, yanchor: "bottom", x: 0, xanchor: "left" },
    hoverlabel: { align: "left", namelength: -1 },
    ...figure.mark ? marks(...figure.mark) : {}, xaxis: titled(figure.x), yaxis: { ...titled(figure.y), ...yaxis },
  };
  return { traces, layout };
}

// Draws, or draws again. Without a width it is that of the page.
function draw(figure, width) {
  const { traces, layout } = drawn(JSON.parse(figure.querySelector("script").textContent));
  Plotly.react(figure.querySelector(".canvas"), traces, { ...layout, width }, CONFIG);
  figure.dataset.drawn = "1";
}

const figures = [...document.querySelectorAll("figure.plot")];
const again = () => figures.filter((figure) => figure.dataset.drawn).forEach((figure) => draw(figure));
const seen = new IntersectionObserver((entries) => {
  for (const entry of entries) if (entry.isIntersecting) { seen.unobserve(entry.target); draw(entry.target); }
}, { rootMargin: "400px" });
figures.forEach((figure) => seen.observe(figure));
window.matchMedia("(prefers-color-scheme: dark)").addEventListener("change", again);

window.addEventListener("beforeprint", () => {
  ROOT.classList.add("printing");
  document.querySelectorAll("details").forEach((part) => { part.open = true; });
  figures.forEach((figure) => draw(figure, figure.classList.contains("wide") ? 680 : 340));
});
window.addEventListener("afterprint", () => {
  ROOT.classList.remove("printing");
  again();
});

// Tables that are wider than the page say so.
const sized = new ResizeObserver((entries) => {
  for (const { target } of entries) target.toggleAttribute("data-scrolls", target.scrollWidth > target.clientWidth + 1);
});
document.querySelectorAll(".scroll").forEach((part) => sized.observe(part));

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
