"use strict";
// Ties the parts together: a change of the form writes the address and shows panels, parallel coordinates and table.
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const parallel = document.querySelector("#parallel .plot");
  const lines = data.parallel.data[0];

  const ranges = () => {
    try {
      return JSON.parse(switches.text("brush") || "{}");
    } catch {
      return {}; // an address that was cut off
    }
  };

  // Ranges of an axis: [low, high] or several of them.
  const within = (value, range) => (Array.isArray(range[0]) ? range : [range]).some(([low, high]) => low <= value && value <= high);

  const brush = (places) => {
    const kept = Object.entries(ranges()).filter(([axis]) => lines.dimensions[axis]);
    if (!kept.length) return places;
    const inside = new Set(lines.customdata.filter((_, line) => kept.every(([axis, range]) => within(lines.dimensions[axis].values[line], range))));
    return places.filter((place) => inside.has(place));
  };

  const showParallel = (places) => {
    const wanted = new Set(places);
    const kept = lines.customdata.map((place, line) => line).filter((line) => wanted.has(lines.customdata[line]));
    const pick = (values) => kept.map((line) => values[line]);
    const chosen = ranges();
    const dimensions = lines.dimensions.map((one, axis) => ({ ...one, values: pick(one.values), constraintrange: chosen[axis] }));
    const trace = { ...lines, dimensions, customdata: pick(lines.customdata), line: { ...lines.line, color: pick(lines.line.color) } };
    panels.update(parallel, [trace], data.parallel.layout, "parallel");
  };

  let shownPanels = "", shownLines = "";
  const show = () => {
    const chosen = JSON.stringify(["dataset", "activation", "gpn", "batch_norm", "split", "update", "by"].map((name) => [...switches.chosen(name)]));
    if (chosen !== shownPanels) panels.show(data.figures);
    shownPanels = chosen;
    const places = table.chosen();
    const drawn = JSON.stringify([places, switches.text("brush")]);
    if (drawn !== shownLines) showParallel(places);
    shownLines = drawn;
    table.show(brush(places));
  };

  // brushing: the form keeps the ranges, and the table follows
  const brushed = () => {
    const kept = parallel.data[0].dimensions.map((one, axis) => [axis, one.constraintrange]).filter(([, range]) => range && range.length);
    const text = kept.length ? JSON.stringify(Object.fromEntries(kept)) : "";
    if (text === switches.text("brush")) return;
    shownLines = JSON.stringify([table.chosen(), text]); // drawn so already, by the hand that did it
    switches.set("brush", text);
  };

  const changed = () => {
    switches.write();
    show();
  };
  // controls outside the form's element are its own all the same, but their events don't pass through it
  document.addEventListener("input", (event) => {
    if (event.target === switches.form || event.target.form === switches.form) changed();
  });
  switches.form.addEventListener("submit", (event) => event.preventDefault());
  switches.form.querySelector("[type=reset]").addEventListener("click", () => setTimeout(changed));
  window.addEventListener("hashchange", () => {
    switches.read();
    show();
  });
  for (const button of document.querySelectorAll("nav button"))
    button.addEventListener("click", () => document.getElementById(button.dataset.target).scrollIntoView());
  window.addEventListener("beforeprint", panels.drawAll);

  for (const heading of document.querySelectorAll("#runs th"))
    heading.querySelector("button").addEventListener("click", () => table.sortBy(heading.dataset.column));

  const say = (button, text) => {
    const usual = button.dataset.usual || (button.dataset.usual = button.textContent);
    button.textContent = text;
    setTimeout(() => (button.textContent = usual), 1500);
  };
  document.getElementById("copy").addEventListener("click", async (event) => {
    const button = event.currentTarget;
    try {
      await navigator.clipboard.writeText(table.csv());
      say(button, "Copied");
    } catch {
      say(button, "Not allowed here: download it");
    }
  });
  document.getElementById("download").addEventListener("click", () => {
    const url = URL.createObjectURL(new Blob([table.csv()], { type: "text/csv" }));
    Object.assign(document.createElement("a"), { href: url, download: "runs.csv" }).click();
    setTimeout(() => URL.revokeObjectURL(url), 1000);
  });

  table.load(data);
  switches.read();
  panels.watch(parallel, brushed);
  show();
})();
