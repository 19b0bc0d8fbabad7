// Keys of a request's page.

document.addEventListener("keydown", (event) => {
  // A key that is held down since the page before is not meant for this one.
  if (event.repeat || event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.target.matches?.("input, textarea, select")) return;
  if (event.key === "r") document.querySelector("#again")?.requestSubmit();
  if (event.key === "e") document.querySelector("#edit")?.click();
  if (event.key === "j") document.querySelector("#older")?.click();
  if (event.key === "k") document.querySelector("#newer")?.click();
  if (event.key === "Escape") document.querySelector("#back")?.click();
});
