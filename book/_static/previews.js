// A link to a statement, an equation, a figure, a term or a source shows it, by mouse, by keyboard and by touch; a symbol
// shows what it means, by mouse and by touch. No formula is a tab stop: for the keyboard, a button lists the symbols.
(() => {
  "use strict";

  const WAIT = 250; // milliseconds before a preview comes, and before it goes
  const root = document.documentElement.dataset.content_root;
  const here = new URL(root, location.href).href;
  window.bookPreviews ??= {};

  // The pieces of a page are a script, so that they load from disk as well.
  const loading = new Map();
  const load = (page) => {
    if (!loading.has(page))
      loading.set(
        page,
        new Promise((done) => {
          const script = document.createElement("script");
          script.src = `${root}_static/previews/${page}.js`;
          script.onload = script.onerror = () => done(window.bookPreviews[page]);
          document.head.append(script);
        }),
      );
    return loading.get(page);
  };
  const goal = (link) => {
    if (link.dataset.symbol) return { page: "book/notation", name: link.dataset.symbol };
    const address = new URL(link.href, location.href);
    if (!address.hash || !address.href.startsWith(here)) return null;
    const page = address.pathname.slice(new URL(here).pathname.length).replace(/\.html$/, "");
    return { page, name: decodeURIComponent(address.hash.slice(1)) };
  };

  // The page keeps the outlines of letters; a preview may need more of them.
  const drawn = (name) => document.createElementNS("http://www.w3.org/2000/svg", name);
  const newStore = () => {
    const place = drawn("svg");
    place.setAttribute("class", "formulas");
    place.setAttribute("width", 0);
    place.setAttribute("height", 0);
    document.body.prepend(place);
    return place.appendChild(drawn("defs"));
  };
  const addLetters = (letters) => {
    const store = document.querySelector("svg.formulas > defs") ?? newStore();
    for (const [name, path] of Object.entries(letters)) {
      if (document.getElementById(`m-${name}`)) continue;
      const outline = drawn("path");
      outline.id = `m-${name}`;
      outline.setAttribute("d", path);
      store.append(outline);
    }
  };

  const card = document.createElement("div");
  card.id = "preview";
  card.className = "preview bd-article";
  card.setAttribute("role", "tooltip");
  card.hidden = true;
  let current = null; // the link whose preview is shown or will be
  let timer = 0;

  const place = (link) => {
    const box = link.getClientRects()[0];
    const width = Math.min(640, document.documentElement.clientWidth - 24);
    card.style.width = `${width}px`;
    card.style.left = `${Math.max(12, Math.min(box.left, document.documentElement.clientWidth - width - 12))}px`;
    const height = card.offsetHeight;
    const below = box.bottom + 8 + height <= innerHeight || box.top < innerHeight / 2;
    card.style.top = below ? `${box.bottom + 8}px` : `${Math.max(8, box.top - height - 8)}px`;
    card.style.maxHeight = below ? `${innerHeight - box.bottom - 20}px` : `${box.top - 20}px`;
  };
  const hide = () => {
    clearTimeout(timer);
    current?.removeAttribute("aria-describedby");
    current = null;
    card.hidden = true;
  };
  const show = async (link) => {
    const { page, name } = goal(link);
    const found = await load(page);
    const piece = found?.pieces[name];
    if (!piece || current !== link) return false;
    addLetters(found.letters);
    card.innerHTML = piece;
    card.hidden = false;
    card.scrollTop = 0;
    place(link);
    link.setAttribute("aria-describedby", card.id);
    return true;
  };
  const soon = (link, wait) => {
    if (link === current) return clearTimeout(timer);
    hide();
    current = link;
    timer = setTimeout(() => show(link), wait);
  };
  const later = () => {
    clearTimeout(timer);
    timer = setTimeout(hide, WAIT);
  };
  const linkOf = (event) => {
    const of = (selector) => event.target.closest?.(`.bd-article ${selector}`);
    const link = of("a[href*='#']:not(.headerlink)") ?? of("[data-symbol]");
    return link && !card.contains(link) && goal(link) ? link : null;
  };

  // All symbols of the page, in the order of the page on notation.
  const numberOf = (symbol) => Number(symbol.split("-")[1]);
  const addSymbols = () => {
    const header = document.querySelector(".article-header-buttons");
    const marked = [...document.querySelectorAll(".bd-article [data-symbol]")].map((symbol) => symbol.dataset.symbol);
    if (!header || !marked.length) return;
    const symbols = [...new Set(marked)].sort((one, other) => numberOf(one) - numberOf(other));
    const list = document.createElement("dialog");
    list.className = "symbols bd-article";
    list.setAttribute("aria-label", "Symbols of this page");
    list.addEventListener("click", (event) => (event.target === list ? list.close() : null)); // beside it
    const fill = ({ letters, pieces }) => {
      addLetters(letters);
      const rows = new Set(symbols.flatMap((symbol) => pieces[symbol].match(/<tr>.*?<\/tr>/gs)));
      list.innerHTML = `<form method="dialog"><button class="btn btn-sm">Close</button></form><table class="table"><thead><tr>
        <th>Symbol</th><th>Meaning</th><th>In the code</th><th>Shape</th></tr></thead>${[...rows].join("")}</table>`;
    };
    const button = document.createElement("button");
    button.type = "button";
    button.className = "btn btn-sm symbols-button";
    button.textContent = "Symbols";
    button.title = "Show what the symbols of this page mean";
    button.addEventListener("click", async () => {
      const found = await load("book/notation");
      if (!found) return;
      if (!list.firstChild) fill(found);
      list.showModal();
    });
    header.prepend(button);
    document.body.append(list);
  };

  let touched = false;
  const listen = () => {
    document.body.append(card);
    addSymbols();
    document.addEventListener("pointerover", (event) => {
      if (event.pointerType === "touch") return;
      if (card.contains(event.target)) return clearTimeout(timer);
      const link = linkOf(event);
      if (link) soon(link, WAIT);
      else if (current && !current.contains(document.activeElement)) later();
    });
    document.addEventListener("focusin", (event) => {
      const link = linkOf(event);
      if (link && link.matches(":focus-visible")) soon(link, WAIT);
      else if (!card.contains(event.target)) hide();
    });
    document.addEventListener("keydown", (event) => event.key === "Escape" && hide());
    document.addEventListener("pointerdown", (event) => (touched = event.pointerType === "touch"));
    // The first touch shows, the second follows.
    document.addEventListener(
      "click",
      async (event) => {
        if (card.contains(event.target)) return;
        const link = linkOf(event);
        if (!link || !touched || (current === link && !card.hidden)) return hide();
        event.preventDefault();
        event.stopPropagation();
        hide();
        current = link;
        if (!(await show(link)) && link.href) location.href = link.href;
      },
      true,
    );
    addEventListener("scroll", () => !card.hidden && current && place(current), { passive: true });
  };
  if (document.readyState === "loading") document.addEventListener("DOMContentLoaded", listen);
  else listen();
})();
