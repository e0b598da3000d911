// Light or dark: as the system says, or as was chosen. Plots read their colours from the style sheet when they are drawn.
const KEY = "ais-console-theme";
const listeners = [];
const dark = matchMedia("(prefers-color-scheme: dark)");

function apply(choice) {
  document.documentElement.dataset.theme = choice || (dark.matches ? "dark" : "light");
  colours.clear();
  listeners.forEach((listener) => listener());
}

const colours = new Map();

export function colour(name) {
  if (!colours.has(name)) colours.set(name, getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim());
  return colours.get(name);
}

export const seriesColour = (index) => colour(`series-${(index % 10) + 1}`);
export const onTheme = (listener) => listeners.push(listener);

export function startTheme(select) {
  select.value = localStorage.getItem(KEY) ?? "";
  select.addEventListener("change", () => {
    localStorage.setItem(KEY, select.value);
    apply(select.value);
  });
  dark.addEventListener("change", () => apply(select.value));
  apply(select.value);
}
