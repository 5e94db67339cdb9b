// The search: it ranks the entries of search-entries.js, and shows them under the field of the dialog or on the page.
(() => {
  "use strict";

  const KINDS = { page: 1.6, symbol: 1.6, term: 1.45, statement: 1.3, code: 1.15, section: 1.1, figure: 1, table: 0.9, exercise: 0.8, literature: 0.7 };
  const REFERENCE = /(library|performance|notation|glossary|claims|deviations|references)\.html#(?!term-|invlib\.|symbol)/;
  const NAMES = { page: "chapter", code: "library", literature: "literature" };
  const GREEK = "alpha beta gamma delta epsilon zeta eta theta iota kappa lambda mu nu xi omicron pi rho sigma sigma tau upsilon phi chi psi omega";
  const letters = new Map(GREEK.split(" ").map((name, index) => [String.fromCharCode(0x3b1 + index), name]));
  const MORE = { "ϕ": "phi", "∇": "nabla", "½": "half", "→": " ", "ł": "l", "ß": "ss", "∂": "partial", "‖": " " };

  // Words as they are compared: small letters without accents, Greek by name; a hat, bar or star belongs to its letter.
  const plain = (text) =>
    text
      .replaceAll("½", "half")
      .toLowerCase()
      .normalize("NFKD")
      .replace(/./gu, (sign) => letters.get(sign) ?? MORE[sign] ?? sign)
      .replace(/\u0302/g, "hat")
      .replace(/\u0304/g, "bar")
      .replace(/\p{M}/gu, "")
      .replace(/[∗⋆]/g, "*")
      .replace(/(\p{L}) ?(hat|bar|tilde)\b/gu, "$1$2")
      .replace(/ star\b/g, "*")
      .replace(/-/g, " ");
  const stem = (word) => (word.length > 3 ? word.replace(/(?<=[^s])s$/, "").replace(/at(e|or|ion)$/, "at") : word);
  const COMMON = new Set("a an and are be do for i in is it of on or should the to use what".split(" "));
  const words = (text) => (plain(text).match(/[\p{L}\p{N}]+(?:\.\d+)*\*?/gu) ?? []).map(stem);

  // All words of an entry, counted once.
  const prepare = (entry) => {
    const counts = new Map();
    for (const word of words(entry.text)) counts.set(word, (counts.get(word) ?? 0) + 1);
    const title = words(entry.title);
    return { ...entry, counts, length: 1 + entry.text.length / 1500, heading: title, headline: ` ${title.join(" ")} ` };
  };
  let prepared = null;
  let rarity = null;
  const entries = () => {
    if (prepared) return prepared;
    prepared = Object.values(window.bookEntries).flat().map(prepare);
    const seen = new Map();
    for (const entry of prepared)
      for (const word of new Set([...entry.counts.keys(), ...entry.heading])) seen.set(word, (seen.get(word) ?? 0) + 1);
    rarity = (word) => Math.log(1 + prepared.length / (1 + (seen.get(word) ?? 0)));
    return prepared;
  };

  // How well an entry answers: words in its title count most, then those of its text, rare ones more than common ones.
  const score = (entry, asked) => {
    let sum = 0;
    let found = 0;
    asked.forEach((word, index) => {
      const last = index === asked.length - 1 && word.length > 2;
      const begun = last && entry.heading.some((other) => other.startsWith(word));
      const inTitle = entry.heading.includes(word) ? 6 : begun ? 3 : 0;
      const inText = Math.log(1 + (entry.counts.get(word) ?? 0) / entry.length);
      if (inTitle || inText) found += 1;
      const share = 1 + (entry.kind === "page" ? 0.03 : 0.08) * entry.heading.length;
      sum += (inTitle / share + inText) * rarity(word);
    });
    const phrase = ` ${asked.join(" ")} `;
    if (entry.headline.includes(phrase)) sum *= 2;
    if (entry.headline === phrase) sum *= 1.5;
    return (found / asked.length) ** 2 * sum * (KINDS[entry.kind] ?? 1) * (REFERENCE.test(entry.url) ? 0.7 : 1);
  };
  const search = (query) => {
    const all = [...new Set(words(query))];
    const telling = all.filter((word) => !COMMON.has(word));
    const asked = telling.length ? telling : all;
    if (!asked.length) return [];
    const name = query.trim();
    const named = (entry) => (entry.kind === "code" && entry.title === `invlib.${name}` ? 4 : 1);
    return entries()
      .map((entry) => ({ entry, score: score(entry, asked) * named(entry) }))
      .filter((hit) => hit.score > 0.5)
      .sort((one, other) => other.score - one.score)
      .map((hit) => hit.entry);
  };

  // The part of a text in which most of the words stand, those words marked.
  const excerpt = (text, query) => {
    const asked = new Set(words(query));
    const parts = text.split(/(\s+)/);
    const hits = parts.map((part) => words(part).some((word) => asked.has(word)));
    const first = Math.max(0, hits.indexOf(true) - 16);
    const shown = document.createElement("p");
    shown.className = "excerpt";
    if (first) shown.append("… ");
    parts.slice(first, first + 72).forEach((part, index) => {
      if (!hits[first + index]) return shown.append(part);
      const mark = document.createElement("mark");
      mark.textContent = part;
      shown.append(mark);
    });
    if (first + 72 < parts.length) shown.append(" …");
    return shown;
  };

  const root = () => document.documentElement.dataset.content_root;
  const element = (name, className, ...children) => {
    const made = document.createElement(name);
    made.className = className;
    made.append(...children);
    return made;
  };
  const result = (entry, query) => {
    const link = element("a", "", entry.title);
    link.href = root() + entry.url;
    const where = element("span", "where", [NAMES[entry.kind] ?? entry.kind, entry.page].filter(Boolean).join(" · "));
    return element("li", "", link, where, excerpt(entry.text, query));
  };
  const show = (place, query, most) => {
    const found = search(query);
    const count = element("p", "count", found.length ? `${found.length} found` : query.trim() ? "Nothing found" : "");
    place.replaceChildren(count, element("ol", "hits", ...found.slice(0, most).map((entry) => result(entry, query))));
  };

  // The entries come with the first question.
  let loading = null;
  const load = () =>
    (loading ??= new Promise((done, fail) => {
      const script = document.createElement("script");
      script.src = `${root()}_static/search-entries.js`;
      script.onload = done;
      script.onerror = fail;
      document.head.append(script);
    }));

  const follow = (field, place, most) => {
    const answer = async () => {
      await load();
      show(place, field.value, most);
    };
    field.addEventListener("focus", load, { once: true });
    field.addEventListener("input", answer);
    if (field.value) answer();
  };
  const start = () => {
    const dialog = document.getElementById("pst-search-dialog");
    if (dialog) {
      const place = element("div", "search-answers");
      place.setAttribute("aria-live", "polite");
      dialog.append(place);
      follow(dialog.querySelector("input"), place, 8);
    }
    const results = document.getElementById("search-results");
    if (!results) return;
    const field = document.querySelector(".bd-search-container input");
    field.value = new URLSearchParams(location.search).get("q") ?? "";
    field.focus();
    follow(field, results, 60);
  };
  window.bookSearch = { load, search };
  if (document.readyState === "loading") document.addEventListener("DOMContentLoaded", start);
  else start();
})();
