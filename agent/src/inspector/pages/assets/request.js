// Keys of a request's page.

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.target.matches?.("input, textarea, select")) return;
  if (event.key === "r") document.querySelector("#again")?.requestSubmit();
  if (event.key === "e") document.querySelector("#edit")?.click();
  if (event.key === "j") document.querySelector("#older")?.click();
  if (event.key === "k") document.querySelector("#newer")?.click();
  if (event.key === "Escape") document.querySelector("#back")?.click();
});
