// Replaces the state on the page by a fresh one, unless the user is about to act on it.

import { showLocalTimes } from "/assets/time.js";

// Interval of updates, and time without a movement of the pointer before one, in milliseconds.
const INTERVAL = 5000;
const IDLE = 3000;

let moved = 0;
for (const event of ["pointermove", "pointerdown", "touchstart", "keydown"]) {
  document.addEventListener(event, () => { moved = performance.now(); }, { passive: true });
}

function isBusy() {
  const fresh = document.querySelector("#fresh");
  return document.hidden
    || performance.now() - moved < IDLE
    || fresh.contains(document.activeElement)
    || !document.getSelection().isCollapsed
    || fresh.querySelector("details[open]");
}

setInterval(async () => {
  if (isBusy()) return;
  const response = await fetch(location.href, { headers: { accept: "text/html" } }).catch(() => null);
  if (!response?.ok || isBusy()) return;
  // The page is the server's own; a parsed document runs no scripts.
  const page = new DOMParser().parseFromString(await response.text(), "text/html");
  const fresh = page.querySelector("#fresh");
  if (!fresh || isBusy()) return;
  showLocalTimes(fresh);
  for (const zone of fresh.querySelectorAll("[data-zone]")) zone.textContent = "Time";
  document.querySelector("#fresh").replaceWith(document.adoptNode(fresh));
}, INTERVAL);
