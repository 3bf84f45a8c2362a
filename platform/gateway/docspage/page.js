const filter = document.getElementById("filter");
filter.addEventListener("input", () => {
  const words = filter.value.toLowerCase().split(/\s+/).filter(Boolean);
  for (const article of document.querySelectorAll("article")) {
    const shown = words.every((w) => article.dataset.text.toLowerCase().includes(w));
    article.hidden = !shown;
    const item = document.querySelector('li[data-op="' + CSS.escape(article.id) + '"]');
    if (item) item.hidden = !shown;
  }
});
document.addEventListener("keydown", (e) => {
  if (e.key === "/" && document.activeElement !== filter) { e.preventDefault(); filter.focus(); }
});
for (const button of document.querySelectorAll(".copy")) {
  button.addEventListener("click", async () => {
    await navigator.clipboard.writeText(button.parentElement.querySelector("pre").textContent);
    button.textContent = "Copied";
    setTimeout(() => { button.textContent = "Copy"; }, 1500);
  });
}
