"use strict";
const table = document.querySelector("#episodes tbody");
const rows = [...table.rows];
const agent = document.querySelector("#agent");
const outcome = document.querySelector("#outcome");
const seed = document.querySelector("#seed");
const count = document.querySelector("#count");

function close() {
  for (const row of table.querySelectorAll("tr.open")) {
    row.classList.remove("open");
    row.nextElementSibling.remove();
  }
}

function filter() {
  close();
  let shown = 0;
  for (const row of rows) {
    const hidden = (agent.value && row.dataset.e !== agent.value)
      || (outcome.value && row.dataset.o !== outcome.value)
      || (seed.value.trim() && row.cells[2].textContent.trim() !== seed.value.trim());
    row.hidden = Boolean(hidden);
    shown += !hidden;
  }
  count.textContent = shown === rows.length ? "" : `${shown} of ${rows.length}`;
}

table.addEventListener("click", (event) => {
  const row = event.target.closest("tr[data-n]");
  if (!row) return;
  const open = row.classList.contains("open");
  close();
  if (open) return;
  const frame = document.createElement("iframe");
  frame.src = `episodes/${row.dataset.n.padStart(6, "0")}.html`;
  frame.title = `episode ${row.dataset.n}`;
  const cell = document.createElement("td");
  cell.colSpan = row.cells.length;
  cell.className = "frame";
  cell.append(frame);
  const below = document.createElement("tr");
  below.append(cell);
  row.classList.add("open");
  row.after(below);
});
for (const control of [agent, outcome, seed]) control.addEventListener("input", filter);
filter();
