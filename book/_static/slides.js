// A deck: one slide at a time, by keys, buttons or address; notes below, or in a window of their own.
(() => {
  "use strict";

  const LARGEST = 1.9;
  const SMALLEST = 0.5;
  const root = document.documentElement;
  const slides = [...document.querySelectorAll(".slide")];
  const presents = new URLSearchParams(location.search).has("notes");
  let other = presents ? window.opener : null; // the other window, if there is one
  let current = 0;

  // As large as the room allows.
  const fit = () => {
    const slide = slides[current];
    const content = slide.querySelector(".content");
    const style = getComputedStyle(slide);
    const notes = root.classList.contains("with-notes") && slide.querySelector(".notes");
    const room = () => (notes ? notes.getBoundingClientRect().top : slide.getBoundingClientRect().bottom) - 8;
    const fits = () => {
      const widest = slide.getBoundingClientRect().right - parseFloat(style.paddingRight) + 1;
      const boxes = [content, ...content.querySelectorAll("mjx-container, img, table, pre")];
      return content.getBoundingClientRect().bottom <= room() && boxes.every((box) => box.getBoundingClientRect().right <= widest);
    };
    const tallest = notes ? 30 : 60; // of the window, in per cent: a picture
    let zoom = LARGEST;
    do {
      content.style.zoom = zoom;
      for (const image of content.querySelectorAll("img")) image.style.maxHeight = `${tallest / zoom}vh`;
      zoom -= 0.05;
    } while (zoom >= SMALLEST && !fits());
  };

  const show = (number, tell = true) => {
    current = Math.max(0, Math.min(slides.length - 1, number));
    slides.forEach((slide, place) => slide.classList.toggle("shown", place === current));
    count.textContent = `${current + 1} / ${slides.length}`;
    history.replaceState(null, "", `${location.search}#${current + 1}`);
    fit();
    if (tell) other?.postMessage({ slide: current }, "*");
  };
  const toggleNotes = () => {
    root.classList.toggle("with-notes");
    fit();
  };
  const openNotes = () => {
    other = window.open(`${location.pathname}?notes#${current + 1}`, "notes", "width=1000,height=800");
  };
  const toggleScreen = () => {
    if (document.fullscreenElement) document.exitFullscreen();
    else root.requestFullscreen?.();
  };

  const button = (text, title, action) => {
    const made = document.createElement("button");
    made.type = "button";
    made.textContent = text;
    made.title = title;
    made.addEventListener("click", action);
    return made;
  };
  const count = document.createElement("span");
  const bar = document.createElement("nav");
  bar.setAttribute("aria-label", "Slides");
  bar.append(
    button("←", "Back (left arrow)", () => show(current - 1)),
    count,
    button("→", "On (right arrow)", () => show(current + 1)),
    button("Notes", "Show the notes (N)", toggleNotes),
    button("Window", "Show the notes in a window of their own (P)", openNotes),
    button("Full screen", "Fill the screen (F)", toggleScreen),
  );
  document.querySelector("footer").prepend(bar);

  const keys = {
    ArrowRight: () => show(current + 1),
    PageDown: () => show(current + 1),
    " ": () => show(current + 1),
    ArrowLeft: () => show(current - 1),
    PageUp: () => show(current - 1),
    Home: () => show(0),
    End: () => show(slides.length - 1),
    n: toggleNotes,
    p: openNotes,
    f: toggleScreen,
  };
  addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.key === " " && event.target.closest("button, a")) return; // presses it
    const action = keys[event.key.length === 1 ? event.key.toLowerCase() : event.key];
    if (!action) return;
    event.preventDefault();
    action();
  });
  addEventListener("message", (event) => {
    if (event.source === other && Number.isInteger(event.data?.slide)) show(event.data.slide, false);
  });
  addEventListener("hashchange", () => show(Number(location.hash.slice(1)) - 1));
  addEventListener("resize", fit);

  root.classList.add("deck");
  root.classList.toggle("with-notes", presents);
  const start = () => show((Number(location.hash.slice(1)) || 1) - 1, false);
  start();
  addEventListener("load", () => {
    start();
    root.dataset.ready = "yes";
  });
})();
