// Buttons that copy the text of an element: <button type="button" data-copy="#selector" hidden>.

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
