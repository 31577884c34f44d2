// Forms as requests.

const isNumber = (field) => field.type === "number" || field.type === "range";

/** Whether a field says what the server takes without it. */
function isUntouched(field) {
  if (field.type === "checkbox") return field.checked === field.defaultChecked;
  if (field.options) return field.value === ([...field.options].find((option) => option.defaultSelected) ?? field.options[0]).value;
  return field.value === field.defaultValue;
}

function valueOf(field) {
  if (field.type === "checkbox") return field.checked;
  return isNumber(field) ? Number(field.value) : field.value;
}

/** Read the named fields; empty numbers are left out. */
export function read(form, names) {
  const fields = names.map((name) => [name, form.elements[name]]);
  return Object.fromEntries(
    fields.filter(([, field]) => !(isNumber(field) && field.value === "")).map(([name, field]) => [name, valueOf(field)]),
  );
}

/** Read the named fields that were changed; what they show at first is what the server takes without them. */
export const readChanged = (form, names) => read(form, names.filter((name) => !isUntouched(form.elements[name])));

/** Let each range show its value beside it. */
export function showRanges(form) {
  for (const range of form.querySelectorAll('input[type="range"]')) {
    const shown = form.elements[`${range.name}_shown`];
    const show = () => { shown.value = Number(range.value).toFixed(Number(range.step) < 0.1 ? 2 : 1); };
    range.addEventListener("input", show);
    show();
  }
}
