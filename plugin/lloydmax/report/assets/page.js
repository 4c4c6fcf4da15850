"use strict";
const { charts, layers } = JSON.parse(document.getElementById("data").textContent);
const root = document.documentElement;

function setUpTheme() {
  const kept = { read: () => { try { return localStorage.getItem("lloydmax-theme"); } catch { return null; } },
                 write: (value) => { try { localStorage.setItem("lloydmax-theme", value); } catch { /* not kept */ } } };
  const earlier = kept.read();
  if (earlier) root.dataset.theme = earlier;
  document.getElementById("theme").addEventListener("click", () => {
    const now = root.dataset.theme || (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light");
    root.dataset.theme = now === "dark" ? "light" : "dark";
    kept.write(root.dataset.theme);
  });
}

function setUpSorting(table) {
  const heads = [...table.tHead.rows[0].cells];
  const value = (row, column) => {
    const cell = row.cells[column];
    return "value" in cell.dataset ? Number(cell.dataset.value) : cell.textContent;
  };
  heads.forEach((head, column) => head.querySelector("button").addEventListener("click", () => {
    const words = head.classList.contains("word");
    const first = words || column === 0 ? "ascending" : "descending";
    const other = first === "ascending" ? "descending" : "ascending";
    const order = head.getAttribute("aria-sort") === first ? other : first;
    heads.forEach((each) => each.setAttribute("aria-sort", each === head ? order : "none"));
    const sign = order === "ascending" ? 1 : -1;
    const body = table.tBodies[0];
    const compare = (a, b) => (typeof a === "number" ? a - b : a.localeCompare(b, "en", { numeric: true }));
    body.append(...[...body.rows].sort((a, b) => sign * compare(value(a, column), value(b, column))));
  }));
}

function dataOf(layer) {
  const width = (layer.high - layer.low) / layer.counts.length || Math.abs(layer.low) / 100 || 0.01;
  const bin = (count, n) => ({ low: layer.low + n * width, high: layer.low + (n + 1) * width, count });
  const many = layer.centroids.length > 32;
  return { bins: layer.counts.map(bin), centroids: layer.centroids.map((value) => ({ value, many })) };
}

function showLayer(name, views) {
  document.getElementById("layer").value = name;
  for (const row of document.querySelectorAll("tr[data-layer]")) {
    row.classList.toggle("chosen", row.dataset.layer === name);
  }
  layers.forEach((known, side) => {
    const layer = known[name];
    document.getElementById(`histogram-${side}`).hidden = !layer;
    document.getElementById(`histogram-${side}-note`).textContent = layer ? layer.said : "Not compressed in this run.";
    if (!layer) return;
    const { bins, centroids } = dataOf(layer);
    views[side].data("bins", bins).data("centroids", centroids).run();
  });
}

async function main() {
  setUpTheme();
  document.querySelectorAll("table.sortable").forEach(setUpSorting);
  const views = {};
  const first = (id) => Object.values(layers[Number(id.split("-")[1])])[0];
  for (const { id, spec } of charts) {
    if (id.startsWith("histogram-")) spec.datasets = dataOf(first(id));
    const options = { actions: false, renderer: "svg", tooltip: { theme: "custom" } };
    const { view } = await vegaEmbed(document.getElementById(id), spec, options);
    views[id] = view;
  }
  const histograms = layers.map((_, side) => views[`histogram-${side}`]);
  const layer = document.getElementById("layer");
  layer.addEventListener("change", () => showLayer(layer.value, histograms));
  document.querySelectorAll("tr[data-layer] button").forEach((button) => button.addEventListener("click", () => {
    showLayer(button.closest("tr").dataset.layer, histograms);
    document.getElementById("weights").scrollIntoView({ behavior: "smooth" });
    layer.focus({ preventScroll: true });
  }));
  showLayer(layer.value, histograms);
  const unit = document.getElementById("unit");
  if (unit) unit.addEventListener("change", () => views.damage.signal("shown", unit.value).run());
  root.dataset.ready = "true";
}

main();
