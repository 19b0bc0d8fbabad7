// New records of the audit log, and the button that stops them.

import { showLocalTimes } from "/assets/time.js";

const list = document.querySelector("#records");
const state = document.querySelector("#state");
const pause = document.querySelector("#pause");
const filter = document.querySelector("#filter").defaultValue;
const MAX_ROWS = 1000;

let after = list.dataset.newest;
let received = 0;
let stream = null;

function rowsOf(html) {
  // The server has escaped the rows; a template runs no scripts.
  const template = document.createElement("template");
  template.innerHTML = html;
  showLocalTimes(template.content);
  return [...template.content.querySelectorAll("li")];
}

function follow() {
  stream = new EventSource(`/audit/stream?${new URLSearchParams({ filter, after })}`);
  stream.addEventListener("rows", (event) => {
    const rows = rowsOf(event.data);
    for (const row of rows) row.classList.add("new");
    list.prepend(...rows);
    while (list.children.length > MAX_ROWS) list.lastElementChild.remove();
    document.querySelector("#empty").hidden = true;
    after = event.lastEventId;
    received += rows.length;
    state.textContent = `live, ${received} new`;
  });
  stream.addEventListener("open", () => {
    state.textContent = `live, ${received} new`;
  });
  stream.addEventListener("error", () => {
    state.textContent = "not connected to the relay; trying again";
  });
}

pause.hidden = false;
pause.addEventListener("click", () => {
  const isPaused = stream !== null;
  if (isPaused) {
    stream.close();
    stream = null;
    state.textContent = "paused";
  } else {
    follow();
  }
  pause.textContent = isPaused ? "Resume" : "Pause";
});

follow();
