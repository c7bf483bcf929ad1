"use strict";
// The datasets' panels. A figure's traces say in `meta` which cell they are of; those are drawn whose `meta` agrees with
// the switches. A grouped figure becomes one plot for each variant or activation. Plots are drawn when they come near
// the window.
const panels = (() => {
  const SWITCHES = ["dataset", "activation", "gpn", "batch_norm", "split", "update"];
  const CONFIG = { displaylogo: false, displayModeBar: "hover", modeBarButtons: [["toImage", "zoom2d", "pan2d", "resetScale2d"]] };
  const waiting = new Map(); // plot -> [traces, layout], to be drawn
  const near = new Set();

  const restyled = new Map(); // plot -> what to call when the user has changed it

  const draw = (plot) => {
    if (!waiting.has(plot)) return;
    const [traces, layout, name] = waiting.get(plot);
    waiting.delete(plot);
    const image = { toImageButtonOptions: { filename: name, scale: 3 } };
    Plotly.react(plot, traces.map((trace) => ({ ...trace })), structuredClone(layout), { ...CONFIG, ...image });
    if (restyled.has(plot)) plot.on("plotly_restyle", restyled.get(plot));
    restyled.delete(plot);
  };
  const drawAll = () => [...waiting.keys()].forEach(draw);

  const sight = new IntersectionObserver((entries) => {
    for (const { target, isIntersecting } of entries) {
      if (isIntersecting) near.add(target);
      else near.delete(target);
      if (isIntersecting) draw(target);
    }
  }, { rootMargin: "300px" });

  const sizes = new ResizeObserver((entries) => {
    for (const { target, contentRect } of entries)
      if (target.data && contentRect.width && Math.abs(contentRect.width - target._fullLayout.width) > 1) Plotly.Plots.resize(target);
  });

  const update = (plot, traces, layout, name) => {
    waiting.set(plot, [traces, layout, name]);
    if (near.has(plot)) draw(plot);
  };

  const watch = (plot, whenRestyled) => {
    if (whenRestyled) restyled.set(plot, whenRestyled);
    sight.observe(plot);
    sizes.observe(plot);
  };

  const forget = (plot) => {
    sight.unobserve(plot);
    sizes.unobserve(plot);
    near.delete(plot);
    waiting.delete(plot);
    Plotly.purge(plot);
  };

  // Name of the plot -> its traces. Those of no cell (the best constant answer) are in every plot.
  const split = (traces, by) => {
    const groups = new Map();
    const common = traces.filter((trace) => !trace.meta.variant);
    for (const trace of traces) {
      if (!trace.meta.variant) continue;
      const group = by === "none" ? "" : trace.meta[by];
      if (!groups.has(group)) groups.set(group, [...common]);
      groups.get(group).push(trace);
    }
    return groups;
  };

  const label = (by, group) => {
    const input = by === "activation" && switches.form.querySelector(`input[name="activation"][value="${CSS.escape(group)}"]`);
    return input ? input.parentElement.textContent.trim() : group;
  };

  const show = (figures) => {
    const on = Object.fromEntries(SWITCHES.map((name) => [name, switches.chosen(name)]));
    const [by] = switches.chosen("by");
    for (const section of document.querySelectorAll("section[data-dataset]")) section.hidden = !on.dataset.has(section.dataset.dataset);
    for (const element of document.querySelectorAll("[data-figure]")) {
      const figure = figures[element.dataset.figure];
      const agrees = (trace) => SWITCHES.every((name) => !(name in trace.meta) || on[name].has(trace.meta[name]));
      const groups = split(figure.data.filter(agrees), figure.grouped ? by : "none");
      place(element, groups, figure, figure.grouped ? by : "none");
    }
  };

  const place = (element, groups, figure, by) => {
    const host = element.querySelector(".plots");
    const old = new Map([...host.children].map((child) => [child.dataset.group, child]));
    const made = [...groups].map(([group, traces]) => {
      const key = `${by}:${group}`;
      const box = old.get(key) || document.createElement("div");
      old.delete(key);
      if (!box.firstChild) {
        box.dataset.group = key;
        if (group) box.append(Object.assign(document.createElement("h4"), { textContent: label(by, group) }));
        const plot = Object.assign(document.createElement("div"), { className: "plot" });
        plot.setAttribute("role", "img");
        plot.setAttribute("aria-label", [host.dataset.title, label(by, group)].filter(Boolean).join(", "));
        box.append(plot);
        watch(plot);
      }
      return [box, traces, group];
    });
    for (const box of old.values()) if (box.querySelector(".plot")) forget(box.querySelector(".plot"));
    if (made.length) host.replaceChildren(...made.map(([box]) => box));
    else host.replaceChildren(Object.assign(document.createElement("p"), { className: "empty", textContent: "No data for what is chosen above." }));
    for (const [box, traces, group] of made)
      update(box.querySelector(".plot"), traces, figure.layout, [element.dataset.figure, group].filter(Boolean).join("-"));
  };

  return { show, update, watch, draw, drawAll };
})();
