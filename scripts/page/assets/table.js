"use strict";
// The run table: rows that agree with the switches, the search, the filters under the headings and the ranges brushed in
// the parallel coordinates; sorted by any column; as CSV.
const table = (() => {
  const SWITCHES = ["dataset", "activation", "gpn", "batch_norm"];
  const DIGITS = { train_accuracy: 2, test_accuracy: 2, seconds: 1 };
  const RATIOS = new Set(["first_ratio", "last_ratio", "largest_ratio"]);
  let columns, rows, elements, brushed;

  const load = (data) => {
    ({ columns, rows } = data);
    elements = rows.map(element);
  };

  const shown = (name, value) => {
    if (value === null) return "";
    if (typeof value !== "number") return value;
    if (name in DIGITS) return value.toFixed(DIGITS[name]);
    return RATIOS.has(name) ? String(Number(value.toPrecision(4))) : String(value);
  };

  const element = (row) => {
    const line = document.createElement("tr");
    columns.forEach((name, place) => {
      const cell = line.insertCell();
      const value = row[place];
      cell.textContent = shown(name, value);
      if (typeof value === "number" || RATIOS.has(name)) cell.className = "number";
      if (typeof value === "number" && cell.textContent !== String(value)) cell.title = value;
      if (name === "status") cell.className = value;
      if (name === "note") cell.className = "note";
      if (name === "run" && value !== null) {
        const link = document.createElement("a");
        link.href = `runs/${encodeURIComponent(value)}/record.json`;
        link.textContent = value;
        cell.replaceChildren(link);
      }
    });
    return line;
  };

  // inf is larger than any number, 0/0 larger still; what is unknown comes last in either order.
  const rank = (value) => (value === "inf" ? Infinity : value);
  const compare = (one, other) => {
    const numbers = [typeof rank(one) === "number", typeof rank(other) === "number"];
    if (numbers[0] && numbers[1]) return rank(one) === rank(other) ? 0 : rank(one) < rank(other) ? -1 : 1;
    if (numbers[0] !== numbers[1]) return numbers[0] ? -1 : 1;
    return String(one).localeCompare(String(other), "en", { numeric: true });
  };

  // A filter is a bound (>90, <=5, =3) where it reads as one, else text to be found.
  const filter = (name, place, wanted) => {
    const bound = wanted.match(/^\s*(<=|>=|<|>|=)\s*(-?(?:\d+\.?\d*|\.\d+)(?:e[+-]?\d+)?|inf)\s*$/i);
    if (document.querySelector(`select[name="in.${name}"]`)) return (row) => row[place] !== null && String(row[place]) === wanted;
    if (!bound) return (row) => String(row[place] ?? "").toLowerCase().includes(wanted.toLowerCase());
    const limit = bound[2].toLowerCase() === "inf" ? Infinity : Number(bound[2]);
    const holds = { "<": (x) => x < limit, ">": (x) => x > limit, "<=": (x) => x <= limit, ">=": (x) => x >= limit, "=": (x) => x === limit }[bound[1]];
    return (row) => typeof rank(row[place]) === "number" && holds(rank(row[place]));
  };

  // The rows' places that agree with all but the brush.
  const chosen = () => {
    const tests = SWITCHES.map((name) => {
      const on = switches.chosen(name);
      const place = columns.indexOf(name);
      return (row) => on.has(row[place]);
    });
    columns.forEach((name, place) => {
      const wanted = switches.text(`in.${name}`);
      if (wanted) tests.push(filter(name, place, wanted));
    });
    const words = switches.text("text").toLowerCase().split(/\s+/).filter(Boolean);
    if (words.length)
      tests.push((row) => {
        const all = row.map((value, place) => shown(columns[place], value)).join("\n").toLowerCase();
        return words.every((word) => all.includes(word));
      });
    return rows.map((row, place) => place).filter((place) => tests.every((test) => test(rows[place])));
  };

  const sorted = (places) => {
    const [name, direction] = switches.text("sort").split(":");
    const place = columns.indexOf(name);
    for (const heading of document.querySelectorAll("#runs th")) {
      if (heading.dataset.column === name) heading.setAttribute("aria-sort", direction === "down" ? "descending" : "ascending");
      else heading.removeAttribute("aria-sort");
    }
    if (place < 0) return places;
    const sign = direction === "down" ? -1 : 1;
    return [...places].sort((one, other) => {
      const [a, b] = [rows[one][place], rows[other][place]];
      if (a === null || b === null) return (a === null) - (b === null) || one - other;
      return sign * compare(a, b) || one - other;
    });
  };

  const show = (places) => {
    brushed = sorted(places);
    document.querySelector("#runs tbody").replaceChildren(...brushed.map((place) => elements[place]));
    document.getElementById("count").textContent = `${brushed.length} of ${rows.length} rows`;
  };

  const sortBy = (name) => {
    const [old, direction] = switches.text("sort").split(":");
    switches.set("sort", old !== name ? `${name}:up` : direction === "up" ? `${name}:down` : "");
  };

  const quoted = (value) => (/[",\n\r]/.test(value) ? `"${value.replaceAll('"', '""')}"` : value);
  const csv = () => [columns, ...brushed.map((place) => rows[place])].map((line) => line.map((value) => quoted(String(value ?? ""))).join(",")).join("\n") + "\n";

  return { load, chosen, show, sortBy, csv };
})();
