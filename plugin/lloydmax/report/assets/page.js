"use strict";
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

function setUpLayers(chooser) {
  const show = () => {
    for (const layer of document.querySelectorAll("[data-shown]")) layer.hidden = layer.dataset.shown !== chooser.value;
    for (const row of document.querySelectorAll("tr[data-layer]")) {
      row.classList.toggle("chosen", row.dataset.layer === chooser.value);
    }
  };
  chooser.addEventListener("change", show);
  document.querySelectorAll("tr[data-layer] button").forEach((button) => button.addEventListener("click", () => {
    chooser.value = button.closest("tr").dataset.layer;
    show();
    document.getElementById("weights").scrollIntoView();
    chooser.focus({ preventScroll: true });
  }));
  show();
}

function setUpUnits(chooser) {
  chooser.addEventListener("change", () => {
    for (const line of document.querySelectorAll("[data-unit]")) {
      line.classList.toggle("lit", line.dataset.unit === chooser.value);
      line.classList.toggle("dim", chooser.value !== "" && line.dataset.unit !== chooser.value);
    }
  });
}

setUpTheme();
document.querySelectorAll("table.sortable").forEach(setUpSorting);
for (const [id, setUp] of [["layer", setUpLayers], ["unit", setUpUnits]]) {
  const chooser = document.getElementById(id);
  if (chooser) setUp(chooser);
}
root.dataset.ready = "true";
