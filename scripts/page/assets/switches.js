"use strict";
// The page's state is its form: switches, search, filters, sorting and brushed ranges are all form controls. The
// address keeps what differs from how the page comes, as #name=value&..., so that a view can be bookmarked; a reset
// is the form's own.
const switches = (() => {
  const form = document.getElementById("switches");

  const controls = () => {
    const named = new Map();
    for (const control of form.elements) {
      if (!control.name) continue;
      if (!named.has(control.name)) named.set(control.name, []);
      named.get(control.name).push(control);
    }
    return named;
  };
  const ticked = (control) => control.type === "checkbox" || control.type === "radio";

  // The chosen values of a switch, or the text of an input.
  const chosen = (name) => new Set(controls().get(name).filter((control) => control.checked).map((control) => control.value));
  const text = (name) => form.elements[name].value;

  const write = () => {
    const state = new URLSearchParams();
    for (const [name, group] of controls()) {
      if (!ticked(group[0])) {
        if (group[0].value !== "") state.append(name, group[0].value);
      } else if (group.some((control) => control.checked !== control.defaultChecked)) {
        const values = group.filter((control) => control.checked).map((control) => control.value);
        for (const value of values.length ? values : [""]) state.append(name, value);
      }
    }
    const hash = state.toString();
    history.replaceState(null, "", hash ? `#${hash}` : location.pathname + location.search);
  };

  const read = () => {
    form.reset();
    const state = new URLSearchParams(location.hash.slice(1));
    for (const [name, group] of controls()) {
      if (!state.has(name)) continue;
      const values = state.getAll(name);
      if (!ticked(group[0])) group[0].value = values[0];
      // a value that is no longer there chooses nothing; a radio button always stays chosen
      else if (group[0].type === "checkbox" || group.some((control) => values.includes(control.value)))
        for (const control of group) control.checked = values.includes(control.value);
    }
  };

  const set = (name, value) => {
    form.elements[name].value = value;
    form.dispatchEvent(new Event("input", { bubbles: true }));
  };

  return { form, chosen, text, write, read, set };
})();
