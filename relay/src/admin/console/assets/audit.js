// New records of the audit log, and the button that holds them back.

import { showLocalTimes } from "/assets/time.js";

const list = document.querySelector("#records");
const state = document.querySelector("#state");
const pause = document.querySelector("#pause");
const filter = document.querySelector("#filter").defaultValue;
const MAX_ROWS = 1000;

// Interval in which a screen reader hears the state at most once, in milliseconds.
const STATE_INTERVAL = 2000;

let received = 0;
let held = null;
let problem = "";

function rowsOf(html) {
  // The server has escaped the rows; a template runs no scripts.
  const template = document.createElement("template");
  template.innerHTML = html;
  showLocalTimes(template.content);
  return [...template.content.querySelectorAll("li")];
}

function show(rows) {
  for (const row of rows) row.classList.add("new");
  list.prepend(...rows);
  while (list.children.length > MAX_ROWS) list.lastElementChild.remove();
  if (rows.length > 0) document.querySelector("#empty").hidden = true;
  received += rows.filter((row) => row.querySelector("details")).length;
}

function describe() {
  const text = problem || (held ? `paused, ${held.length} held back` : `live, ${received} new`);
  if (state.textContent !== text) state.textContent = text;
}

const newest = list.dataset.newest;
const stream = new EventSource(`/audit/stream?${new URLSearchParams({ filter, after: newest })}`);
stream.addEventListener("rows", (event) => {
  const rows = rowsOf(event.data);
  if (held) held = [...rows, ...held].slice(0, MAX_ROWS);
  else show(rows);
});
stream.addEventListener("open", () => {
  problem = "";
  describe();
});
stream.addEventListener("error", () => {
  const isOver = stream.readyState === EventSource.CLOSED;
  problem = isOver ? "not connected to the relay: reload the page" : "not connected to the relay; trying again";
  describe();
});
setInterval(describe, STATE_INTERVAL);

pause.hidden = false;
pause.addEventListener("click", () => {
  if (held) {
    show(held);
    held = null;
  } else {
    held = [];
  }
  pause.textContent = held ? "Resume" : "Pause";
  describe();
});
