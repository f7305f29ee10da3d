"use strict";
// The page is whole without this: it adds sorting, filtering, and the counts behind a number.

function make(name, text, attributes = {}) {
  const made = document.createElement(name);
  if (text !== undefined) made.textContent = text;
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  return made;
}

const UNITS = { h: 3600, min: 60, s: 1 };

function value(row, column) {
  const text = row.cells[column].textContent.trim();
  if (text === "–") return null;
  const times = [...text.matchAll(/([\d.]+) (h|min|s)\b/g)];
  if (times.length && times.map(one => one[0]).join(" ") === text)
    return times.reduce((sum, [, count, unit]) => sum + count * UNITS[unit], 0);
  const number = parseFloat(text.replace(/,/g, ""));
  return Number.isNaN(number) ? text : number;
}

function compare(a, b) {
  if (typeof a === typeof b) return typeof a === "number" ? a - b : a.localeCompare(b, undefined, { numeric: true });
  return typeof a === "number" ? -1 : 1;
}

function sortable(table) {
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => {
    const button = make("button", undefined, { type: "button" });
    button.append(...head.childNodes);
    if (!button.textContent.trim()) button.append(make("span", "row"));
    head.append(button);
    button.addEventListener("click", () => {
      const rising = head.getAttribute("aria-sort") !== "ascending";
      heads.forEach(other => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", rising ? "ascending" : "descending");
      const rows = [...table.tBodies[0].rows];
      const known = (a, b) => (value(a, column) === null) - (value(b, column) === null);  // what is missing stays last
      rows.sort((a, b) => known(a, b) || (rising ? 1 : -1) * compare(value(a, column), value(b, column)));
      table.tBodies[0].append(...rows);
    });
  });
}

function filterable(table) {
  const rows = [...table.tBodies[0].rows];
  if (rows.length <= 20) return;
  const input = make("input", undefined, { type: "search", placeholder: "show rows with …" });
  const label = make("label", "Filter ", { class: "filter" });
  const count = make("span", `${rows.length} rows`, { role: "status" });
  label.append(input, " ", count);
  table.closest(".scroll").before(label);
  input.addEventListener("input", () => {
    const words = input.value.toLowerCase().split(/\s+/).filter(Boolean);
    let shown = 0;
    for (const row of rows) {
      const text = [...row.cells].map(cell => cell.textContent).join(" ").toLowerCase();
      row.hidden = !words.every(word => text.includes(word));
      shown += !row.hidden;
    }
    count.textContent = shown === rows.length ? `${shown} rows` : `${shown} of ${rows.length} rows`;
  });
}

const percent = (right, seen) => `${(100 * right / seen).toFixed(1)} %`;

function line(cells, name = "td") {
  const row = make("tr");
  cells.forEach((cell, i) => row.append(make(i ? name : "th", cell, { scope: name === "th" ? "col" : "row" })));
  row.querySelectorAll("td").forEach(cell => cell.removeAttribute("scope"));
  return row;
}

function grid(head, rows) {
  const table = make("table"), top = make("thead"), body = make("tbody"), box = make("div", undefined, { class: "scroll" });
  top.append(line(head, "th"));
  body.append(...rows.map(row => line(row)));
  table.append(top, body);
  box.append(table);
  return box;
}

function ofLevels([title, levels, images], seeds) {
  const stages = make("ul");
  for (const [seed, mean, names] of seeds) {
    const said = mean === null ? "not complete" : `${mean.toFixed(2)} % in the mean over the levels`;
    stages.append(make("li", `seed ${seed}: ${said}` + (names.length ? `, counted by ${names.join(", ")}` : "")));
  }
  const rows = levels.map((level, i) => [level, ...seeds.map(([, , , rights, seen]) => {
    const of = seen ? seen[i] : images;
    return rights[i] === null ? "–" : `${rights[i]} of ${of}, ${percent(rights[i], of)}`;
  })]);
  return [stages, grid(["level", ...seeds.map(([seed]) => `seed ${seed}: right`)], rows)];
}

function ofAverage(columns, cells, average) {
  const seeds = [...new Set(cells.flat().map(([seed]) => seed))].sort((a, b) => a - b);
  const number = found => found === undefined || found[1] === null ? "–" : found[1].toFixed(2);
  const rows = columns.map(([title], i) => [title, ...seeds.map(seed => number(cells[i].find(of => of[0] === seed)))]);
  rows.push(["Avg", ...seeds.map(seed => number(average.find(of => of[0] === seed)))]);
  return [make("p", "Mean accuracy over the levels, in %:", { class: "note" }),
    grid(["", ...seeds.map(seed => `seed ${seed}`)], rows)];
}

function panel(table, row, column) {
  const [method, cells, average] = table.rows[row];
  const whole = column === table.columns.length;
  const dialog = make("dialog", undefined, { "aria-labelledby": "panel" });
  const close = make("button", "Close", { type: "button", class: "close" });
  close.addEventListener("click", () => dialog.close());
  dialog.addEventListener("click", event => { if (event.target === dialog) dialog.close(); });
  dialog.addEventListener("close", () => dialog.remove());
  dialog.append(close, make("h3", `${method} · ${whole ? "Avg" : table.columns[column][0]}`, { id: "panel" }));
  dialog.append(...(whole ? ofAverage(table.columns, cells, average) : ofLevels(table.columns[column], cells[column])));
  document.body.append(dialog);
  dialog.showModal();
}

const embedded = document.getElementById("counts");
const counts = embedded ? JSON.parse(embedded.textContent) : {};
document.addEventListener("click", event => {
  const link = event.target.closest?.("a.number");
  const table = link && counts[link.dataset.table];
  if (!table || event.ctrlKey || event.metaKey || event.shiftKey) return;
  event.preventDefault();
  panel(table, Number(link.dataset.row), Number(link.dataset.column));
});

// What a link leads to may be folded away.
function unfold() {
  const target = location.hash.length > 1 && document.getElementById(decodeURIComponent(location.hash.slice(1)));
  const folded = target ? target.closest("details:not([open])") : null;
  if (!folded) return;
  folded.open = true;
  target.scrollIntoView();
}
addEventListener("hashchange", unfold);
unfold();

// A box whose content is cut off says that it scrolls.
const watch = new ResizeObserver(found => found.forEach(({ target }) =>
  target.classList.toggle("cut", target.scrollWidth > target.clientWidth + 1)));
document.querySelectorAll(".scroll").forEach(box => {
  box.before(make("p", "\u2194 Scrolls sideways.", { class: "note sideways", "aria-hidden": "true" }));
  watch.observe(box);
});

document.documentElement.classList.add("live");
document.querySelectorAll("table.sortable").forEach(table => { sortable(table); filterable(table); });
addEventListener("beforeprint", () => document.querySelectorAll("details:not([open])").forEach(details => {
  details.open = true;
  details.dataset.opened = "";
}));
addEventListener("afterprint", () => document.querySelectorAll("details[data-opened]").forEach(details => {
  details.open = false;
  delete details.dataset.opened;
}));
