// Live updates of the list, more rows at its end, and keys.

import { showLocalTimes } from "/assets/time.js";

const list = document.querySelector("#requests");
const filter = document.querySelector("#filter");
const state = document.querySelector("#state");
const MAX_ROWS = 2000;

// Only the first page of the list is live: an older one must not move.
const isLive = list.dataset.live === "true" && !new URLSearchParams(location.search).has("before");

function rowsOf(html) {
  // The server has escaped the rows; a template runs no scripts.
  const template = document.createElement("template");
  template.innerHTML = html;
  showLocalTimes(template.content);
  return [...template.content.querySelectorAll("li")];
}

function add(rows, atTop) {
  const focused = document.activeElement;
  const before = list.getBoundingClientRect().top;
  for (const row of rows) {
    const number = row.querySelector("a").dataset.number;
    if (list.querySelector(`a[data-number="${number}"]`)) continue;
    if (atTop) list.prepend(row);
    else list.append(row);
  }
  document.querySelector("#empty")?.remove();
  while (atTop && list.children.length > MAX_ROWS) list.lastElementChild.remove();
  // The reader's place stays where it is.
  if (atTop && before < 0) focused?.scrollIntoView?.({ block: "nearest" });
}

if (isLive) {
  const query = new URLSearchParams({ filter: filter.defaultValue, after: list.dataset.newest });
  const stream = new EventSource(`/requests/stream?${query}`);
  let received = 0;
  stream.addEventListener("rows", (event) => {
    const rows = rowsOf(event.data);
    for (const row of rows) row.classList.add("new");
    add(rows, true);
    received += rows.length;
    state.textContent = `live, ${received} new`;
  });
  stream.addEventListener("charts", (event) => {
    document.querySelector("#charts").innerHTML = event.data;
  });
  stream.addEventListener("open", () => {
    if (received === 0) state.textContent = "live";
  });
  stream.addEventListener("error", () => {
    const isOver = stream.readyState === EventSource.CLOSED;
    state.textContent = `not connected to the agent${isOver ? ": reload the page" : "; trying again"}`;
  });
}

// Further rows arrive when the end comes into view.
const older = document.querySelector("#older");
if (older) {
  let isLoading = false;
  const observer = new IntersectionObserver(async (entries) => {
    if (isLoading || !entries.some((entry) => entry.isIntersecting)) return;
    isLoading = true;
    const last = list.querySelector("li:last-child a");
    const query = new URLSearchParams({ filter: filter.defaultValue, before: last.dataset.number });
    const response = await fetch(`/requests/rows?${query}`).catch(() => null);
    const rows = response?.ok ? rowsOf(await response.text()) : [];
    add(rows, false);
    isLoading = false;
    if (response?.ok && rows.length === 0) {
      observer.disconnect();
      older.remove();
    }
  }, { rootMargin: "600px" });
  observer.observe(older);
}

function move(step) {
  const links = [...list.querySelectorAll("a.request")];
  const at = links.indexOf(document.activeElement);
  const next = links[at < 0 ? 0 : Math.min(Math.max(at + step, 0), links.length - 1)];
  next?.focus();
  next?.scrollIntoView({ block: "nearest" });
}

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const isWriting = event.target instanceof HTMLInputElement;
  if (isWriting) {
    if (event.key === "Escape") event.target.blur();
    return;
  }
  switch (event.key) {
    case "/":
      event.preventDefault();
      filter.focus();
      filter.select();
      break;
    case "j":
    case "ArrowDown":
      event.preventDefault();
      move(1);
      break;
    case "k":
    case "ArrowUp":
      event.preventDefault();
      move(-1);
      break;
  }
});

document.querySelector("#clear").addEventListener("submit", (event) => {
  if (!confirm("Delete all requests of the history?")) event.preventDefault();
});
