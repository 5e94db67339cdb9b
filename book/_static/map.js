// The map of statements: what one uses and where it is used lights up, and filters dim the rest.
(() => {
  "use strict";

  const start = () => {
    const map = document.querySelector("svg.statement-map");
    if (!map) return;
    const dots = [...map.querySelectorAll(".statement")];
    const edges = [...map.querySelectorAll(".edge")];

    const light = (label) => {
      const near = new Set([label]);
      for (const edge of edges) {
        const on = edge.dataset.from === label || edge.dataset.to === label;
        edge.classList.toggle("on", on);
        if (on) near.add(edge.dataset.from).add(edge.dataset.to);
      }
      for (const dot of dots) dot.classList.toggle("off", Boolean(label) && !near.has(dot.dataset.label));
    };
    for (const dot of dots) {
      for (const event of ["mouseenter", "focus"]) dot.addEventListener(event, () => light(dot.dataset.label));
      for (const event of ["mouseleave", "blur"]) dot.addEventListener(event, () => light(""));
    }

    const [kind, text] = document.querySelectorAll(".map-filter :is(select, input)");
    const count = document.querySelector(".map-filter output");
    const filter = () => {
      const words = text.value.toLowerCase();
      const fits = (dot) =>
        (!kind.value || dot.dataset.kind === kind.value) && dot.getAttribute("aria-label").toLowerCase().includes(words);
      for (const dot of dots) dot.classList.toggle("out", !fits(dot));
      count.textContent = `${dots.filter(fits).length} of ${dots.length}`;
    };
    kind.addEventListener("input", filter);
    text.addEventListener("input", filter);
    filter();
  };
  if (document.readyState === "loading") document.addEventListener("DOMContentLoaded", start);
  else start();
})();
