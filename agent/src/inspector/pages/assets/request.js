// Copying, and sending the body of an edited request byte for byte.

for (const button of document.querySelectorAll("button[data-copy]")) {
  button.hidden = false;
  button.addEventListener("click", async () => {
    const text = document.querySelector(button.dataset.copy).textContent;
    const before = button.textContent;
    try {
      await navigator.clipboard.writeText(text);
      button.textContent = "Copied";
    } catch {
      button.textContent = "The browser forbids it: select the text";
    }
    setTimeout(() => { button.textContent = before; }, 1500);
  });
}

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.target.matches?.("input, textarea, select")) return;
  if (event.key === "r") document.querySelector("#again")?.requestSubmit();
  if (event.key === "e") document.querySelector("#edit")?.click();
  if (event.key === "Escape") document.querySelector("#back")?.click();
});
