// Small comforts of a page: wide formulas, tables and pictures, and contents that follow the reader.
(() => {
  "use strict";

  const SMALLEST = 0.7; // of its usual size: a formula that needs less scrolls instead
  const FORMULA = "div.math:not(:has(> .eqno)), div.math:has(> .eqno) > mjx-container"; // a number stays where it is
  const WIDE = `${FORMULA}, .pst-scrollable-table-container, .cell_output .text_html, .map-box`;

  // A formula that is a little too wide becomes a little smaller.
  const natural = new Map(); // the size of each drawing
  const shrink = (box) => {
    const formula = box.matches("mjx-container") ? box : box.querySelector(":scope > mjx-container");
    const drawing = [...(formula?.children ?? [])].find((each) => each.matches("svg") && each.clientWidth);
    if (!drawing || drawing.getAttribute("width").endsWith("%") || !box.clientWidth) return;
    if (!natural.has(drawing)) natural.set(drawing, drawing.getBoundingClientRect());
    const { width, height } = natural.get(drawing);
    const scale = Math.max(SMALLEST, Math.min(1, (box.clientWidth - 1) / width));
    drawing.style.width = scale < 1 ? `${scale * width}px` : "";
    drawing.style.height = scale < 1 ? `${scale * height}px` : "";
  };

  // So does a table, with less room between its columns.
  const tighten = (box) => {
    if (box.scrollWidth > box.clientWidth) box.querySelector(":scope > table")?.classList.add("tight");
  };

  // What is still too wide fades out where it goes on, and can be reached by the keyboard. Nothing else in a formula can.
  const mark = (box) => {
    const wide = box.scrollWidth > box.clientWidth;
    box.classList.toggle("goes-on", wide && box.scrollLeft + box.clientWidth < box.scrollWidth - 2);
    if (wide) box.tabIndex = 0;
    else box.removeAttribute("tabindex");
  };
  const scrolls = (box) => /auto|scroll/.test(getComputedStyle(box).overflowX);
  const fit = (box) => {
    if (!scrolls(box)) return;
    shrink(box);
    tighten(box);
    mark(box);
  };
  const watch = () => {
    const sizes = new ResizeObserver((entries) => entries.forEach((entry) => fit(entry.target)));
    for (const box of document.querySelectorAll(WIDE)) {
      sizes.observe(box); // also when a fold opens
      box.addEventListener("scroll", () => mark(box), { passive: true });
    }
  };

  // The panels scroll to their active entries: the list of pages once, the contents of the page whenever they change.
  const show = (entry, panel) => {
    if (!entry || !panel) return;
    const inner = entry.getBoundingClientRect();
    const outer = panel.getBoundingClientRect();
    if (inner.top < outer.top + 40 || inner.bottom > outer.bottom - 40)
      panel.scrollTop += inner.top - outer.top - outer.height / 3;
  };
  const follow = () => {
    const pages = document.querySelector(".bd-sidebar-primary");
    show(pages?.querySelector("a.current.reference, li.current.active > a"), pages);
    const contents = document.querySelector(".bd-sidebar-secondary");
    if (!contents) return;
    const again = () => show([...contents.querySelectorAll("a.nav-link.active")].pop(), contents);
    new MutationObserver(again).observe(contents, { subtree: true, attributeFilter: ["class"] });
    again();
  };

  // A long name in a table may break after a dot or an underscore.
  const breakNames = () => {
    for (const name of document.querySelectorAll(".bd-article :is(td, th) code"))
      for (const part of name.querySelectorAll(":scope > .pre").length ? name.children : [name])
        if (!part.children.length && part.textContent.length > 16) part.innerHTML = part.innerHTML.replace(/[._](?=[a-z])/gi, "$&<wbr>");
  };

  // On a narrow screen a table that does not fit, or hardly, becomes a list: each cell says what its column is called.
  const STACKED = 600; // pixels of the window, as in book.css
  const CRAMPED = 200; // pixels: a row as high as that has columns of few words a line
  const stack = () => {
    for (const table of document.querySelectorAll(".bd-article table")) {
      const heads = [...table.querySelectorAll(":scope > thead > tr:only-child > th")];
      const rows = [...table.querySelectorAll(":scope > tbody > tr")];
      const simple = heads.length > 2 && rows.every((row) => row.cells.length === heads.length);
      if (!simple || table.matches(".stacks") || !table.checkVisibility()) continue;
      const fits = table.scrollWidth <= table.parentElement.clientWidth;
      if (fits && rows.every((row) => row.offsetHeight < CRAMPED)) continue;
      table.classList.add("stacks");
      const nameOf = (head) => {
        const name = document.createElement("span");
        name.className = "column";
        name.append(...[...head.childNodes].map((node) => node.cloneNode(true)));
        return name;
      };
      for (const row of rows) {
        const [first, ...rest] = row.cells;
        const isNumber = /^[^\p{L}]+$/u.test(first.textContent.trim()); // which alone says nothing
        if (isNumber) (first.querySelector(":scope > p") ?? first).prepend(nameOf(heads[0]));
        rest.forEach((cell, index) => {
          if (!cell.textContent.trim() && !cell.querySelector("img, svg")) return cell.classList.add("blank");
          const text = document.createElement("span");
          text.className = "cell-text";
          text.append(...cell.childNodes);
          cell.append(nameOf(heads[index + 1]), text);
        });
      }
    }
  };

  // The panels of a wide picture stand below each other. data-panels holds for each of them the parts of the picture that
  // show it: left, right, top, bottom, in thousandths of width and height; data-ratio is the width divided by the height.
  const partOf = (image, [start, end, top, bottom], width) => {
    const part = document.createElement("span");
    const copy = image.cloneNode();
    part.style.width = `${(100 * (end - start)) / width}%`;
    copy.style.width = `${100000 / (end - start)}%`;
    copy.style.marginLeft = `${(-100 * start) / (end - start)}%`;
    copy.style.transform = `translateY(${-top / 10}%)`;
    part.style.aspectRatio = (image.dataset.ratio * (end - start)) / (bottom - top);
    copy.alt = "";
    part.append(copy);
    return part;
  };
  // Where each panel stood in the picture, for captions that say "left" or "right".
  const placesOf = (panels) => {
    const tops = panels.map((parts) => parts.at(-1)[2]);
    return tops.map((top, number) => {
      const across = tops.filter((other) => other === top).length;
      const sides = { 2: ["left", "right"], 3: ["left", "middle", "right"] }[across] ?? [];
      const side = sides[number - tops.indexOf(top)] ?? "";
      return across === tops.length ? side : `${top ? "bottom" : "top"} ${side}`;
    });
  };
  const unfold = (image) => {
    const panels = image.dataset.panels.split(" ").map((panel) => panel.split(",").map((part) => part.split("-").map(Number)));
    const width = Math.max(...panels.map((parts) => parts.reduce((sum, [start, end]) => sum + end - start, 0)));
    image.classList.remove("wide");
    const stacked = document.createElement("span");
    stacked.className = "panels";
    stacked.setAttribute("role", "img");
    stacked.setAttribute("aria-label", image.alt);
    const named = /\b(left|right)\b/i.test(image.closest("figure").querySelector("figcaption")?.textContent);
    const places = named ? placesOf(panels) : [];
    panels.forEach((parts, number) => {
      const panel = document.createElement("span");
      panel.append(...parts.map((part) => partOf(image, part, width)));
      if (places[number]) stacked.append(Object.assign(document.createElement("small"), { textContent: places[number] }));
      stacked.append(panel);
    });
    image.replaceWith(stacked);
  };
  const stackOnce = () => {
    if (innerWidth > STACKED) return;
    stack();
    document.querySelectorAll(".bd-article figure:not(.laboratory) img[data-panels]").forEach(unfold);
    document.addEventListener("toggle", () => stack(), true);
  };

  const start = () => {
    follow();
    breakNames();
    stackOnce();
    watch();
  };
  addEventListener("load", start);
})();
