// What a page does with its folds as a whole. Each fold is a <details> and works without this file.
(() => {
  "use strict";

  const KEY = "folds"; // "open" while the reader wants all folds open, on every page
  const remembered = () => {
    try {
      return localStorage.getItem(KEY) === "open";
    } catch {
      return false; // a browser that stores nothing
    }
  };
  const remember = (open) => {
    try {
      if (open) localStorage.setItem(KEY, "open");
      else localStorage.removeItem(KEY);
    } catch {
      // then it holds for this page only
    }
  };
  const comesFromSearch = () => {
    if (document.getElementById("search-results")) return false;
    const inAddress = new URLSearchParams(location.search).has("highlight");
    try {
      return inAddress || Boolean(localStorage.getItem("sphinx_highlight_terms"));
    } catch {
      return inAddress;
    }
  };

  // The theme loads the search on every page, so the script of Sphinx that marks the words takes each for the page of
  // results, and does nothing. Nor does it forget the words.
  const markWords = () => {
    if (typeof SphinxHighlight !== "undefined") SphinxHighlight.highlightSearchWords();
  };
  const folds = () => [...document.querySelectorAll("details.fold")];
  const closed = () => folds().filter((fold) => !fold.open);

  // One button for all: it keeps the place at which the reader is, if possible at something that is never hidden.
  const place = () => {
    const x = document.querySelector(".bd-article").getBoundingClientRect().left + 40;
    const seen = [];
    for (let y = 70; y < innerHeight; y += 12) {
      const found = document.elementFromPoint(x, y);
      if (found?.closest(".bd-article") && !found.matches(".bd-article, section, .cell, .fold-body")) seen.push(found);
    }
    const fold = seen.length && folds().find((outer) => outer.contains(seen[0]));
    return seen.find((element) => !element.closest("details.fold")) ?? (fold ? fold.firstElementChild : null);
  };
  const setAll = (open) => {
    const root = document.documentElement;
    const kept = place();
    const before = kept?.getBoundingClientRect().top;
    root.style.overflowAnchor = "none"; // the browser would do the same once more
    for (const fold of folds()) fold.open = open;
    if (kept) scrollBy({ top: kept.getBoundingClientRect().top - Math.max(before, 60), behavior: "instant" });
    requestAnimationFrame(() => root.style.removeProperty("overflow-anchor"));
  };
  const addButton = () => {
    const header = document.querySelector(".article-header-buttons");
    if (!header || !folds().length) return;
    const button = document.createElement("button");
    button.type = "button";
    button.className = "btn btn-sm folds-button";
    const label = () => {
      button.textContent = closed().length ? "Open all" : "Close all";
      button.title = closed().length ? "Open all proofs, checks, code, hints and solutions" : "Fold what was folded";
    };
    button.addEventListener("click", () => {
      const open = closed().length > 0;
      remember(open);
      setAll(open);
      label();
    });
    document.addEventListener("toggle", label, true); // toggle does not bubble
    header.prepend(button);
    label();
  };

  // A link into a fold opens it, and all folds around it.
  const target = (hash) => {
    try {
      return document.getElementById(decodeURIComponent(hash.slice(1)));
    } catch {
      return null;
    }
  };
  const reveal = (hash) => {
    const goal = hash.length > 1 && target(hash);
    if (!goal) return null;
    for (let fold = goal.closest("details"); fold; fold = fold.parentElement.closest("details")) fold.open = true;
    goal.scrollIntoView({ behavior: "instant" });
    return goal;
  };
  const followLinks = () => {
    addEventListener("hashchange", () => reveal(location.hash));
    document.addEventListener("click", (event) => {
      const link = event.target.closest?.("a[href*='#']");
      if (link?.closest("summary") || !link || event.ctrlKey || event.metaKey || event.shiftKey || event.button) return;
      const address = new URL(link.href, location.href);
      if (address.href === location.href) reveal(address.hash); // the address stays: there is no other event
    });
  };

  // Pictures move the page while they come in. Stay with the target until the reader moves.
  const stay = async (goal) => {
    let moved = false;
    for (const event of ["wheel", "touchmove", "keydown", "pointerdown"])
      addEventListener(event, () => (moved = true), { once: true, passive: true });
    const again = () => moved || goal.scrollIntoView({ behavior: "instant" });
    if (document.readyState !== "complete") await new Promise((done) => addEventListener("load", done, { once: true }));
    again();
  };

  const openForPrint = () => {
    let opened = [];
    addEventListener("beforeprint", () => {
      opened = [...document.querySelectorAll("article details:not([open])")];
      for (const fold of opened) fold.open = true;
    });
    addEventListener("afterprint", () => {
      for (const fold of opened) fold.open = false;
    });
  };

  const start = () => {
    const searched = comesFromSearch();
    if (remembered() || searched) for (const fold of folds()) fold.open = true;
    if (searched) markWords();
    addButton();
    followLinks();
    openForPrint();
    const goal = reveal(location.hash);
    if (goal) stay(goal);
  };
  if (document.readyState === "loading") document.addEventListener("DOMContentLoaded", start);
  else start();
})();
