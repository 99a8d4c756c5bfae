"use strict";
(() => {
  const at = (id) => document.getElementById(id);
  const all = (selector, within = document) => [...within.querySelectorAll(selector)];

  // ---- light and dark: the reader's choice, else the system's

  const system = matchMedia("(prefers-color-scheme: dark)");
  let chosen = null;
  try { chosen = localStorage.getItem("theme"); } catch { /* a file's page may have no storage */ }
  function applyTheme() {
    const dark = chosen ? chosen === "dark" : system.matches;
    document.documentElement.dataset.theme = dark ? "dark" : "light";
    at("theme").setAttribute("aria-pressed", String(dark));
  }
  at("theme").addEventListener("click", () => {
    chosen = document.documentElement.dataset.theme === "dark" ? "light" : "dark";
    try { localStorage.setItem("theme", chosen); } catch { /* then only for this visit */ }
    applyTheme();
  });
  system.addEventListener("change", applyTheme);
  applyTheme();

  // The rest waits for the end of the file: observers would slow down parsing.
  document.addEventListener("DOMContentLoaded", () => {
    const data = JSON.parse(at("data").textContent);
    const idle = window.requestIdleCallback || ((work) => setTimeout(work, 50));

    // ---- pictures: sheets are decoded when one of their cards comes near

    async function sheet(id) {
      const binary = atob(at(id).textContent);
      const bytes = new Uint8Array(binary.length);
      for (let i = 0; i < binary.length; i++) bytes[i] = binary.charCodeAt(i);
      return createImageBitmap(new Blob([bytes], { type: "image/webp" }));
    }
    function cut(canvas, bitmap, place, columns, cell, side = cell) {
      canvas.width = canvas.height = side;
      const x = (place % columns) * cell, y = Math.floor(place / columns) * cell;
      const pen = canvas.getContext("2d");
      pen.imageSmoothingQuality = "high";
      pen.drawImage(bitmap, x, y, cell, cell, 0, 0, side, side);
    }
    /** Draw cell `index` of a run's sheets, unless `wanted` says by then that it is no longer needed. */
    async function drawCell(canvas, key, what, index, wanted = () => true) {
      const { cell, columns, perSheet } = data[key][what];
      const bitmap = await sheet(`${key}-${what}-${Math.floor(index / perSheet)}`);
      if (wanted()) cut(canvas, bitmap, index % perSheet, columns, cell);
      bitmap.close();
    }

    const near = new IntersectionObserver((entries) => {
      for (const entry of entries) if (entry.isIntersecting) { near.unobserve(entry.target); entry.target.draw(); }
    }, { rootMargin: "500px" });

    /** Canvases waiting for a sheet: sheet's id → [canvas, place in the sheet, run's key]. */
    const waiting = new Map();
    function wait(canvas, key, index) {
      const { perSheet } = data[key].sheets, id = `${key}-sheets-${Math.floor(index / perSheet)}`;
      if (!waiting.has(id)) waiting.set(id, []);
      waiting.get(id).push([canvas, index % perSheet, key]);
      canvas.draw = () => drawSheet(id);
      near.observe(canvas);
    }
    async function drawSheet(id) {
      const canvases = waiting.get(id);
      if (!canvases) return;
      waiting.delete(id);
      const bitmap = await sheet(id);
      for (const [canvas, place, key] of canvases) {
        const { cell, columns } = data[key].sheets;
        near.unobserve(canvas);
        cut(canvas, bitmap, place, columns, cell, Math.min(cell, 160));
        canvas.classList.toggle("crisp", cell < 96);
      }
      bitmap.close();
    }

    for (const button of all(".wall button")) {
      const key = button.dataset.run, index = Number(button.dataset.index), start = button.querySelector(".start");
      wait(button.querySelector(".result"), key, index);
      if (start) {
        const { evolution } = data[key];
        start.draw = async () => {
          const bitmap = await sprite(key, 0);
          cut(start, bitmap, index, evolution.columns, spriteCell(bitmap, evolution));
          start.classList.toggle("crisp", data[key].sheets.cell < 96);
        };
        near.observe(start);
      }
      button.addEventListener("click", () => openViewer(key, index));
    }

    for (const gallery of all(".gallery")) {
      const key = gallery.closest(".run").id, cards = all("li", gallery);
      cards.forEach((card, index) => {
        wait(card.querySelector("canvas"), key, index);
        card.firstElementChild.addEventListener("click", () => openViewer(key, index));
      });
      const box = gallery.parentElement.querySelector(".filter"), count = gallery.parentElement.querySelector(".count");
      box.addEventListener("input", () => {
        const wanted = box.value.trim().toLocaleLowerCase();
        let shown = 0;
        cards.forEach((card, index) => {
          card.hidden = !data[key].images[index].name.toLocaleLowerCase().includes(wanted);
          shown += !card.hidden;
        });
        count.textContent = wanted ? `${shown} of ${cards.length} images` : `${cards.length} images`;
      });
    }

    // Pictures that are never scrolled to are drawn in idle time, so that the whole page can be printed.
    const drawNext = () => {
      const [id] = waiting.keys();
      if (id) drawSheet(id).then(() => idle(drawNext));
      else for (const start of all(".wall .start")) start.draw();
    };
    idle(drawNext);

    for (const link of all(".sheet")) {
      // A data URL is as long as its sheet, so the page holds it only once, until it is needed.
      link.addEventListener("click", () => { link.href = `data:image/webp;base64,${at(link.dataset.sheet).textContent}`; });
    }

    // ---- evolution

    /** Sprites of a run's evolution, decoded once. */
    const sprites = new Map();
    function sprite(key, number) {
      const id = `${key}-evolution-${number}`;
      if (!sprites.has(id)) sprites.set(id, sheet(id));
      return sprites.get(id);
    }
    function spriteCell(bitmap, evolution) { return bitmap.width / evolution.columns; }

    for (const place of all(".evolution")) {
      const key = place.closest(".run").id, evolution = data[key].evolution;
      const slider = place.querySelector("input"), said = place.querySelector("output");
      const canvas = place.querySelector("canvas"), play = place.querySelector(".play");
      let timer = 0;
      async function draw() {
        const number = Number(slider.value), step = evolution.steps[number];
        slider.setAttribute("aria-valuetext", `step ${step}`);
        said.textContent = step.toLocaleString("en");
        const bitmap = await sprite(key, number);
        if (number !== Number(slider.value)) return;
        const width = place.clientWidth || at("main").clientWidth;  // draw hidden runs, too: they may be printed
        const cell = spriteCell(bitmap, evolution), gap = Math.max(2, Math.round(cell / 28));
        const columns = Math.min(evolution.count, Math.max(4, Math.min(10, Math.floor(width / 84))));
        canvas.width = columns * (cell + gap) - gap;
        canvas.height = Math.ceil(evolution.count / columns) * (cell + gap) - gap;
        const pen = canvas.getContext("2d");
        for (let i = 0; i < evolution.count; i++) {
          const x = (i % evolution.columns) * cell, y = Math.floor(i / evolution.columns) * cell;
          const left = (i % columns) * (cell + gap), top = Math.floor(i / columns) * (cell + gap);
          pen.drawImage(bitmap, x, y, cell, cell, left, top, cell, cell);
        }
        canvas.style.width = `${columns * 104}px`;
        canvas.classList.toggle("crisp", cell < 96);
        canvas.setAttribute("aria-label", `The first ${evolution.count} images as they were at step ${step}`);
      }
      function stop() {
        clearInterval(timer);
        timer = 0;
        play.textContent = "Play";
        play.setAttribute("aria-pressed", "false");
      }
      play.addEventListener("click", () => {
        if (timer) { stop(); return; }
        if (slider.value === slider.max) slider.value = 0;
        play.textContent = "Pause";
        play.setAttribute("aria-pressed", "true");
        draw();
        timer = setInterval(() => {
          slider.value = Number(slider.value) + 1;
          draw();
          if (slider.value === slider.max) stop();
        }, 450);
      });
      slider.addEventListener("input", () => { stop(); draw(); });
      place.draw = draw;
      near.observe(place);
      idle(draw);
      new ResizeObserver(() => { if (sprites.size) draw(); }).observe(place);
    }

    // ---- one image, large

    const viewer = at("viewer"), steps = at("viewer-steps"), slider = steps.querySelector("input");
    let open = { key: "", index: 0 };
    async function drawLarge() {
      const { key, index } = open, canvas = at("viewer-image"), evolution = data[key].evolution;
      const here = data[key].images[index], last = !evolution || slider.value === slider.max;
      const value = slider.value;
      const still = () => open.key === key && open.index === index && slider.value === value;
      if (last) await drawCell(canvas, key, "sheets", index, still);
      else {
        const bitmap = await sprite(key, Number(value));
        if (still()) cut(canvas, bitmap, index, evolution.columns, spriteCell(bitmap, evolution));
      }
      if (!still()) return;
      at("viewer-save").href = canvas.toDataURL("image/png");
      at("viewer-save").download = `${here.title.replace(/[^\p{L}\p{N}]+/gu, "-")}.png`;
      const step = evolution && index < evolution.count ? evolution.steps[Number(value)] : null;
      canvas.setAttribute("aria-label", `distilled image of ${here.title}${step === null ? "" : ` at step ${step}`}`);
      if (step !== null) {
        slider.setAttribute("aria-valuetext", `step ${step}`);
        steps.querySelector("output").textContent = step.toLocaleString("en");
      }
    }
    function show(key, index) {
      open = { key, index };
      const run = data[key], here = run.images[index];
      at("viewer-title").textContent = here.title;
      at("viewer-score").textContent = here.score ? `${here.score} of the test images of its class are right.` : "";
      const evolves = run.evolution && index < run.evolution.count;
      steps.hidden = !evolves;
      slider.max = evolves ? run.evolution.steps.length - 1 : 0;
      slider.value = slider.max;
      at("viewer-image").classList.toggle("crisp", run.sheets.cell < 96);
      drawLarge();
      const list = at("viewer-near").querySelector("ul");
      list.replaceChildren();
      at("viewer-near").hidden = !run.near;
      (run.near ? run.near.names[index] : []).forEach((name, i) => {
        const item = document.createElement("li"), canvas = document.createElement("canvas");
        const caption = document.createElement("small");
        canvas.setAttribute("role", "img");
        canvas.setAttribute("aria-label", `real image ${name}`);
        caption.textContent = name.split("/").pop();
        caption.title = name;
        item.append(canvas, caption);
        list.append(item);
        drawCell(canvas, key, "near", index * run.near.names[index].length + i);
      });
      const cards = shownCards(key);
      // Not `disabled`: the pressed button would lose the focus, and then arrow keys would not work.
      at("viewer-back").setAttribute("aria-disabled", String(cards.indexOf(index) <= 0));
      at("viewer-next").setAttribute("aria-disabled", String(cards.indexOf(index) === cards.length - 1));
    }
    function shownCards(key) {
      return all(".gallery li", at(key)).map((card, index) => (card.hidden ? -1 : index)).filter((index) => index >= 0);
    }
    function turn(by) {
      const cards = shownCards(open.key), index = cards[cards.indexOf(open.index) + by];
      if (index !== undefined) show(open.key, index);
    }
    function openViewer(key, index) {
      show(key, index);
      viewer.showModal();
    }
    slider.addEventListener("input", drawLarge);
    at("viewer-close").addEventListener("click", () => viewer.close());
    at("viewer-back").addEventListener("click", () => turn(-1));
    at("viewer-next").addEventListener("click", () => turn(1));
    viewer.addEventListener("click", (event) => { if (event.target === viewer) viewer.close(); });
    viewer.addEventListener("keydown", (event) => {
      if (event.target === slider || !["ArrowLeft", "ArrowRight"].includes(event.key)) return;
      turn(event.key === "ArrowLeft" ? -1 : 1);
      event.preventDefault();
    });

    // ---- runs as tabs

    const tabs = all('[role="tab"]');
    function choose(tab, focus) {
      for (const other of tabs) {
        const selected = other === tab;
        other.setAttribute("aria-selected", String(selected));
        other.tabIndex = selected ? 0 : -1;
        at(other.getAttribute("aria-controls")).hidden = !selected;
      }
      if (focus) tab.focus();
    }
    tabs.forEach((tab, i) => {
      tab.addEventListener("click", () => choose(tab));
      tab.addEventListener("keydown", (event) => {
        const to = { ArrowLeft: i - 1, ArrowRight: i + 1, Home: 0, End: tabs.length - 1 }[event.key];
        if (to === undefined) return;
        event.preventDefault();
        choose(tabs[(to + tabs.length) % tabs.length], true);
      });
    });
    if (tabs.length) choose(tabs[0]);

    // ---- print everything

    let restore = [];
    addEventListener("beforeprint", () => {
      document.documentElement.dataset.theme = "light";
      for (const run of all(".run[hidden]")) { run.hidden = false; restore.push(() => { run.hidden = true; }); }
      for (const one of all("details:not([open])")) { one.open = true; restore.push(() => { one.open = false; }); }
    });
    addEventListener("afterprint", () => {
      for (const back of restore) back();
      restore = [];
      applyTheme();
    });

    // ---- copy

    for (const button of all(".copy")) {
      const label = button.firstChild, text = button.previousElementSibling;
      button.addEventListener("click", async () => {
        try {
          await navigator.clipboard.writeText(text.textContent);
        } catch {  // not allowed here: select the text, so that the reader can copy it
          getSelection().selectAllChildren(text);
          label.textContent = document.execCommand("copy") ? "Copied" : "Press Ctrl-C";
          return;
        }
        label.textContent = "Copied";
        setTimeout(() => { label.textContent = "Copy"; }, 1500);
      });
    }
  }, { once: true });
})();
