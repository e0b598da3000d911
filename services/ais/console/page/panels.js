// The plots of the page: the server has them, with the words that a report has too.
import { ask } from "./api.js";

export let catalogue;

export async function readCatalogue() {
  catalogue = await ask("plots");
}

/** Every quantity that is plotted; what ends with a dot stands for all that begin so. */
export const plotted = () => catalogue.sections.flatMap(({ plots }) => plots.flatMap(({ prefix, curves }) => (prefix ? [prefix] : curves.map(({ key }) => key))));

/** The quantities of a panel that there are, as pairs of key and label. */
export function seriesOf(panel, curves) {
  if (!panel.prefix) return panel.curves.filter(({ key }) => curves.series[key]?.mean.some((value) => value !== null)).map(({ key, label }) => [key, label]);
  const keys = curves.keysOf(panel.prefix);
  if (panel.several && keys.length < 2) return [];
  return keys.slice(0, catalogue.most_curves).map((key) => [key, key.slice(panel.prefix.length).replaceAll("_", " ")]);
}
