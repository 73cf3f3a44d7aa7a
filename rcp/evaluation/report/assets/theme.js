"use strict";
// The switch between light and dark. Paper is always light. Whoever paints with the page's colours
// hears of a change by the event "theme".
(() => {
  const root = document.documentElement;
  const choice = document.getElementById("theme");
  const tell = () => document.dispatchEvent(new Event("theme"));

  const wear = (theme) => {
    root.dataset.theme = theme;
    tell();
  };

  choice.addEventListener("change", () => wear(choice.value));
  window.matchMedia("(prefers-color-scheme: dark)").addEventListener("change", tell);
  window.addEventListener("beforeprint", () => wear("light"));
  window.addEventListener("afterprint", () => wear(choice.value));
})();
