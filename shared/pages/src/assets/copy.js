// Buttons that copy the text of an element: <button type="button" data-copy="#selector" hidden>.

// Time for which a button says that it has copied, in milliseconds.
const NOTICE = 1500;

for (const button of document.querySelectorAll("button[data-copy]")) {
  const label = button.textContent;
  button.hidden = false;
  button.addEventListener("click", async () => {
    const text = document.querySelector(button.dataset.copy).textContent;
    try {
      await navigator.clipboard.writeText(text);
      button.textContent = "Copied";
    } catch {
      button.textContent = "The browser forbids it: select the text";
    }
    setTimeout(() => { button.textContent = label; }, NOTICE);
  });
}
